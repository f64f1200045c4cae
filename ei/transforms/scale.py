"""Shrinking about a random point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ei.common.checks import check_number
from ei.errors import InputError
from ei.transforms.base import Transform, part_by_part


class Scale(Transform):
    """Shrinks images, antialiased (bicubic), and fills the rest by reflection; the fixed point is random. Images are
    nearly invariant to it, and unlike shifts it gives a network finer details than A sees, as super-resolution and
    deblurring need (Scanvic et al., "Self-supervised learning for image super-resolution and deblurring", 2023).

    A group element is ``(factor, row offset, column offset)``, the offsets in pixels of the shrunk image, tiled by
    reflection; `draw` draws ``[n_trans, 3]``. It has no inverse: scalings of a grid are a semigroup.

    Args:
        n_trans: the number of elements drawn at a time.
        factors: to choose from, each above 0 and at most 1.
        per_image: see `Transform`.

    >>> Scale(n_trans=2).apply(torch.rand(3, 1, 8, 8)).shape
    torch.Size([6, 1, 8, 8])
    """

    element_shape = (3,)

    def __init__(self, n_trans: int, factors: Sequence[float] = (0.5, 0.75), per_image: bool = False) -> None:
        super().__init__(n_trans, per_image)
        self.factors = [check_number("every factor of Scale", factor, above=0, most=1) for factor in factors]
        if not self.factors:
            raise InputError("factors of Scale must hold at least one number, got none")

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = None if generator is None else generator.device
        choice = torch.randint(len(self.factors), (self.n_trans,), generator=generator, device=device).cpu()
        factor = torch.tensor(self.factors, dtype=torch.float64)[choice]
        offsets = torch.rand(self.n_trans, 2, generator=generator, dtype=torch.float64, device=device).cpu()
        periods = 2 * factor[:, None] * torch.tensor(x.shape[-2:], dtype=torch.float64)
        return torch.cat([factor[:, None], (offsets * periods).floor()], dim=1)

    @part_by_part
    def act(self, x: Tensor, element: Tensor) -> Tensor:
        factor, *offsets = (float(value) for value in element)
        sides = [max(1, round(factor * side)) for side in x.shape[-2:]]
        shrunk = functional.interpolate(x, size=sides, mode="bicubic", align_corners=False, antialias=True)
        for axis, offset, small, side in zip((-2, -1), offsets, sides, x.shape[-2:], strict=True):
            place = (torch.arange(side, device=x.device) + int(offset)) % (2 * small)
            shrunk = shrunk.index_select(axis, torch.minimum(place, 2 * small - 1 - place))
        return shrunk
