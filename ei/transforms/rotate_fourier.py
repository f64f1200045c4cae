"""Rotations that keep an image's details: no interpolation between pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ei.transforms.base import part_by_part
from ei.transforms.rotate import Rotate


class FourierRotate(Rotate):
    """Rotations as `Rotate`'s, not by bilinear interpolation but as three shears (Unser, Thevenaz & Yaroslavsky,
    "Convolution-based interpolation for fast, high-quality rotation of images", 1995), each of which moves rows or
    columns by the shift theorem of the Fourier transform; quarter turns of square images move pixels. Zeros outside.

    Bilinear interpolation blurs, so a network that is trained on what EI turned learns to reconstruct blurred images.
    Turned there and back, CT100 is 5 to 12 times as close to itself as by `Rotate`. What is not band-limited, as a
    hard edge, rings a little.
    """

    @part_by_part
    def act(self, x: Tensor, element: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        degrees = float(element) % 360
        step = 90 if height == width else 180
        quarters = round(degrees / step) * step // 90
        angle = math.radians(degrees - 90 * quarters)  # at most 45 degrees either way, or 90 where sides differ
        x = torch.rot90(x, quarters, dims=(-2, -1))
        if angle == 0:
            return x
        # Shears move what stays in the image out of its frame for a while.
        dtype = torch.promote_types(x.dtype, torch.float32)
        frame = (width // 2, width // 2, height // 2, height // 2)
        with torch.autocast(x.device.type, enabled=False):
            turned = functional.pad(x.to(dtype), frame)
            parts = 1 if abs(angle) <= math.pi / 4 + 1e-9 else 2
            for _ in range(parts):
                # Row axes point down: these are the shears of a counter-clockwise turn.
                turned = _shear_rows(turned, math.tan(angle / parts / 2))
                turned = _shear_rows(turned.mT, -math.sin(angle / parts)).mT
                turned = _shear_rows(turned, math.tan(angle / parts / 2))
        return turned[..., frame[2] : frame[2] + height, frame[0] : frame[0] + width].to(x.dtype).contiguous()


def _shear_rows(x: Tensor, slope: float) -> Tensor:
    """Every row moved to the right by ``slope`` times its distance below the centre, cyclically."""
    height, width = x.shape[-2:]
    shift = slope * (torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2)
    frequency = torch.fft.rfftfreq(width, device=x.device, dtype=x.dtype)
    phase = torch.polar(torch.ones((), dtype=x.dtype, device=x.device), -2 * math.pi * shift[:, None] * frequency)
    return torch.fft.irfft(torch.fft.rfft(x) * phase, width)
