"""From what a detector counts to what an operator of tomography measures."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
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
    beam, background = beam_of(array.shape, flat, dark)
    transmitted, lit = transmission(array, beam, background)
    light = Light()
    light.add(transmitted, lit, beam)
    light.check()
    transmitted[~lit] = light.least
    integrals = -np.log(transmitted)
    if isinstance(counts, Tensor):
        dtype = torch.float64 if counts.dtype == torch.float64 else torch.float32
        return torch.from_numpy(integrals).to(counts.device, dtype)
    return integrals.astype(np.float64 if np.asarray(counts).dtype == np.float64 else np.float32)


@dataclass
class Light:
    """How much light reaches a detector, counted part by part."""

    places: int = 0  # of counts
    without: int = 0  # photons
    without_beam: int = 0  # photons in the flats
    least: float = math.inf  # the smallest transmission of the others

    def add(self, transmitted: np.ndarray, lit: np.ndarray, beam: np.ndarray) -> None:
        """Count a part, as `transmission` gives it, and its flats above dark."""
        self.places += lit.size
        self.without += lit.size - int(np.count_nonzero(lit))
        self.without_beam += int(np.count_nonzero(np.broadcast_to(beam <= 0, lit.shape)))
        self.least = min(self.least, float(transmitted.min(where=lit, initial=math.inf)))

    def check(self) -> None:
        """Warn of places without photons; raises `InputError` where they are most of all."""
        if 2 * self.without > self.places:
            culprit = "flat" if 2 * self.without_beam > self.places else "counts"
            raise InputError(
                f"{culprit} are not above dark at {self.without} of {self.places} places: check which array is counts, "
                "flat and dark, in this order"
            )
        if self.without:
            warnings.warn(
                f"no photons at {self.without} of {self.places} places ({self.without / self.places:.2%}): clipped to "
                "the least transmission of the others",
                stacklevel=3,
            )


def beam_of(shape: tuple[int, ...], flat: Any, dark: Any) -> tuple[np.ndarray, np.ndarray]:
    """Flats above dark, and darks, both float64, as they broadcast to counts of ``shape``: see `line_integrals`, also
    for the errors."""
    background = _like(shape, "dark", dark)
    return _like(shape, "flat", flat) - background, background


def transmission(counts: np.ndarray, beam: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transmitted parts of the light, float64 of the shape of ``counts``, 1 where there are no photons; and where there
    are some."""
    shadow = _array("counts", counts)
    shadow -= background
    lit = (shadow > 0) & (beam > 0)
    return np.divide(shadow, beam, out=np.ones(shadow.shape), where=lit), lit


def _array(name: str, values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if np.iscomplexobj(values):
        raise InputError(f"{name} must be an array of real numbers, got complex ones")
    try:
        array = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers: {error}") from error
    if array.size == 0:
        raise InputError(f"{name} must hold values, got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        number = np.count_nonzero(~np.isfinite(array))
        raise InputError(f"{name} holds {number} values that are not finite; correct or remove them")
    return array


def _like(shape: tuple[int, ...], name: str, values: Any) -> np.ndarray:
    """``values``, averaged where it is a stack, so that it broadcasts to counts of ``shape``."""
    array = _array(name, values)
    if _broadcasts(array.shape, shape):
        return array
    if array.ndim and _broadcasts(array.shape[1:], shape):
        return array.mean(axis=0)
    raise InputError(
        f"{name} must broadcast to counts {list(shape)}, or be a stack of such arrays, got {list(array.shape)}"
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    sides = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(side in (1, wanted) for side, wanted in sides)
