"""Image quality: the paper's PSNR, the usual PSNR, SSIM."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ei.errors import InputError


def cal_psnr(a: Tensor, b: Tensor) -> Tensor:
    """The paper's PSNR in dB, a 0-d tensor: ``20 log10( sqrt(H*W) * max|b| / ||b - a||_2 )``.

    Args:
        a: the prediction ``[..., H, W]``.
        b: the truth, same shape.

    ONE norm runs over batch and channels, so it reads ``10 log10(B*C)`` dB below the usual PSNR (4.77 dB for one RGB
    image), less ``20 log10 max|b|``. Infinite when a equals b.
    """
    _check_equal_shapes(a, b)
    height, width = b.shape[-2:]
    return 20 * torch.log10((height * width) ** 0.5 * b.abs().max() / torch.linalg.vector_norm(b - a))


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """The usual PSNR in dB of every image: ``10 log10(data_range^2 / mse)``.

    Args:
        a: predictions ``[B, C, H, W]``.
        b: truth, same shape.
        data_range: the range of the values.

    Returns:
        ``[B]``.
    """
    _check_equal_shapes(a, b)
    mse = (a - b).abs().square().flatten(1).mean(dim=1)
    return 10 * torch.log10(data_range**2 / mse)


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """The structural similarity of every image (scikit-image, 7x7 uniform window, mean over channels).

    Args:
        a, b: images ``[B, C, H, W]``, sides of at least 7.

    Returns:
        ``[B]`` on the CPU, float64.
    """
    from skimage.metrics import structural_similarity

    _check_equal_shapes(a, b)
    if a.dim() != 4 or min(a.shape[-2:]) < 7:
        raise InputError(f"SSIM needs images [B, C, H, W] with sides of at least 7 pixels, not {list(a.shape)}")
    pairs = zip(a.detach().cpu().double().numpy(), b.detach().cpu().double().numpy(), strict=True)
    values = [structural_similarity(p, q, win_size=7, channel_axis=0, data_range=data_range) for p, q in pairs]
    return torch.from_numpy(np.array(values))


def _check_equal_shapes(a: Tensor, b: Tensor) -> None:
    # Without this, broadcasting would give a number for images that do not belong together.
    if a.shape != b.shape:
        raise InputError(f"prediction and truth must have the same shape, not {list(a.shape)} and {list(b.shape)}")
