"""Rotations about the image centre."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ei.errors import InputError
from ei.transforms.base import Transform, draw_distinct, part_by_part


class Rotate(Transform):
    """Rotations by whole degrees, counter-clockwise, about the image centre; bilinear, zeros outside. `sample` draws
    ``[n_trans]`` distinct degrees from 1, ..., 358; `apply` takes any real degrees.

    Raises:
        InputError: if ``n_trans`` is not a whole number from 1 to 358.
    """

    def __init__(self, n_trans: int, per_image: bool = False) -> None:
        super().__init__(n_trans, per_image)
        if self.n_trans > 358:
            raise InputError(f"{n_trans} distinct rotations cannot be drawn: n_trans (--ei-trans) may be at most 358")

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_distinct(torch.arange(1, 359), self.n_trans, generator)

    def every(self, x: Tensor) -> Tensor | None:
        return torch.arange(1, 359)

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    @part_by_part
    def act(self, x: Tensor, element: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        # Half precision has too few bits for coordinates; the images are rotated in at least float32.
        dtype = torch.promote_types(x.dtype, torch.float32)
        angle = math.radians(float(element))
        row = torch.arange(height, dtype=dtype, device=x.device)[:, None] - (height - 1) / 2
        column = torch.arange(width, dtype=dtype, device=x.device) - (width - 1) / 2
        # Row axes point down, so reading at the point turned clockwise turns the image counter-clockwise.
        read_column = math.cos(angle) * column - math.sin(angle) * row
        read_row = math.sin(angle) * column + math.cos(angle) * row
        grid = torch.stack([read_column * 2 / width, read_row * 2 / height], dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            turned = functional.grid_sample(
                x.to(dtype), grid.expand(len(x), -1, -1, -1), mode="bilinear", padding_mode="zeros", align_corners=False
            )
        return turned.to(x.dtype)
