"""Rotations about the image centre."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ei.transforms.base import Transform, part_by_part


class Rotate(Transform):
    """Rotations by whole degrees, counter-clockwise, about the image centre; bilinear, zeros outside. `sample` draws
    ``[n_trans]`` distinct degrees from 1, ..., 358; `apply` takes any real degrees.

    >>> Rotate(n_trans=2).apply(torch.rand(3, 1, 8, 8), elements=[10, 200.5]).shape
    torch.Size([6, 1, 8, 8])
    """

    most = 358

    def every(self, x: Tensor) -> Tensor:
        return torch.arange(1, 359)

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def degrees(self, element: Tensor) -> float:
        return float(element)

    @part_by_part
    def act(self, x: Tensor, element: Tensor) -> Tensor:
        # Half precision has too few bits for coordinates; the images are rotated in at least float32.
        dtype = torch.promote_types(x.dtype, torch.float32)
        angle = math.radians(float(element))
        with torch.autocast(x.device.type, enabled=False):
            turned = _Turned.apply(x.to(dtype), angle, False) if x.is_cuda else _turned(x.to(dtype), angle)
        return turned.to(x.dtype)


def _from_centre(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row ``[H, 1]`` and column ``[W]`` of the pixels of ``x``, from its centre."""
    height, width = x.shape[-2:]
    row = torch.arange(height, dtype=x.dtype, device=x.device)[:, None] - (height - 1) / 2
    return row, torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2


def _read_at(row: Tensor, column: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Where pixels of turned images are read, row and column from the centre."""
    # Row axes point down, so reading at the point turned clockwise turns the image counter-clockwise.
    return math.sin(angle) * column + math.cos(angle) * row, math.cos(angle) * column - math.sin(angle) * row


def _turned(x: Tensor, angle: float) -> Tensor:
    row, column = _read_at(*_from_centre(x), angle)
    height, width = x.shape[-2:]
    grid = torch.stack([column * 2 / width, row * 2 / height], dim=-1).expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _turned_adjoint(x: Tensor, angle: float) -> Tensor:
    """The adjoint of `_turned`: a pixel gathers from those that were read near it, sixteen at most. On a GPU, torch's
    derivative of `grid_sample` scatters, and adds up in another order every time."""
    height, width = x.shape[-2:]
    pixel_row, pixel_column = _from_centre(x)
    row, column = _read_at(pixel_row, pixel_column, -angle)
    near = torch.arange(-1, 3, device=x.device, dtype=x.dtype)
    rows = (row + (height - 1) / 2).floor() + near.repeat_interleave(4)[:, None, None]
    columns = (column + (width - 1) / 2).floor() + near.repeat(4)[:, None, None]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    place = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    # The distance at which those were read gives the weight.
    read_row, read_column = _read_at(rows - (height - 1) / 2, columns - (width - 1) / 2, angle)
    row_weight = (1 - (read_row - pixel_row).abs()).clamp(min=0)
    column_weight = (1 - (read_column - pixel_column).abs()).clamp(min=0)
    weight = inside * row_weight * column_weight
    gathered = x.flatten(-2).index_select(-1, place.long().flatten())
    return (gathered.view(*x.shape[:-2], *weight.shape) * weight).sum(-3)


class _Turned(torch.autograd.Function):
    """`_turned`, or its ``adjoint``; each is the derivative of the other."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, angle: float, adjoint: bool) -> Tensor:
        return _turned_adjoint(x, angle) if adjoint else _turned(x, angle)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.angle, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Turned.apply(gradient, ctx.angle, not ctx.adjoint), None, None
