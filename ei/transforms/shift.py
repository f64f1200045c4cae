"""The groups of circular shifts, in the plane and along one axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ei.common.checks import check_number
from ei.errors import InputError
from ei.transforms.base import CyclicGroup, Transform, draw_distinct


class Shift(Transform):
    """Circular shifts by whole pixels. A group element is ``(row offset, column offset)``; `sample` draws
    ``[n_trans, 2]`` integers: row offsets without replacement from +-1, ..., +-(H-1), column offsets likewise.

    Args:
        n_trans: the number of shifts drawn at a time, at most ``min(H, W) - 1``.
        max_offset: 0 for no limit, else offsets go up to +-(max_offset - 1), so 2 is the smallest limit.

    >>> Shift(n_trans=2).apply(torch.rand(3, 1, 8, 8)).shape
    torch.Size([6, 1, 8, 8])
    """

    element_shape = (2,)

    def __init__(self, n_trans: int, max_offset: int = 0, per_image: bool = False) -> None:
        super().__init__(n_trans, per_image)
        self.max_offset = check_number("max_offset", max_offset, integer=True, least=0)
        if self.max_offset == 1:
            raise InputError("max_offset must be 0 (no limit) or a whole number >= 2, got 1")

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.check_count(min(x.shape[-2:]) - 1, f"shifts of images of {x.shape[-2]} x {x.shape[-1]}")
        columns = []
        for distances in self._distances(x):
            self.check_count(2 * len(distances), f"shifts with max_offset={self.max_offset}")
            columns.append(draw_distinct(torch.cat([-distances, distances]), self.n_trans, generator))
        return torch.stack(columns, dim=1)

    def every(self, x: Tensor) -> Tensor | None:
        axes = zip(self._distances(x), x.shape[-2:], strict=True)
        return torch.cartesian_prod(*(torch.cat([distances, side - distances]).unique() for distances, side in axes))

    def _distances(self, x: Tensor) -> list[Tensor]:
        """1, ..., as far as rows and as columns are shifted."""
        return [torch.arange(1, min(side, self.max_offset or side)) for side in x.shape[-2:]]

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.eye(2, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        row, column = (int(offset) for offset in element)
        return torch.roll(x, (row, column), dims=(-2, -1))


class Shift1D(CyclicGroup):
    """Circular shifts along the last axis, of signals ``[B, C, L]`` or images ``[B, C, H, W]``. A group element is an
    offset; `draw` draws ``[n_trans]`` distinct ones from 1, ..., L-1.

    >>> Shift1D(1).apply(torch.tensor([[[1, 2, 3]]]), elements=[1])
    tensor([[[3, 1, 2]]])
    """

    dimensions = (3, 4)

    def order(self, x: Tensor) -> int:
        return x.shape[-1]

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        return torch.roll(x, int(element), dims=-1)
