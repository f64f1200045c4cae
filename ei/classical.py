"""Reconstructions that need no learning, to stand beside the learned ones in every table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from ei.physics import Inpainting

Reconstruction = Callable[[Any, Tensor], Tensor]


def classical_for(physics: Any) -> dict[str, Reconstruction]:
    """The reconstructions of this module that suit a physics, by name, each called as ``reconstruct(physics, y)``."""
    return {"harmonic fill": harmonic_fill} if isinstance(physics, Inpainting) else {}


def harmonic_fill(physics: Inpainting, y: Tensor) -> Tensor:
    """Inpainting by the discrete Laplace equation: every missing pixel is the mean of its neighbours (two, three or
    four of them), the measured ones stay.

    Args:
        physics: holds the mask.
        y: masked images ``[B, C, H, W]``.

    Returns:
        Images of the shape of ``y``, on its device, in its dtype.
    """
    mask = physics.mask.cpu().numpy() > 0
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
    filled = y.detach().cpu().double().numpy().reshape(-1, number.size).T.copy()
    if len(missing):
        right_side = -(laplacian[missing][:, known] @ filled[known])
        solve = scipy.sparse.linalg.factorized(laplacian[missing][:, missing].tocsc())
        filled[missing] = np.stack([solve(column) for column in right_side.T], axis=1)
    return torch.from_numpy(filled.T.reshape(y.shape).copy()).to(y.device, y.dtype)
