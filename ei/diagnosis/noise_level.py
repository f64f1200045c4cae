"""How much noise there is: beside the measurements, and in an image without learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ei.closure.sure import mean_of_sampled
from ei.errors import InputError
from ei.physics.base import where_sampled
from ei.physics.noise_adapter import get_noise, noise_with_variance


@dataclass(frozen=True)
class NoiseReport:
    """The answer of `noise_report`; ``str`` of it is a few lines.

    Attributes:
        noise: the model, in words.
        deviation: root of the mean variance of what is measured.
        measured: root mean square of the measurements.
        in_image: root mean square of what A_dagger makes of the noise.
        brightest: the largest value of A_dagger y without more noise.
    """

    noise: str
    deviation: float
    measured: float
    in_image: float
    brightest: float

    def __str__(self) -> str:
        decibels = 20 * math.log10(self.brightest / self.in_image) if self.in_image > 0 else math.inf
        return "\n".join(
            [
                f"noise                 {self.noise}: {self.deviation:.3g} (standard deviation) in measurements of "
                f"{self.measured:.3g} (root mean square), {self.deviation / self.measured:.2%}",
                f"in A_dagger y         {self.in_image:.3g}, where the brightest pixel is {self.brightest:.3g}: "
                f"{decibels:.1f} dB, if there were nothing but noise",
                f"in a training         measurement consistency below {self.deviation**2:.3g} fits noise (ei, mc): "
                "--method rei and sure do not",
            ]
        )


def noise_report(physics: Any, y: Tensor, seed: int = 0) -> NoiseReport:
    """What ``physics.noise`` does to measurements ``y`` ``[B, ...]``, which may be noisy already.

    Raises:
        InputError: if the noise does not know its variance, or all measurements are zero.
    """
    noise = noise_with_variance(physics)
    if noise is None:
        raise InputError(f"{get_noise(physics)} has no variance(y), so that nothing can be said about it")
    with torch.no_grad():
        size = float(mean_of_sampled(physics, y.abs().square())) ** 0.5
        if size == 0:
            raise InputError("the measurements are all zero: there is nothing to compare their noise with")
        variance = float(mean_of_sampled(physics, noise.variance(y)))
        clip = getattr(noise, "clip", None)
        clean = y if clip is None else clip(y)
        generator = torch.Generator(y.device).manual_seed(seed)
        noisy = where_sampled(physics, noise(clean, generator=generator), clean)
        before = physics.A_dagger(clean)
        after = physics.A_dagger(noisy) - before
    in_image = float(after.abs().square().mean()) ** 0.5
    return NoiseReport(str(noise), max(variance, 0.0) ** 0.5, size, in_image, float(before.abs().max()))
