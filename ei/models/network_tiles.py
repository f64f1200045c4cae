"""A network on overlapping tiles of large images: the result of the whole image, with the memory of a tile.

What a convolutional network gives in a pixel depends on the pixels around it up to its ``reach``. Tiles overlap by
twice as much, and of each only the middle is kept, so tiles leave no seams.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ei.common.checks import check_number
from ei.errors import InputError


class Window(NamedTuple):
    """Along one axis: the pixels of a tile, and those of them that are kept."""

    start: int
    stop: int
    first: int
    last: int


def attribute_of(net: Any, name: str, default: Any = None) -> Any:
    """What a network declares under this name; averages and replicas hold the network as their ``module``."""
    for holder in (net, getattr(net, "module", None)):
        if (value := getattr(holder, name, None)) is not None:
            return value
    return default


def step_of(net: Any) -> int:
    """What the sides of images must be multiples of for a network."""
    return int(attribute_of(net, "multiple_of") or 1)


def check_tile(net: Any, side: Any, name: str = "network_tile") -> int:
    """``side``, if the network can run on tiles of ``side`` x ``side`` pixels.

    Args:
        net: declares ``reach`` (how many pixels beyond a block of ``multiple_of`` x ``multiple_of`` the output in that
            block depends on), and ``multiple_of`` where it is not 1. `ei.models.UNet` does.
        side: a multiple of ``multiple_of``, of more than twice the reach.
        name: of the argument, for messages.

    Raises:
        InputError: for another side, or a network that declares no reach.

    >>> check_tile(UNet(1, 1), 256)
    256
    """
    halo, step = _halo_of(net, name), step_of(net)
    side = check_number(name, side, integer=True, least=1)
    least = 2 * halo + step
    if side % step or side < least:
        fits = max(least, -(-side // step) * step)
        raise InputError(
            f"{name} must be a multiple of {step} and at least {least}, because {halo} pixels on each side of a tile "
            f"are not kept, got {side}; the next one that works is {fits}"
        )
    return side


def check_no_batch_statistics(net: nn.Module) -> None:
    """Raise `InputError` if the network is in training mode and has BatchNorm: its statistics would be those of
    tiles."""
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in net.modules()):
        raise InputError(
            "network_tile: BatchNorm in training takes its statistics from whole images, and would take those of "
            "tiles; train with network.norm=none, or without network_tile"
        )


def call_tiled(net: nn.Module, x: Tensor, side: int) -> Tensor:
    """``net(x)`` for images ``x`` ``[B, C, H, W]``, tile by tile. Images that fit into a tile are not divided.

    Without gradients it takes the memory of one tile, and of x and the result. With gradients, the backward pass
    computes each tile again (`torch.utils.checkpoint`). Equal to ``net(x)`` to rounding, for `ei.models.UNet` and for
    networks that pad with zeros up to the borders of the image, for others away from them. A network that pads
    circularly once and declares ``wraps`` takes the argument ``framed``, as UNet does. GroupNorm, InstanceNorm and
    attention see tiles in place of images, so networks with them give other results.

    Raises:
        InputError: see `check_tile` and `check_no_batch_statistics`.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= side:
        return net(x)
    check_no_batch_statistics(net)
    halo, step = _halo_of(net, "network_tile"), step_of(net)
    frame = int(bool(attribute_of(net, "wraps", False)))
    if frame:
        x = functional.pad(x, (1, 1, 1, 1), mode="circular")

    def row_of(down: Window) -> Tensor:
        return torch.cat([_kept(net, x, down, across, frame) for across in windows(width, side, halo, step)], dim=-1)

    return torch.cat([row_of(down) for down in windows(height, side, halo, step)], dim=-2)


def windows(length: int, side: int, halo: int, step: int) -> list[Window]:
    """The fewest windows of ``side`` pixels, evenly spaced, that cover ``length``; all numbers are multiples of
    ``step``. Of each all is kept but ``halo`` pixels or more at the sides where another one follows.

    >>> windows(32, 16, 4, 4)
    [Window(start=0, stop=16, first=0, last=12), Window(start=8, stop=24, first=12, last=20), \
Window(start=16, stop=32, first=20, last=32)]
    """
    if length <= side:
        return [Window(0, length, 0, length)]
    count = -(-(length - 2 * halo) // (side - 2 * halo))
    starts = [(length - side) * k // ((count - 1) * step) * step for k in range(count)]
    middles = [(start + side + after) // (2 * step) * step for start, after in pairwise(starts)]
    return [
        Window(start, start + side, first, last)
        for start, first, last in zip(starts, [0, *middles], [*middles, length], strict=True)
    ]


def _kept(net: nn.Module, x: Tensor, down: Window, across: Window, frame: int) -> Tensor:
    """What is kept of a tile's result. The frame, where there is one, is around the image and so around each tile."""
    tile = x[..., down.start : down.stop + 2 * frame, across.start : across.stop + 2 * frame]
    tile = tile.contiguous(memory_format=torch.channels_last)
    options: dict[str, Any] = {"framed": True} if frame else {}
    out = checkpoint(net, tile, use_reentrant=False, **options) if torch.is_grad_enabled() else net(tile, **options)
    rows = slice(down.first - down.start, down.last - down.start)
    columns = slice(across.first - across.start, across.last - across.start)
    # A copy: a view would keep the whole tile's result.
    return out[..., rows, columns].clone()


def _halo_of(net: Any, name: str) -> int:
    """The reach of a network, rounded up to its step."""
    reach = attribute_of(net, "reach")
    if reach is None:
        raise InputError(
            f"{name} needs a network that declares its reach, how many pixels beyond a pixel its output depends on, as "
            f"UNet does; {type(net).__name__} has none: leave {name} out"
        )
    step = step_of(net)
    return -(-check_number("reach of the network", reach, integer=True, least=0) // step) * step
