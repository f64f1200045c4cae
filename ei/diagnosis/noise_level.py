"""The level of the noise: beside the measurements, and in an image without learning."""

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
    """The answer of `noise_report`; ``str`` of it is a few lines."""

    noise: str  # the noise model
    deviation: float  # root of the mean variance over measured entries
    signal: float  # root mean square of the measurements
    in_image: float  # root mean square of the noise after A_dagger
    brightest: float  # the largest value of A_dagger y

    def __str__(self) -> str:
        decibels = 20 * math.log10(self.brightest / self.in_image) if self.in_image > 0 else math.inf
        return (
            f"noise                 {self.noise}: {self.deviation:.3g} (standard deviation) in measurements of "
            f"{self.signal:.3g} (root mean square), {self.deviation / self.signal:.2%}\n"
            f"in A_dagger y         {self.in_image:.3g}, brightest pixel {self.brightest:.3g}: PSNR {decibels:.1f} dB "
            "if there were no other error\n"
            f"in a training         a data-consistency loss below {self.deviation**2:.3g} overfits the noise (ei, mc); "
            "use --method rei or sure"
        )


def noise_report(physics: Any, y: Tensor) -> NoiseReport:
    """What ``physics.noise`` does to measurements ``y`` ``[B, ...]``, which may be noisy already. Raises `InputError`
    if the noise model has no variance, or all measurements are zero."""
    noise = noise_with_variance(physics)
    if noise is None:
        raise InputError(f"the noise model must have variance(y), and {get_noise(physics)} has none")
    with torch.no_grad():
        signal = float(mean_of_sampled(physics, y.abs().square())) ** 0.5
        if signal == 0:
            raise InputError("measurements must not be all zero: their noise is compared with their values")
        variance = float(mean_of_sampled(physics, noise.variance(y)))
        clip = getattr(noise, "clip", None)
        clean = y if clip is None else clip(y)
        generator = torch.Generator(y.device).manual_seed(0)
        noisy = where_sampled(physics, noise(clean, generator=generator), clean)
        before = physics.A_dagger(clean)
        in_image = float((physics.A_dagger(noisy) - before).abs().square().mean()) ** 0.5
    return NoiseReport(str(noise), max(variance, 0.0) ** 0.5, signal, in_image, float(before.abs().max()))
