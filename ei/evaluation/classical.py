"""Reconstructions without learning, to stand beside the learned ones in every table."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from ei.common.complex import magnitude
from ei.common.seeds import derive_seed
from ei.datasets.batches import simulate
from ei.metrics import psnr, range_of
from ei.physics import CT, MRI, Inpainting, pinv_cg
from ei.physics.noise_adapter import get_noise

Reconstruction = Callable[[Any, Tensor], Tensor]

# Chosen on slices 80-89 of CT100, which belong to the training set.
TV_WEIGHT = 0.01
NOISE_SEED = derive_seed(0, "classical")
# With noise, steps and weight are chosen among these; then the weight half a decade to either side.
CGLS_STEPS = (2, 3, 5, 7, 10, 14, 20, 28, 40)
TV_DECADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)


def classical_for(physics: Any, train: Tensor | None = None) -> dict[str, Reconstruction]:
    """The reconstructions of this module that suit a physics, by name, each called as ``reconstruct(physics, y)``.

    Args:
        train: some training images ``[n, C, H, W]``. Where measurements are noisy, the weight of the total variation
            and the steps of conjugate gradients are those with the highest PSNR on these; without them both are left
            out.

    >>> list(classical_for(ei.physics.CT(img_width=16, radon_view=5)))
    ['CGLS 50', 'TV, x >= 0']
    """
    is_ct = isinstance(physics, CT)
    reconstructions: dict[str, Reconstruction] = {}
    if isinstance(physics, Inpainting):
        reconstructions["harmonic fill"] = harmonic_fill
    if get_noise(physics) is None:
        return {"CGLS 50": least_squares, "TV, x >= 0": total_variation} if is_ct else reconstructions
    if train is None or not isinstance(physics, (CT, Inpainting, MRI)):
        return reconstructions
    if is_ct:
        steps = best_steps(physics, train)
        reconstructions[f"CGLS {steps}"] = functools.partial(least_squares, iterations=steps)
    positive = not isinstance(physics, MRI)
    weight = best_weight(physics, train, positive)
    name = f"TV{', x >= 0' if positive else ''}, weight {weight:.2g}"
    reconstructions[name] = functools.partial(total_variation, weight=weight, positive=positive)
    return reconstructions


def best_steps(physics: Any, train: Tensor) -> int:
    """The number of conjugate-gradient steps with the highest mean PSNR on measurements of training images."""
    y = simulate(physics, train, range(len(train)), NOISE_SEED)
    return best_of(CGLS_STEPS, lambda steps: least_squares(physics, y, steps), _mean_psnr(train))[0]


def best_weight(physics: Any, train: Tensor, positive: bool = True) -> float:
    """The weight of the total variation with the highest mean PSNR on measurements of training images."""
    y = simulate(physics, train, range(len(train)), NOISE_SEED)
    quality = _mean_psnr(train)

    def reconstruct(weight: float) -> Tensor:
        return total_variation(physics, y, weight, 200, positive=positive)

    decade, _ = best_of(TV_DECADES, reconstruct, quality)
    return best_of((decade / 10**0.5, decade, decade * 10**0.5), reconstruct, quality)[0]


def best_of(
    choices: Sequence[Any], reconstruct: Callable[[Any], Tensor], quality: Callable[[Tensor], float]
) -> tuple[Any, dict[Any, float]]:
    """The first of the choices whose images are of the highest quality, and the quality of every one."""
    qualities = {choice: quality(reconstruct(choice)) for choice in choices}
    return max(qualities, key=qualities.__getitem__), qualities


def _mean_psnr(x: Tensor) -> Callable[[Tensor], float]:
    """The mean PSNR of images with the ground truth ``[n, C, H, W]`` (of the magnitudes of complex ones)."""
    truth = magnitude(x)
    data_range = range_of(float(truth.min()), float(truth.max()))
    return lambda images: float(psnr(magnitude(images).to(truth.dtype), truth, data_range).mean())


def least_squares(physics: Any, y: Tensor, iterations: int = 50) -> Tensor:
    """Conjugate gradients on the least-squares problem ``min ||A x - y||^2``, stopped early (CGLS), in float64.

    Args:
        physics: has ``A``, and ``A_adjoint`` or an ``image_shape`` (`ei.physics.pinv_cg`).
        y: measurements ``[B, C, ...]``; one problem for each.
        iterations: how many steps; stopping regularises.

    Returns:
        Images, on the device and in the dtype of ``y``.

    >>> physics = ei.physics.CT(img_width=16, radon_view=5)
    >>> least_squares(physics, physics.A(torch.ones(1, 1, 16, 16)), iterations=5).shape
    torch.Size([1, 1, 16, 16])
    """
    with torch.no_grad():
        return pinv_cg(physics, y.to(torch.promote_types(y.dtype, torch.float64)), iterations, tol=0).to(y.dtype)


def total_variation(
    physics: Any, y: Tensor, weight: float = TV_WEIGHT, iterations: int = 500, *, positive: bool = True
) -> Tensor:
    """``min 1/2 ||A x - y||^2 + weight * TV(x)`` over ``x >= 0``, with the isotropic total variation of every channel,
    by the primal-dual algorithm with diagonal steps (Pock & Chambolle, ICCV 2011).

    Args:
        physics: has ``A``, ``A_adjoint``, ``A_dagger``; A has no negative entries, as projections have none.
        y: measurements ``[B, C, ...]``.
        weight: of the total variation.
        iterations: how many steps.
        positive: False to minimise over all x, for any A of norm 1 at most.

    Returns:
        Images, on the device and in the dtype of ``y``.

    >>> physics = ei.physics.CT(img_width=16, radon_view=5)
    >>> total_variation(physics, physics.A(torch.ones(1, 1, 16, 16)), iterations=5).shape
    torch.Size([1, 1, 16, 16])
    """
    with torch.no_grad():
        least = 0.0 if positive else -math.inf
        x = physics.A_dagger(y).clamp(min=least)
        p = torch.zeros_like(y)
        q = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        # Row and column sums of A and of the differences (1 + 1 and at most 4). Any factor between primal and dual
        # steps converges; this one did so fastest on CT100.
        factor = 0.3
        step_p: Tensor | float = factor
        step_q = factor / 2
        step_x = 1 / factor / torch.full_like(x[:1], 5)
        if positive:
            step_p = factor / physics.A(torch.ones_like(x[:1])).clamp(min=1e-3)
            step_x = 1 / factor / (physics.A_adjoint(torch.ones_like(y[:1])) + 4)
        ahead = x
        for _ in range(iterations):
            p = (p + step_p * (physics.A(ahead) - y)) / (1 + step_p)
            q = q + step_q * _gradient(ahead)
            q = q / (q.square().sum(dim=0).sqrt() / weight).clamp(min=1)
            new = (x - step_x * (physics.A_adjoint(p) - _divergence(q))).clamp(min=least)
            ahead = 2 * new - x
            x = new
        return x


def _gradient(x: Tensor) -> Tensor:
    """Forward differences down and right, zero at the last row and column, ``[2, B, C, H, W]``."""
    gradient = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
    gradient[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    gradient[1, ..., :-1] = x[..., 1:] - x[..., :-1]
    return gradient


def _divergence(q: Tensor) -> Tensor:
    """Minus the transpose of `_gradient`."""
    x = torch.zeros_like(q[0])
    x[..., :-1, :] += q[0, ..., :-1, :]
    x[..., 1:, :] -= q[0, ..., :-1, :]
    x[..., :-1] += q[1, ..., :-1]
    x[..., 1:] -= q[1, ..., :-1]
    return x


def harmonic_fill(physics: Inpainting, y: Tensor) -> Tensor:
    """Inpainting by the discrete Laplace equation: every missing pixel is the mean of its neighbours (two, three or
    four of them), the measured ones stay.

    Args:
        physics: holds the mask, or one for each image of ``y``.
        y: masked images ``[B, C, H, W]``.

    Returns:
        Images of the shape of ``y``, on its device, in its dtype.

    >>> physics = ei.physics.Inpainting(8, 8)
    >>> x = torch.ones(1, 3, 8, 8)
    >>> torch.allclose(harmonic_fill(physics, physics.A(x)), x)
    True
    """
    masks = physics.sampling_mask.cpu().numpy() > 0
    images = y.detach().cpu().double().numpy()
    if masks.shape[:2] == (1, 1):
        filled = _filled(masks[0, 0], images)
    else:
        pairs = zip(np.broadcast_to(masks, images.shape), images, strict=True)
        filled = np.stack([np.stack(list(map(_filled, mask, image))) for mask, image in pairs])
    return torch.from_numpy(filled).to(y.device, y.dtype)


def _filled(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """``images`` ``[..., H, W]`` under one ``mask`` ``[H, W]``, filled."""
    height, width = mask.shape
    laplacian = scipy.sparse.kronsum(_path_laplacian(width), _path_laplacian(height), format="csr")
    missing = np.flatnonzero(~mask.ravel())
    sampled = np.flatnonzero(mask.ravel())
    filled = images.reshape(-1, mask.size).T.copy()
    if len(missing):
        right_side = -(laplacian[missing][:, sampled] @ filled[sampled])
        solve = scipy.sparse.linalg.factorized(laplacian[missing][:, missing].tocsc())
        filled[missing] = np.stack([solve(column) for column in right_side.T], axis=1)
    return filled.T.reshape(images.shape).copy()


def _path_laplacian(n: int) -> scipy.sparse.sparray:
    """The Laplacian ``[n, n]`` of n points in a row."""
    adjacency = scipy.sparse.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1], shape=(n, n))
    return scipy.sparse.diags_array(adjacency.sum(axis=1)) - adjacency
