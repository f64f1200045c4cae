"""Images whose sides a network cannot halve often enough: padded by reflection before it, cropped after it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ei.errors import InputError
from ei.models.network_tiles import call_tiled, step_of


def padding_for(net: Any, height: int, width: int) -> tuple[int, int, int, int] | None:
    """How many pixels (left, right, top, bottom) images of ``height`` x ``width`` lack for a network whose
    sides must be multiples of its ``multiple_of`` (`ei.models.UNet` has one); None if they fit.

    Raises:
        InputError: for images too small to be padded by reflection.
    """
    step = step_of(net)
    down, across = -height % step, -width % step
    if not (down or across):
        return None
    padding = across // 2, across - across // 2, down // 2, down - down // 2
    if padding[1] >= width or padding[3] >= height:
        raise InputError(
            f"images of {height} x {width} are too small for the network: its sides must be multiples of {step}, and "
            "reflection gives each side less than it has"
        )
    return padding


def call_padded(net: nn.Module, x: Tensor, tile: int | None = None) -> Tensor:
    """``net(x)`` for images ``x`` ``[B, C, H, W]`` of any sides. Where it must, it pads by reflection, half on each
    side, and crops the result; it warns. With ``tile`` the network runs on tiles of this side
    (`ei.models.network_tiles`). Raises as `padding_for` and `call_tiled`."""
    height, width = x.shape[-2:]
    padding = padding_for(net, height, width)
    if padding is None:
        return net(x) if tile is None else call_tiled(net, x, tile)
    left, right, top, bottom = padding
    sides = f"{height + top + bottom} x {width + left + right}"
    warnings.warn(
        f"images of {height} x {width} are padded by reflection to {sides} for the network, and cropped after it",
        stacklevel=2,
    )
    for axis, before, after in ((-1, left, right), (-2, top, bottom)):
        # As `functional.pad` does it, whose derivative on a GPU adds up in another order every time.
        size = x.shape[axis]
        first, last = x.narrow(axis, 1, before).flip(axis), x.narrow(axis, size - 1 - after, after).flip(axis)
        parts = [part for part in (first, x, last) if part.shape[axis]]
        x = torch.cat(parts, dim=axis) if len(parts) > 1 else x
    out = net(x) if tile is None else call_tiled(net, x, tile)
    return out[..., top : top + height, left : left + width]
