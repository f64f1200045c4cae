"""Bins of detectors, and the geometry of a scan in a file, as ``--physics`` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ei.common.checks import check_number
from ei.common.files import writing
from ei.errors import InputError


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
