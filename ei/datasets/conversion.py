"""Counts in files to sinograms in a file, row by row, with the memory of a few slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from ei.common.arrays import ANGLES, HDF5, FileArray, in_degrees, read_array, split_name
from ei.common.files import identity_of
from ei.common.unfinished import UnfinishedArray
from ei.datasets.counts import Light, beam_of, transmission
from ei.datasets.defects import Defects, find_defects, repair
from ei.datasets.scans import bin_detectors
from ei.errors import InputError

OUTPUTS = (".npz", ".npy", ".h5", ".hdf5")
MEMORY = 2**27  # bytes that the counts of a part take as float64, with what is computed from them; at least one row
COPIES = 8  # of the counts of a part, while it is computed
# What the arrays of a scan are called in one file: in Data Exchange's, in NeXus's, and otherwise.
NAMES = {
    "counts": ("exchange/data", "counts", "projections", "data"),
    "flat": ("exchange/data_white", "data_white", "flat", "flats", "white"),
    "dark": ("exchange/data_dark", "data_dark", "dark", "darks"),
    "angles": ANGLES,
}


class Frames:
    """An array of a scan in a file, or some of its frames, read in parts."""

    def __init__(self, path: str | Path, name: str, indices: np.ndarray | None = None) -> None:
        self.array: FileArray | np.ndarray = FileArray(path, NAMES[name], name)
        self.path = self.array.path
        self.place = (self.path, self.array.name)
        self.units = self.array.units
        if self.array.dtype.kind == "c":
            raise InputError(f"the {name} file {path} must hold real numbers, got {self.array.dtype}")
        if self.path.suffix.lower() == ".mat":  # whose axes of length one are dropped
            self.array = read_array(path, NAMES[name], name)
        self.indices = indices
        self.shape = self.array.shape if indices is None else (len(indices), *self.array.shape[1:])

    def read(self) -> np.ndarray:
        values = np.array(self.array[...])
        return values if self.indices is None else values[self.indices]

    def frames(self, places: range) -> Iterator[np.ndarray]:
        for place in places:
            yield np.asarray(self.array[place if self.indices is None else int(self.indices[place])])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the detector in all frames, ``[n, stop - start, D]``; the one row of frames ``[n, D]``."""
        values = np.asarray(self.array[:, start:stop] if len(self.shape) == 3 else self.array[...][:, None])
        return values if self.indices is None else values[self.indices]

    def mean(self) -> np.ndarray:
        """The mean of the frames: as `numpy.mean` has it, with the memory of one."""
        dtype = np.mean(np.zeros(1, self.array.dtype)).dtype
        total = np.zeros(self.shape[1:], np.float32 if dtype == np.float16 else dtype)
        for frame in self.frames(range(self.shape[0])):
            total += frame
        return (total / self.shape[0]).astype(dtype)


def find_scan(
    counts: str, flat: str | None = None, dark: str | None = None, angles: str | None = None
) -> tuple[dict[str, Frames], np.ndarray]:
    """The arrays of a scan ("counts", "flat" and "dark"), not read yet, and its angles (see `Conversion`)."""
    file, _ = split_name(counts)
    key = _image_key(file)
    frames = Frames(counts, "counts")
    if key is not None and key.shape != frames.shape[:1]:
        raise InputError(f"image_key in {file} must have shape {list(frames.shape[:1])}, got {list(key.shape)}")
    found = {"counts": frames if key is None else Frames(counts, "counts", np.flatnonzero(key == 0))}
    for name, source, number in (("flat", flat, 1), ("dark", dark, 2)):
        if source is not None or key is None:
            found[name] = _beside(file, name, frames) if source is None else Frames(source, name)
        elif (key == number).any():
            found[name] = Frames(counts, "counts", np.flatnonzero(key == number))
        else:
            raise InputError(f"{file} holds no {name} (image_key {number}): give a file of it")
    of_views = _beside(file, "angles", frames) if angles is None else Frames(angles, "angles")
    degrees = np.atleast_1d(in_degrees(of_views.read(), of_views.units))
    if degrees.ndim != 1:
        raise InputError(f"the angles must be a list of numbers, in degrees, got shape {list(degrees.shape)}")
    return found, degrees if key is None or len(degrees) != len(key) else degrees[key == 0]


def _beside(file: Path, name: str, counts: Frames) -> Frames:
    """An array in the file of the counts."""
    found = Frames(file, name)
    if found.place == counts.place:  # which is taken for any name where it is the only one
        raise InputError(f"{file} holds the counts alone: give a file of the {name}, too (--{name})")
    return found


def _image_key(file: Path) -> np.ndarray | None:
    """What each frame of a NeXus file is of; None for another file."""
    if file.suffix.lower() not in HDF5:
        return None
    try:
        array = FileArray(file, ("image_key",))
    except InputError:
        return None
    return array[...] if str(array.name).endswith("image_key") else None


class Conversion:
    """Sinograms ``[D/n, V]`` of the rows of a detector. What depends on all rows is found first, so that they do not
    depend on how many are computed at once.

    Args:
        counts: ``[V, D]`` or ``[V, rows, D]``: a file, ``FILE:NAME`` or a folder of TIFF files
            (`ei.common.arrays.FileArray`).
        flat, dark, angles: likewise; of several flats and darks the mean is taken, also where there are as many as
            views. Those that are None are in the file of the counts: as Data Exchange has them (``exchange/data``,
            ``data_white``, ``data_dark``, ``theta``), or NeXus (``image_key``: 0 an object, 1 a flat, 2 a dark;
            ``rotation_angle``).
        n: detectors in a bin, which are averaged.
        with_repair: whether defects are repaired (`ei.datasets.defects`); they are found row by row.
        memory: bytes to work with.

    Attributes:
        rows, detectors: the number of rows (1 of counts ``[V, D]``), and of bins.
        shifts: by how many bins the sinogram of each row is shifted along the detector (cubic splines; the outermost
            values go on beyond the ends), ``[rows]``; zeros at first.
        angles: of the views, in degrees, ``[V]``.
        defects: those found by `write`.

    Raises:
        MissingFileError, MissingExtraError, InputError: if an array cannot be read, or is not in the file; for arrays
            that do not fit, another number of angles than of views, counts that are not finite or mostly without
            photons, or fewer detectors than ``n``.

    >>> conversion = Conversion("scan.h5", n=2)  # doctest: +SKIP
    >>> conversion.write(Path("y.h5"), {})  # doctest: +SKIP
    """

    def __init__(
        self,
        counts: str,
        flat: str | None = None,
        dark: str | None = None,
        angles: str | None = None,
        n: int = 1,
        with_repair: bool = False,
        memory: int = MEMORY,
    ) -> None:
        found, self.angles = find_scan(counts, flat, dark, angles)
        self._paths = [frames.path for frames in found.values()]
        self._counts = found.pop("counts")
        shape = self._counts.shape
        if len(shape) not in (2, 3):
            raise InputError(
                f"counts must have shape [views, detectors] or [views, rows, detectors], got {list(shape)}"
            )
        if 0 in shape:
            raise InputError(f"counts must hold values, got shape {list(shape)}")
        if len(self.angles) != shape[0]:
            raise InputError(
                f"there must be an angle for each of {shape[0]} views, got {len(self.angles)} angles: views are the "
                f"first axis of counts {list(shape)}; check the order of the axes, and --angles"
            )
        exposures = (each.mean() if len(each.shape) == len(shape) else each.read() for each in found.values())
        whole = shape if len(shape) == 3 else (shape[0], 1, shape[1])
        views, self.rows, detectors = whole
        # Views of smaller arrays, which take no memory.
        self._beam, self._background = (
            np.broadcast_to(array, shape).reshape(whole) for array in beam_of(shape, *exposures)
        )
        self.n = n
        self.with_repair = with_repair
        self.detectors = len(bin_detectors(np.zeros(detectors), n, 0))
        self.shifts = np.zeros(self.rows)
        self.defects = Defects()
        self._rows_at_once = max(1, memory // (8 * COPIES * views * detectors))
        self._least = self._least_transmission(max(1, memory // (8 * COPIES * self.rows * detectors)))

    def _least_transmission(self, views: int) -> float:
        """That of all places with photons; reads everything, so many views at a time. Warns of places without."""
        light = Light()
        for start in range(0, len(self.angles), views):
            part = slice(start, start + views)
            counts = np.stack(list(self._counts.frames(range(len(self.angles))[part])))
            counts = counts.reshape(len(counts), *self._beam.shape[1:])
            light.add(*transmission(counts, self._beam[part], self._background[part]), self._beam[part])
        light.check()
        return light.least

    def sinograms(self, start: int, stop: int) -> tuple[np.ndarray, Defects]:
        """Those of some rows, ``[stop - start, D/n, V]``, float32, and the defects in them."""
        rows = slice(start, stop)
        transmitted, lit = transmission(self._counts.rows(start, stop), self._beam[:, rows], self._background[:, rows])
        transmitted[~lit] = self._least
        y = -np.log(transmitted).transpose(1, 2, 0)
        found = find_defects(y)
        y = repair(y, found) if self.with_repair else y
        y = bin_detectors(y, self.n, axis=-2)
        for row in np.flatnonzero(self.shifts[rows]):
            y[row] = ndimage.shift(y[row], (self.shifts[start + row], 0), mode="nearest")
        return y.astype(np.float32), found.behind(start)

    def sinogram(self, row: int) -> np.ndarray:
        """That of one row, ``[D/n, V]``."""
        return self.sinograms(row, row + 1)[0][0]

    def write(self, out: Path, call: Mapping[str, Any]) -> None:
        """Write all sinograms ``[rows, D/n, V]`` to a file, which appears when it is complete. What an interrupted call
        has written is kept beside it, and the same call continues there (`ei.common.unfinished`). Processes that have
        joined (`ei.common.processes`) share the rows.

        Args:
            out: ends in ``.npz`` (y, angles), ``.npy``, ``.h5`` or ``.hdf5`` (y).
            call: plain values that identify the call.
        """
        check_output(out)
        beside = {"angles": np.asarray(self.angles, dtype=np.float64)}
        call = {**call, "time or size of the scan": identity_of(self._paths)}
        with UnfinishedArray(out, self.rows, call, "y", beside, "sinograms") as array:
            if array.is_begun:
                print(f"continuing {array.unfinished}: {array.written} of {self.rows} sinograms are there")
            elif array.processes.first:
                array.begin((self.detectors, len(self.angles)), np.float32)
            left = array.share()
            is_first = array.processes.first
            defects: list[Defects] = []
            with tqdm(total=len(left), unit="row", delay=1, disable=not is_first) as bar:
                for block in _blocks(left, self._rows_at_once):
                    y, found = self.sinograms(block.start, block.stop)
                    array.write(block, y)
                    defects.append(found)
                    bar.update(len(block))
            self.defects = Defects.joined(array.processes.gathered(Defects.joined(defects)))
            array.complete()


def check_output(out: Path) -> None:
    """Raise `InputError` unless sinograms can be written to a file of this ending."""
    if out.suffix.lower() not in OUTPUTS or out.is_dir():
        raise InputError(f"--out must be a file that ends in {', '.join(OUTPUTS)}, got {out}")


def _blocks(rows: Sequence[int], most: int) -> Iterator[range]:
    """Runs of up to ``most`` neighbouring rows."""
    place = 0
    while place < len(rows):
        length = 1
        while length < most and place + length < len(rows) and rows[place + length] == rows[place] + length:
            length += 1
        yield range(rows[place], rows[place] + length)
        place += length
