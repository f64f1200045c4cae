"""Image quality: the paper's PSNR, the usual PSNR, SSIM."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ei.common.checks import check_number, check_tensor, is_unit_range
from ei.errors import InputError

__all__ = ["cal_psnr", "psnr", "range_of", "ssim"]


def cal_psnr(a: Tensor, b: Tensor) -> Tensor:
    """The paper's PSNR in dB, a 0-d tensor: ``20 log10( sqrt(H*W) * max|b| / ||b - a||_2 )``.

    ONE norm runs over batch and channels, so it reads ``10 log10(B*C)`` dB below the usual PSNR (4.77 dB for one RGB
    image), less ``20 log10 max|b|``. Infinite when a equals b.

    >>> truth = torch.ones(1, 3, 8, 8)
    >>> cal_psnr(truth - 0.1, truth).round(decimals=2)
    tensor(15.2300)

    Args:
        a: the prediction ``[..., H, W]``.
        b: the ground truth, same shape.

    Raises:
        InputError: for other shapes, or values that are not floating-point.
    """
    a, b = _checked(a, b)
    height, width = b.shape[-2:]
    error = torch.linalg.vector_norm(b - a)
    return 20 * torch.log10(torch.where(error == 0, math.inf, (height * width) ** 0.5 * b.abs().max() / error))


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """The usual PSNR in dB of every image: ``10 log10(data_range^2 / mse)``.

    >>> psnr(torch.full((2, 1, 8, 8), 0.9), torch.ones(2, 1, 8, 8)).round(decimals=2)
    tensor([20., 20.])

    Args:
        a: predictions ``[B, C, H, W]``.
        b: ground truth, same shape.
        data_range: the range of the values: 1 for images in [0, 1]. See `range_of` for images in other units.

    Returns:
        ``[B]``.

    Raises:
        InputError: for other shapes (one image needs the batch axis, too), or values that are not floating-point.
    """
    a, b = _checked(a, b, batches=True, data_range=data_range)
    mse = (a - b).abs().square().flatten(1).mean(dim=1)
    return 10 * torch.log10(data_range**2 / mse)


SSIM_WINDOW = 7  # pixels


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """The structural similarity of every image (scikit-image, 7x7 uniform window, mean over channels).

    >>> ssim(torch.eye(8).view(1, 1, 8, 8), torch.eye(8).view(1, 1, 8, 8))
    tensor([1.], dtype=torch.float64)

    Args:
        a, b: images ``[B, C, H, W]``, sides of at least 7.
        data_range: as of `psnr`.

    Returns:
        ``[B]`` on the CPU, float64.

    Raises:
        InputError: for other shapes, smaller images, or values that are not real floating-point numbers.
    """
    from skimage.metrics import structural_similarity

    a, b = _checked(a, b, batches=True, data_range=data_range, real=True)
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"images of SSIM must have sides of at least {SSIM_WINDOW} pixels, got {list(a.shape)}")
    pairs = zip(a.detach().cpu().double().numpy(), b.detach().cpu().double().numpy(), strict=True)
    values = [
        structural_similarity(p, q, win_size=SSIM_WINDOW, channel_axis=0, data_range=data_range) for p, q in pairs
    ]
    return torch.from_numpy(np.array(values))


def range_of(least: float, largest: float) -> float:
    """The ``data_range`` for ground truth with values from ``least`` to ``largest``: 1 for images in [0, 1]
    (`ei.common.checks.is_unit_range`), else ``largest - least``.

    Raises:
        InputError: if all values are the same, or they are not finite.

    >>> range_of(0.0, 1.0), range_of(-10.0, 30.0)
    (1.0, 40.0)
    """
    if is_unit_range(least, largest):
        return 1.0
    if not 0 < largest - least < math.inf:
        raise InputError(
            f"the ground truth must have two different finite values, got {least:g} to {largest:g}; set data_range, "
            "the peak of PSNR and SSIM"
        )
    return largest - least


def _checked(
    a: Tensor, b: Tensor, batches: bool = False, data_range: float = 1.0, real: bool = False
) -> tuple[Tensor, Tensor]:
    """Both, of half precision as float32: squares of small errors are zero in float16."""
    for images in (a, b):
        check_tensor(images, "prediction and ground truth")
    # Without this, broadcasting would give a figure for images that do not belong together.
    if a.shape != b.shape:
        raise InputError(
            f"prediction and ground truth must have the same shape, got {list(a.shape)} and {list(b.shape)}"
        )
    for images in (a, b):
        if not (images.is_floating_point() or (images.is_complex() and not real)):  # unsigned integers wrap around
            raise InputError(
                f"prediction and ground truth must hold floating-point values, got {images.dtype}; for 8 bits pass "
                "images.float() / 255, for complex ones images.abs()"
            )
    if batches and a.dim() != 4:
        raise InputError(
            f"prediction and ground truth must be images [B, C, H, W], got {list(a.shape)}; pass one image [C, H, W] "
            "as image[None]"
        )
    check_number("data_range", data_range, above=0)
    a, b = (images.to(torch.promote_types(images.dtype, torch.float32)) for images in (a, b))
    return a, b
