"""People's own measurements: arrays in files, read when they are needed."""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.files import name_among, natural_order
from ei.errors import InputError, MissingExtraError, MissingFileError

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".mat", ".h5", ".hdf5")
# Looked for in files that hold several arrays: measurements, and images that are their truth.
NAMES = ("y", "measurements", "sinograms", "DATA")
NAMES_OF_TRUTH = ("x", "images", "truth", "DATA")


class Measurements(Dataset):
    """Measurements without images; items are ``[C, ...]`` float32 (or complex64).

    Args:
        path: a ``.npy``, ``.npz``, ``.pt``, ``.mat`` or ``.h5`` file, or a folder of them (in the natural order of
            their names: y_2 before y_10). Files of several arrays must name this one "y", "measurements", "sinograms"
            or "DATA". NumPy's, torch's and HDF5's (Matlab 7.3's too) arrays are read piece by piece; ``.npz`` and older
            ``.mat`` as wholes.
        shape: the shape of one measurement, as the operator gives it without the batch axis; a leading axis of length
            one may be missing in the files. If None, measurements have two axes of any length, with or without a
            channel axis before them: arrays are ``[n, h, w]`` or ``[n, C, h, w]``. In a folder, an array without the
            axis n is one measurement. Where a measurement begins with an axis of length two, complex arrays without it
            are read, too: their real and imaginary parts are that axis.
        names: what their arrays are called in files that hold several.
        parts: complex arrays are read so without a shape, too: ``[n, h, w]`` as items ``[2, h, w]``.

    Attributes:
        channels: whether the files have all axes of a measurement; without, items get a leading axis of length one.
        parts: whether they are complex and items are their real and imaginary parts.

    Raises:
        MissingFileError: if there is no such file, or no such files in the folder.
        MissingExtraError: for HDF5 without h5py.
        InputError: for a file that cannot be read, arrays of another shape, or (when an item is taken) values that are
            not finite.
    """

    def __init__(
        self, path: str | Path, shape: Sequence[int] | None = None, names: Sequence[str] = NAMES, parts: bool = False
    ) -> None:
        path = Path(path)
        if not path.exists():
            raise MissingFileError(f"there are no measurements at {path}; check the path")
        files = [path]
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
            files.sort(key=lambda file: natural_order(file.name))
            if not files:
                raise MissingFileError(f"there are no measurements in {path}: no file ends in {', '.join(SUFFIXES)}")
        self.path = path
        self._arrays = [_Array(file, names) for file in files]
        self.parts = _in_parts(self._arrays, shape, parts, path.is_dir())
        expected, shape = shape, (1, *shape[1:]) if self.parts and shape is not None else shape
        counts, kinds, first = [], set(), self._arrays[0].shape
        for array in self._arrays:
            whole, bare = (_axes(array.shape, shape, channels, path.is_dir()) for channels in (True, False))
            axes = whole if whole is not None else bare
            if axes is None or 0 in array.shape:
                wanted = (
                    f"[n, ...] or of the shape {list(expected)}"
                    if expected is not None
                    else "[n, rows, columns] or [n, channels, rows, columns] (one alone, too: y[None])"
                )
                raise InputError(
                    f"{array.path} holds an array of the shape {list(array.shape)}; measurements must be {wanted}"
                    + ("" if shape is None else " each: that was expected")
                    + (", or complex without the axis of length 2" if _two_parts(expected) else "")
                )
            if shape is None and array.shape[-2:] != first[-2:]:
                raise InputError(
                    f"{array.path} holds measurements of the shape {list(array.shape[-2:])}; {list(first[-2:])} was "
                    "expected"
                )
            kinds.add((whole is not None, array.shape[-3] if shape is None and whole is not None else None))
            counts.append(1 if len(array.shape) == axes else array.shape[0])
            self._axes = axes
        if len(kinds) > 1:
            raise InputError(f"the files in {path} differ in their channels")
        self.channels = kinds.pop()[0]
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._ends, index)
        array = self._arrays[file]
        begin = self._ends[file - 1] if file else 0
        row = array.read(None if len(array.shape) == self._axes else index - begin)
        if row.dtype.kind not in "fiubc":
            raise InputError(f"{array.path} must hold numbers, not {row.dtype}")
        item = torch.from_numpy(np.array(row, dtype=np.complex64 if row.dtype.kind == "c" else np.float32))
        if not bool(torch.isfinite(torch.view_as_real(item) if item.is_complex() else item).all()):
            raise InputError(f"measurement {index} of {self.path} has values that are not finite; mend or remove it")
        item = item if self.channels else item.unsqueeze(0)
        return torch.cat([item.real, item.imag]) if self.parts else item

    def name_of(self, index: int) -> str:
        """What to call what is made of a measurement: of a folder's, the name of its file without the ending (with it,
        where another one's is the same), and its number in the file, if there are several; of a file's, the number."""
        if not self.path.is_dir():
            return f"{index:05d}"
        file = bisect_right(self._ends, index)
        begin = self._ends[file - 1] if file else 0
        path = self._arrays[file].path
        alone = sum(array.path.stem == path.stem for array in self._arrays) == 1
        name = path.stem if alone else path.name
        return name if self._ends[file] - begin == 1 else f"{name}_{index - begin:05d}"

    @property
    def item_shape(self) -> tuple[int, ...]:
        """(C, ...) of a measurement."""
        return tuple(self[0].shape)


class Pairs(Dataset):
    """Measurements whose true images are known; items are ``(y, x)``.

    Args:
        measurements: the y, ``[C, ...]`` each.
        images: as many x, ``[C, H, W]`` each, in the same order.

    Raises:
        InputError: if there are not as many.
    """

    def __init__(self, measurements: Measurements, images: Measurements) -> None:
        if len(measurements) != len(images):
            raise InputError(
                f"{measurements.path} holds {len(measurements)} measurements, and {images.path} {len(images)} images: "
                "each measurement needs its own"
            )
        self.measurements, self.images = measurements, images
        if measurements.path.is_dir():
            self.name_of = measurements.name_of  # for tables, as images have it

    def __len__(self) -> int:
        return len(self.measurements)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.measurements[index], self.images[index]


def _two_parts(shape: Sequence[int] | None) -> bool:
    return shape is not None and len(shape) > 1 and shape[0] == 2


def _in_parts(arrays: Sequence[_Array], shape: Sequence[int] | None, parts: bool, alone: bool) -> bool:
    """Whether complex arrays are to be read as the real and imaginary parts that begin a measurement."""
    if not all(array.complex for array in arrays):
        if any(array.complex for array in arrays):
            raise InputError(f"some of the files in {arrays[0].path.parent} are complex and some are real")
        return False
    return parts if shape is None else _two_parts(shape) and _axes(arrays[0].shape, shape, True, alone) is None


def _axes(array: tuple[int, ...], shape: Sequence[int] | None, channels: bool, alone: bool) -> int | None:
    """How many axes of an array are one measurement's, with its ``channels`` or without; None if it does not fit.
    An array may hold one measurement ``alone``, without the axis that counts them."""
    if shape is None:
        axes = 3 if channels else 2
        fits = [axes + 1] if channels or not alone else [axes, axes + 1]
        return axes if len(array) in fits else None
    one = tuple(shape) if channels else tuple(shape[1:]) if shape[:1] == (1,) or shape[:1] == [1] else None
    if one is None or (array[1:] != one and not (alone and array == one)):
        return None
    return len(one)


class _Array:
    """An array in a file: its shape, and how to read one row of it. What is open stays behind when it is pickled for a
    worker."""

    def __init__(self, path: Path, names: Sequence[str] = NAMES) -> None:
        self.path, self.names = path, names
        try:
            self._opened: Any = self._open()
            self.shape = tuple(int(side) for side in self._opened.shape)
            self.complex = "complex" in str(getattr(self._opened, "dtype", ""))
        except (InputError, MissingExtraError):
            raise
        except PermissionError as error:
            raise InputError(f"{path} cannot be read: permission denied") from error
        except Exception as error:  # the readers raise whatever the bytes lead them to
            raise InputError(f"{path} is damaged or no {path.suffix} file of numbers ({error})") from error

    def read(self, row: int | None) -> np.ndarray:
        if self._opened is None:
            self._opened = self._open()
        part = self._opened[...] if row is None else self._opened[row]
        return part.numpy() if isinstance(part, torch.Tensor) else np.asarray(part)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _open(self) -> Any:
        reader: dict[str, Callable[[], Any]] = {
            ".npy": lambda: np.load(self.path, mmap_mode="r"),
            ".npz": self._open_npz,
            ".pt": self._open_torch,
            ".pth": self._open_torch,
            ".mat": self._open_mat,
            ".h5": self._open_hdf5,
            ".hdf5": self._open_hdf5,
        }
        suffix = self.path.suffix.lower()
        if suffix not in reader:
            raise InputError(f"{self.path}: measurements are read from {', '.join(SUFFIXES)}")
        return reader[suffix]()

    def _choose(self, names: Sequence[str]) -> str:
        what = "measurements" if self.names is NAMES else "images"
        return name_among(names, self.names, self.path, what)

    def _open_npz(self) -> Any:
        with np.load(self.path) as file:
            return file[self._choose(file.files)]

    def _open_torch(self) -> Any:
        content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        if isinstance(content, dict):
            content = content[self._choose([name for name in content if isinstance(content[name], Tensor)])]
        if not isinstance(content, Tensor):
            raise InputError(f"{self.path} must hold a tensor, or a dict with a tensor 'y'")
        return content.detach()

    def _open_mat(self) -> Any:
        import scipy.io

        try:
            content = scipy.io.loadmat(self.path)
        except NotImplementedError:  # version 7.3 is HDF5
            return self._open_hdf5(reverse=True)
        return content[self._choose([name for name in content if not name.startswith("__")])]

    def _open_hdf5(self, reverse: bool = False) -> Any:
        try:
            h5py = importlib.import_module("h5py")
        except ImportError as error:
            raise MissingExtraError(
                f"{self.path} is an HDF5 file, which needs h5py: pip install 'equivariant-imaging[h5]'"
            ) from error
        file = h5py.File(self.path, "r")
        array = file[self._choose([name for name in file if isinstance(file[name], h5py.Dataset)])]
        return _Reversed(array) if reverse else array


class _Reversed:
    """A Matlab 7.3 array: HDF5 sees its axes in reverse."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape[::-1], array.dtype

    def __getitem__(self, row: Any) -> np.ndarray:
        return np.asarray(self.array[...] if row is Ellipsis else self.array[..., row]).T
