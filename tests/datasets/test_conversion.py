"""Counts of a large detector to sinograms in a file, row by row.

What shows it right: whatever the files, the numbers of rows at a time and the defects, the sinograms are bit for bit
those that are computed from whole arrays; what is interrupted is continued to the same file; and the peak memory of a
process does not grow with the rows of the detector.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from conftest import ROOT, subprocess_run
from makers import read_scan, sinograms_and_defects

from ei.common.arrays import FileArray, read_array
from ei.common.unfinished import UnfinishedArray
from ei.datasets.conversion import Conversion, Frames
from ei.errors import InputError
from ei.physics import Tomography

VIEWS, ROWS, DETECTORS = 40, 7, 31
Arrays = dict[str, np.ndarray]


def arrays(dtype: Any = np.uint16, dark_places: bool = True) -> Arrays:
    """A scan with a stuck detector, a dark view, and places without photons."""
    rng = np.random.default_rng(0)
    axis = np.arange(DETECTORS) - 15
    integrals = 2 * np.exp(-((axis[None] - 5 * np.cos(np.arange(VIEWS) / 12)[:, None]) ** 2) / 30)
    counts = rng.poisson(2e4 * np.exp(-integrals)[:, None] * rng.uniform(0.9, 1.1, (1, ROWS, DETECTORS))) + 100.0
    counts[:, 2, 10] = 9000
    counts[20, 4] = 4000
    if dark_places:
        counts[3:5, 5, 7] = 50
    return {
        "counts": counts.astype(dtype),
        "flat": (rng.poisson(2e4, (3, ROWS, DETECTORS)) + 100).astype(dtype),
        "dark": (100 + rng.normal(0, 1, (4, ROWS, DETECTORS))).astype(dtype),
        "angles": np.arange(VIEWS) * 4.5,
    }


def write_npy(folder: Path, scan: Arrays) -> list[str]:
    for name, array in scan.items():
        np.save(folder / f"{name}.npy", array)
    return [str(folder / f"{name}.npy") for name in scan]


def write_npz(folder: Path, scan: Arrays) -> list[str]:
    np.savez(folder / "scan.npz", **scan)
    return [str(folder / "scan.npz")]


def write_data_exchange(folder: Path, scan: Arrays) -> list[str]:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "scan.h5", "w") as file:
        for name, array in zip(("data", "data_white", "data_dark", "theta"), scan.values(), strict=True):
            file.create_dataset(f"exchange/{name}", data=array, chunks=True, compression="gzip")
    return [str(folder / "scan.h5")]


def write_nexus(folder: Path, scan: Arrays) -> list[str]:
    h5py = pytest.importorskip("h5py")
    frames = np.concatenate([scan["dark"], scan["counts"][:9], scan["flat"], scan["counts"][9:]])
    key = np.repeat([2, 0, 1, 0], [4, 9, 3, VIEWS - 9])
    angles = np.zeros(len(key))
    angles[key == 0] = scan["angles"]
    with h5py.File(folder / "scan.nxs", "w") as file:
        file["entry/data/data"], file["entry/image_key"], file["entry/data/rotation_angle"] = frames, key, angles
    return [str(folder / "scan.nxs")]


def write_matlab(folder: Path, scan: Arrays) -> list[str]:
    scipy.io.savemat(folder / "scan.mat", scan)
    return [str(folder / "scan.mat")]


def write_tiff(folder: Path, scan: Arrays) -> list[str]:
    """Views in a folder, flats in a stack."""
    tifffile = pytest.importorskip("tifffile")
    (folder / "views").mkdir()
    for number, view in enumerate(scan["counts"]):
        tifffile.imwrite(folder / "views" / f"view_{number}.tif", view)
    tifffile.imwrite(folder / "flat.tif", scan["flat"], photometric="minisblack")
    return [str(folder / "views"), str(folder / "flat.tif"), *write_npy(folder, scan)[2:]]


def convert(files: list[str], out: Path, n: int = 1, with_repair: bool = False, rows: int = 3) -> Conversion:
    """With memory for so many rows at a time."""
    conversion = Conversion(*files, n=n, with_repair=with_repair, memory=rows * 64 * VIEWS * DETECTORS)
    conversion.write(out, {"--bin": n})
    return conversion


@pytest.mark.filterwarnings("ignore:no photons")
@pytest.mark.parametrize("write", [write_npy, write_npz, write_data_exchange, write_nexus, write_matlab, write_tiff])
def test_any_file_gives_what_whole_arrays_give(write: Callable[[Path, Arrays], list[str]], tmp_path: Path) -> None:
    files = write(tmp_path, arrays())
    counts, flat, dark, _ = read_scan(*files)
    expected, defects = sinograms_and_defects(counts, flat, dark)
    assert defects.stuck == [(2, 10)] and (4, 20) in defects.dark_views
    conversion = convert(files, tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert conversion.defects == defects


@pytest.mark.parametrize("rows", [1, 2, ROWS])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("with_repair", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_parts_of_any_size(rows: int, n: int, with_repair: bool, dtype: Any, tmp_path: Path) -> None:
    scan = arrays(dtype)
    with pytest.warns(UserWarning, match="no photons at 2 of 8680 places") as warned:
        expected, defects = sinograms_and_defects(scan["counts"], scan["flat"], scan["dark"], n, with_repair)
        conversion = convert(write_npy(tmp_path, scan), tmp_path / "out.npy", n, with_repair, rows)
    assert len({str(warning.message) for warning in warned}) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert conversion.defects == defects and conversion.detectors == expected.shape[1]
    np.testing.assert_array_equal(conversion.sinogram(4), expected[4])


def test_the_floor_is_that_of_all_rows(tmp_path: Path) -> None:
    """Where there are no photons, the least transmission of the whole detector is put, not that of the row's part."""
    scan = arrays(np.float64)
    scan["counts"][0, 0, 0] = scan["dark"].mean(0)[0, 0] + 1e-3
    with pytest.warns(UserWarning, match="no photons"):
        convert(write_npy(tmp_path, scan), tmp_path / "out.npy", rows=1)
    y = np.load(tmp_path / "out.npy")
    assert y[5, 7, 3] == y[0, 0, 0] == y.max()


def mean_of(array: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "flat.npy", array)
    return Frames(folder / "flat.npy", "flat").mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_the_mean_of_exposures_is_numpys(dtype: Any, tmp_path: Path) -> None:
    array = (np.random.default_rng(0).random((50, 3, 17)) * 200).astype(dtype)
    found = mean_of(array, tmp_path)
    assert found.dtype == array.mean(0).dtype
    np.testing.assert_array_equal(found, array.mean(0))


def flats(scan: Arrays) -> dict[str, tuple[Any, Any]]:
    flat, dark = scan["flat"].astype(float), scan["dark"].astype(float)
    return {
        "one": (flat[0], dark[0]),
        "numbers": (np.array(2e4), np.array(100.0)),
        "of a line": (flat[0, 0], dark[0, 0]),
        "of each view": (np.broadcast_to(flat[:1], (2, VIEWS, ROWS, DETECTORS)), dark[:, None]),
        "stack of lines": (flat[:, 0], dark[:, 0]),
    }


@pytest.mark.filterwarnings("ignore:no photons")
@pytest.mark.parametrize("kind", list(flats(arrays())))
def test_any_flats(kind: str, tmp_path: Path) -> None:
    scan = arrays()
    scan["flat"], scan["dark"] = flats(scan)[kind]
    files = write_npy(tmp_path, scan)
    expected, _ = sinograms_and_defects(scan["counts"], scan["flat"], scan["dark"])
    convert(files, tmp_path / "out.npy", rows=2)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_one_row_without_an_axis_of_rows(tmp_path: Path) -> None:
    scan = {name: array[:, 0] if array.ndim == 3 else array for name, array in arrays().items()}
    expected, _ = sinograms_and_defects(scan["counts"], scan["flat"], scan["dark"], 2)
    files = write_npy(tmp_path, scan)
    assert convert(files, tmp_path / "out.npy", 2).rows == 1
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npz", ".npy", ".h5"])
def test_an_interrupted_conversion_goes_on(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    scan = write_npy(tmp_path, arrays(dark_places=False))
    whole, out = tmp_path / f"whole{ending}", tmp_path / f"y{ending}"
    convert(scan, whole, rows=2)
    written = UnfinishedArray.write
    seen: list[int] = []

    def stopped(array: UnfinishedArray, indices: Any, values: Any) -> None:
        if 4 in indices and 4 not in seen:
            seen.append(4)
            raise KeyboardInterrupt
        seen.extend(indices)
        written(array, indices, values)

    monkeypatch.setattr(UnfinishedArray, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert(scan, out, rows=2)
    assert "4 of 7 sinograms are kept in" in capsys.readouterr().err and not out.exists()
    with pytest.raises(InputError, match="is of a call with another --bin"):
        convert(scan, out, n=2, rows=2)
    assert "4 of 7 sinograms are there" not in capsys.readouterr().out
    convert(scan, out, rows=2)
    assert "4 of 7 sinograms are there" in capsys.readouterr().out and seen == [0, 1, 2, 3, 4, 4, 5, 6]
    assert out.read_bytes() == whole.read_bytes() and not list(tmp_path.glob("*.unfinished*"))


def test_npz_is_as_numpy_writes_it(tmp_path: Path) -> None:
    scan = arrays(dark_places=False)
    convert(write_npy(tmp_path, scan), tmp_path / "y.npz")
    y, _ = sinograms_and_defects(scan["counts"], scan["flat"], scan["dark"])
    np.savez(tmp_path / "expected.npz", y=y, angles=scan["angles"])
    assert (tmp_path / "y.npz").read_bytes() == (tmp_path / "expected.npz").read_bytes()


def test_the_array_in_hdf5_is_y(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    scan = arrays(dark_places=False)
    convert(write_npy(tmp_path, scan), tmp_path / "y.h5")
    assert FileArray(tmp_path / "y.h5").name == "y"
    np.testing.assert_array_equal(
        read_array(tmp_path / "y.h5"), sinograms_and_defects(scan["counts"], scan["flat"], scan["dark"])[0]
    )


# ---- wrong input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angles": np.arange(3.0)}, "an angle for each of 40 views, got 3"),
        ({"counts": np.zeros((VIEWS, ROWS, DETECTORS))}, "counts are not above dark at 8680 of 8680 places"),
        ({"flat": np.zeros((3, ROWS, DETECTORS))}, "flat are not above dark"),
        ({"flat": np.ones((3, ROWS, DETECTORS + 1))}, r"flat must broadcast to counts \[40, 7, 31\]"),
        ({"flat": np.full((ROWS, DETECTORS), np.nan)}, "flat holds 217 values that are not finite"),
        ({"counts": np.full((VIEWS, ROWS, DETECTORS), np.inf)}, "counts holds .* values that are not finite"),
        ({"counts": np.ones((2, VIEWS, ROWS, DETECTORS))}, r"counts must have shape \[views, detectors\] or"),
        ({"counts": np.ones((0, ROWS, DETECTORS))}, "counts must hold values"),
    ],
)
def test_wrong_scans(change: Arrays, message: str, tmp_path: Path) -> None:
    files = write_npy(tmp_path, {**arrays(dark_places=False), **change})
    with pytest.raises(InputError, match=message) as error:
        convert(files, tmp_path / "y.npy")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("y.npy*"))


def test_wrong_bins_and_endings(tmp_path: Path) -> None:
    scan = write_npy(tmp_path, arrays(dark_places=False))
    with pytest.raises(InputError, match="a bin of 32 detectors is larger than the 31 detectors"):
        Conversion(*scan, n=32)
    for name in ("y.tif", "y.csv", "y"):
        with pytest.raises(InputError, match=r"--out must be a file that ends in \.npz, \.npy, \.h5"):
            Conversion(*scan).write(tmp_path / name, {})


# ---- memory --------------------------------------------------------------------------------------------------------


PEAK = r"""
import re, sys, h5py, numpy as np
from pathlib import Path
from ei.datasets.conversion import Conversion
rows, out = int(sys.argv[1]), Path(sys.argv[2])
with h5py.File("scan.h5", "w") as file:
    data = file.create_dataset("exchange/data", (90, rows, 256), np.uint16)
    for view in range(90):
        data[view] = 500 + view
    file["exchange/data_white"] = np.full((2, rows, 256), 1000, np.uint16)
    file["exchange/data_dark"] = np.zeros((2, rows, 256), np.uint16)
    file["exchange/theta"] = np.arange(90) * 2.0
def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024
before = peak()
Conversion("scan.h5", memory=2**24).write(out, {})
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_the_peak_memory_does_not_grow_with_the_rows(ending: str, tmp_path: Path) -> None:
    """Of 400 rows, whose float64 is 74 MB."""
    pytest.importorskip("h5py")
    done = subprocess_run(sys.executable, "-c", PEAK, 400, f"y{ending}", cwd=tmp_path)
    assert done.code == 0 and float(done.out) < 50, (done, ROOT)


@pytest.mark.parametrize(("lacks", "place"), [("flat", 1), ("dark", 2), ("angles", 3)])
def test_counts_are_not_taken_for_what_is_missing(lacks: str, place: int, tmp_path: Path) -> None:
    """A file of one array has it under any name."""
    files: list[str | None] = [*write_npy(tmp_path, arrays(dark_places=False))]
    files[place] = None
    with pytest.raises(InputError, match=rf"counts\.npy holds the counts alone: give a file of the {lacks}, too"):
        Conversion(*files)
    with pytest.raises(InputError, match=f"give a file of the {lacks}"):
        read_scan(*files)


@pytest.mark.parametrize("name", ["counts", "flat", "dark", "angles"])
def test_complex_arrays_are_rejected(name: str, tmp_path: Path) -> None:
    scan = arrays(dark_places=False)
    files = write_npy(tmp_path, {**scan, name: scan[name].astype(complex)})
    with pytest.raises(InputError, match=rf"the {name} file .* must hold real numbers, got complex128"):
        Conversion(*files)


@pytest.mark.parametrize("units", ["rad", np.bytes_("radians"), "degrees", None])
def test_angles_of_a_file_that_says_radians_are_converted(tmp_path: Path, units: str | bytes | None) -> None:
    h5py = pytest.importorskip("h5py")
    [path] = write_data_exchange(tmp_path, scan := arrays(dark_places=False))
    with h5py.File(path, "a") as file:
        theta = file["exchange/theta"]
        theta[...] = np.deg2rad(theta[...]) if "rad" in str(units) else theta[...]
        if units is not None:
            theta.attrs["units"] = units
    np.testing.assert_allclose(Conversion(path).angles, scan["angles"])
    physics = Tomography((DETECTORS, DETECTORS), path, DETECTORS)
    np.testing.assert_allclose(physics.angles.numpy(), scan["angles"])
