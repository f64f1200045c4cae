"""A first look at measurements, before hours go into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ei.common.devices import device_of_tensors
from ei.physics import select_physics

# Noise leaves some of y that no image explains; more than this over what the operator itself leaves is told.
UNEXPLAINED = 0.15


def measurement_report(physics: Any, measurements: Sequence[Tensor], numbers: Sequence[int]) -> str:
    """What some measurements look like, and what is odd about them, in a line or a few.

    ``A_dagger`` need not be exact (the FBP is not), so what ``A A_dagger y`` leaves of y is compared with what
    ``A A_dagger`` leaves of its own outcome, which is a measurement of an image for certain.

    Args:
        physics: the operator; one of somebody else's may fail, and what it raises is not caught.
        measurements: some of them, ``[C, ...]`` each.
        numbers: which they are in their set, for operators that differ by image.
    """
    left, usual, odd = [], [], []
    with torch.no_grad():
        for y, number in zip(measurements, numbers, strict=True):
            own = select_physics(physics, [number])
            y = y[None].to(device_of_tensors(own) or y.device)
            again = own.A(own.A_dagger(y))
            left.append(_relative(again - y, y))
            usual.append(_relative(own.A(own.A_dagger(again)) - again, again))
    values = torch.stack([y.abs() if y.is_complex() else y for y in measurements]).float()
    line = (
        f"measurements: {list(measurements[0].shape)} each, values {float(values.min()):.3g} to "
        f"{float(values.max()):.3g}; A A_dagger y fits y to {_median(left):.1%}"
    )
    flat = [number for y, number in zip(values, numbers, strict=True) if float(y.max()) == float(y.min())]
    if flat:
        odd.append(f"all values of measurement {flat[0]} are the same")
    if _median(left) > UNEXPLAINED + 2 * _median(usual):
        odd.append(
            f"an image's own measurements are fitted to {_median(usual):.1%}: is this the operator that they were made "
            "with, are their axes in its order, is what it does not measure zero?"
        )
    return "\n".join([line, *(f"warning: {said}" for said in odd)])


def _relative(part: Tensor, whole: Tensor) -> float:
    return float(part.norm() / whole.norm().clamp(min=torch.finfo(torch.float32).tiny))


def _median(values: list[float]) -> float:
    return float(torch.tensor(values).median())
