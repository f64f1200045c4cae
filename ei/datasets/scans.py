"""Measured scans in the form that the commands take: sinograms ``[n, D, V]``, and a file of the geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ei.common.arrays import HDF5, FileArray, read_array, split_name
from ei.common.checks import check_number
from ei.common.files import writing
from ei.datasets.counts import Light, beam_of, transmission
from ei.errors import InputError

# What the arrays of a scan are called in one file: in Data Exchange's, in NeXus's, and otherwise.
NAMES = {
    "counts": ("exchange/data", "counts", "projections", "data"),
    "flat": ("exchange/data_white", "data_white", "flat", "flats", "white"),
    "dark": ("exchange/data_dark", "data_dark", "dark", "darks"),
    "angles": ("exchange/theta", "theta", "rotation_angle", "angles"),
}


class Frames:
    """An array of a scan in a file, or some of its frames, read in parts."""

    def __init__(self, path: str | Path, name: str, chosen: np.ndarray | None = None) -> None:
        self.array: FileArray | np.ndarray = FileArray(path, NAMES[name], name)
        self.path = self.array.path
        if self.path.suffix.lower() == ".mat":  # whose axes of length one are dropped
            self.array = read_array(path, NAMES[name], name)
        self.chosen = chosen
        self.shape = self.array.shape if chosen is None else (len(chosen), *self.array.shape[1:])

    def read(self) -> np.ndarray:
        values = np.array(self.array[...])
        return values if self.chosen is None else values[self.chosen]

    def frames(self, places: range) -> Iterator[np.ndarray]:
        for place in places:
            yield np.asarray(self.array[place if self.chosen is None else int(self.chosen[place])])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the detector in all frames, ``[n, stop - start, D]``; the one row of frames ``[n, D]``."""
        values = np.asarray(self.array[:, start:stop] if len(self.shape) == 3 else self.array[...][:, None])
        return values if self.chosen is None else values[self.chosen]

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
    """The arrays of a scan ("counts", "flat" and "dark"), not read yet, and its angles (see `ScanFiles`)."""
    file, _ = split_name(counts)
    key = _image_key(file)
    frames = Frames(counts, "counts")
    if key is not None and key.shape != frames.shape[:1]:
        raise InputError(f"image_key in {file} must have shape {list(frames.shape[:1])}, got {list(key.shape)}")
    found = {"counts": frames if key is None else Frames(counts, "counts", np.flatnonzero(key == 0))}
    for name, source, number in (("flat", flat, 1), ("dark", dark, 2)):
        if source is not None or key is None:
            found[name] = Frames(file if source is None else source, name)
        elif (key == number).any():
            found[name] = Frames(counts, "counts", np.flatnonzero(key == number))
        else:
            raise InputError(f"{file} holds no {name} (image_key {number}): give a file of it")
    degrees = np.atleast_1d(read_array(file if angles is None else angles, NAMES["angles"], "angles"))
    if degrees.ndim != 1:
        raise InputError(f"the angles must be a list of numbers, in degrees, got shape {list(degrees.shape)}")
    return found, degrees if key is None or len(degrees) != len(key) else degrees[key == 0]


class ScanFiles:
    """A scan in files, whose line integrals are computed in parts: with the memory of a few slices.

    Args:
        counts: ``[V, D]`` or ``[V, rows, D]``: a file, ``FILE:NAME`` or a folder of TIFF files
            (`ei.common.arrays.FileArray`).
        flat, dark, angles: likewise; of several flats and darks the mean is taken, also where there are as many as
            views. Those that are None are in the file of the counts: as Data Exchange has them (``exchange/data``,
            ``data_white``, ``data_dark``, ``theta``), or NeXus (``image_key``: 0 an object, 1 a flat, 2 a dark;
            ``rotation_angle``).

    Attributes:
        shape: (V, rows, D) of the counts; one row where they are ``[V, D]``.
        angles: of the views, in degrees, ``[V]``.
        paths: the files.

    Raises:
        MissingFileError, MissingExtraError, InputError: if one cannot be read, or is not in the file; for arrays that
            do not fit, or another number of angles than of views.
    """

    def __init__(self, counts: str, flat: str | None = None, dark: str | None = None, angles: str | None = None):
        found, self.angles = find_scan(counts, flat, dark, angles)
        self.paths = [frames.path for frames in found.values()]
        self._counts = found.pop("counts")
        shape = self._counts.shape
        if len(shape) not in (2, 3):
            raise InputError(
                f"counts must have shape [views, detectors] or [views, rows, detectors], got {list(shape)}"
            )
        if 0 in shape:
            raise InputError(f"counts must hold values, got shape {list(shape)}")
        self.shape = (shape[0], 1, shape[1]) if len(shape) == 2 else shape
        exposures = (each.mean() if len(each.shape) == len(shape) else each.read() for each in found.values())
        # Views of smaller arrays, which take no memory.
        self._beam, self._background = (
            np.broadcast_to(array, shape).reshape(self.shape) for array in beam_of(shape, *exposures)
        )
        if len(self.angles) != shape[0]:
            raise InputError(f"there must be an angle for each of {shape[0]} views, got {len(self.angles)}")

    def light(self, views: int = 1) -> Light:
        """How much light reaches the detector: reads everything, so many views at a time.

        Raises:
            InputError: for counts that are not finite, or mostly without photons. Of few without it warns.
        """
        light = Light()
        for start in range(0, self.shape[0], views):
            part = slice(start, start + views)
            counts = np.stack(list(self._counts.frames(range(self.shape[0])[part]))).reshape(-1, *self.shape[1:])
            light.add(*transmission(counts, self._beam[part], self._background[part]), self._beam[part])
        light.check()
        return light

    def integrals(self, start: int, stop: int, least: float) -> np.ndarray:
        """Line integrals of the rows from ``start`` up to but without ``stop``, ``[stop - start, D, V]``, float64;
        where there are no photons, of the transmission ``least`` (`light`)."""
        rows = slice(start, stop)
        transmitted, lit = transmission(self._counts.rows(start, stop), self._beam[:, rows], self._background[:, rows])
        transmitted[~lit] = least
        return -np.log(transmitted).transpose(1, 2, 0)


def _image_key(file: Path) -> np.ndarray | None:
    """What each frame of a NeXus file is of; None for another file."""
    if file.suffix.lower() not in HDF5:
        return None
    try:
        array = FileArray(file, ("image_key",))
    except InputError:
        return None
    return array[...] if str(array.name).endswith("image_key") else None


def bin_detectors(y: np.ndarray, n: int, axis: int) -> np.ndarray:
    """Means of ``n`` neighbouring detectors along an axis; the rest is cut off at both ends, evenly, or one more at the
    far end.

    Raises:
        InputError: if there are fewer detectors than ``n``.

    >>> bin_detectors(np.arange(8.0), 3, 0)
    array([2., 5.])
    """
    n = check_number("the number of detectors in a bin", n, integer=True, least=1)
    axis %= y.ndim
    detectors = y.shape[axis]
    if n > detectors:
        raise InputError(f"a bin of {n} detectors is larger than the {detectors} detectors")
    bins = detectors // n
    first = (detectors - bins * n) // 2
    kept = y[(slice(None),) * axis + (slice(first, first + bins * n),)]
    return kept.reshape(*y.shape[:axis], bins, n, *y.shape[axis + 1 :]).mean(axis + 1)


def binned_geometry(geometry: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The arguments of `Tomography` for sinograms after `bin_detectors`: the same object in the same unit of length, in
    pixels and bins n times as large. Of sides that n does not divide, the last pixel lies half outside.

    >>> geometry = {"image_shape": [64, 64], "n_detectors": 91, "centre": 2.5}
    >>> binned_geometry(geometry, 2)["n_detectors"], binned_geometry(geometry, 2)["centre"]
    (45, 1.5)
    """
    sides, detectors = geometry.get("image_shape"), geometry.get("n_detectors")
    if not isinstance(sides, list | tuple) or detectors is None:
        return dict(geometry)  # Tomography names what is missing
    detectors = check_number("n_detectors", detectors, integer=True, least=n)
    # The middle moves by half a detector where the rest cannot be cut off evenly.
    shift = detectors % n % 2 / 2
    return {
        **geometry,
        "image_shape": [-(-check_number("image_shape", side, integer=True, least=1) // n) for side in sides],
        "n_detectors": detectors // n,
        "detector_spacing": n * check_number("detector_spacing", geometry.get("detector_spacing", 1.0)),
        "pixel_size": n * check_number("pixel_size", geometry.get("pixel_size", 1.0)),
        "centre": (check_number("centre", geometry.get("centre", 0.0)) + shift) / n,
    }


def write_geometry(path: Path, **arguments: Any) -> None:
    """Write a file for ``--physics`` with the arguments of `Tomography`."""
    with writing(path):
        path.write_text(yaml.safe_dump({"name": "Tomography", **arguments}, sort_keys=False, default_flow_style=None))


def parallel_geometry(detectors: int, centre: float) -> dict[str, Any]:
    """The arguments of `Tomography` but the angles, for square images as wide as the detector; lengths in bins."""
    return {
        "image_shape": [detectors, detectors],
        "n_detectors": detectors,
        "detector_spacing": 1.0,
        "pixel_size": 1.0,
        "centre": round(centre, 3),
    }
