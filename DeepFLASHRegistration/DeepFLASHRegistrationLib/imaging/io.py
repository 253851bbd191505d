# SPDX-License-Identifier: Apache-2.0
"""Reading and writing images, displacement fields and affine transforms.

Everything outside is LPS mm; every writer puts a complete file in place by one atomic rename, or leaves nothing.
"""

from __future__ import annotations

import errno
import gzip
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .grid import Grid
from .volume import Volume, checked_image, checked_labels, checked_mask

_TRANSFORM_SUFFIXES = (".tfm", ".txt", ".mat", ".h5")
_TWO_FILES = {".mhd": ".mha", ".nhdr": ".nrrd", ".hdr": ".nii", ".img": ".nii"}
_NIFTI_TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}
_SERIES = "0020|000e"  # SeriesInstanceUID
_INTENT_VECTOR, _INTENT_DISPLACEMENT = 1007, 1006
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # no name and no time: the same data give the same file
_BLOCK = 1 << 20
_SAMPLE = 1 << 14


# ---------------------------------------------------------------- reading


def read_volume(path: str | os.PathLike) -> Volume:
    """Reads an image file or a DICOM folder as a float32 Volume.

    NIfTI, NRRD, MetaImage and whatever else SimpleITK reads; of DICOM a folder with one series, or any file of a
    series. A 3-D image with a single slice becomes a 2-D volume whose grid remembers its `plane`.

    Raises:
        InputError: unreadable, 4-D, several components, complex, empty, not finite anywhere, or constant.
    """
    return checked_image(_read(path))


def read_labels(path: str | os.PathLike) -> Volume:
    """Reads a label map as an int32 Volume; a float file is accepted if all its values are integers.

    Raises:
        InputError: as read_volume, and if a value is no integer or there is no label.
    """
    return checked_labels(_read(path))


def read_mask(path: str | os.PathLike) -> Volume:
    """Reads a mask as a uint8 Volume: 1 where the file is not 0.

    Raises:
        InputError: as read_volume, and if the mask is empty.
    """
    return checked_mask(_read(path))


def _read(path: str | os.PathLike) -> Volume:
    path = Path(path)
    with _quiet():
        try:
            grid, data, notes = _read_folder(path) if _is_folder(path) else _read_file(path)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    if grid.shape.count(1) >= grid.ndim - 1:
        raise InputError(f"{path}: of shape {grid.shape[::-1]}, a line of voxels. Pass a 2-D or 3-D image.")
    if grid.ndim == 3 and 1 in grid.shape:
        grid = grid.flattened()
        data = data.reshape(grid.shape)
    return Volume(grid, data, path.name or str(path), tuple(notes))


def _is_folder(path: Path) -> bool:
    try:
        if path.is_dir():
            return True
        found = path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if not found:
        raise InputError(f"{path}: there is no such file or folder. Check the path.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: may not be read. Change its permissions.")
    return False


def _read_file(path: Path) -> tuple[Grid, np.ndarray, list[str]]:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Copy or export it again.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if reader.HasMetaDataKey(_SERIES):
        series = reader.GetMetaData(_SERIES).strip()
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path.parent), series)
        if len(names) > 1:
            grid, data, notes = _read_series(path, names)
            return grid, data, [f"{path.name}: read with the other {len(names) - 1} files of its DICOM series", *notes]
    components = reader.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in kind:
        raise InputError(f"{path}: holds complex values. Export the magnitude.")
    if components > 1:
        raise InputError(
            f"{path}: has {components} components per voxel (RGB or vectors). Pass a gray-value image of one component."
        )
    size = list(reader.GetSize())
    if len(size) > 3:
        if any(n > 1 for n in size[3:]):
            raise InputError(
                f"{path}: is {len(size)}-D, of size {'x'.join(map(str, size))}. "
                "Extract one volume (one time point) first."
            )
        reader.SetExtractSize(size[:3] + [0] * (len(size) - 3))
    if _is_nifti(path):
        data = _nifti_voxels(path, tuple(size[:3][::-1]))
        if data is not None:
            return Grid.from_image(reader), data, []
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return Grid.from_image(image), sitk.GetArrayFromImage(image), []


def _nifti_voxels(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The voxels of a single-file NIfTI-1 image of one component, scaled; None for other kinds of NIfTI.

    ITK would turn NaN and infinity into 0 and fill a truncated file up with 0, both without a word.

    Raises:
        InputError: damaged or truncated.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). The file may be damaged: copy or export it again."
        ) from error
    order = "<" if raw[:4] == struct.pack("<i", 348) else ">"
    if len(raw) < 352 or raw[:4] != struct.pack(order + "i", 348) or raw[344:347] != b"n+1":
        return None
    (code,) = struct.unpack_from(order + "h", raw, 70)
    kind = next((name for name, number in _NIFTI_TYPES.items() if number == code), None)
    if kind is None:
        return None
    offset, slope, intercept = struct.unpack_from(order + "3f", raw, 108)
    kind = np.dtype(order + kind)
    count = int(np.prod(shape, dtype=np.int64))
    if len(raw) < int(offset) + count * kind.itemsize:
        raise InputError(f"{path}: the file is cut off, voxels are missing. Copy or export it again.")
    data = np.frombuffer(raw, kind, count, int(offset)).reshape(shape)
    if np.isfinite([slope, intercept]).all() and slope != 0 and (slope, intercept) != (1, 0):
        return data * np.float64(slope) + np.float64(intercept)
    return data.astype(kind.newbyteorder("="), copy=False)


def _read_folder(path: Path) -> tuple[Grid, np.ndarray, list[str]]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    if not series:
        raise InputError(f"{path}: holds no DICOM series. Pass an image file, or the folder that holds the slices.")
    names = {s: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), s) for s in series}
    if len(series) > 1:
        listed = "\n".join(
            f"  {_series_description(files[0])}, {len(files)} files, e.g. {files[0]}" for files in names.values()
        )
        raise InputError(
            f"{path}: holds {len(series)} DICOM series. Pass one file of the series you want, or put "
            f"the series in sub-folders and pass one of them:\n{listed}"
        )
    return _read_series(path, names[series[0]])


def _series_description(file: str) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
        number, text = (
            reader.GetMetaData(k).strip() if reader.HasMetaDataKey(k) else "" for k in ("0020|0011", "0008|103e")
        )
    except RuntimeError:
        number = text = ""
    return f'series {number or "?"} "{text}"'


def _read_series(path: Path, names: tuple[str, ...]) -> tuple[Grid, np.ndarray, list[str]]:
    if len(names) == 1:
        return _read_file_alone(path, names[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{path}: the DICOM series is in color. Pass a gray-value series.")
    if image.GetDimension() > 3:
        raise InputError(f"{path}: the DICOM series is {image.GetDimension()}-D. Pass one volume of it.")
    return Grid.from_image(image), sitk.GetArrayFromImage(image), _uneven_slices(path, reader, len(names))


def _read_file_alone(path: Path, name: str) -> tuple[Grid, np.ndarray, list[str]]:
    try:
        image = sitk.ReadImage(name)
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() > 3:
        raise InputError(f"{path}: the DICOM series is in color or 4-D. Pass a gray-value volume.")
    return Grid.from_image(image), sitk.GetArrayFromImage(image), []


def _uneven_slices(path: Path, reader: sitk.ImageSeriesReader, count: int) -> list[str]:
    """A note if the slices of a series are not equally spaced (missing slices, gantry tilt)."""
    try:
        positions = np.array([[float(v) for v in reader.GetMetaData(i, "0020|0032").split("\\")] for i in range(count)])
    except (RuntimeError, ValueError):
        return []
    steps = np.diff(positions, axis=0)
    if count < 3 or np.abs(steps - np.median(steps, axis=0)).max() <= 0.05 * np.linalg.norm(steps, axis=1).max():
        return []
    return [f"{path.name}: the slices of the DICOM series are not equally spaced; distances along them are distorted"]


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    text = str(error)
    if "rthonormal" in text:
        return InputError(
            f"{path}: its voxel axes are not orthogonal (the sform has a shear). "
            "Resample it on an orthogonal grid, or remove the sform if the qform is right."
        )
    if "Unable to determine ImageIO reader" in text:
        return InputError(f"{path}: is no image file that can be read. Pass NIfTI, NRRD, MetaImage or a DICOM folder.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1].split("): ", 1)[-1] if lines else "unknown reason"
    return InputError(f"{path}: cannot be read ({reason}). The file may be damaged: copy or export it again.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ITK's warnings (non-uniform sampling, NIfTI units) off the terminal; what matters becomes a note."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


# ---------------------------------------------------------------- writing


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, of the same suffix, and renames it to `path` when the block ends well.

    Whatever ends the block otherwise (also an interrupt), the temporary file is removed and `path` is untouched.

    Raises:
        InputError: the folder does not exist or may not be written.
        OSError: the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Give the name of a file.")
    temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{path}: may not be written ({error.strerror}). Choose another folder.") from error
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"{path}: the disk is full. Free some space and try again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_volume(path: str | os.PathLike, volume: Volume) -> None:
    """Writes an image, label map or mask: NIfTI (.nii, .nii.gz) or what SimpleITK writes (.nrrd, .mha, ...).

    The element type is that of the data (booleans as uint8, 64-bit integers as int32). A slice of 3-D space is
    written as a 3-D image of one slice.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
    """
    grid, data = volume.grid, _storable(path, volume.data)
    if grid.plane is not None:
        data = np.expand_dims(data, grid.slice_axis)
        grid = grid.lifted()
    if _is_nifti(path):
        with atomic(path) as temporary:
            _write_nifti(temporary, grid, data, 0)
        return
    _write_image(path, grid, data, vector=False)


def write_displacement_field(
    path: str | os.PathLike, grid: Grid, displacement: np.ndarray, target: Grid | None = None
) -> None:
    """Writes a displacement field that ITK (SimpleITK, ANTs, Slicer) applies as point -> point + displacement.

    In NIfTI, 3-D fields carry intent 1006 and, as that intent is defined, components along RAS: ITK 5.3 and newer turn
    them to LPS on reading. 2-D fields carry intent 1007 and LPS, because ITK 5.4 garbles 2-D fields of intent 1006.

    Args:
        path: .nii.gz, .nii, or another format of SimpleITK (.nrrd, .mha).
        grid: where the displacements are given.
        displacement: (*grid.shape, d) in LPS mm (x, y[, z]).
        target: for a 2-D grid with a plane: the grid whose plane the displaced points lie in (default: the same
            plane). The file is then 3-D with one slice and 3-D vectors, so that it also leads from slice to slice.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
        ValueError: if the shapes disagree.
    """
    displacement = np.asarray(displacement)
    if displacement.shape != (*grid.shape, grid.ndim):
        raise ValueError(
            f"A field on a grid of shape {grid.shape} has shape {(*grid.shape, grid.ndim)}, not {displacement.shape}."
        )
    if grid.plane is not None:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
        points = grid.index_to_physical(index)
        lifted = (target if target is not None and target.plane is not None else grid).lift(points + displacement)
        displacement = np.expand_dims(lifted - grid.lift(points), grid.slice_axis)
        grid = grid.lifted()
    if not _is_nifti(path):
        _write_image(path, grid, displacement.astype(np.float32, copy=False), vector=True)
        return
    if grid.ndim == 3 and grid.shape[0] == 1:
        # ITK drops trailing axes of one slice from vector images, and with them the position of the slice.
        displacement = np.moveaxis(displacement, 0, 2)
        order = [1, 2, 0, 3]
        grid = Grid(tuple(grid.shape[a] for a in order[:3]), grid.affine[:, order])
    planes = np.empty((grid.ndim, *grid.shape), dtype=np.float32)
    for axis in range(grid.ndim):
        planes[axis] = displacement[..., axis]
    if grid.ndim == 3:
        np.negative(planes[:2], out=planes[:2])
    with atomic(path) as temporary:
        _write_nifti(temporary, grid, planes, _INTENT_DISPLACEMENT if grid.ndim == 3 else _INTENT_VECTOR)


def read_displacement_field(path: str | os.PathLike) -> tuple[Grid, np.ndarray]:
    """Reads a displacement field as ITK means it.

    Returns:
        The grid and the displacements (*grid.shape, d), float32, in LPS mm (x, y[, z]). A 3-D file of one slice stays
        3-D, because its vectors may lead out of the slice.

    Raises:
        InputError: unreadable, or not one vector of d components per voxel.
    """
    path = Path(path)
    if _is_folder(path):
        raise InputError(f"{path}: is a folder. Pass the file of a displacement field.")
    with _quiet():
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise _unreadable(path, error) from error
    if image.GetDimension() not in (2, 3) or image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise InputError(
            f"{path}: is {image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()} components "
            "per voxel, no displacement field. Pass a file of as many components as dimensions."
        )
    try:
        return Grid.from_image(image), sitk.GetArrayFromImage(image).astype(np.float32, copy=False)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _is_nifti(path: str | os.PathLike) -> bool:
    return str(path).lower().endswith((".nii", ".nii.gz"))


def _storable(path: str | os.PathLike, data: np.ndarray) -> np.ndarray:
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    if data.dtype == np.float16:
        return data.astype(np.float32)
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        if data.min() < -(2**31) or data.max() >= 2**31:
            raise InputError(f"{path}: values beyond 32 bits cannot be written. Renumber the labels.")
        return data.astype(np.int32)
    return data


def _write_image(path: str | os.PathLike, grid: Grid, data: np.ndarray, vector: bool) -> None:
    suffix = Path(path).suffix.lower()
    if suffix in _TWO_FILES:
        raise InputError(f"{path}: {suffix} needs two files. Write {_TWO_FILES[suffix]} instead.")
    image = grid.apply_to(sitk.GetImageFromArray(data, isVector=vector))
    writer = sitk.ImageFileWriter()
    with atomic(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.SetUseCompression(True)
        try:
            with _quiet():
                writer.Execute(image)
        except RuntimeError as error:
            if "Unable to determine ImageIO writer" in str(error):
                raise InputError(f"{path}: unknown kind of image file. Name it .nii.gz, .nrrd or .mha.") from error
            if not os.access(Path(path).parent, os.W_OK):
                raise InputError(f"{path}: may not be written. Choose another folder.") from error
            raise OSError(f"{path}: could not be written. Check the free space on the disk.") from error


def _write_nifti(path: Path, grid: Grid, data: np.ndarray, intent: int) -> None:
    """Writes NIfTI-1; data is (*shape) or, with a vector intent, (d, *shape)."""
    header = _nifti_header(grid, data, intent)
    body = memoryview(np.ascontiguousarray(data)).cast("B")
    with open(path, "wb") as file:
        if path.name.lower().endswith(".gz"):
            _write_gzip(file, header, body, data.dtype.kind == "f")
        else:
            file.write(header)
            file.write(body)


def _nifti_header(grid: Grid, data: np.ndarray, intent: int) -> bytes:
    code = _NIFTI_TYPES.get(data.dtype.str[1:])
    if code is None:
        raise InputError(f"NIfTI cannot hold {data.dtype} values. Convert the data to float32 or int32.")
    d = grid.ndim
    if max(grid.shape) > 32767:
        raise InputError(f"NIfTI-1 holds at most 32767 voxels along an axis, not {max(grid.shape)}. Write .nrrd.")
    dim = [5 if intent else d, *grid.shape[::-1], *[1] * (3 - d), 1, d if intent else 1, 1, 1]
    # LPS to RAS, array order to i, j, k; a 2-D image lies in the plane z = 0, as ITK writes it.
    matrix = np.eye(4)
    matrix[:d, :d] = grid.affine[:d, :d][:, ::-1]
    matrix[:d, 3] = grid.origin
    matrix[:2] *= -1
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    rotation = matrix[:3, :3] / spacing
    factor = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation = rotation * [1, 1, factor]
    pixdim = [factor, *spacing, *[1.0] * 4]
    order = "<" if data.dtype.byteorder in "<|" or (data.dtype.byteorder == "=" and np.little_endian) else ">"
    header = bytearray(352)
    put = struct.pack_into
    put(order + "i", header, 0, 348)
    header[38:39] = b"r"
    put(order + "8h", header, 40, *dim)
    put(order + "3h", header, 68, intent, code, data.dtype.itemsize * 8)
    put(order + "8f", header, 76, *pixdim)
    put(order + "3f", header, 108, 352.0, 1.0, 0.0)
    header[123] = 2  # mm
    put(order + "2h", header, 252, 1, 1)
    put(order + "6f", header, 256, *_quaternion(rotation), *matrix[:3, 3])
    put(order + "12f", header, 280, *matrix[:3].ravel())
    header[344:348] = b"n+1\x00"
    return bytes(header)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(b, c, d) of the unit quaternion with a >= 0 of a rotation matrix (nifti1.h, method 2)."""
    k = np.zeros((4, 4))
    r = rotation
    # The eigenvector of the largest eigenvalue is the quaternion, also of a matrix that is orthogonal to rounding only
    # (Bar-Itzhack, J. Guidance 23(6), 2000).
    k[0] = [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]]
    k[1, 1:] = [r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]]
    k[2, 2:] = [r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]]
    k[3, 3] = np.trace(r)
    vector = np.linalg.eigh(k, UPLO="U")[1][:, -1]
    return vector[:3] * (-1 if vector[3] < 0 else 1)


def _write_gzip(file, header: bytes, body: memoryview, floats: bool) -> None:
    """One gzip member, its blocks compressed side by side and joined as pigz does; an ordinary .gz for any reader.

    The mantissas of floats are noise: a displacement field shrinks by a tenth, at ten times the time of storing it. So
    of floats only runs (background) are looked for, and a block that hardly shrinks is stored.
    """
    strategy = zlib.Z_RLE if floats else zlib.Z_DEFAULT_STRATEGY
    blocks = [header, *(body[i : i + _BLOCK] for i in range(0, len(body), _BLOCK))]

    def compress(number: int) -> bytes:
        block = blocks[number]
        middle = block[len(block) // 2 :][:_SAMPLE]
        store = floats and len(zlib.compress(middle, 1)) > 0.8 * len(middle)
        packer = zlib.compressobj(0 if store else 1, zlib.DEFLATED, -15, 9, strategy)
        last = number == len(blocks) - 1
        return packer.compress(block) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)

    check = 0
    file.write(_GZIP_HEADER)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for block, packed in zip(blocks, pool.map(compress, range(len(blocks))), strict=True):
                check = zlib.crc32(block, check)
                file.write(packed)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    file.write(struct.pack("<II", check, (len(header) + len(body)) & 0xFFFFFFFF))


# ---------------------------------------------------------------- affine transforms


def read_affine(
    path: str | os.PathLike, ndim: int, fixed: Grid | None = None, moving: Grid | None = None
) -> np.ndarray:
    """Reads a linear ITK transform (.tfm, .txt, .mat, .h5; also composites of linear ones, also ANTs' .mat).

    Args:
        path: the file; like every ITK transform it maps fixed points to moving points.
        ndim: 2 or 3.
        fixed, moving: the grids, needed to reduce a 3-D transform to slices of 3-D space (ndim 2).

    Returns:
        (d+1, d+1) homogeneous LPS mm, fixed -> moving.

    Raises:
        InputError: unreadable, not linear, not invertible, or of another dimension.
    """
    path = Path(path)
    if _is_folder(path):
        raise InputError(f"{path}: is a folder. Pass a transform file ({', '.join(_TRANSFORM_SUFFIXES)}).")
    try:
        with _quiet():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path}: is no ITK transform file. Save the transform as .tfm, .h5, .mat or .txt "
            "(ITK's format; matrices of FSL or FreeSurfer must be converted)."
        ) from error
    if not transform.IsLinear():
        raise InputError(f"{path}: holds a transform that is not linear. Pass a rigid or affine transform.")
    d = transform.GetDimension()
    matrix = np.eye(d + 1)
    matrix[:d, d] = transform.TransformPoint((0.0,) * d)
    # From far apart points, so that an offset of hundreds of mm costs no digit of the matrix.
    reach = 1024.0
    for axis in range(d):
        ends = [transform.TransformPoint(tuple(s * reach * (a == axis) for a in range(d))) for s in (1.0, -1.0)]
        matrix[:d, axis] = (np.array(ends[0]) - ends[1]) / (2 * reach)
    if d == 3 and ndim == 2 and fixed is not None and fixed.plane is not None:
        onto = moving if moving is not None and moving.plane is not None else fixed
        whole, matrix = matrix, np.eye(3)
        matrix[:2] = onto.plane[:3, :2].T @ (whole @ fixed.plane)[:3]
        matrix[:2, 2] -= onto.plane[:3, :2].T @ onto.plane[:3, 2]
    elif d != ndim:
        raise InputError(f"{path}: holds a {d}-D transform, but the images are {ndim}-D. Pass a {ndim}-D one.")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(f"{path}: the transform is not invertible. Compute it again.")
    return matrix


def write_affine(
    path: str | os.PathLike, matrix: np.ndarray, fixed: Grid | None = None, moving: Grid | None = None
) -> None:
    """Writes an affine point map as an ITK transform file (.tfm, .txt, .mat, .h5).

    Args:
        path: the file.
        matrix: (d+1, d+1) homogeneous LPS mm, fixed -> moving.
        fixed, moving: the grids; if they are slices of 3-D space, a 3-D transform is written that maps the fixed
            slice on the moving one.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _TRANSFORM_SUFFIXES:
        raise InputError(f"{path}: unknown kind of transform file. Name it {', '.join(_TRANSFORM_SUFFIXES)}.")
    matrix = np.asarray(matrix, dtype=np.float64)
    d = len(matrix) - 1
    if d == 2 and fixed is not None and fixed.plane is not None:
        onto = moving if moving is not None and moving.plane is not None else fixed
        project = np.zeros((3, 4))
        project[:2, :3] = fixed.plane[:3, :2].T
        project[2, 3] = 1
        across = np.outer(onto.normal, fixed.normal)
        whole = onto.plane @ matrix @ project
        whole[:3, :3] += across
        whole[:3, 3] -= across @ fixed.plane[:3, 2]
        matrix, d = whole, 3
    transform = sitk.AffineTransform(d)
    transform.SetMatrix(matrix[:d, :d].ravel().tolist())
    transform.SetTranslation(matrix[:d, d].tolist())
    with atomic(path) as temporary:
        try:
            with _quiet():
                sitk.WriteTransform(transform, str(temporary))
        except RuntimeError as error:
            if not os.access(path.parent, os.W_OK):
                raise InputError(f"{path}: may not be written. Choose another folder.") from error
            raise OSError(f"{path}: could not be written. Check the free space on the disk.") from error
