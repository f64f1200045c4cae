"""What every forward operator shares.

Anything with ``A(x)`` and ``A_dagger(y)`` is a physics; nothing has to inherit from `Physics`. Ours do, to get the
measurement with noise, ``physics(x)``, in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ei.errors import InputError

NoiseModel = Callable[..., Tensor]


class Physics(nn.Module):
    """A linear forward operator ``y = A x (+ noise)``.

    Args:
        noise: None, or a noise model called as ``noise(y, generator=None)`` that returns the noisy measurement.
    """

    def __init__(self, noise: NoiseModel | None = None) -> None:
        super().__init__()
        self.noise = noise

    def A(self, x: Tensor) -> Tensor:
        """The measurement of images ``x``, without noise."""
        raise NotImplementedError

    def A_dagger(self, y: Tensor) -> Tensor:
        """The (approximate) pseudo-inverse: an image from measurements ``y``."""
        raise NotImplementedError

    def measured_entries(self, y: Tensor) -> Tensor | None:
        """1 where an entry of ``y`` is measured and 0 where a mask measures nothing, of a shape that broadcasts to
        ``y``'s; None where all are measured."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """The measurement of images ``x`` as a sensor gives it: ``noise(A(x))``, with fresh noise where something is
        measured."""
        y = self.A(x)
        return y if self.noise is None else only_measured(self, self.noise(y), y)


def measured_entries(physics: Any, y: Tensor) -> Tensor | None:
    """`Physics.measured_entries` of any physics: None, all are measured, where it does not say."""
    entries = getattr(physics, "measured_entries", None)
    return entries(y) if callable(entries) else None


def only_measured(physics: Any, y: Tensor, elsewhere: Tensor) -> Tensor:
    """``y`` where ``physics`` measures something, and ``elsewhere`` (of its shape) where a mask does not."""
    entries = measured_entries(physics, y)
    return y if entries is None else torch.where(entries != 0, y, elsewhere)


def image_shape_of(physics: Any) -> tuple[int, ...] | None:
    """``physics.image_shape``, (H, W) or (C, H, W); None where an operator does not tell.

    Raises:
        InputError: if it is anything else.
    """
    shape = getattr(physics, "image_shape", None)
    if shape is None:
        return None
    try:
        sides = tuple(int(side) for side in shape)
    except (TypeError, ValueError):
        sides = ()
    if isinstance(shape, str) or len(sides) not in (2, 3) or min(sides) < 1:
        raise InputError(f"image_shape of {type(physics).__name__} must be (H, W) or (C, H, W), not {shape!r}")
    return sides


def check_shape(tensor: Tensor, expected: tuple[int, ...], what: str) -> None:
    """Raise unless ``tensor`` is ``[B, C, *expected]``.

    Raises:
        InputError: naming the expected and the given shape.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{what} must be a torch tensor, not {type(tensor).__name__}")
    if tensor.dim() != 4 or tuple(tensor.shape[2:]) != expected:
        wanted = ", ".join(["B", "C", *map(str, expected)])
        raise InputError(f"{what} must have the shape [{wanted}], not {list(tensor.shape)}")
