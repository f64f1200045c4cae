"""Noise models: callables ``noise(y, generator=None) -> noisy y`` to be set as ``physics.noise``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ei.errors import InputError


class GaussianNoise:
    """White Gaussian noise of standard deviation ``sigma``, in the units of the measurement.

    Raises:
        InputError: if ``sigma`` is negative or not finite.
    """

    def __init__(self, sigma: float) -> None:
        if not math.isfinite(sigma) or sigma < 0:
            raise InputError(f"sigma must be a finite number >= 0, not {sigma}")
        self.sigma = float(sigma)

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = y.device if generator is None else generator.device
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=device)
        return y + self.sigma * noise.to(y.device)

    def __repr__(self) -> str:
        return f"GaussianNoise(sigma={self.sigma})"
