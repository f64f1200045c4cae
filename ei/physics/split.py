"""A part of the measurements as an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.physics.base import for_each_image, image_shape_of, move_physics, sampling_mask_for
from ei.physics.krylov import adjoint_of, filter_of, pinv_cg


class Split:
    """``m A``: an operator of which only the entries are kept where the mask m is one.

    Args:
        physics: the operator A.
        kept: m, zeros and ones ``[B, ...]`` that multiply measurements, one for each of B images (`draw_kept`).

    >>> physics = Inpainting(4, 4, mask_rate=0.0)
    >>> kept = torch.eye(4).view(1, 1, 4, 4)
    >>> float(Split(physics, kept).A(torch.ones(1, 1, 4, 4)).sum())
    4.0
    """

    noise = None

    def __init__(self, physics: Any, kept: Tensor) -> None:
        self.physics = physics
        self.kept = kept
        self.image_shape = image_shape_of(physics)

    def moved(self, element: Any, transform: Any = None) -> Split:
        """The same part of the moved operator (`Physics.moved`)."""
        moved = move_physics(self.physics, element, transform)
        move_entries = getattr(self.physics, "moved_entries", None)
        kept = move_entries(self.kept, element, transform) if callable(move_entries) else self.kept
        return Split(moved, kept)

    @property
    def sampling_mask(self) -> Tensor:
        """`Physics.sampling_mask`."""
        mask = getattr(self.physics, "sampling_mask", None)
        return self.kept if mask is None else mask.to(self.kept) * self.kept

    @property
    def pixel_mask(self) -> Tensor | None:
        """`Physics.pixel_mask`."""
        mask = getattr(self.physics, "pixel_mask", None)
        return None if mask is None else mask * self.kept

    def A(self, x: Tensor) -> Tensor:
        return self._mask_for(x) * self.physics.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return adjoint_of(self.physics, self.image_shape)(self._mask_for(y) * y)

    def filter(self, y: Tensor) -> Tensor:
        return filter_of(self.physics)(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        """`Physics.A_dagger_of`; of an operator without it, its A_dagger of ``m y``, or conjugate gradients."""
        if callable(getattr(self.physics, "A_dagger_of", None)):
            return self.physics.A_dagger_of(y, self._mask_for(y))
        if callable(getattr(self.physics, "A_dagger", None)):
            return self.physics.A_dagger(self._mask_for(y) * y)
        return pinv_cg(self, y)

    def _mask_for(self, tensor: Tensor) -> Tensor:
        return for_each_image(self.kept, tensor)


def entries_to_split(physics: Any, y: Tensor) -> Tensor:
    """Ones for the entries of measurements ``y`` that may be kept or left out, zeros where nothing is measured:
    `Physics.sampling_mask`; without one, every entry separately."""
    mask = sampling_mask_for(physics, y)
    return torch.ones(1, *y.shape[1:], dtype=y.real.dtype, device=y.device) if mask is None else mask


def draw_kept(entries: Tensor, uniform: Tensor, keep: float) -> Tensor:
    """A random part of ``entries`` ``[1 or B, ...]`` (of `entries_to_split`), for each image separately: zeros and ones
    ``[B, ...]``. Every entry is kept with the probability ``keep``, at least one of each image. ``uniform`` ``[B,
    ...]`` is drawn from [0, 1)."""
    drawn = torch.where(entries > 0, uniform, 2.0)
    least = drawn.flatten(1).amin(1).view(-1, *[1] * (drawn.dim() - 1))
    return ((drawn < keep) | (drawn == least)).to(entries.dtype) * (entries > 0)
