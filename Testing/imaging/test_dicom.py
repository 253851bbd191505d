# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import noise, oblique


def write_series(folder, uid: str, number: int, data: np.ndarray, positions=None) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(data):
        z = 2.5 * k if positions is None else positions[k]
        slice_ = sitk.GetImageFromArray(plane.astype(np.int16))
        for key, value in (
            ("0008|0060", "MR"),
            ("0020|000d", "1.2.3"),
            ("0020|000e", uid),
            ("0020|0011", str(number)),
            ("0020|0013", str(k)),
            ("0008|103e", f"series {number}"),
            ("0020|0032", f"1\\2\\{z}"),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0008|0018", f"{uid}.{k}"),
            ("0028|0030", "1\\1"),
        ):
            slice_.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number}_{k}.dcm"))
        writer.Execute(slice_)


def test_a_dicom_folder_is_a_volume(tmp_path) -> None:
    data = np.abs(noise(oblique()))
    write_series(tmp_path / "d", "1.2.3.4", 1, data)
    for path in (tmp_path / "d", tmp_path / "d" / "1_2.dcm"):
        volume = io.read_volume(path)
        assert np.array_equal(volume.data, data.astype(np.int16))
        assert np.allclose(volume.grid.spacing, (2.5, 1, 1))
        assert np.allclose(volume.grid.origin, (1, 2, 0))


def test_several_dicom_series_are_named_and_one_can_be_chosen(tmp_path) -> None:
    data = np.abs(noise(oblique()))
    write_series(tmp_path / "d", "1.2.3.4", 1, data)
    write_series(tmp_path / "d", "1.2.3.5", 2, data[:3] + 1)
    with pytest.raises(InputError, match="2 DICOM series") as error:
        io.read_volume(tmp_path / "d")
    assert "series 1" in str(error.value)
    assert "series 2" in str(error.value)
    assert "2_0.dcm" in str(error.value)
    assert io.read_volume(tmp_path / "d" / "2_1.dcm").grid.shape == (3, 6, 7)


def test_missing_dicom_slices_are_noted(tmp_path, capfd) -> None:
    write_series(tmp_path / "d", "1.2.3.4", 1, np.abs(noise(oblique())), [0, 2.5, 5, 10, 12.5])
    assert any("equally spaced" in note for note in io.read_volume(tmp_path / "d").notes)
    assert "Warning" not in capfd.readouterr().err


def test_a_folder_without_dicom_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no DICOM series"):
        io.read_volume(tmp_path)


def test_the_grid_of_a_series_is_read_too(tmp_path) -> None:
    write_series(tmp_path / "d", "1.2.3.4", 1, np.zeros((5, 6, 7)))
    expected = ((2.5, 1, 1), (1, 2, 0))
    for path in (tmp_path / "d", tmp_path / "d" / "1_2.dcm"):
        grid = io.read_grid(path)
        assert grid.shape == (5, 6, 7)
        assert np.allclose((grid.spacing, grid.origin), expected)
