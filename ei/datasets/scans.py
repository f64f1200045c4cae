"""Measured scans in the form that the commands take: sinograms ``[n, D, V]``, and a file of the geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ei.common.arrays import HDF5, FileArray, read_array, split_name
from ei.common.checks import check_number
from ei.common.files import writing
from ei.datasets.counts import Light, beam_of, line_integrals, transmission
from ei.datasets.defects import Defects, find_defects, repair
from ei.errors import InputError

# What the arrays of a scan are called in one file: in Data Exchange's, in NeXus's, and otherwise.
NAMES = {
    "counts": ("exchange/data", "counts", "projections", "data"),
    "flat": ("exchange/data_white", "data_white", "flat", "flats", "white"),
    "dark": ("exchange/data_dark", "data_dark", "dark", "darks"),
    "angles": ("exchange/theta", "theta", "rotation_angle", "angles"),
}


def read_scan(
    counts: str, flat: str | None = None, dark: str | None = None, angles: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of a scan: counts ``[V, D]`` or ``[V, rows, D]``, flats, darks, and angles ``[V]``.

    Args:
        counts: a file, ``FILE:NAME`` or a folder of TIFF files (`ei.common.arrays.FileArray`).
        flat, dark, angles: likewise. Those that are None are in the file of the counts: as Data Exchange has them
            (``exchange/data``, ``data_white``, ``data_dark``, ``theta``), or NeXus (``image_key``: 0 an object, 1 a
            flat, 2 a dark; ``rotation_angle``).

    Raises:
        MissingFileError, MissingExtraError, InputError: if one cannot be read, or is not in the file.
    """
    found = _find_scan(counts, flat, dark, angles)
    return found.counts.read(), found.flat.read(), found.dark.read(), found.angles


class _Frames:
    """An array of a scan in a file, or some of its frames, read in parts."""

    def __init__(self, path: str | Path, name: str, chosen: np.ndarray | None = None) -> None:
        self.array: FileArray | np.ndarray = FileArray(path, NAMES[name], name)
        self.path = self.array.path
        self.place = (self.path, self.array.name)
        if self.array.dtype.kind == "c":
            raise InputError(f"the {name} file {path} must hold real numbers, got {self.array.dtype}")
        if self.path.suffix.lower() == ".mat":  # whose axes of length one are dropped
            self.array = read_array(path, NAMES[name], name)
        self.chosen = chosen
        self.shape = self.array.shape if chosen is None else (len(chosen), *self.array.shape[1:])

    def read(self) -> np.ndarray:
        values = np.array(self.array[...])
        return values if self.chosen is None else values[self.chosen]

    def frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Frame by frame."""
        for place in range(start, stop):
            yield np.asarray(self.array[place if self.chosen is None else int(self.chosen[place])])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the detector in all frames, ``[n, stop - start, D]``."""
        values = np.asarray(self.array[:, start:stop])
        return values if self.chosen is None else values[self.chosen]

    def mean(self) -> np.ndarray:
        """The mean of the frames: as `numpy.mean` has it, with the memory of one."""
        dtype = np.mean(np.zeros(1, self.array.dtype)).dtype
        total = np.zeros(self.shape[1:], np.float32 if dtype == np.float16 else dtype)
        for frame in self.frames(0, self.shape[0]):
            total += frame
        return (total / self.shape[0]).astype(dtype)


class _Found(NamedTuple):
    counts: _Frames
    flat: _Frames
    dark: _Frames
    angles: np.ndarray


def _find_scan(counts: str, flat: str | None, dark: str | None, angles: str | None) -> _Found:
    """The arrays of a scan, of which the angles alone are read."""
    file, _ = split_name(counts)
    key = _image_key(file)
    frames = _Frames(counts, "counts")
    if key is not None and key.shape != frames.shape[:1]:
        raise InputError(f"image_key in {file} must have shape {list(frames.shape[:1])}, got {list(key.shape)}")
    arrays = [frames if key is None else _Frames(counts, "counts", np.flatnonzero(key == 0))]
    for name, source, number in (("flat", flat, 1), ("dark", dark, 2)):
        if source is not None or key is None:
            arrays.append(_beside(file, name, frames) if source is None else _Frames(source, name))
        elif (key == number).any():
            arrays.append(_Frames(counts, "counts", np.flatnonzero(key == number)))
        else:
            raise InputError(f"{file} holds no {name} (image_key {number}): give a file of it")
    of_views = _beside(file, "angles", frames) if angles is None else _Frames(angles, "angles")
    degrees = np.atleast_1d(of_views.read())
    if degrees.ndim != 1:
        raise InputError(f"the angles must be a list of numbers, in degrees, got shape {list(degrees.shape)}")
    degrees = degrees if key is None or len(degrees) != len(key) else degrees[key == 0]
    return _Found(arrays[0], arrays[1], arrays[2], degrees)


def _beside(file: Path, name: str, counts: _Frames) -> _Frames:
    """An array in the file of the counts."""
    found = _Frames(file, name)
    if found.place == counts.place:  # which is taken for any name where it is the only one
        raise InputError(f"{file} holds the counts alone: give a file of the {name}, too (--{name})")
    return found


class ScanFiles:
    """A scan in files, whose line integrals are computed in parts: with the memory of a few slices.

    Args:
        counts, flat, dark, angles: see `read_scan`.

    Attributes:
        shape: (V, rows, D) of the counts; one row where they are ``[V, D]``.
        angles: of the views, in degrees, ``[V]``.
        paths: the files.

    Raises:
        MissingFileError, MissingExtraError, InputError: as `read_scan`, for arrays that do not fit, or another number
            of angles than of views.

    >>> scan = ScanFiles("scan.h5")  # doctest: +SKIP
    >>> scan.integrals(10, 12, scan.light().least).shape  # doctest: +SKIP
    (2, 512, 180)
    """

    def __init__(self, counts: str, flat: str | None = None, dark: str | None = None, angles: str | None = None):
        found = _find_scan(counts, flat, dark, angles)
        shape = found.counts.shape
        _check_counts(shape)
        self.angles = found.angles
        self.paths = [frames.path for frames in (found.counts, found.flat, found.dark)]
        self.shape = (shape[0], *shape[-2:]) if len(shape) == 3 else (shape[0], 1, shape[1])
        self._counts = found.counts
        self._has_rows = len(shape) == 3
        exposures = (each.mean() if len(each.shape) == len(shape) else each.read() for each in (found.flat, found.dark))
        self._beam, self._background = (_with_all_axes(array, len(shape)) for array in beam_of(shape, *exposures))
        if len(self.angles) != shape[0]:
            raise InputError(f"there must be an angle for each of {shape[0]} views, got {len(self.angles)}")

    def light(self, views: int = 1) -> Light:
        """How much light reaches the detector: reads everything, so many views at a time.

        Raises:
            InputError: for counts that are not finite, or mostly without photons. Of few without it warns.
        """
        light = Light()
        for start in range(0, self.shape[0], views):
            stop = min(start + views, self.shape[0])
            counts = np.stack(list(self._counts.frames(start, stop))).reshape(-1, *self.shape[1:])
            beam, background = (
                _part(array, slice(start, stop), slice(None)) for array in (self._beam, self._background)
            )
            light.add(*transmission(counts, beam, background), beam)
        light.check()
        return light

    def integrals(self, start: int, stop: int, least: float) -> np.ndarray:
        """Line integrals of the rows from ``start`` up to but without ``stop``, ``[stop - start, D, V]``, float64.

        Args:
            start, stop: of the rows.
            least: the transmission to put where there are no photons (`light`).
        """
        counts = self._counts.rows(start, stop) if self._has_rows else self._counts.read()[:, None]
        beam, background = (_part(array, slice(None), slice(start, stop)) for array in (self._beam, self._background))
        transmitted, lit = transmission(counts, beam, background)
        transmitted[~lit] = least
        return -np.log(transmitted).transpose(1, 2, 0)


def _with_all_axes(array: np.ndarray, axes: int) -> np.ndarray:
    """An array that broadcasts to counts, as one of three axes that broadcasts to [V, rows, D]."""
    array = array.reshape((1,) * (axes - array.ndim) + array.shape)
    return array if axes == 3 else array[:, None]


def _part(array: np.ndarray, views: slice, rows: slice) -> np.ndarray:
    """The part of an array that broadcasts to [V, rows, D] for some views and rows."""
    return array[views if len(array) > 1 else slice(None), rows if array.shape[1] > 1 else slice(None)]


def _check_counts(shape: Sequence[int]) -> None:
    if len(shape) not in (2, 3):
        raise InputError(f"counts must have shape [views, detectors] or [views, rows, detectors], got {list(shape)}")
    if 0 in shape:
        raise InputError(f"counts must hold values, got shape {list(shape)}")


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


def sinograms_of_counts(counts: np.ndarray, flat: np.ndarray, dark: np.ndarray, n: int = 1) -> np.ndarray:
    """Sinograms ``[rows, D, V]``, float32, of what a detector counted.

    Args:
        counts: ``[V, D]`` or ``[V, rows, D]``.
        flat, dark: without object, and without beam: ``[D]`` or ``[rows, D]``, or several of them, which are averaged
            (also where there are as many as views).
        n: detectors in a bin, which are averaged.

    Raises:
        InputError: for arrays that do not fit.
    """
    return bin_detectors(_integrals(counts, flat, dark), n, axis=-2).astype(np.float32)


def sinograms_and_defects(
    counts: np.ndarray, flat: np.ndarray, dark: np.ndarray, n: int = 1, with_repair: bool = False
) -> tuple[np.ndarray, Defects]:
    """Sinograms as `sinograms_of_counts` has them, and the defects of the detector (`ei.datasets.defects`), which are
    found, and repaired on request, before detectors are averaged."""
    return finished_sinograms(_integrals(counts, flat, dark), n, with_repair)


def finished_sinograms(y: np.ndarray, n: int = 1, with_repair: bool = False) -> tuple[np.ndarray, Defects]:
    """Sinograms ``[rows, D/n, V]``, float32, of line integrals ``[rows, D, V]``, and the defects of the detector."""
    defects = find_defects(y)
    y = repair(y, defects) if with_repair else y
    return bin_detectors(y, n, axis=-2).astype(np.float32), defects


def _integrals(counts: np.ndarray, flat: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Line integrals ``[rows, D, V]``, float64."""
    _check_counts(counts.shape)
    # As many exposures as views would else be taken as one for each view.
    flat, dark = (array.mean(0) if array.ndim == counts.ndim else array for array in map(np.asarray, (flat, dark)))
    y = line_integrals(counts.astype(np.float64), flat, dark)
    return (y[:, None] if y.ndim == 2 else y).transpose(1, 2, 0)


def write_geometry(path: Path, **arguments: Any) -> None:
    """Write a file for ``--physics`` with the arguments of `Tomography`."""
    with writing(path):
        path.write_text(yaml.safe_dump({"name": "Tomography", **arguments}, sort_keys=False, default_flow_style=None))


def prepare_scan(
    out: Path, y: np.ndarray, angles: Sequence[float], centre: float, spacing: float = 1.0
) -> dict[str, Any]:
    """Write sinograms ``[n, D, V]`` of a parallel beam and their angles to ``out`` (``.npz``: y, angles), and beside it
    the geometry (``.yaml``): square images of D pixels.

    Returns:
        The geometry.

    Raises:
        InputError: if ``out`` is no ``.npz`` file, or the angles do not match the views.
    """
    if out.suffix != ".npz":
        raise InputError(f"--out must be a .npz file, got {out}")
    if len(angles) != y.shape[-1]:
        raise InputError(f"there must be one angle for each view, got {len(angles)} angles and {y.shape[-1]} views")
    geometry = parallel_geometry(y.shape[-2], centre, spacing)
    with writing(out):
        np.savez(out, y=y, angles=np.asarray(angles, dtype=np.float64))
    write_geometry(out.with_suffix(".yaml"), **geometry, angles=out.name)
    return geometry


def parallel_geometry(detectors: int, centre: float, spacing: float = 1.0) -> dict[str, Any]:
    """The arguments of `Tomography` but the angles, for square images as wide as the detector."""
    return {
        "image_shape": [detectors, detectors],
        "n_detectors": detectors,
        "detector_spacing": spacing,
        "pixel_size": spacing,
        "centre": round(centre, 3),
    }
