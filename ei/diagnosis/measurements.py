"""Check measurements before a training: their range, and whether the operator explains them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ei.common.devices import device_of_tensors
from ei.physics import select_physics

# Noise leaves a part of y that no image explains; above this, over what the operator itself leaves, a warning is due.
UNEXPLAINED = 0.15


def measurement_report(physics: Any, measurements: Sequence[Tensor], indices: Sequence[int]) -> str:
    """Range and fit of some measurements, and a warning for each anomaly; one line each.

    ``A_dagger`` need not be exact (FBP is not), so what ``A A_dagger y`` leaves of y is compared with what it leaves of
    ``A A_dagger y``, which is a measurement of an image for certain.

    Args:
        physics: the operator. What a user-defined one raises is not caught.
        measurements: some of them, ``[C, ...]`` each.
        indices: their numbers in the data set, for operators that differ by image.
    """
    unexplained = []
    usual = []
    with torch.no_grad():
        for y, index in zip(measurements, indices, strict=True):
            selected = select_physics(physics, [index])
            y = y[None].to(device_of_tensors(selected) or y.device)
            again = selected.A(selected.A_dagger(y))
            unexplained.append(_relative(again - y, y))
            usual.append(_relative(selected.A(selected.A_dagger(again)) - again, again))
    values = [(y.abs() if y.is_complex() else y).float() for y in measurements]
    shapes = sorted({tuple(y.shape) for y in measurements})
    each = f"{list(shapes[0])} each" if len(shapes) == 1 else f"{list(shapes[0])} to {list(shapes[-1])}"
    lines = [
        f"measurements: {each}, values "
        f"{min(float(y.min()) for y in values):.3g} to {max(float(y.max()) for y in values):.3g}; A A_dagger y fits y "
        f"to {_median(unexplained):.1%}"
    ]
    constant = [index for y, index in zip(values, indices, strict=True) if float(y.max()) == float(y.min())]
    if constant:
        lines.append(f"warning: all values of measurement {constant[0]} are the same")
    if _median(unexplained) > UNEXPLAINED + 2 * _median(usual):
        lines.append(
            f"warning: measurements of images fit to {_median(usual):.1%}: check that the operator is the one of these "
            "measurements, that their axes are in its order, and that unmeasured entries are zero"
        )
    return "\n".join(lines)


def _relative(part: Tensor, whole: Tensor) -> float:
    return float(part.norm() / whole.norm().clamp(min=torch.finfo(torch.float32).tiny))


def _median(values: list[float]) -> float:
    return float(torch.tensor(values).median())
