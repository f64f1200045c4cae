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
from conftest import ROOT

from ei.common.arrays import ArrayWriter, read_array
from ei.common.unfinished import UnfinishedArray
from ei.errors import InputError, StorageError

ENDINGS = [".npy", ".h5", ".tif"]
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


@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_it_is_the_file_that_a_writer_writes(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"x{ending}")
    with ArrayWriter(tmp_path / f"other{ending}", IMAGES.shape, np.float32) as writer:
        for image in IMAGES:
            writer.write(image)
    assert (tmp_path / f"x{ending}").read_bytes() == (tmp_path / f"other{ending}").read_bytes()


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
    with pytest.raises(InputError, match="TIFF"), UnfinishedArray(tmp_path / "x.tif", 5, {}) as array:
        array.begin((6, 7), np.complex64)
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
