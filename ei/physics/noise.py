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


def noise_of(text: str) -> GaussianNoise:
    """The noise model of a text as ``gaussian:0.1``: its name, and its arguments behind a colon.

    Raises:
        InputError: for another name or arguments that do not fit.
    """
    name, _, argument = str(text).partition(":")
    try:
        if name == "gaussian":
            return GaussianNoise(float(argument))
    except ValueError as error:
        raise InputError(f"noise {text!r} cannot be read: {error}; write gaussian:SIGMA, as gaussian:0.1") from error
    raise InputError(f"there is no noise {text!r}; write gaussian:SIGMA, as gaussian:0.1")
