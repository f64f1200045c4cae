"""Rotations that keep an image's details: no interpolation between pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ei.transforms.base import part_by_part
from ei.transforms.rotate import Rotate


class FourierRotate(Rotate):
    """Rotations like those of `Rotate`, by three shears in place of bilinear interpolation; zeros outside.

    A shear moves rows or columns by the shift theorem of the Fourier transform (Unser, Thevenaz & Yaroslavsky,
    "Convolution-based interpolation for fast, high-quality rotation of images", 1995). Quarter turns of square images
    move pixels.

    Bilinear interpolation blurs, and a network that is trained on blurred images learns to reconstruct them. The
    reference for the error is sinc interpolation in closed form: rotated slices of CT100 have 1/7 (at 3 degrees) to
    1/1.4 (at 45) of the error of `Rotate`. Hard edges, which are not band-limited, ring a little. A negative element is
    the exact inverse of the positive one, except for what was rotated out of the image.

    >>> x = torch.rand(1, 1, 8, 8)
    >>> torch.equal(FourierRotate(1).apply(x, [90]), torch.rot90(x, 1, (-2, -1)))
    True
    """

    @part_by_part
    def act(self, x: Tensor, element: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        step = 90 if height == width else 180
        degrees = abs(float(element)) % 360
        quarters = round(degrees / step) * step // 90
        angle = math.radians(degrees - 90 * quarters)  # at most 45 degrees either way, or 90 where sides differ
        if float(element) < 0:  # the same steps backwards, so that it is the inverse
            return torch.rot90(_turned_by_shears(x, -angle), -quarters, dims=(-2, -1))
        return _turned_by_shears(torch.rot90(x, quarters, dims=(-2, -1)), angle)


def _turned_by_shears(x: Tensor, angle: float) -> Tensor:
    if angle == 0 or x.numel() == 0:  # MKL cannot transform empty tensors
        return x
    height, width = x.shape[-2:]
    columns, rows = width // 2, height // 2
    if height != width:  # while it is sheared, the disc about the image is at most 1.083 times as wide
        reach = 1.083 * math.hypot(height, width) / 2
        columns, rows = (math.ceil(reach - side / 2) + 1 for side in (width, height))
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        turned = functional.pad(x.to(dtype), (columns, columns, rows, rows))
        parts = 1 if abs(angle) <= math.pi / 4 + 1e-9 else 2
        for _ in range(parts):
            # Row axes point down: these are the shears of a counter-clockwise turn.
            turned = _shear_rows(turned, math.tan(angle / parts / 2))
            turned = _shear_rows(turned.mT, -math.sin(angle / parts)).mT
            turned = _shear_rows(turned, math.tan(angle / parts / 2))
    return turned[..., rows : rows + height, columns : columns + width].to(x.dtype).contiguous()


def _shear_rows(x: Tensor, slope: float) -> Tensor:
    """Every row moved to the right by ``slope`` times its distance below the centre, cyclically."""
    height, width = x.shape[-2:]
    shift = slope * (torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2)
    frequency = torch.fft.rfftfreq(width, device=x.device, dtype=x.dtype)
    phase = torch.polar(torch.ones((), dtype=x.dtype, device=x.device), -2 * math.pi * shift[:, None] * frequency)
    return torch.fft.irfft(torch.fft.rfft(x) * phase, width)
