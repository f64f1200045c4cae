"""Rotations by a few evenly spaced angles, for which operators are moved."""

from __future__ import annotations

import torch
from torch import Tensor

from ei.common.checks import check_number, check_optional
from ei.transforms.rotate import Rotate


class Turn(Rotate):
    """Rotations by angles that lie evenly in the full turn, or in one ``step`` between views, where a scanner that is
    turned (``closure.move=operator``) measures between its views. `sample` draws ``[n_trans]`` distinct degrees from
    ``(k + 1/2) / positions`` of the span, k = 0, ..., ``positions`` - 1: few enough that operators keep the matrices of
    all.

    Args:
        n_trans: the number of angles drawn at a time, at most ``positions``.
        step: the span in degrees, above 0 and at most 360; None for 360. For V even views of the half turn ``180 / V``.
        positions: how many angles there are.
        per_image: see `Transform`.

    Raises:
        InputError: for an argument out of its range.

    >>> Turn(n_trans=2, step=3.6, positions=3).every(torch.zeros(1, 1, 8, 8))
    tensor([0.6000, 1.8000, 3.0000], dtype=torch.float64)
    """

    def __init__(
        self, n_trans: int, step: float | None = None, *, positions: int = 12, per_image: bool = False
    ) -> None:
        super().__init__(n_trans, per_image)
        self.step = check_optional("step", step, above=0, most=360)
        self.positions = check_number("positions", positions, integer=True, least=1)
        self.check_count(self.positions, "positions")

    def every(self, x: Tensor) -> Tensor:
        span = 360.0 if self.step is None else self.step
        return (torch.arange(self.positions, dtype=torch.float64) + 0.5) * span / self.positions
