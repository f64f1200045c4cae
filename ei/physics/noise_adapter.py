"""The noise of operators that were not written for this project, as deepinv's are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ei.common.seeds import seeded
from ei.physics.noise import Noise


def get_noise(physics: Any) -> Any:
    """The noise of an operator as a function ``noise(y, generator=None)``; None where there is none.

    It is ``physics.noise``, as it is where it is one of `ei.physics`. Any other callable is made to draw what the
    generator says, whether or not it takes one (`Drawn`). A deepinv operator has its noise in ``noise_model``, and
    always a method ``noise``: its ``ZeroNoise`` is none.
    """
    noise = getattr(physics, "noise", None)
    model = getattr(physics, "noise_model", None)
    if inspect.ismethod(noise) and model is not None:
        noise = None if type(model).__name__ == "ZeroNoise" else model
    return noise if noise is None or isinstance(noise, Noise) else Drawn(noise)


def noise_with_variance(physics: Any) -> Any:
    """The noise of an operator that knows its ``variance(y)``, which SURE needs; None where it does not, or there is
    none."""
    noise = get_noise(physics)
    return noise if callable(getattr(noise, "variance", None)) else None


class Drawn:
    """A noise function of one's own, which draws from its argument ``generator``, from a generator ``rng`` that it
    keeps (deepinv's), or from the global ones: all follow the generator that is given, so that noise which is drawn
    once an image is the same in every epoch."""

    def __init__(self, noise: Callable[..., Tensor]) -> None:
        self.noise = noise
        parameters = inspect.signature(noise.forward if isinstance(noise, torch.nn.Module) else noise).parameters
        self._takes_generator = "generator" in parameters

    def __repr__(self) -> str:
        return repr(self.noise)

    def __getattr__(self, name: str) -> Any:
        if name == "noise":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.noise, name)

    def clip(self, y: Tensor) -> Tensor:
        """``y`` as the noise is defined for it, as `Noise.clip` gives it: deepinv's counts refuse negative entries,
        which a reconstruction may have, unless their ``clip_positive`` is set."""
        own = getattr(self.noise, "clip", None)
        if callable(own):
            return own(y)
        return y.clamp(min=0) if hasattr(self.noise, "clip_positive") else y

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        own = getattr(self.noise, "rng", None)
        if generator is None:
            if isinstance(own, torch.Generator):  # else a run that is resumed would not draw what it drew
                own.manual_seed(int(torch.randint(2**62, ())))
            return self.noise(y)
        seed = generator.initial_seed()
        if isinstance(own, torch.Generator):
            own.manual_seed(seed)
        with seeded(seed, y.device):
            return self.noise(y, generator=generator) if self._takes_generator else self.noise(y)
