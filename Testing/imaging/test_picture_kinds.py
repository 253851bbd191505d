# SPDX-License-Identifier: Apache-2.0
"""Pictures of all kinds that programs save: read as Pillow reads them, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.support.errors import InputError
from PIL import Image

_RNG = np.random.default_rng(0)
GRAY, OPACITY = _RNG.integers(0, 256, (2, 20, 30), dtype=np.uint8)
COLORS = _RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
RAMP = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
SMOOTH = np.dstack([RAMP, RAMP.T, 255 - RAMP])
WEIGHTS = (0.299, 0.587, 0.114)


def png(path: Path, pixels: np.ndarray, depth: int, kind: int, palette: bytes = b"") -> Path:
    """A PNG that Pillow does not write: pixels (rows, columns, samples); kind as the specification numbers them."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    if depth < 8:
        bits = (pixels[..., None] >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(len(pixels), -1).astype(np.uint8), axis=1)
    else:
        rows = pixels.reshape(len(pixels), -1).astype(f">u{depth // 8}").view(np.uint8)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"tEXt", b"Comment\0made"), chunk(b"IDAT", zlib.compress(body))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def tiff(path: Path, pixels: np.ndarray, form: int = 1, code: int = 1, planes: int = 1, order: str = "<") -> Path:
    """A TIFF that Pillow does not write; form: 1 unsigned, 2 signed, 3 floating-point; code: 1 gray, 2 RGB."""
    height, width, samples = pixels.shape
    bits = pixels.dtype.itemsize * 8
    data = (pixels if planes == 1 else np.moveaxis(pixels, -1, 0)).astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = samples if planes == 2 else 1
    length = len(data) // strips
    tags = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * samples), 259: ("H", [1]), 262: ("H", [code]),
        273: ("I", [8 + k * length for k in range(strips)]), 277: ("H", [samples]), 278: ("H", [height]),
        279: ("I", [length] * strips), 284: ("H", [planes]), 339: ("H", [form] * samples),
    }  # fmt: skip
    if code == 1 and samples > 1:
        tags[338] = ("H", [2] + [0] * (samples - 2))
    directory, beyond = b"", b""
    start = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{kind}", *values)
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        directory += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", start + len(beyond))
        beyond += raw if len(raw) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    path.write_bytes(head + data + struct.pack(order + "H", len(tags)) + directory + bytes(4) + beyond)
    return path


def saved(path: Path, image: Image.Image, **how) -> Path:
    image.save(path, **how)
    return path


def notes_of(volume) -> str:
    return "; ".join(volume.notes)


# ---- gray values with opacity


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("opacity", [OPACITY, np.full_like(OPACITY, 255)], ids=["varying", "constant"])
def test_gray_values_with_opacity_are_read_and_a_varying_opacity_is_noted(tmp_path, opacity, interlaced) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.dstack([GRAY, opacity]), "LA"), dpi=(100, 100))
    for read in (io.read_volume, io.read_labels):
        volume = read(path)
        assert np.array_equal(volume.data, GRAY)
        assert ("opacity left out" in notes_of(volume)) == (opacity is OPACITY)
    assert io.read_mask(path).data.sum() == (GRAY > 0).sum()
    assert io.read_grid(path).shape == (20, 30)


def test_gray_values_of_16_bits_with_opacity_are_read(tmp_path) -> None:
    pixels = _RNG.integers(0, 65536, (20, 30, 2))
    volume = io.read_volume(png(tmp_path / "a.png", pixels, 16, 4))
    assert np.array_equal(volume.data, pixels[..., 0])


def test_damaged_gray_values_with_opacity_are_refused(tmp_path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.dstack([GRAY, OPACITY]), "LA"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"a\.png: .*cut off"):
        io.read_volume(path)
    path.write_bytes(content[:16] + struct.pack(">2I", 60000, 60000) + content[24:])
    with pytest.raises(InputError, match=r"a\.png: .*(cut off|damaged)"):
        io.read_volume(path)


# ---- few bits, many bits


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("read", [io.read_volume, io.read_labels])
def test_gray_values_of_few_bits_are_read_as_they_are_stored(tmp_path, depth, read) -> None:
    pixels = GRAY >> (8 - depth)
    assert np.array_equal(read(png(tmp_path / "a.png", pixels, depth, 0)).data, pixels)


@pytest.mark.parametrize("how", [{}, {"compression": "group4"}, {"compression": "packbits"}])
def test_a_tiff_of_one_bit_is_read_as_0_and_1(tmp_path, how) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(GRAY > 128), **how)
    for read in (io.read_volume, io.read_labels, io.read_mask):
        assert np.array_equal(read(path).data, GRAY > 128)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "form"), [("u1", 1), ("u2", 1), ("u4", 1), ("i1", 2), ("i2", 2), ("i4", 2), ("f4", 3)]
)
def test_gray_values_of_tiff_are_read_as_they_are_stored(tmp_path, kind, form, order) -> None:
    pixels = (_RNG.normal(size=(20, 30, 1)) * 30).astype(kind)
    volume = io.read_volume(tiff(tmp_path / "a.tif", pixels, form, order=order))
    assert np.array_equal(volume.data, pixels[..., 0].astype(np.float32))
    assert not volume.notes


@pytest.mark.parametrize(("name", "depth"), [("a.png", 16), ("a.tif", 16), ("a.tif", 8)])
def test_colors_are_read_in_all_their_bits(tmp_path, name, depth) -> None:
    pixels = _RNG.integers(0, 2**depth, (20, 30, 3)).astype(f"u{depth // 8}")
    make = png(tmp_path / name, pixels, 16, 2) if name == "a.png" else tiff(tmp_path / name, pixels, code=2)
    (colors,) = io.open_image(make).volumes(0, 1)
    assert np.array_equal(colors, pixels)
    assert np.allclose(io.read_volume(make).data, pixels @ WEIGHTS, rtol=1e-5)


def test_a_tiff_whose_zero_is_white_is_noted(tmp_path) -> None:
    volume = io.read_volume(tiff(tmp_path / "a.tif", GRAY[..., None], code=0))
    assert np.array_equal(volume.data, GRAY)
    assert "0 is meant to be white" in notes_of(volume)


@pytest.mark.parametrize(
    ("kind", "form", "samples", "code", "planes", "what"),
    [
        ("u1", 1, 2, 1, 1, "gray values with opacity"),
        ("u2", 1, 2, 1, 2, "gray values with opacity"),
        ("u1", 1, 5, 1, 1, "5 values per pixel"),
        ("f2", 3, 1, 1, 1, "16-bit floating-point"),
        ("f8", 3, 1, 1, 1, "64-bit floating-point"),
        ("u4", 1, 3, 2, 1, "32-bit unsigned"),
        ("i2", 2, 3, 2, 1, "16-bit signed"),
        ("f4", 3, 3, 2, 1, "32-bit floating-point"),
        ("u2", 1, 3, 2, 2, "plane of its own"),
        ("u1", 1, 3, 8, 1, "CIELab"),
    ],
)
def test_tiff_that_itk_would_read_wrong_is_refused_by_name(tmp_path, kind, form, samples, code, planes, what) -> None:
    path = tiff(tmp_path / "a.tif", (_RNG.random((20, 30, samples)) * 99).astype(kind), form, code, planes)
    with pytest.raises(InputError, match=rf"a\.tif: holds .*{what}.*(Save|PNG)"):
        io.read_volume(path)


def test_colors_in_planes_of_their_own_are_read(tmp_path) -> None:
    volume = io.read_volume(tiff(tmp_path / "a.tif", COLORS, code=2, planes=2))
    assert np.allclose(volume.data, COLORS @ WEIGHTS, atol=1e-3)


# ---- palettes, opacity of colors, CMYK


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_palettes_are_read_by_their_luminance_and_are_no_labels(tmp_path, name) -> None:
    image = Image.fromarray(COLORS).quantize(16)
    path = saved(tmp_path / name, image)
    volume = io.read_volume(path)
    assert np.allclose(volume.data, np.array(image.convert("RGB")) @ WEIGHTS, atol=1e-3)
    assert "luminance" in notes_of(volume)
    for read in (io.read_labels, io.read_mask):
        with pytest.raises(InputError, match="in color"):
            read(path)


def test_a_palette_of_tiff_is_read_by_its_luminance(tmp_path) -> None:
    """Of 16 bits, which Pillow reduces to 8."""
    image = Image.fromarray(COLORS).quantize(16)
    volume = io.read_volume(saved(tmp_path / "a.tif", image))
    expected = np.array(image.convert("RGB")) @ WEIGHTS
    assert np.corrcoef(volume.data.ravel(), expected.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("opacity", [OPACITY, np.full_like(OPACITY, 255)], ids=["varying", "constant"])
def test_opacity_beside_colors_is_left_out_and_noted_if_it_varies(tmp_path, name, opacity) -> None:
    path = saved(tmp_path / name, Image.fromarray(np.dstack([COLORS, opacity]), "RGBA"))
    volume = io.read_volume(path)
    assert np.allclose(volume.data, COLORS @ WEIGHTS, atol=1e-3)
    assert ("opacity left out" in notes_of(volume)) == (opacity is OPACITY)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_read_by_its_luminance(tmp_path, name) -> None:
    inks = np.dstack([255 - SMOOTH, RAMP[::-1] // 2])
    image = Image.fromarray(inks, "CMYK")
    volume = io.read_volume(saved(tmp_path / name, image, quality=100))
    expected = np.array(image.convert("RGB")) @ WEIGHTS
    assert np.abs(volume.data - expected).mean() < 2
    assert "luminance" in notes_of(volume)


@pytest.mark.parametrize("how", [{"progressive": True}, {"subsampling": 2}, {}])
def test_jpeg_is_read_as_pillow_reads_it(tmp_path, how) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(SMOOTH), quality=95, **how)
    expected = np.array(Image.open(path).convert("RGB")) @ WEIGHTS
    assert np.abs(io.read_volume(path).data - expected).max() < 3


# ---- several pages


@pytest.mark.parametrize(
    "pages", [_RNG.integers(0, 256, (4, 20, 30), np.uint8), np.stack([COLORS + k for k in range(4)])]
)
def test_pages_of_a_tiff_are_slices_which_is_noted(tmp_path, pages) -> None:
    first, *others = map(Image.fromarray, pages)
    volume = io.read_volume(saved(tmp_path / "a.tif", first, save_all=True, append_images=others))
    assert volume.grid.shape == (4, 20, 30)
    assert np.allclose(volume.data, pages if pages.ndim == 3 else pages @ WEIGHTS, atol=1e-3)
    assert "its 4 pages were read as slices" in notes_of(volume)
    assert "1 mm was assumed" in notes_of(volume)


def test_pages_of_different_kinds_are_refused(tmp_path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(GRAY), save_all=True, append_images=[Image.fromarray(COLORS)])
    with pytest.raises(InputError, match="pages differ in size or kind"):
        io.read_volume(path)


def test_a_bitmap_of_one_bit_is_refused_with_what_to_do(tmp_path) -> None:
    with pytest.raises(InputError, match=r"a\.bmp: .*Save it as PNG"):
        io.read_volume(saved(tmp_path / "a.bmp", Image.fromarray(GRAY > 128)))
