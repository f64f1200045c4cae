"""Arrays in files: one reader for all formats. It reads row by row where the format allows, and never runs code that a
file brings along."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ei.common.files import check_path, load_file, natural_order
from ei.errors import InputError, MissingExtraError, MissingFileError

HDF5 = (".h5", ".hdf5", ".nxs")
TIFF = (".tif", ".tiff")
# What the angles of views are called in files of several arrays.
ANGLES = ("angles", "exchange/theta", "theta", "rotation_angle")
SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".mat", *HDF5, *TIFF, ".csv", ".txt")
_NUMBERS = "fiubc"  # kinds of numbers, as NumPy names them
_SMALL = 2**26  # bytes up to which a file of torch is read as a whole, and its checksums are compared
_NAMED = re.compile(r"(.+\.(?:npz|pt|pth|mat|h5|hdf5|nxs)):(.+)", re.IGNORECASE)


def split_name(path: str | os.PathLike) -> tuple[Path, str | None]:
    """The file of ``FILE`` or ``FILE:NAME``, and the name of an array in it."""
    match = _NAMED.fullmatch(str(check_path("the file of an array", path)))
    return (Path(match[1]), match[2].strip("/")) if match else (Path(path), None)


class FileArray:
    """An array in a file: its shape and type, and its rows when they are asked for.

    Arrays of NumPy (``.npy``), torch (``.pt``, ``.pth`` and other files of ``torch.save``) and HDF5 (``.h5``,
    ``.hdf5``, NeXus, Matlab 7.3) are read row by row, the pages of a TIFF file and the files of a folder one by one;
    arrays of ``.npz``, older Matlab files and text (``.csv``, ``.txt``) as wholes. Open files stay behind when it is
    pickled, and a forked process opens its own.

    Args:
        path: ``FILE``, or ``FILE:NAME`` for one of several arrays; ``NAME`` may be nested, as ``exchange/data``, also
            in structs and cells of Matlab. Or a folder of files of equal arrays, in the natural order of their names.
        names: which array to prefer in a file of several, best first. A file of one array needs no name.
        what: what it is to the user ("mask", "measurements"), for messages.

    Attributes:
        path, name: of the file, and of the array in a file of several.
        shape, dtype: of the array; in this machine's order of bytes, and of at most double precision.
        units: of the values, the attribute ``units`` of HDF5; empty without one.

    Raises:
        MissingFileError: if there is no such file.
        MissingExtraError: for HDF5 without h5py.
        InputError: in one line, if it cannot be read, or holds no numbers or several arrays of other names, which are
            then listed.

    >>> np.save("/tmp/y.npy", np.eye(3))
    >>> FileArray("/tmp/y.npy")[1]
    array([0., 1., 0.])
    """

    def __init__(self, path: str | os.PathLike, names: Sequence[str] = (), what: str = "array") -> None:
        self.path, self.name = split_name(path)
        self.names = tuple(names)
        self.what = what
        if not self.path.exists():
            raise MissingFileError(f"there is no {what} file {self.path}; check the path")
        array = self._open()
        self.shape = tuple(int(side) for side in array.shape)
        self.dtype = native(np.empty(0, array.dtype)).dtype
        self.units: str = getattr(array, "units", "")
        if self.dtype.kind not in _NUMBERS:
            raise InputError(f"the {what} file {path} must hold numbers, got {self.dtype}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if self._process != os.getpid():  # processes must not share an open HDF5 file
            self._open()
        with self._reading(InputError, IndexError):
            return native(np.asarray(self._array[index]))

    def read(self) -> np.ndarray:
        """The whole array; axes of length one, which Matlab adds, are dropped from ``.mat``."""
        values = np.array(self[...])
        return values.squeeze() if self.path.suffix.lower() == ".mat" else values

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None, "_process": None}

    def _open(self) -> Any:
        with self._reading(InputError, MissingExtraError):
            self._array = self._read()
        self._process = os.getpid()
        return self._array

    @contextlib.contextmanager
    def _reading(self, *passed: type[Exception]) -> Iterator[None]:
        """Turn what a reader raises in a ``with`` block into an `InputError`, but for what is ``passed`` on."""
        try:
            yield
        except passed:
            raise
        except PermissionError as error:
            raise InputError(f"the {self.what} file {self.path} cannot be read: permission denied") from error
        except Exception as error:  # the readers raise whatever the bytes lead them to
            reason = " ".join(str(error).split())
            problem = f"damaged or no {self.path.suffix} file of numbers ({reason})"
            raise InputError(f"the {self.what} file {self.path} cannot be read: {problem}") from error

    def _read(self) -> Any:
        suffix = self.path.suffix.lower()
        if self.path.is_dir():
            return _FolderArray(self.path, self.what)
        if suffix == ".npy":
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with np.load(self.path, allow_pickle=False) as file:
                return file[self._choose(dict.fromkeys(file.files))]
        if suffix == ".mat":
            return self._read_matlab()
        if suffix in HDF5:
            return self._read_hdf5()
        if suffix in TIFF:
            return _TiffArray(self.path)
        if suffix in (".csv", ".txt") or not _is_of_torch(self.path):
            return _read_text(self.path)
        return self._read_torch()

    def _read_torch(self) -> np.ndarray:
        content = load_file(self.path, self.what, mmap=self.path.stat().st_size > _SMALL)
        if isinstance(content, Mapping):
            tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
            content = tensors[self._choose({name: tuple(value.shape) for name, value in tensors.items()})]
        if not isinstance(content, torch.Tensor):
            kind = type(content).__name__
            raise InputError(f"the {self.what} file {self.path} must hold a tensor or a dict of tensors, got a {kind}")
        tensor = content.detach().resolve_conj().resolve_neg()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def _read_matlab(self) -> Any:
        import scipy.io

        try:
            listed = scipy.io.whosmat(self.path)
        except NotImplementedError:  # version 7.3 is HDF5
            return self._read_hdf5(reverse=True)
        arrays: dict[str, Any] = {name: None for name, _, kind in listed if kind not in ("struct", "cell", "char")}
        nested = [name for name, _, kind in listed if kind in ("struct", "cell")]
        if nested:
            content = scipy.io.loadmat(self.path, variable_names=nested)
            for name in nested:
                arrays |= _leaves(name, content[name])
        shapes = {name: shape for name, shape, _ in listed}
        name = self._choose({name: shapes.get(name, getattr(arrays[name], "shape", ())) for name in arrays})
        return arrays[name] if name not in shapes else scipy.io.loadmat(self.path, variable_names=[name])[name]

    def _read_hdf5(self, reverse: bool = False) -> Any:
        h5py = import_extra("h5py", "h5", str(self.path))
        file = h5py.File(self.path, "r")
        arrays: dict[str, _Hdf5Array] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("#"):  # what Matlab refers to
                arrays[name] = _Hdf5Array(item, reverse)

        file.visititems(visit)
        numbers = {name: array.shape for name, array in arrays.items() if array.dtype.kind in _NUMBERS and array.shape}
        return arrays[self._choose(numbers)]

    def _choose(self, arrays: Mapping[str, Any]) -> str:
        """The name of the array to read, out of names and shapes (None where they are not known). It is the one asked
        for, the only one, or the first of the preferred names."""
        if self.name is not None:
            matches = [name for name in arrays if name == self.name]
        elif len(arrays) == 1:
            matches = list(arrays)
        else:
            matches = [name for wanted in self.names for name in arrays if wanted in (name, name.rpartition("/")[2])]
        if matches:
            self.name = matches[0]
            return self.name
        if not arrays:
            raise InputError(f"the {self.what} file {self.path} holds no arrays")
        listed = ", ".join(name if shape is None else f"{name} {list(shape)}" for name, shape in arrays.items())
        advice = f"choose one as {self.path}:{next(iter(arrays))}"
        if self.name is not None:
            raise InputError(f"{self.path} holds no {self.name}, but {listed}: {advice}")
        rename = f"name the {self.what} {self.names[0]!r}, or " if self.names else ""
        raise InputError(f"{self.path} holds {listed}: {rename}{advice}")


def native(array: np.ndarray) -> np.ndarray:
    """The array in a type that torch has: in this machine's order of bytes, and of at most double precision."""
    wider = {np.dtype(np.longdouble): np.float64, np.dtype(np.clongdouble): np.complex128}
    dtype = array.dtype.newbyteorder("=")
    return array.astype(wider.get(dtype, dtype), copy=False)


def in_degrees(angles: np.ndarray, units: str) -> np.ndarray:
    """Angles of these ``units`` of a file in degrees: converted where these are radians."""
    return np.rad2deg(angles) if units.lower() in ("rad", "radian", "radians") else angles


def import_extra(module: str, extra: str, what: str) -> Any:
    """A module that ``what`` needs and an extra installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{what} needs {module}: pip install 'equivariant-imaging[{extra}]'") from error


class _Hdf5Array:
    """An array of HDF5. Matlab 7.3 stores its axes in reverse, and a complex number as a pair."""

    def __init__(self, array: Any, reverse: bool) -> None:
        self.array = array
        self.reverse = reverse
        self.shape = array.shape[::-1] if reverse else array.shape
        self.is_pair = array.dtype.names == ("real", "imag")
        self.dtype = np.dtype(complex) if self.is_pair else array.dtype
        units = array.attrs.get("units", "")
        self.units = units.decode(errors="replace") if isinstance(units, bytes) else str(units)

    def __getitem__(self, index: Any) -> np.ndarray:
        if self.reverse:
            values = np.asarray(self.array[...] if index is Ellipsis else self.array[..., index]).T
        else:
            values = np.asarray(self.array[index])
        return values["real"] + 1j * values["imag"] if self.is_pair else values


def open_tiff(path: Path) -> Any:
    """A file of tifffile, which scikit-image brings along. Most compressions need imagecodecs, too: without it a
    `MissingExtraError` is raised."""
    tifffile = importlib.import_module("tifffile")
    file = tifffile.TiffFile(path)
    compression = file.pages[0].compression
    if compression not in tifffile.TIFF.DECOMPRESSORS:
        file.close()
        raise MissingExtraError(
            f"{path} is compressed by {compression.name}: pip install imagecodecs, or save it without compression"
        )
    return file


class _TiffArray:
    """The pages of a TIFF file, ``[n, H, W]``, or its single page ``[H, W]``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tifffile = importlib.import_module("tifffile")
        with open_tiff(path) as file:
            first = file.series[0]
            self.shape = first.shape
            self.dtype = first.dtype
            # A file that was written page by page has as many series.
            others = {(series.shape, str(series.dtype)) for series in file.series} - {(first.shape, str(first.dtype))}
            if others:
                shape, dtype = others.pop()
                raise InputError(
                    f"{path} must hold pages of one shape and type, got {first.dtype} {list(first.shape)} and {dtype} "
                    f"{list(shape)}: save them in files of their own"
                )
            if len(file.series) > 1:
                self.shape = (len(file.series), *first.shape)
            self.has_pages = len(self.shape) > 2 and len(file.pages) == self.shape[0]
            if len(file.series) > 1 and not self.has_pages:
                raise InputError(f"{path} holds {len(file.series)} stacks {list(first.shape)}: save each in a file")

    def __getitem__(self, index: Any) -> np.ndarray:
        if self.has_pages and isinstance(index, int | np.integer):
            return self.tifffile.imread(self.path, key=range(self.shape[0])[index])
        if self.has_pages and (parts := _page_by_page(self, index)) is not None:
            return parts
        pages = {"key": slice(None)} if self.has_pages else {"series": 0}
        return self.tifffile.imread(self.path, **pages)[index]


class _FolderArray:
    """The files of a folder, each with one array of one shape and type."""

    def __init__(self, folder: Path, what: str) -> None:
        kinds = (".npy", *TIFF)
        names = sorted((p.name for p in folder.iterdir() if p.suffix.lower() in kinds), key=natural_order)
        paths = [folder / name for name in names]
        if not paths:
            raise InputError(f"the {what} folder {folder} holds no arrays: no file in it ends in {', '.join(kinds)}")
        self.files = [FileArray(path, what=what) for path in paths]
        found = [f"{file.dtype} {list(file.shape)} in {file.path.name}" for file in self.files]
        first = self.files[0]
        for file, kind in zip(self.files, found, strict=True):
            if (file.shape, file.dtype) != (first.shape, first.dtype):
                raise InputError(f"{folder} must hold arrays of one shape and type, got {found[0]} and {kind}")
        self.shape = (len(paths), *first.shape)
        self.dtype = first.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self.files[index][...]
        if (parts := _page_by_page(self, index)) is not None:
            return parts
        return np.stack([file[...] for file in self.files])[index]


def _page_by_page(array: _TiffArray | _FolderArray, index: Any) -> np.ndarray | None:
    """Parts of pages, ``array[a:b, ...]``, with the memory of one page and the result; None for another index."""
    if not isinstance(index, tuple) or not index or not isinstance(index[0], slice):
        return None
    return np.stack([array[page][index[1:]] for page in range(array.shape[0])[index[0]]])


def _leaves(name: str, value: Any) -> dict[str, np.ndarray]:
    """The arrays of numbers in a struct or a cell of Matlab, by their nested names: ``scan/angles``, ``cell/1``."""
    if not isinstance(value, np.ndarray):
        return {}
    if value.dtype.names:
        entries = {field: value[field] for field in value.dtype.names}
    elif value.dtype.kind == "O":
        flat = value.flatten(order="F")
        if len(flat) == 1:
            return _leaves(name, flat[0])
        entries = {str(number): entry for number, entry in enumerate(flat, start=1)}
    else:
        return {name: value} if value.dtype.kind in _NUMBERS and value.size else {}
    return {leaf: array for key, entry in entries.items() for leaf, array in _leaves(f"{name}/{key}", entry).items()}


def _is_of_torch(path: Path) -> bool:
    """Whether a file of any ending begins as those of `torch.save` do: a ZIP archive, or a pickle."""
    with open(path, "rb") as file:
        start = file.read(1)
    return path.suffix.lower() in (".pt", ".pth") or start == b"\x80" or zipfile.is_zipfile(path)


def _read_text(path: Path) -> np.ndarray:
    # A table program may begin with a mark of the order of bytes, and comments may be in any encoding.
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError("no numbers")
    return np.loadtxt(lines, delimiter="," if any("," in line for line in lines) else None)


def read_array(path: str | os.PathLike, names: Sequence[str] = (), what: str = "array") -> np.ndarray:
    """The whole array of a file (see `FileArray.read`)."""
    return FileArray(path, names, what).read()
