"""Noise models: callables ``noise(y, generator=None) -> noisy y`` to be set as ``physics.noise``.

Each has a ``variance(y)`` computed from the measurement itself, which SURE needs (`ei.closure.SUREClosure`). A noise
model knows nothing of masks: the caller leaves out what is not measured (`ei.physics.base.where_sampled`).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ei.common.checks import check_number, check_tensor
from ei.errors import InputError


class Noise:
    """Base class of noise models. A user-defined one need not inherit from it: a function ``noise(y, generator=None)``
    suffices, for SURE an object that has ``variance(y)``, too.

    Attributes:
        nonnegative: whether it is defined only for measurements without negative entries, as counts are.
        config: the arguments to build it again, also its attributes; checkpoints carry them.

    >>> noise = ei.physics.parse_noise("poisson-gaussian:0.05,0.1")
    >>> y = noise(torch.rand(1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    >>> noise, noise.variance(y).shape
    (PoissonGaussianNoise(gain=0.05, sigma=0.1), torch.Size([1, 1, 8, 8]))
    """

    nonnegative: ClassVar[bool] = False

    def __init__(self, **config: float) -> None:
        self.config: dict[str, Any] = config
        self.__dict__.update(config)
        self._clipped: int | Tensor = 0

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Measurements ``y`` ``[B, ...]`` with fresh noise from ``generator`` (on its device) or torch's global ones.

        Raises:
            InputError: if it is `nonnegative` and ``y`` has negative entries, or is complex.
        """
        raise NotImplementedError

    def variance(self, y: Tensor) -> Tensor:
        """The variance of every entry, estimated from noisy measurements ``y``, exact for clean ones (that of
        `TransmissionNoise` in the limit of many photons). Not clipped: it may be negative."""
        raise NotImplementedError

    def clip(self, y: Tensor) -> Tensor:
        """``y`` without negative entries where the noise is `nonnegative`; `clipped` counts them."""
        if not self.nonnegative:
            return y
        self._clipped = self._clipped + (y < 0).sum()  # a tensor on its device: nothing waits for it
        return y.clamp(min=0)

    @property
    def clipped(self) -> int:
        """The number of negative entries that `clip` has set to zero so far."""
        return int(self._clipped)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.config.items())})"


class GaussianNoise(Noise):
    """White Gaussian noise of standard deviation ``sigma``, in the units of the measurement. Of complex measurements
    ``sigma`` is that of the complex number: each part has ``sigma / sqrt(2)``.

    >>> noise = GaussianNoise(sigma=0.1)
    >>> y = noise(torch.zeros(1, 1, 2, 2))
    >>> round(float(noise.variance(y).mean()), 4)
    0.01
    """

    sigma: float

    def __init__(self, sigma: float) -> None:
        super().__init__(sigma=check_number("sigma", sigma, least=0))

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        _check_floating(y, self)
        return y + self.sigma * _normal(y, generator)

    def variance(self, y: Tensor) -> Tensor:
        """``sigma^2``."""
        return torch.full_like(y.real, self.sigma**2)


class PoissonNoise(Noise):
    """``y = gain * Poisson(A x / gain)``: counts, each of which adds ``gain`` to the measurement.

    >>> noise = PoissonNoise(gain=0.5)
    >>> noise.variance(torch.full((1, 1, 1, 1), 4.0))
    tensor([[[[2.]]]])
    """

    nonnegative = True
    gain: float

    def __init__(self, gain: float) -> None:
        super().__init__(gain=check_number("gain", gain, above=0))

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        counts = _nonnegative(y, self).to(_at_least_float32(y.dtype)) / self.gain  # float16 ends at 65504 of them
        return (self.gain * _poisson(counts, generator)).to(y.dtype)

    def variance(self, y: Tensor) -> Tensor:
        """``gain * y``."""
        return self.gain * y


class PoissonGaussianNoise(PoissonNoise):
    """``y = gain * Poisson(A x / gain) + sigma N``: counts, and the noise of the electronics that reads them.

    >>> noise = PoissonGaussianNoise(gain=0.5, sigma=1.0)
    >>> noise.variance(torch.full((1, 1, 1, 1), 4.0))
    tensor([[[[3.]]]])
    """

    sigma: float

    def __init__(self, gain: float, sigma: float) -> None:
        super().__init__(gain)
        self.sigma = check_number("sigma", sigma, least=0)
        self.config["sigma"] = self.sigma

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().__call__(y, generator) + self.sigma * _normal(y, generator)

    def variance(self, y: Tensor) -> Tensor:
        """``gain * y + sigma^2``."""
        return super().variance(y) + self.sigma**2


class TransmissionNoise(Noise):
    """What a detector behind an object counts, and its logarithm: the noise of CT.

        n = Poisson(photons * exp(-scale * A x)) + sigma N
        y = -log(max(n, 1) / photons) / scale

    with the number of ``photons`` without an object, the standard deviation ``sigma`` of the electronics in photons,
    and the attenuation ``scale`` per unit of A x: CT100 needs 0.0064, as A x reaches 95 there.

    >>> noise = TransmissionNoise(photons=100)
    >>> noise.variance(torch.zeros(1, 1, 1, 1))
    tensor([[[[0.0100]]]])
    """

    photons: float
    sigma: float
    scale: float

    def __init__(self, photons: float, sigma: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(
            photons=check_number("photons", photons, above=0),
            sigma=check_number("sigma", sigma, least=0),
            scale=check_number("scale", scale, above=0),
        )

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        _check_real(y, self)
        counts = _poisson(self._expected(y), generator).to(_at_least_float32(y.dtype))
        counts = counts + self.sigma * _normal(counts, generator)
        return (-(counts.clamp(min=1) / self.photons).log() / self.scale).to(y.dtype)

    def variance(self, y: Tensor) -> Tensor:
        """``(n + sigma^2) / (n^2 scale^2)`` with ``n = photons * exp(-scale * y)``: to first order in the noise."""
        n = self._expected(y)
        return ((1 + self.sigma**2 / n) / n / self.scale**2).to(y.dtype)

    def _expected(self, y: Tensor) -> Tensor:
        return self.photons * torch.exp(-self.scale * y.to(_at_least_float32(y.dtype)))


def random_signs(y: Tensor) -> Tensor:
    """Independent +1 and -1, each as likely, of ``y``'s shape and dtype, from torch's global generator; for complex
    ``y``, ``(+-1 +- i) / sqrt(2)``."""
    if y.is_complex():
        return torch.view_as_complex(random_signs(torch.view_as_real(y))) / math.sqrt(2)
    return (2 * torch.randint(0, 2, y.shape, device=y.device) - 1).to(y.dtype)


# Gaussian noise whose level the training estimates (`ei.closure.UNSUREClosure`), as text.
UNKNOWN = "unknown"

# Names of noise models in texts, and their arguments.
NOISES: dict[str, tuple[type[Noise], str]] = {
    "gaussian": (GaussianNoise, "SIGMA"),
    "poisson": (PoissonNoise, "GAIN"),
    "poisson-gaussian": (PoissonGaussianNoise, "GAIN,SIGMA"),
    "transmission": (TransmissionNoise, "PHOTONS[,SIGMA[,SCALE]]"),
}


def parse_noise(text: str) -> Noise:
    """The noise model of a text as ``gaussian:0.1``: its name, and its arguments behind a colon, with commas between
    them: ``poisson:0.05``, ``poisson-gaussian:0.05,0.1``, ``transmission:1e5,30,0.0064``.

    Raises:
        InputError: for another name or arguments that do not fit.

    >>> parse_noise("poisson-gaussian:0.05,0.1")
    PoissonGaussianNoise(gain=0.05, sigma=0.1)
    """
    name, _, arguments = str(text).partition(":")
    if name not in NOISES:
        usages = ", ".join(f"{model}:{usage}" for model, (_, usage) in NOISES.items())
        raise InputError(f"noise must be one of {usages}, as gaussian:0.1, got {text!r}")
    model, usage = NOISES[name]
    try:
        numbers = [float(argument) for argument in arguments.split(",")]
        if not usage.split("[")[0].count(",") < len(numbers) <= usage.count(",") + 1:
            raise InputError(f"{len(numbers)} arguments")
        return model(*numbers)
    except ValueError as error:
        raise InputError(f"noise {text!r} cannot be read: {error}; write {name}:{usage}") from error


def _check_floating(y: Tensor, noise: Noise) -> None:
    check_tensor(y, f"measurements for {noise}")
    if not (y.is_floating_point() or y.is_complex()):  # the noise would be rounded
        raise InputError(f"measurements for {noise} must be floating-point, got {y.dtype}; convert them by y.float()")


def _check_real(y: Tensor, noise: Noise) -> None:
    _check_floating(y, noise)
    if y.is_complex():
        raise InputError(f"{noise} is noise of counts, which are real; the measurements are complex")


# What an operator's rounding may leave below zero, in units of the dtype's and of the largest measurement.
ROUNDINGS = 100


def _nonnegative(y: Tensor, noise: Noise) -> Tensor:
    """``y`` with zeros for what rounding has left below zero; raises for other negative entries, and complex ones."""
    _check_real(y, noise)
    if bool((y < 0).any()):
        rounding = ROUNDINGS * torch.finfo(_at_least_float32(y.dtype)).eps * float(y.abs().max())
        if float(y.min()) < -rounding:
            raise InputError(
                f"{noise} is noise of counts, which cannot be negative, and A x goes down to {float(y.min()):.3g}; "
                "choose another noise, or an operator and images without negative measurements"
            )
    return y.clamp(min=0)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _normal(y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of ``y``'s shape and dtype, on its device."""
    device = y.device if generator is None else generator.device
    return torch.randn(y.shape, generator=generator, dtype=y.dtype, device=device).to(y.device)


# Of more counts, Poisson noise is less than float64's rounding, and torch.poisson would overflow.
MANY = 1e15


def _poisson(rate: Tensor, generator: torch.Generator | None) -> Tensor:
    """Poisson counts ``[B, ...]`` of the expected numbers ``rate``, in at least float32.

    How many random numbers a Poisson draw takes depends on the rates. So every entry along the first axis has its own
    generator, seeded from ``generator``: with several processes a part of a batch is then drawn as within the whole.
    (A vector has one generator.) A draw has no gradient.
    """
    rate = rate.detach().to(_at_least_float32(rate.dtype))
    device = rate.device if generator is None else generator.device
    drawn_from = torch.device("cpu") if generator is None else generator.device
    few = rate < MANY  # NaN and infinity are left unchanged for the training loop to detect
    rows = torch.where(few, rate, 0).to(device)
    rows = rows if rows.dim() > 1 else rows.reshape(1, -1)
    seeds = torch.randint(2**62, (len(rows),), generator=generator, device=drawn_from).tolist()
    counts = torch.empty_like(rows)
    for row, count, seed in zip(rows, counts, seeds, strict=True):
        count.copy_(torch.poisson(row, generator=torch.Generator(device).manual_seed(seed)))
    return torch.where(few, counts.view_as(rate).to(rate.device), rate)
