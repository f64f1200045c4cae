"""Reconstructions that need no learning, to stand beside the learned ones in every table."""

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
from ei.physics import CT, MRI, Inpainting
from ei.physics.noise_adapter import get_noise

Reconstruction = Callable[[Any, Tensor], Tensor]

# Chosen on slices 80-89 of CT100, which belong to the training set.
TV_WEIGHT = 0.01
# Of noisy measurements, whose noise decides it, it is looked for among these, and then half a decade to either side.
DECADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)


def classical_for(physics: Any, train: Tensor | None = None) -> dict[str, Reconstruction]:
    """The reconstructions of this module that suit a physics, by name, each called as ``reconstruct(physics, y)``.

    Args:
        train: some training images ``[n, C, H, W]``. Where measurements are noisy, the weight of the total variation
            and the steps of conjugate gradients are those that are best for these; without them both are left out.
    """
    positive = not isinstance(physics, MRI)
    if get_noise(physics) is None:
        if isinstance(physics, Inpainting):
            return {"harmonic fill": harmonic_fill}
        return {"CGLS 50": least_squares, "TV, x >= 0": total_variation} if isinstance(physics, CT) else {}
    found: dict[str, Reconstruction] = {"harmonic fill": harmonic_fill} if isinstance(physics, Inpainting) else {}
    if train is None or not isinstance(physics, (CT, Inpainting, MRI)):
        return found
    y = simulate(physics, train, range(len(train)), derive_seed(0, "classical"))
    quality = _mean_psnr(train)
    if isinstance(physics, CT):
        choices = (2, 3, 5, 7, 10, 14, 20, 28, 40)
        steps, _ = best_of(choices, lambda n: _one_by_one(least_squares, physics, y, n), quality)
        found[f"CGLS {steps}"] = functools.partial(least_squares, iterations=steps)

    def reconstruct(weight: float) -> Tensor:
        return total_variation(physics, y, weight, 200, positive=positive)

    decade, _ = best_of(DECADES, reconstruct, quality)
    weight, _ = best_of((decade / 10**0.5, decade, decade * 10**0.5), reconstruct, quality)
    found[f"TV{', x >= 0' if positive else ''}, weight {weight:.2g}"] = functools.partial(
        total_variation, weight=weight, positive=positive
    )
    return found


def best_of(
    choices: Sequence[Any], reconstruct: Callable[[Any], Tensor], quality: Callable[[Tensor], float]
) -> tuple[Any, dict[Any, float]]:
    """The first of the choices whose images are of the highest quality, and the quality of every one."""
    found = {choice: quality(reconstruct(choice)) for choice in choices}
    return max(found, key=lambda choice: found[choice]), found


def _mean_psnr(x: Tensor) -> Callable[[Tensor], float]:
    """The mean PSNR of images with the true ones ``[n, C, H, W]`` (of the magnitudes of complex ones)."""
    truth = magnitude(x)
    data_range = range_of(float(truth.min()), float(truth.max()))
    return lambda images: float(psnr(magnitude(images).to(truth.dtype), truth, data_range).mean())


def _one_by_one(function: Callable[..., Tensor], physics: Any, y: Tensor, *arguments: Any) -> Tensor:
    return torch.cat([function(physics, one[None], *arguments) for one in y])


def least_squares(physics: Any, y: Tensor, iterations: int = 50) -> Tensor:
    """Conjugate gradients on the least-squares problem ``min ||A x - y||^2``, stopped early (scipy's LSQR, which gives
    the iterates of CGLS).

    Args:
        physics: has ``A``, ``A_adjoint``, ``A_dagger``.
        y: measurements ``[B, C, ...]``; one problem for all of them.
        iterations: how many steps; stopping is what regularises.

    Returns:
        Images, on the device and in the dtype of ``y``.
    """
    shape = physics.A_dagger(y).shape

    def operator(function: Callable[[Tensor], Tensor], given: torch.Size) -> Callable[[np.ndarray], np.ndarray]:
        return lambda v: function(torch.from_numpy(v).to(y.device).view(given)).cpu().numpy().ravel()

    linear = scipy.sparse.linalg.LinearOperator(
        (y.numel(), shape.numel()),
        matvec=operator(physics.A, shape),
        rmatvec=operator(physics.A_adjoint, y.shape),
        dtype=np.float64,
    )
    right_side = y.detach().cpu().double().numpy().ravel()
    x = scipy.sparse.linalg.lsqr(linear, right_side, atol=0, btol=0, conlim=0, iter_lim=iterations)[0]
    return torch.from_numpy(x).view(shape).to(y.device, y.dtype)


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
    """
    with torch.no_grad():
        least = 0.0 if positive else -math.inf
        x = physics.A_dagger(y).clamp(min=least)
        p, q = torch.zeros_like(y), torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        # Row and column sums of A and of the differences (1 + 1 and at most 4). Any factor between primal and dual
        # steps converges; this one did so fastest on CT100.
        factor = 0.3
        step_p: Tensor | float = factor
        step_q, step_x = factor / 2, 1 / factor / torch.full_like(x[:1], 5)
        if positive:
            step_p = factor / physics.A(torch.ones_like(x[:1])).clamp(min=1e-3)
            step_x = 1 / factor / (physics.A_adjoint(torch.ones_like(y[:1])) + 4)
        ahead = x
        for _ in range(iterations):
            p = (p + step_p * (physics.A(ahead) - y)) / (1 + step_p)
            q = q + step_q * _gradient(ahead)
            q = q / (q.square().sum(dim=0).sqrt() / weight).clamp(min=1)
            new = (x - step_x * (physics.A_adjoint(p) - _divergence(q))).clamp(min=least)
            ahead, x = 2 * new - x, new
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
    """
    masks, images = physics.sampling_mask.cpu().numpy() > 0, y.detach().cpu().double().numpy()
    if masks.shape[:2] == (1, 1):
        filled = _filled(masks[0, 0], images)
    else:
        masks = np.broadcast_to(masks, images.shape)
        filled = np.stack([np.stack(list(map(_filled, *each))) for each in zip(masks, images, strict=True)])
    return torch.from_numpy(filled).to(y.device, y.dtype)


def _filled(mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """``images`` ``[..., H, W]`` under one ``mask`` ``[H, W]``, filled."""
    height, width = mask.shape
    number = np.arange(height * width).reshape(height, width)
    pairs = np.concatenate(
        [
            np.stack([number[:, :-1], number[:, 1:]], -1).reshape(-1, 2),
            np.stack([number[:-1], number[1:]], -1).reshape(-1, 2),
        ]
    )
    ones = np.ones(len(pairs))
    adjacency = scipy.sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(number.size, number.size)).tocsr()
    adjacency = adjacency + adjacency.T
    laplacian = scipy.sparse.csr_array(scipy.sparse.diags_array(adjacency.sum(axis=1)) - adjacency)
    missing, known = np.flatnonzero(~mask.ravel()), np.flatnonzero(mask.ravel())
    filled = images.reshape(-1, number.size).T.copy()
    if len(missing):
        right_side = -(laplacian[missing][:, known] @ filled[known])
        solve = scipy.sparse.linalg.factorized(laplacian[missing][:, missing].tocsc())
        filled[missing] = np.stack([solve(column) for column in right_side.T], axis=1)
    return filled.T.reshape(images.shape).copy()
