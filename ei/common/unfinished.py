"""Arrays that several processes may write together, slice by slice, and that an interruption does not lose."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ei.common.arrays import HDF5, TIFF, import_extra
from ei.common.files import check_path, complete_file, remove_temporaries, replacing, write_atomically, writing
from ei.common.locks import Lock
from ei.common.processes import Part, Processes
from ei.errors import InputError, StorageError

UNFINISHED = ".unfinished"
BETWEEN = 10.0  # seconds: slices count as written when they are on the disk, which takes its time
ADVICE = "Make room, then give the same command again: it continues"


class UnfinishedArray:
    """An array on its way to its file: ``x.npy.unfinished`` beside it has the slices that are written, and behind them
    a byte for each, which is 1 where it is; ``x.npy.unfinished.json`` identifies the call, and the same call continues
    it. Raised in its ``with`` block once slices are shared, an `InputError` removes both (its input has to be changed),
    and any other error keeps them. A lock keeps them to one call.

    Args:
        path: of the file: ``.npy``, ``.npz``, ``.h5``, ``.hdf5``, or ``.tif`` and ``.tiff`` (a page a slice, float32).
            TIFF and ``.npz`` files are written from the slices when all are there.
        count: n, the number of slices.
        call: plain values that identify the call.
        name: of the array in ``.npz`` and HDF5.
        beside: other arrays that ``.npz`` holds, by name.
        what: slices are to the user, for messages.

    Processes that have joined (`ei.common.processes`) write it together. The first one begins and completes it.

    Raises:
        InputError: (entering) if the unfinished file is of another call or in use, the folder cannot be written, or (in
            `begin`) for another ending, or an array that the format cannot hold.
        MissingExtraError: (in `begin`) for HDF5 without h5py.
        StorageError: if it cannot be written; what is written is kept.

    >>> with UnfinishedArray("/tmp/x.npy", 2, {}) as array:
    ...     array.begin((3, 3), np.float32)
    ...     array.write(array.share(), np.zeros((2, 3, 3)))
    ...     array.complete()
    """

    def __init__(
        self,
        path: str | os.PathLike,
        count: int,
        call: Mapping[str, Any],
        name: str = "x",
        beside: Mapping[str, np.ndarray] | None = None,
        what: str = "images",
    ) -> None:
        self.name = name
        self.beside = dict(beside or {})
        self.what = what
        self.path = check_path("the file to write", path)
        self.unfinished = self.path.with_name(self.path.name + UNFINISHED)
        self.note = self.path.with_name(self.unfinished.name + ".json")
        self.count = count
        self.call = json.loads(json.dumps(call, default=str))
        self.processes = Processes.current()
        self._file: Any = None
        self._lock: Lock | None = None
        self._works = False
        self._pending: list[int] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> UnfinishedArray:
        if not self.processes.first:
            return self
        self._lock = Lock(self.path.with_name(f".{self.path.name}.lock"), str(self.path), "name")
        try:
            if self.note.exists() and self.unfinished.exists():
                self._open(self._read_note())
        except BaseException:
            self._lock.release()
            raise
        return self

    @property
    def is_begun(self) -> bool:
        """Whether the file is there, of this call or of one that it continues."""
        return self._file is not None

    @property
    def written(self) -> int:
        """How many slices are written."""
        return int(self._marks().sum()) if self.is_begun else 0

    def begin(self, shape: Sequence[int], dtype: Any) -> None:
        """Begin the file, for slices of this shape and type."""
        self._works = True
        whole = (self.count, *(int(side) for side in shape))
        dtype = _stored_dtype(self.path, whole[1:], np.dtype(dtype))
        with writing(self.path, ADVICE):
            offset = self._lay_out(whole, dtype)
            end = offset + int(np.prod(whole)) * dtype.itemsize
            marks = max(end, self.unfinished.stat().st_size)  # HDF5 may have something behind the values
            with self.unfinished.open("r+b") as file:
                file.seek(marks)
                file.write(bytes(self.count))
                file.flush()
                os.fsync(file.fileno())
            note = {"call": self.call, "shape": whole, "dtype": dtype.str, "offset": offset, "marks": marks}
            write_atomically(self.note, json.dumps(note, indent=1).encode())
            self._open(note)

    def share(self, *others: UnfinishedArray) -> list[int]:
        """The slices that are left for this process, here or in one of the others of as many. All processes have to
        call it together."""
        arrays = (self, *others)
        for array in arrays:
            array._works = True
        done = np.zeros(self.count, np.int64)
        if self.processes.first:
            for array in arrays:
                array._flush()
            done = np.min([array._marks() for array in arrays], axis=0).astype(np.int64)
        left = (self.processes.sum(torch.from_numpy(done)) == 0).nonzero().flatten().tolist()
        for array in arrays:
            if not array.is_begun:
                array._open(array._read_note())
        part = Part.of(len(left), self.processes)
        return left[part.start : part.stop] if part.weight else []

    def write(self, indices: Sequence[int], values: Any) -> None:
        """Write the slices with these indices."""
        values = np.ascontiguousarray(values, dtype=self.dtype)
        if values.shape != (len(indices), *self.shape[1:]):
            raise ValueError(f"{len(indices)} slices of {list(self.shape)} have shape {list(values.shape)}")
        with writing(self.path, ADVICE):
            for index, value in zip(indices, values, strict=True):
                self._write_at(self._place(index), value.tobytes())
        self._pending.extend(indices)
        if time.monotonic() - self._flushed > BETWEEN:
            self._flush()

    def complete(self) -> None:
        """Put the array in its place, when the other processes have written their slices, too.

        Raises:
            ValueError: if slices are missing that no other process can be writing.
        """
        self._flush()
        if not self.processes.first:
            return
        while self.written < self.count:
            if self.processes.count == 1:
                raise ValueError(f"{self.written} of {self.count} slices of {self.path} were written")
            time.sleep(0.2)
        with writing(self.path, ADVICE):
            self._file.truncate(self._marks_at)
            suffix = self.path.suffix.lower()
            if suffix in (*TIFF, ".npz"):
                remove_temporaries(self.path.parent, self.path.name)
                with replacing(self.path) as temporary:
                    (self._write_npz if suffix == ".npz" else self._write_tiff)(temporary)
                self._close()
                self.unfinished.unlink()
            else:
                self._close()
                complete_file(self.unfinished, self.path)
            self.note.unlink()

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        try:
            if self.is_begun:
                self._leave(kind)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _leave(self, kind: type[BaseException] | None) -> None:
        """Close the file, and remove it where it is of no use."""
        with contextlib.suppress(StorageError):
            self._flush()
        written = self.written
        self._close()
        if not self.processes.first or kind is None or not self._works:
            return
        if issubclass(kind, InputError) or not written:
            self.note.unlink(missing_ok=True)
            self.unfinished.unlink(missing_ok=True)
        else:
            kept = f"{written} of {self.count} {self.what} are kept in {self.unfinished}"
            print(f"{kept}: the same command continues there", file=sys.stderr)

    # ---- the file

    def _lay_out(self, shape: Sequence[int], dtype: np.dtype) -> int:
        """Make the file with room for the values, and return where in it they begin, in NumPy's order: HDF5 for its
        endings, else NumPy's format."""
        if self.path.suffix.lower() not in HDF5:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            with self.unfinished.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                return file.tell()
        h5py = import_extra("h5py", "h5", str(self.path))
        contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        contiguous.set_obj_track_times(False)  # equal arrays are equal files
        with h5py.File(self.unfinished, "w") as file:
            kind = h5py.h5t.py_create(dtype, logical=True)
            space = h5py.h5s.create_simple(tuple(shape))
            return h5py.h5d.create(file.id, self.name.encode(), kind, space, contiguous).get_offset()

    def _write_npz(self, path: Path) -> None:
        """As `numpy.savez` does, with the memory of a part: the unfinished file is one of NumPy."""
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open(f"{self.name}.npy", "w", force_zip64=True) as entry:
                self._file.seek(0)
                shutil.copyfileobj(self._file, entry)
            for name, values in self.beside.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)

    def _write_tiff(self, path: Path) -> None:
        is_big = self.count * self._bytes > 2**31
        is_rgb = len(self.shape) == 4 and self.shape[1] == 3
        with importlib.import_module("tifffile").TiffWriter(path, bigtiff=is_big) as file:
            for index in range(self.count):
                value = self._read(index)
                page = np.moveaxis(value, 0, -1) if is_rgb else value.reshape(value.shape[-2:])
                file.write(page, photometric="rgb" if is_rgb else "minisblack", metadata=None)

    def _read_note(self) -> Mapping[str, Any]:
        """What the unfinished file is of."""
        delete = f"delete {self.unfinished} and {self.note.name}, or choose another name"
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            before = note["call"]
            others = [key for key in {**before, **self.call} if before.get(key) != self.call.get(key)]
            is_whole = self.unfinished.stat().st_size in (note["marks"], note["marks"] + self.count)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
            raise InputError(f"{self.note} is damaged: {delete}") from failure
        if others or note["shape"][0] != self.count:
            differ = f"another {' and '.join(others or ['number of slices'])}"
            raise InputError(f"{self.unfinished} is of a call with {differ}: continue that one, {delete}")
        if not is_whole:
            raise InputError(f"{self.unfinished} is damaged: {delete}")
        return note

    def _open(self, note: Mapping[str, Any]) -> None:
        self.shape = tuple(note["shape"])
        self.dtype = np.dtype(note["dtype"])
        self._offset = int(note["offset"])
        self._marks_at = int(note["marks"])
        self._bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        with writing(self.path, ADVICE):
            self._file = self.unfinished.open("r+b", buffering=0)

    def _close(self) -> None:
        self._file.close()
        self._file = None

    def _place(self, index: int) -> int:
        return self._offset + index * self._bytes

    def _write_at(self, place: int, content: bytes) -> None:
        self._file.seek(place)
        rest = memoryview(content)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[self._file.write(rest) :]

    def _read(self, index: int) -> np.ndarray:
        self._file.seek(self._place(index))
        return np.frombuffer(self._file.read(self._bytes), self.dtype).reshape(self.shape[1:])

    def _marks(self) -> np.ndarray:
        self._file.seek(self._marks_at)
        marks = np.frombuffer(self._file.read(self.count), np.uint8)
        return marks if len(marks) else np.ones(self.count, np.uint8)  # it was about to get its name

    def _flush(self) -> None:
        """Have the slices on the disk, and only then mark them as written."""
        with writing(self.path, ADVICE):
            os.fsync(self._file.fileno())
            for index in self._pending:
                self._write_at(self._marks_at + index, b"\1")
        self._pending = []
        self._flushed = time.monotonic()


def _stored_dtype(path: Path, shape: Sequence[int], dtype: np.dtype) -> np.dtype:
    """The type that slices of a shape and type have in a file of this ending; raises if it cannot hold them."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".h5", ".hdf5", *TIFF):
        raise InputError(f"arrays are written to .npy, .npz, .tif, .tiff, .h5 or .hdf5 files, got {path}")
    if suffix not in TIFF:
        return dtype
    if dtype.kind == "c" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        others = f"{path.with_suffix('.npy').name} or {path.with_suffix('.h5').name}"
        got = f"got {dtype} {list(shape)}: write {others}"
        raise InputError(f"a TIFF file holds real images [H, W] or [1 or 3, H, W], {got}")
    return np.dtype(np.float32)
