"""From what a detector counts to what an operator of tomography measures."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ei.errors import InputError

Array = TypeVar("Array", np.ndarray, Tensor)


def line_integrals(counts: Array, flat: Any, dark: Any) -> Array:
    """Beer-Lambert's law: ``-log((counts - dark) / (flat - dark))``, the line integrals of the attenuation.

    Args:
        counts: what the detector counted with the object in the beam: an array or tensor of any shape.
        flat: what it counts without the object.
        dark: what it counts without the beam. Both are numbers or arrays that broadcast to the shape of ``counts``, or
            else stacks of such arrays, which are averaged over their first axis: counts ``[V, rows, D]`` take flats
            ``[n, rows, D]`` or ``[n, 1, rows, D]``. (With n = V the former are taken as one flat for each view.)

    Returns:
        Of the shape and kind of ``counts``; float64 for float64, else float32. Where there are no photons (counts or
        flat are not above dark), the largest line integral of the others is put, and a warning counts them.

    Raises:
        InputError: for shapes that do not fit, values that are not finite, or no photons in most places.

    >>> line_integrals(np.array([50.0, 100.0]), flat=100.0, dark=0.0).round(3)
    array([ 0.693, -0.   ])
    """
    array = _array("counts", counts)
    if array.size == 0:
        raise InputError(f"counts must hold values, got shape {list(array.shape)}")
    background = _like(array, "dark", dark)
    beam = np.broadcast_to(_like(array, "flat", flat) - background, array.shape)
    shadow = array - background
    lit = (shadow > 0) & (beam > 0)
    without = array.size - int(np.count_nonzero(lit))
    if 2 * without > array.size:
        culprit = "flat" if 2 * np.count_nonzero(beam <= 0) > array.size else "counts"
        raise InputError(
            f"{culprit} are not above dark at {without} of {array.size} places: check which array is counts, flat and "
            "dark, in this order"
        )
    transmitted = np.divide(shadow, beam, out=np.ones(array.shape), where=lit)
    if without:
        warnings.warn(
            f"no photons at {without} of {array.size} places ({without / array.size:.2%}): clipped to the least "
            "transmission of the others",
            stacklevel=2,
        )
        transmitted[~lit] = transmitted[lit].min()
    integrals = -np.log(transmitted)
    if isinstance(counts, Tensor):
        dtype = torch.float64 if counts.dtype == torch.float64 else torch.float32
        return torch.from_numpy(integrals).to(counts.device, dtype)
    return integrals.astype(np.float64 if np.asarray(counts).dtype == np.float64 else np.float32)


def _array(name: str, values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers: {error}") from error
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite")
    return array


def _like(counts: np.ndarray, name: str, values: Any) -> np.ndarray:
    """``values``, averaged where it is a stack, so that it broadcasts to the counts."""
    array = _array(name, values)
    if array.size == 0:
        raise InputError(f"{name} must hold values, got shape {list(array.shape)}")
    if _broadcasts(array.shape, counts.shape):
        return array
    if array.ndim and _broadcasts(array.shape[1:], counts.shape):
        return array.mean(axis=0)
    raise InputError(
        f"{name} must broadcast to counts {list(counts.shape)}, or be a stack of such arrays, got {list(array.shape)}"
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    sides = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(side in (1, wanted) for side, wanted in sides)
