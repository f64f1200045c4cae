"""A part of the measurements, as an operator of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.physics.base import for_each_image, image_shape_of, sampling_mask_for
from ei.physics.krylov import adjoint_of, filter_of, pinv_cg


class Split:
    """``m A``: an operator of which only the entries are kept where the mask m is one.

    Args:
        physics: the operator.
        kept: m, zeros and ones ``[B, ...]`` that multiply measurements, one for each of B images (`draw_kept`).
    """

    noise = None

    def __init__(self, physics: Any, kept: Tensor) -> None:
        self.physics, self.kept = physics, kept
        self.image_shape = image_shape_of(physics)

    def A(self, x: Tensor) -> Tensor:
        return self._of(x) * self.physics.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return adjoint_of(self.physics, self.image_shape)(self._of(y) * y)

    def filter(self, y: Tensor) -> Tensor:
        return filter_of(self.physics)(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        """What the operator says for fewer entries (`Physics.A_dagger_of`); of one that says nothing, its A_dagger with
        zeros in place of the others."""
        own = getattr(self.physics, "A_dagger_of", None)
        if callable(own):
            return own(y, self._of(y))
        if callable(getattr(self.physics, "A_dagger", None)):
            return self.physics.A_dagger(self._of(y) * y)
        return pinv_cg(self, y)

    def _of(self, tensor: Tensor) -> Tensor:
        return for_each_image(self.kept, tensor)


def entries_to_split(physics: Any, y: Tensor) -> Tensor:
    """What may be kept or left out of measurements ``y``, ones, and zeros where nothing is measured: as
    `Physics.sampling_mask` tells, else every entry on its own."""
    told = sampling_mask_for(physics, y)
    return torch.ones(1, *y.shape[1:], dtype=y.real.dtype, device=y.device) if told is None else told


def draw_kept(measured: Tensor, uniform: Tensor, keep: float) -> Tensor:
    """A random part of what is measured, for every image on its own: each entry is kept with the probability ``keep``,
    and of no image none is.

    Args:
        measured: ``[1 or B, ...]``, of `entries_to_split`.
        uniform: drawn from [0, 1), ``[B, ...]``.
        keep: in (0, 1).

    Returns:
        Zeros and ones ``[B, ...]``.
    """
    drawn = torch.where(measured > 0, uniform, 2.0)
    least = drawn.flatten(1).amin(1).view(-1, *[1] * (drawn.dim() - 1))
    return ((drawn < keep) | (drawn == least)).to(measured.dtype) * (measured > 0)
