"""The groups of circular shifts, in the plane and along one axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ei.errors import InputError
from ei.transforms.base import Transform, draw_distinct


class Shift(Transform):
    """Circular shifts by whole pixels. A group element is ``(row offset, column offset)``; `sample` draws
    ``[n_trans, 2]`` integers.

    Row offsets are drawn without replacement from +-1, ..., +-(H-1), column offsets likewise.

    Args:
        n_trans: the number of shifts drawn at a time, at most ``min(H, W) - 1``.
        max_offset: 0 for no limit, else offsets go up to +-(max_offset - 1), so 2 is the smallest limit.

    Raises:
        InputError: if ``n_trans`` or ``max_offset`` is out of range; the limit that depends on the image is checked
            when elements are drawn.
    """

    element_shape = (2,)

    def __init__(self, n_trans: int, max_offset: int = 0, per_image: bool = False) -> None:
        super().__init__(n_trans, per_image)
        if isinstance(max_offset, bool) or int(max_offset) != max_offset or max_offset < 0 or max_offset == 1:
            raise InputError(f"max_offset must be 0 (no limit) or a whole number >= 2, not {max_offset}")
        self.max_offset = int(max_offset)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        side = min(x.shape[-2:])
        if self.n_trans > side - 1:
            raise InputError(
                f"{self.n_trans} shifts cannot be drawn for images of {x.shape[-2]} x {x.shape[-1]}: "
                f"n_trans (--ei-trans) may be at most {side - 1}"
            )
        columns = []
        for length in x.shape[-2:]:
            reach = length - 1 if self.max_offset == 0 else min(length, self.max_offset) - 1
            if self.n_trans > 2 * reach:
                raise InputError(
                    f"{self.n_trans} distinct shifts cannot be drawn with max_offset={self.max_offset}: "
                    f"n_trans may be at most {2 * reach}"
                )
            distances = torch.arange(1, reach + 1)
            columns.append(draw_distinct(torch.cat([-distances, distances]), self.n_trans, generator))
        return torch.stack(columns, dim=1)

    def every(self, x: Tensor) -> Tensor | None:
        reached = []
        for length in x.shape[-2:]:
            reach = length - 1 if self.max_offset == 0 else min(length, self.max_offset) - 1
            distances = torch.arange(1, reach + 1)
            reached.append(torch.cat([distances, length - distances]).unique())
        return torch.cartesian_prod(*reached)

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.eye(2, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        row, column = (int(offset) for offset in element)
        return torch.roll(x, (row, column), dims=(-2, -1))


class Shift1D(Transform):
    """Circular shifts along the last axis, of signals ``[B, C, L]`` or images ``[B, C, H, W]``. A group element is an
    offset; `draw` draws ``[n_trans]`` distinct ones from 1, ..., L-1.

    Raises:
        InputError: if ``n_trans`` is not a whole number from 1 to L-1.
    """

    dimensions = (3, 4)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        length = x.shape[-1]
        if self.n_trans > length - 1:
            raise InputError(f"{self.n_trans} shifts cannot be drawn for a length of {length}: n_trans may be at most "
                             f"{length - 1}")  # fmt: skip
        return draw_distinct(torch.arange(1, length), self.n_trans, generator)

    def every(self, x: Tensor) -> Tensor | None:
        return torch.arange(1, x.shape[-1])

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.ones(1, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        return torch.roll(x, int(element), dims=-1)
