"""Measurements in files, read when they are needed, alone or beside their ground truth."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.arrays import SUFFIXES, FileArray, split_name
from ei.common.checks import check_number
from ei.common.files import check_path, natural_order
from ei.datasets.batches import index_in_whole
from ei.datasets.scans import bin_detectors
from ei.errors import InputError, MissingFileError

# Preferred in files of several arrays: measurements, and images that are their ground truth.
NAMES = ("y", "measurements", "sinograms", "DATA")
NAMES_OF_TRUTH = ("x", "images", "truth", "DATA")
_IN_FOLDERS = tuple(suffix for suffix in SUFFIXES if suffix not in (".csv", ".txt"))


class _Layout(NamedTuple):
    """How an array holds measurements: the axes of one, whether they begin with channels, and how many there are."""

    axes: int
    has_channels: bool
    rows: int


class Measurements(Dataset):
    """Measurements without images; items are ``[C, ...]`` float32 (or complex64).

    Args:
        path: a file of an array (`ei.common.arrays.FileArray`), a folder of them (in the natural order of their names:
            y_2 before y_10), or a list of files in their order. Arrays are read piece by piece where their format
            allows.
        shape: the shape of one measurement, as the operator returns it without the batch axis; a leading axis of length
            one may be missing in the files. If None, arrays are ``[n, h, w]`` or ``[n, C, h, w]``. In a folder, an
            array without the axis n is one measurement. Where a measurement begins with an axis of length two, complex
            arrays without it are read, too: their real and imaginary parts are that axis.
        names: what their arrays are called in files that hold several.
        parts: complex arrays are read so without a shape, too: ``[n, h, w]`` as items ``[2, h, w]``.
        ragged: the measurements of a folder may have different shapes (of scans that differ).
        slices: which of them, "A:B" or "A:B:S": from A up to but without B, every S-th. None: all.
        bin: items are means of so many neighbouring detectors, the last axis but one (`ei.datasets.scans`); ``shape``
            is that of the files.

    Attributes:
        channels: whether the files have all axes of a measurement; without, items get a leading axis of length one.
        slices: the places of the items in the whole stack.
        parts: whether they are complex and items are their real and imaginary parts.

    Raises:
        MissingFileError: if there is no such file, or no such files in the folder.
        MissingExtraError: for HDF5 without h5py.
        InputError: for a file that cannot be read, arrays of another shape, slices outside the stack, or (when an item
            is taken) values that are not finite.

    >>> np.save("/tmp/y.npy", np.zeros((5, 9, 4)))
    >>> len(Measurements("/tmp/y.npy")), Measurements("/tmp/y.npy")[0].shape
    (5, torch.Size([1, 9, 4]))
    >>> len(Measurements("/tmp/y.npy", slices="1:5:2"))
    2
    """

    def __init__(
        self,
        path: str | os.PathLike | Sequence[str | os.PathLike],
        shape: Sequence[int] | None = None,
        names: Sequence[str] = NAMES,
        parts: bool = False,
        ragged: bool = False,
        slices: str | None = None,
        bin: int = 1,
    ) -> None:
        what = "image" if tuple(names) == NAMES_OF_TRUTH else "measurements"
        files = _files_of(path)
        self.path = Path(path) if isinstance(path, (str, os.PathLike)) else files[0].parent
        self._arrays = [FileArray(file, names, what) for file in files]
        self.ragged = ragged
        is_folder = self.path.is_dir()
        self.parts = _in_parts(self._arrays, shape, parts, is_folder)
        self._layouts = [_layout_of(array, shape, self.parts, is_folder) for array in self._arrays]
        self._check_alike(shape is None)
        self.channels = self._layouts[0].has_channels
        self._ends = list(accumulate(layout.rows for layout in self._layouts))
        self.slices = slices_of(slices, self._ends[-1], f"of {self.path}")
        self.bin = check_number("bin", bin, integer=True, least=1)

    def _check_alike(self, any_shape: bool) -> None:
        """Raise for files whose measurements differ: in their channels, or, without a shape, in their sides."""
        first = self._arrays[0]
        for array in self._arrays:
            if any_shape and array.shape[-2:] != first.shape[-2:] and not self.ragged:
                raise InputError(
                    f"measurements in {array.path} must have shape {list(first.shape[-2:])} as those in {first.path}, "
                    f"got {list(array.shape[-2:])}"
                )
        kinds = {
            (layout.has_channels, array.shape[-3] if any_shape and layout.has_channels else None)
            for array, layout in zip(self._arrays, self._layouts, strict=True)
        }
        if len(kinds) > 1:
            raise InputError(f"the files in {self.path} differ in their channels")

    @property
    def files(self) -> list[Path]:
        return [array.path for array in self._arrays]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def stack_size(self) -> int:
        """How many measurements the files hold."""
        return self._ends[-1]

    def place_of(self, index: int) -> int:
        """The place of an item in the whole stack."""
        return self.slices[index]

    def __getitem__(self, index: int) -> Tensor:
        file, row = self._place(index)
        array = self._arrays[file]
        values = array[... if len(array.shape) == self._layouts[file].axes else row]
        item = torch.from_numpy(np.array(values, dtype=np.complex64 if array.dtype.kind == "c" else np.float32))
        if not bool(torch.isfinite(torch.view_as_real(item) if item.is_complex() else item).all()):
            number = self.slices[index]
            raise InputError(
                f"measurement {number} of {self.path} has values that are not finite; correct or remove it"
            )
        item = item if self.channels else item.unsqueeze(0)
        if self.bin > 1:
            item = torch.from_numpy(bin_detectors(item.numpy(), self.bin, -2))
        return torch.cat([item.real, item.imag]) if self.parts else item

    def _place(self, index: int) -> tuple[int, int]:
        """In which file a measurement is, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self.slices[index]
        file = bisect_right(self._ends, number)
        return file, number - (self._ends[file - 1] if file else 0)

    def name_of(self, index: int) -> str:
        """The name of a measurement, and of what is made of it: its number in the stack. In a folder it is the name of
        its file without the ending (with it, where another file has the same), and its number in a file of several."""
        if not self.path.is_dir():
            return f"{self.slices[index]:05d}"
        file, row = self._place(index)
        path = self._arrays[file].path
        is_unique = sum(array.path.stem == path.stem for array in self._arrays) == 1
        name = path.stem if is_unique else path.name
        return name if self._layouts[file].rows == 1 else f"{name}_{row:05d}"


class Pairs(Dataset):
    """Measurements and their ground truth; items are ``(y, x)``.

    Args:
        measurements: the y, ``[C, ...]`` each.
        images: as many x, ``[C, H, W]`` each, in the same order.

    Raises:
        InputError: if there are not as many.

    >>> np.savez("scans.npz", y=np.zeros((2, 9, 4)), x=np.zeros((2, 8, 8)))
    >>> y, x = Pairs(Measurements("scans.npz"), Measurements("scans.npz", names=["x"]))[0]
    >>> y.shape, x.shape
    (torch.Size([1, 9, 4]), torch.Size([1, 8, 8]))
    """

    has_measurements = True  # for `make_loader`

    def __init__(self, measurements: Measurements, images: Measurements) -> None:
        if len(measurements) != len(images):
            raise InputError(
                f"there must be one image for each measurement, got {len(measurements)} measurements in "
                f"{measurements.path} and {len(images)} images in {images.path}"
            )
        self.measurements = measurements
        self.images = images
        if measurements.path.is_dir():
            self.name_of = measurements.name_of  # for tables, as images have it

    def __len__(self) -> int:
        return len(self.measurements)

    @property
    def stack_size(self) -> int:
        return getattr(self.measurements, "stack_size", len(self.measurements))

    def place_of(self, index: int) -> int:
        return index_in_whole(self.measurements, index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.measurements[index], self.images[index]


def _files_of(path: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    """The files of measurements that a path or a list of paths names."""
    if isinstance(path, (list, tuple)):
        if not path:
            raise InputError("the list of measurements is empty")
        return [file for each in path for file in _files_of(each)]
    path = check_path("the path of measurements", path)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in _IN_FOLDERS]
        if not files:
            raise MissingFileError(f"there are no measurements in {path}: no file ends in {', '.join(_IN_FOLDERS)}")
        return sorted(files, key=lambda file: natural_order(file.name))
    if not split_name(path)[0].exists():
        raise MissingFileError(f"there are no measurements at {path}; check the path")
    return [path]


def slices_of(text: Any, count: int, what: str) -> range:
    """The places in a stack of ``count`` measurements that "A:B" or "A:B:S" selects; all of them for None. An empty A
    is the first one, an empty B the end; ``what`` names the stack in messages. Raises `InputError` for another text, or
    one that selects nothing or what is not there.

    >>> slices_of("1:8:3", 10, "of y.npy")
    range(1, 8, 3)
    """
    if text is None:
        return range(count)
    found = re.fullmatch(r"(\d*):(\d*)(?::(\d+))?", text.strip()) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"slices must be A:B or A:B:S, whole numbers, got {text!r}")
    defaults = zip(found.groups(), (0, count, 1), strict=True)
    start, stop, step = (int(number) if number else default for number, default in defaults)
    if not start < stop <= count or step == 0:
        raise InputError(
            f"slices {text} are outside the stack of {count} measurements {what}: give A:B or A:B:S with "
            f"0 <= A < B <= {count} and S >= 1"
        )
    return range(start, stop, step)


def _in_parts(arrays: Sequence[FileArray], shape: Sequence[int] | None, parts: bool, is_folder: bool) -> bool:
    """Whether complex arrays are to be read as the real and imaginary parts that begin a measurement."""
    complex_ones = [array.dtype.kind == "c" for array in arrays]
    if any(complex_ones) and not all(complex_ones):
        raise InputError(f"some of the files in {arrays[0].path.parent} are complex and some are real")
    if shape is None or not complex_ones[0]:
        return parts and complex_ones[0]
    return _has_two_parts(shape) and not _holds(arrays[0], tuple(shape), is_folder)


def _has_two_parts(shape: Sequence[int]) -> bool:
    return len(shape) > 1 and shape[0] == 2


def _holds(array: FileArray, whole: tuple[int, ...], is_folder: bool) -> bool:
    """Whether an array holds measurements of this shape; in a folder it may be a single one."""
    return array.shape[1:] == whole or (is_folder and array.shape == whole)


def _layout_of(array: FileArray, shape: Sequence[int] | None, parts: bool, is_folder: bool) -> _Layout:
    """How an array holds measurements ``shape`` (None: of two axes of any length)."""
    if shape is None:
        wanted = "[n, rows, columns] or [n, channels, rows, columns] (a single one: y[None])"
        wholes = [array.shape[-2:], array.shape[-3:]] if len(array.shape) > 1 else []
        axes = 3
    else:
        wanted = f"[n, ...] of {list(shape)} each"
        wanted += ", or complex without the axis of length 2" if _has_two_parts(shape) else ""
        one = (1, *shape[1:]) if parts else tuple(shape)
        wholes = [one, one[1:]] if one[0] == 1 else [one]
        axes = len(one)
    for whole in wholes:
        if _holds(array, whole, is_folder) and 0 not in array.shape:
            return _Layout(len(whole), len(whole) == axes, 1 if array.shape == whole else array.shape[0])
    raise InputError(f"measurements in {array.path} must have shape {wanted}, got {list(array.shape)}")
