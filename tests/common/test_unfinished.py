"""Arrays that are continued after an interruption."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, subprocess_run

from ei.common.arrays import FileArray, read_array
from ei.common.unfinished import UnfinishedArray
from ei.errors import InputError, StorageError

ENDINGS = [".npy", ".npz", ".h5", ".tif"]
IMAGES = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)


def write(path: Path, count: int = 5, call: dict | None = None, stop_at: int | None = None) -> list[int]:
    """Write the slices that are left, in pairs, up to one of them. Returns those that were written."""
    done: list[int] = []
    with UnfinishedArray(path, count, {"input": "y.npy"} if call is None else call) as array:
        if not array.is_begun:
            array.begin(IMAGES.shape[1:], np.float32)
        left = array.share()
        for place in range(0, len(left), 2):
            indices = left[place : place + 2]
            if stop_at in indices:
                raise KeyboardInterrupt
            array.write(indices, IMAGES[indices])
            done += indices
        array.complete()
    return done


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupted_array_is_continued(tmp_path: Path, ending: str, capsys: pytest.CaptureFixture) -> None:
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"x{ending}"
    assert write(whole) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read_array(whole), IMAGES)
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write(path, stop_at=3)
    kept = f"{path.name}.unfinished"
    assert f"2 of 5 images are kept in {tmp_path / kept}" in capsys.readouterr().err
    assert names(tmp_path) == sorted([whole.name, path.name, kept, f"{kept}.json"]) and path.read_bytes() == b"old"
    assert write(path) == [2, 3, 4]
    assert path.read_bytes() == whole.read_bytes() and names(tmp_path) == sorted([whole.name, path.name])


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5", ".tif", ".tiff"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 1, 6, 7), (4, 3, 6, 7)])
def test_the_file_of_an_array(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    path, angles = tmp_path / f"x{ending}", np.arange(3.0)
    with UnfinishedArray(path, len(images), {}, beside={"angles": angles}) as array:
        array.begin(shape[1:], np.float64 if "tif" in ending else np.float32)
        array.write(range(len(images)), images)
        assert not path.exists()
        array.complete()
    read = FileArray(path, ("x",))
    assert read.dtype == np.float32 and names(tmp_path) == [path.name]
    expected = images
    if "tif" in ending:
        expected = np.moveaxis(images, 1, -1) if shape[1] == 3 else images.reshape(shape[0], 6, 7)
    np.testing.assert_array_equal(read[...], expected)
    np.testing.assert_array_equal(read[2], expected[2])
    if ending == ".npz":
        np.savez(tmp_path / "theirs.npz", x=images, angles=angles)
        assert path.read_bytes() == (tmp_path / "theirs.npz").read_bytes()
    elif ending == ".npy":
        np.save(tmp_path / "theirs.npy", images)
        assert path.read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_complex_images_are_written(tmp_path: Path, ending: str) -> None:
    images = (IMAGES * (1 + 2j)).astype(np.complex64)
    with UnfinishedArray(tmp_path / f"x{ending}", 5, {}) as array:
        array.begin((6, 7), images.dtype)
        array.write(range(5), images)
        array.complete()
    np.testing.assert_array_equal(read_array(tmp_path / f"x{ending}"), images)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("x.png", (6, 7), np.float32, "written to .npy, .npz, .tif, .tiff, .h5 or .hdf5"),
        ("x.tif", (6, 7), np.complex64, r"real images \[H, W\] or .*, got complex64 \[6, 7\]: write x.npy or x.h5"),
        ("x.tif", (2, 6, 7), np.float32, r"got float32 \[2, 6, 7\]"),
    ],
)
def test_arrays_that_a_format_cannot_hold(tmp_path: Path, name: str, shape: tuple, dtype: type, message: str) -> None:
    with pytest.raises(InputError, match=message), UnfinishedArray(tmp_path / name, 3, {}) as array:
        array.begin(shape, dtype)
    assert names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5", ".tif"])
def test_writing_needs_the_memory_of_a_few_slices(tmp_path: Path, ending: str) -> None:
    """400 slices of 1 MiB, and less than 60 MiB more than before."""
    code = f"""
import resource, numpy as np
from ei.common.unfinished import UnfinishedArray
import h5py, tifffile
x = np.ones((1, 512, 512), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with UnfinishedArray(r"{tmp_path / ("x" + ending)}", 400, {{}}) as array:
    array.begin((512, 512), np.float32)
    for index in range(400): array.write([index], x)
    array.complete()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess_run("python", "-c", code, cwd=tmp_path)
    assert done.code == 0 and float(done.out) < 60, done


def test_another_call_does_not_continue_it(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        write(path, stop_at=3)
    before = (tmp_path / "x.npy.unfinished").read_bytes()
    with pytest.raises(InputError, match=r"x\.npy\.unfinished is of a call with another input and slices: .* delete"):
        write(path, call={"input": "z.npy", "slices": "0:5"})
    with pytest.raises(InputError, match="another number of slices"):
        write(path, count=4)
    assert (tmp_path / "x.npy.unfinished").read_bytes() == before
    note = tmp_path / "x.npy.unfinished.json"
    os.truncate(tmp_path / "x.npy.unfinished", len(before) - 1)
    with pytest.raises(InputError, match="is damaged: delete"):
        write(path)
    note.write_text(note.read_text()[:20])
    with pytest.raises(InputError, match="json is damaged: delete"):
        write(path)


def test_wrong_input_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wrong"), UnfinishedArray(tmp_path / "x.npy", 5, {}) as array:
        array.begin((6, 7), np.float32)
        array.write([0], IMAGES[:1])
        raise InputError("wrong")
    assert names(tmp_path) == []
    wrong = pytest.raises(ValueError, match=r"2 slices of \[5, 6, 7\] have shape \[1, 6, 7\]")
    with wrong, UnfinishedArray(tmp_path / "x.npy", 5, {}) as array:
        array.begin((6, 7), np.float32)
        array.write([0, 1], IMAGES[:1])
    with pytest.raises(ValueError, match="1 of 5 slices"), UnfinishedArray(tmp_path / "x.npy", 5, {}) as array:
        array.begin((6, 7), np.float32)
        array.write([0], IMAGES[:1])
        array.complete()
    assert "x.npy" not in names(tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_keeps_what_is_written(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"x{ending}"
    write_at, slices = UnfinishedArray._write_at, []

    def nearly_full(array: UnfinishedArray, place: int, content: bytes) -> None:
        slices.extend([place] if place < array._marks_at else [])
        if place < array._marks_at and len(slices) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_at(array, place, content)

    monkeypatch.setattr(UnfinishedArray, "_write_at", nearly_full)
    with pytest.raises(StorageError, match=r"x\.\w+ could not be written: No space .*the same command again"):
        write(path)
    assert not path.exists()
    monkeypatch.undo()
    assert write(path) == [2, 3, 4]
    np.testing.assert_array_equal(read_array(path), IMAGES)


def test_slices_count_as_written_when_they_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark before its slice could outlive it when the power fails."""
    order: list[str] = []
    write_at, fsync = UnfinishedArray._write_at, os.fsync

    def noted(array: UnfinishedArray, place: int, content: bytes) -> None:
        order.append("mark" if place >= array._marks_at else "slice")
        write_at(array, place, content)

    monkeypatch.setattr(UnfinishedArray, "_write_at", noted)
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("disk"), fsync(handle))[1])
    monkeypatch.setattr("ei.common.unfinished.BETWEEN", 0)
    write(tmp_path / "x.npy")
    for place, what in enumerate(order):
        if what == "mark":
            assert next(other for other in reversed(order[:place]) if other != "mark") == "disk"
    pair = ["slice", "slice", "mark", "mark"]
    assert [what for what in order if what != "disk"] == [*pair, *pair, "slice", "mark"]


def test_the_note_says_what_the_file_is(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.npy", stop_at=3)
    note = json.loads((tmp_path / "x.npy.unfinished.json").read_text())
    assert note["call"] == {"input": "y.npy"} and note["shape"] == [5, 6, 7] and note["dtype"] == "<f4"


@pytest.mark.slow
def test_two_calls_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    held = f"import sys; from ei.common.unfinished import UnfinishedArray; x = UnfinishedArray({str(path)!r}, 5, {{}})"
    wait = "x.__enter__(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", f"{held}\n{wait}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(
            InputError, match=r"x\.npy is in use by process \d+ .*; wait for its end, or choose another"
        ):
            write(path)
    assert write(path) == [0, 1, 2, 3, 4]  # also after it was killed
    assert names(tmp_path) == ["x.npy"]


def test_an_error_about_another_file_keeps_what_is_written(tmp_path: Path) -> None:
    """`ei reconstruct --uncertainty` enters two: one that is damaged must not cost the other one."""
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        write(path, stop_at=3)
    (tmp_path / "z.npy.unfinished").write_bytes(b"")
    (tmp_path / "z.npy.unfinished.json").write_bytes(b"")
    arrays = [UnfinishedArray(tmp_path / name, 5, {"input": "y.npy"}) for name in ("x.npy", "z.npy")]
    with pytest.raises(InputError, match=r"z\.npy\.unfinished\.json is damaged"), arrays[0], arrays[1]:
        pass
    assert write(path) == [2, 3, 4]


def test_what_a_killed_process_left_of_a_copy_is_removed(tmp_path: Path) -> None:
    left = [tmp_path / f".{name}.k3j2.tmp" for name in ("x.tif", "other.tif")]
    for file in left:
        file.write_bytes(b"a part")
    write(tmp_path / "x.tif")
    assert [file.exists() for file in left] == [False, True]


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    wrong = pytest.raises(InputError, match=r"x\.npy cannot be written: No such file or directory; correct that, or")
    with wrong, UnfinishedArray(tmp_path / "nowhere" / "x.npy", 5, {}):
        raise AssertionError("entered")
