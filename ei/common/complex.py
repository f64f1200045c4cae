"""Complex images and arrays: what becomes of them is decided here.

Images may be complex, ``[B, C, H, W]``. Networks are given them as twice as many real channels, groups move them as
they are, figures and SSIM take their magnitude. Files and operators that carry the two parts as two real channels
(`ei.physics.MRI`) need none of this but the magnitude.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_channels(x: Tensor) -> Tensor:
    """Complex ``[B, C, ...]`` as real ``[B, 2C, ...]``: all real parts, then all imaginary parts."""
    return torch.cat([x.real, x.imag], dim=1)


def to_complex(x: Tensor) -> Tensor:
    """The inverse of `to_channels`: real ``[B, 2C, ...]`` as complex ``[B, C, ...]``."""
    real, imaginary = x.chunk(2, dim=1)
    return torch.complex(real.contiguous(), imaginary.contiguous())


def magnitude(x: Tensor) -> Tensor:
    """Images ``[..., C, H, W]`` as they are looked at. Of complex ones it is the magnitude; so it is of real ones with
    two channels, a real and an imaginary part: ``[..., 1, H, W]``. Others are as they are."""
    if x.is_complex():
        return x.abs()
    return torch.linalg.vector_norm(x, dim=-3, keepdim=True) if x.dim() > 2 and x.shape[-3] == 2 else x
