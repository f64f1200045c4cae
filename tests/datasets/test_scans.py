"""From counts to sinograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from makers import disc_sinogram, read_scan, sinograms_of_counts

from ei.datasets.scans import bin_detectors, binned_geometry
from ei.errors import InputError
from ei.physics import Tomography


def test_bins_cut_the_rest_at_both_ends() -> None:
    array = np.arange(42.0).reshape(7, 6)
    np.testing.assert_array_equal(bin_detectors(array, 3, 0), [array[:3].mean(0), array[3:6].mean(0)])
    np.testing.assert_array_equal(bin_detectors(array, 5, -2), [array[1:6].mean(0)])
    np.testing.assert_array_equal(bin_detectors(array, 4, -1)[:, 0], array[:, 1:5].mean(1))
    np.testing.assert_array_equal(bin_detectors(array, 1, 1), array)
    for wrong in (8, 0, 1.5, "two"):
        with pytest.raises(InputError, match="bin"):
            bin_detectors(array, wrong, 0)


def test_as_many_flats_as_views_are_averaged() -> None:
    """Each was taken as that of its view, and put its noise into the sinogram."""
    rng = np.random.default_rng(0)
    counts, flat, dark = rng.uniform(500, 900, (6, 5)), rng.uniform(900, 1100, (6, 5)), rng.uniform(0, 10, (6, 5))
    expected = -np.log((counts - dark.mean(0)) / (flat.mean(0) - dark.mean(0)))
    np.testing.assert_allclose(sinograms_of_counts(counts, flat, dark)[0], expected.T, rtol=1e-5)
    np.testing.assert_allclose(sinograms_of_counts(counts, flat.mean(0), dark)[0], expected.T, rtol=1e-5)
    rows = [array[:, None].repeat(2, 1) for array in (counts, flat, dark)]  # [V, rows, D], [n, rows, D]
    np.testing.assert_allclose(sinograms_of_counts(*rows), np.stack([expected.T] * 2), rtol=1e-5)


# ---- files of scans -----------------------------------------------------------------------------------------------


def scan_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "counts": rng.uniform(500, 900, (6, 2, 5)),
        "flat": rng.uniform(900, 1100, (3, 2, 5)),
        "dark": rng.uniform(0, 10, (2, 2, 5)),
        "angles": np.arange(6) * 30.0,
    }


def check_scan(found: tuple[np.ndarray, ...]) -> None:
    for array, expected in zip(found, scan_arrays().values(), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_file_of_data_exchange(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "scan.h5"
    names = dict(zip(scan_arrays(), ("data", "data_white", "data_dark", "theta"), strict=True))
    with h5py.File(path, "w") as file:
        for name, array in scan_arrays().items():
            file[f"exchange/{names[name]}"] = array
        file["measurement/current"] = np.zeros(4)
    check_scan(read_scan(str(path)))
    check_scan(read_scan(f"{path}:exchange/data", dark=f"{path}:exchange/data_dark"))
    with h5py.File(path, "r+") as file:
        del file["exchange/data_dark"]
    with pytest.raises(InputError, match=r"holds exchange/data \[6, 2, 5\], .* name the dark 'exchange/data_dark'"):
        read_scan(str(path))


def test_a_file_of_nexus(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    arrays = scan_arrays()
    key = np.array([2, 1, 0, 0, 0, 1, 1, 0, 0, 0, 2])
    frames = np.zeros((11, 2, 5))
    angles = np.zeros(11)
    for name, number in (("counts", 0), ("flat", 1), ("dark", 2)):
        frames[key == number] = arrays[name]
    angles[key == 0] = arrays["angles"]
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        file["entry/tomo_entry/data/data"] = frames
        file["entry/tomo_entry/instrument/detector/image_key"] = key
        file["entry/tomo_entry/data/rotation_angle"] = angles
        file["entry/title"] = "a scan"
    check_scan(read_scan(str(tmp_path / "scan.nxs")))
    np.save(tmp_path / "dark.npy", arrays["dark"][:1])
    assert len(read_scan(str(tmp_path / "scan.nxs"), dark=str(tmp_path / "dark.npy"))[2]) == 1
    with h5py.File(tmp_path / "scan.nxs", "r+") as file:
        file["entry/tomo_entry/instrument/detector/image_key"][...] = 0
    with pytest.raises(InputError, match=r"holds no flat \(image_key 1\)"):
        read_scan(str(tmp_path / "scan.nxs"))


def test_a_file_of_one_array_has_no_image_key(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    arrays = scan_arrays()
    for name, array in arrays.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["entry/any"] = array
    check_scan(read_scan(*(str(tmp_path / f"{name}.h5") for name in arrays)))


def test_a_scan_in_tiff_files(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    arrays = scan_arrays()
    (tmp_path / "projections").mkdir()
    for number, view in enumerate(arrays["counts"]):
        tifffile.imwrite(tmp_path / "projections" / f"view_{number}.tif", view)
    tifffile.imwrite(tmp_path / "flat.tif", arrays["flat"], photometric="minisblack")
    np.save(tmp_path / "dark.npy", arrays["dark"])
    np.savetxt(tmp_path / "angles.txt", arrays["angles"])
    check_scan(read_scan(*(str(tmp_path / name) for name in ("projections", "flat.tif", "dark.npy", "angles.txt"))))


@pytest.mark.parametrize(("detectors", "n"), [(96, 4), (97, 4), (95, 2), (98, 3)])
@pytest.mark.parametrize("fan", [{}, {"source_origin": 150.0, "origin_detector": 60.0}])
def test_the_geometry_follows_the_bins(detectors: int, n: int, fan: dict) -> None:
    """Means of lines through discs, in closed form, are the lines of the binned geometry; a shift of a quarter of a
    bin is not."""
    geometry = {"image_shape": [64, 61], "n_detectors": detectors, "centre": 2.5, "detector_spacing": 0.9,
                "pixel_size": 0.8, **fan}  # fmt: skip
    angles, discs = range(0, 180, 20), [(5.0, -8.0, 9.0, 1.0), (-9.0, 4.0, 6.0, 0.5)]
    y = disc_sinogram(Tomography(**geometry, angles=angles), discs).numpy()
    found = binned_geometry(geometry, n)
    assert found["image_shape"] == [-(-64 // n), -(-61 // n)] and found["n_detectors"] == detectors // n
    assert found["pixel_size"] == pytest.approx(0.8 * n) and {key: found[key] for key in fan} == fan
    binned = bin_detectors(y, n, -2)

    def misfit(shift: float) -> float:
        moved = Tomography(**{**found, "centre": found["centre"] + shift}, angles=angles)
        return float(np.linalg.norm(disc_sinogram(moved, discs).numpy() - binned) / np.linalg.norm(binned))

    assert misfit(0) < 0.6 * min(misfit(0.25), misfit(-0.25))


def test_a_geometry_that_cannot_be_binned() -> None:
    with pytest.raises(InputError, match="n_detectors must"):
        binned_geometry({"image_shape": [8, 8], "n_detectors": 3}, 4)
    assert binned_geometry({"angles": [0.0]}, 4) == {"angles": [0.0]}
