"""One reader of arrays: formats, names, rows, errors in one line."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from ei.common.arrays import FileArray, read_array
from ei.errors import InputError, MissingExtraError, MissingFileError

ARRAY = np.arange(42.0).reshape(7, 6)


def matlab73(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A file as Matlab writes it with -v7.3: axes in reverse, complex numbers as pairs."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if np.iscomplexobj(array):
                pairs = np.zeros(array.T.shape, [("real", "f8"), ("imag", "f8")])
                pairs["real"] = array.T.real
                pairs["imag"] = array.T.imag
                array = pairs.T
            file[name] = array.T
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write(path: Path, array: np.ndarray) -> Path:
    """An array beside another one, where the format holds several."""
    if path.name.startswith("new"):
        matlab73(path, {"y": array, "z": np.zeros(3)})
    elif path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, y=array, z=np.zeros(3))
    elif path.suffix in (".pt", ".pth", ".tar"):
        torch.save({"y": torch.from_numpy(array), "z": torch.zeros(3)}, path)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"y": array, "z": np.zeros(3)})
    elif path.suffix in (".h5", ".hdf5"):
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["deep/y"] = array
            file["z"] = np.zeros(3)
    else:
        np.savetxt(path, array, delimiter="," if path.suffix == ".csv" else " ")
    return path


FORMATS = ["a.npy", "a.npz", "a.pt", "a.pth", "a.tar", "a.mat", "new.mat", "a.h5", "a.hdf5", "a.csv", "a.txt", "a.dat"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path: Path, name: str) -> None:
    array = FileArray(write(tmp_path / name, ARRAY), ("nothing", "y"))
    assert array.shape == (7, 6) and len(array) == 7 and array.dtype == np.float64
    np.testing.assert_array_equal(array[...], ARRAY)
    np.testing.assert_array_equal(array[3], ARRAY[3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array))[2], ARRAY[2])
    np.testing.assert_array_equal(read_array(tmp_path / name, ("y",)), ARRAY)


@pytest.mark.parametrize("name", ["a.npz", "a.pt", "a.mat", "new.mat", "a.h5"])
def test_an_array_is_chosen_by_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ARRAY)
    full = "deep/y" if name == "a.h5" else "y"
    np.testing.assert_array_equal(read_array(f"{path}:{full}"), ARRAY)
    assert FileArray(f"{path}:z", ("y",)).shape[-1] == 3
    for file, message in (
        (str(path), f"{path} holds .*{full}.*: choose one as {path}:"),
        (f"{path}:w", f"{path} holds no w, but .*{full}"),
    ):
        with pytest.raises(InputError, match=message) as error:
            FileArray(file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.mat", "new.mat", "a.h5"])
def test_complex_numbers(tmp_path: Path, name: str) -> None:
    array = FileArray(write(tmp_path / name, ARRAY + 1j * ARRAY[::-1]), ("y",))
    assert array.dtype.kind == "c"
    np.testing.assert_array_equal(array[...], ARRAY + 1j * ARRAY[::-1])
    np.testing.assert_array_equal(array[5], ARRAY[5] + 1j * ARRAY[1])


def test_rows_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    """A file of a terabyte opens at once (it has holes), and a row in it is read."""
    shape = (4_000_000, 512, 128)
    array = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, shape)
    array[3_999_999] = 1
    del array
    if os.stat(tmp_path / "y.npy").st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no holes")
    assert float(FileArray(tmp_path / "y.npy")[3_999_999].mean()) == 1


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.slow
def test_other_processes_open_the_file_themselves(tmp_path: Path, start: str) -> None:
    array = FileArray(write(tmp_path / "a.h5", ARRAY), ("y",))
    with get_context(start).Pool(2) as pool:
        rows = pool.map(array.__getitem__, [*range(7)] * 20)
    np.testing.assert_array_equal(np.stack(rows), np.concatenate([ARRAY] * 20))


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch evil",)


def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"y": Evil()}, "y.pt")
    np.save("y.npy", np.array([Evil()]), allow_pickle=True)
    np.savez("y.npz", np.array([Evil()]))
    (tmp_path / "y.txt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "y.dat").write_bytes(pickle.dumps(Evil()))
    for name in ("y.pt", "y.npy", "y.npz", "y.txt", "y.dat"):
        with pytest.raises(InputError, match=re.escape(name)) as error:
            FileArray(name)
        assert "\n" not in str(error.value)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"\x93NUMPY nothing of the kind", "cannot be read: damaged or no .npy file of numbers"),
        ("a.npz", b"PK nothing", "damaged"),
        ("a.pt", b"", "damaged"),
        ("a.mat", b"nothing", "damaged"),
        ("a.h5", b"nothing", "damaged"),
        ("a.txt", b"1 2\n3\n", "damaged"),
        ("a.csv", b"one,two\n1,2\n", "damaged"),
        ("empty.txt", b"", "no numbers"),
        ("text.npy", np.array(["text"]), "must hold numbers"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(InputError, match=message) as error:
        FileArray(path, what="scan")
    assert name in str(error.value) and "\n" not in str(error.value) and "scan" in str(error.value)


def test_missing_files_and_wrong_types(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no mask file"):
        FileArray(tmp_path / "none.npy", what="mask")
    with pytest.raises(InputError, match=r"array folder .* holds no arrays: no file in it ends in \.npy"):
        FileArray(tmp_path)
    with pytest.raises(InputError, match="must be a path, got 5"):
        FileArray(5)  # type: ignore[arg-type]


def test_hdf5_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5", ARRAY)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"equivariant-imaging\[h5\]"):
        FileArray(path)


def test_vectors_of_matlab(tmp_path: Path) -> None:
    """Matlab has no arrays of one axis: `read_array` drops the other."""
    scipy.io.savemat(tmp_path / "t.mat", {"theta": np.arange(5.0)})
    assert read_array(tmp_path / "t.mat").shape == (5,) and FileArray(tmp_path / "t.mat").shape == (1, 5)


# ---- stacks, folders, nested names --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.uint8])
def test_pages_of_tiff(tmp_path: Path, dtype: type) -> None:
    tifffile = pytest.importorskip("tifffile")
    stack = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(dtype)
    tifffile.imwrite(tmp_path / "shaped.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True)
    with tifffile.TiffWriter(tmp_path / "pages.tiff") as file:
        for page in stack:
            file.write(page, photometric="minisblack", compression="zlib", metadata=None)
    for name in ("shaped.tif", "imagej.tif", "pages.tiff"):
        array = pickle.loads(pickle.dumps(FileArray(tmp_path / name)))
        assert array.shape == (5, 6, 7) and array.dtype == dtype
        np.testing.assert_array_equal(array[...], stack)
        np.testing.assert_array_equal(array[3], stack[3])
        np.testing.assert_array_equal(array[-1], stack[-1])
    tifffile.imwrite(tmp_path / "one.tif", stack[0])
    np.testing.assert_array_equal(read_array(tmp_path / "one.tif"), stack[0])
    (tmp_path / "bad.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(InputError, match=r"bad\.tif cannot be read"):
        FileArray(tmp_path / "bad.tif")


@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_a_folder_of_arrays(tmp_path: Path, ending: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    stack = np.arange(11 * 6 * 7).reshape(11, 6, 7).astype(np.uint16)
    for number, page in enumerate(stack):
        path = tmp_path / f"p_{number}.{ending}"
        np.save(path, page) if ending == "npy" else tifffile.imwrite(path, page)
    (tmp_path / "notes.txt").write_text("no array")
    array = pickle.loads(pickle.dumps(FileArray(tmp_path)))
    assert array.shape == (11, 6, 7)
    np.testing.assert_array_equal(array[...], stack)
    np.testing.assert_array_equal(array[10], stack[10])
    np.save(tmp_path / "q.npy", stack[0, :3])
    with pytest.raises(InputError, match=r"one shape and type, got uint16 \[6, 7\] in p_0.* \[3, 7\] in q\.npy"):
        FileArray(tmp_path)


def test_structs_and_cells_of_matlab(tmp_path: Path) -> None:
    cell = np.empty(2, dtype=object)
    cell[:] = [ARRAY, ARRAY[:2]]
    scan = {"sinogram": ARRAY, "settings": {"angles": np.arange(6.0), "name": "tooth"}, "parts": cell}
    scipy.io.savemat(tmp_path / "s.mat", {"scan": scan, "note": "text"})
    path = tmp_path / "s.mat"
    for name, array in (("sinogram", ARRAY), ("settings/angles", np.arange(6.0)), ("parts/2", ARRAY[:2])):
        np.testing.assert_array_equal(read_array(f"{path}:scan/{name}"), array)
    np.testing.assert_array_equal(FileArray(path, ("sinogram",))[3], ARRAY[3])
    with pytest.raises(InputError) as error:
        FileArray(path, ("y",), "measurements")
    assert str(error.value) == (
        f"{path} holds scan/sinogram [7, 6], scan/settings/angles [1, 6], scan/parts/1 [7, 6], scan/parts/2 [2, 6]: "
        f"name the measurements 'y', or choose one as {path}:scan/sinogram"
    )


def test_cells_of_matlab_count_down_their_columns(tmp_path: Path) -> None:
    cell = np.empty((2, 2), dtype=object)
    for row, column in np.ndindex(2, 2):
        cell[row, column] = np.full(3, 10.0 * row + column)
    scipy.io.savemat(tmp_path / "x.mat", {"cell": cell})
    assert read_array(f"{tmp_path / 'x.mat'}:cell/2").tolist() == [10.0] * 3


def test_structs_of_matlab_73(tmp_path: Path) -> None:
    matlab73(tmp_path / "s.mat", {"scan/y": ARRAY, "#refs#/a": ARRAY[:1]})
    np.testing.assert_array_equal(read_array(tmp_path / "s.mat"), ARRAY)


def test_text_in_hdf5_is_no_array(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/title"] = "a scan"
        file["entry/number"] = 3.0
        file["entry/data/data"] = ARRAY
    np.testing.assert_array_equal(read_array(tmp_path / "a.nxs"), ARRAY)


def test_values_that_a_damaged_file_lacks(tmp_path: Path) -> None:
    """Its beginning is whole, so that it opens."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "y.tif"
    tifffile.imwrite(path, np.zeros((20, 32, 32), np.float32))
    path.write_bytes(path.read_bytes()[:50_000])
    array = FileArray(path, what="measurements")
    with pytest.raises(InputError, match=r"the measurements file .*y\.tif cannot be read: damaged") as error:
        array[19]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [">u2", ">i4", ">f4", ">f8", ">c16", "g"])
def test_values_are_in_this_machines_order_of_bytes(tmp_path: Path, kind: str) -> None:
    """torch takes no other, and no more than double precision."""
    np.save(tmp_path / "y.npy", ARRAY.astype(kind))
    array = FileArray(tmp_path / "y.npy")
    for values in (array[...], array[1:3]):
        assert values.dtype == array.dtype and torch.from_numpy(np.array(values)).shape == values.shape
    np.testing.assert_array_equal(array[...], ARRAY)


def test_tiff_that_was_written_page_by_page(tmp_path: Path) -> None:
    """Of which tifffile makes a series for every page, and of all it was the first that was read."""
    tifffile = pytest.importorskip("tifffile")
    stack = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(np.uint16)
    for name, pages in (("equal.tif", stack), ("unequal.tif", [stack[0], stack[1, :3]])):
        with tifffile.TiffWriter(tmp_path / name) as file:
            for page in pages:
                file.write(page)
    array = FileArray(tmp_path / "equal.tif")
    assert array.shape == stack.shape
    for index in (3, ..., (slice(1, 4), slice(2, 5)), slice(1, 3)):
        np.testing.assert_array_equal(array[index], stack[index])
    with pytest.raises(InputError, match=r"unequal.tif must hold pages of one shape and type"):
        FileArray(tmp_path / "unequal.tif")
    with tifffile.TiffWriter(tmp_path / "stacks.tif") as file:
        for _ in range(2):
            file.write(stack)
    with pytest.raises(InputError, match=r"stacks.tif holds 2 stacks \[5, 6, 7\]"):
        FileArray(tmp_path / "stacks.tif")


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"# angle in \xb0\n", b"# angle in \xc2\xb0\r\n"])
def test_text_of_table_programs(tmp_path: Path, start: bytes) -> None:
    """With a mark of the order of bytes, and comments in any encoding."""
    (tmp_path / "a.csv").write_bytes(start + b"0.5\r\n15.5\r\n30.5\r\n")
    np.testing.assert_array_equal(read_array(tmp_path / "a.csv"), [0.5, 15.5, 30.5])


@pytest.mark.parametrize("suffix", ["tif", "tiff"])
def test_compressed_tiff_needs_an_extra_or_is_read(suffix: str, tmp_path: Path) -> None:
    """ImageJ's and many cameras' LZW was called damaged."""
    path = tmp_path / f"lzw.{suffix}"
    values = np.arange(120, dtype=np.uint16).reshape(10, 12)
    Image.fromarray(values).save(path, compression="tiff_lzw")
    if importlib.util.find_spec("imagecodecs") is None:
        with pytest.raises(MissingExtraError, match=rf"lzw.{suffix} is compressed by LZW: pip install imagecodecs, or"):
            FileArray(path)
    else:
        np.testing.assert_array_equal(read_array(path), values)
    Image.fromarray(values).save(path, compression="tiff_adobe_deflate")
    np.testing.assert_array_equal(read_array(path), values)
