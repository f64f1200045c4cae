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

    It is ``physics.noise`` where that is one of `ei.physics`; any other callable becomes a `SeededNoise`. A deepinv
    operator has its noise in ``noise_model``, and always a method ``noise``: its ``ZeroNoise`` is none.
    """
    noise = getattr(physics, "noise", None)
    model = getattr(physics, "noise_model", None)
    if inspect.ismethod(noise) and model is not None:
        noise = None if type(model).__name__ == "ZeroNoise" else model
    return noise if noise is None or isinstance(noise, Noise) else SeededNoise(noise)


def noise_with_variance(physics: Any) -> Any:
    """The noise of an operator if it has the method ``variance(y)``, which SURE needs; else None."""
    noise = get_noise(physics)
    return noise if callable(getattr(noise, "variance", None)) else None


class SeededNoise:
    """A user-defined noise function. It may draw from its argument ``generator``, from a generator ``rng`` of its own
    (deepinv's), or from the global ones: here all follow ``generator``. So noise that is drawn once an image is the
    same in every epoch."""

    def __init__(self, noise: Callable[..., Tensor]) -> None:
        self.noise = noise
        parameters = inspect.signature(noise.forward if isinstance(noise, torch.nn.Module) else noise).parameters
        self._takes_generator = "generator" in parameters

    def __repr__(self) -> str:
        return repr(self.noise)

    def __getattr__(self, name: str) -> Any:
        if name == "noise":  # a copy in the making has no attributes yet
            raise AttributeError(name)
        return getattr(self.noise, name)

    def clip(self, y: Tensor) -> Tensor:
        """``y`` without the negative entries that deepinv's counts reject unless their ``clip_positive`` is set."""
        clip = getattr(self.noise, "clip", None)
        if callable(clip):
            return clip(y)
        return y.clamp(min=0) if hasattr(self.noise, "clip_positive") else y

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        rng = getattr(self.noise, "rng", None)
        if generator is None:
            if isinstance(rng, torch.Generator):  # else a resumed run would draw other noise
                rng.manual_seed(int(torch.randint(2**62, ())))
            return self.noise(y)
        # A function that takes the generator moves it on by itself.
        source = generator.clone_state() if self._takes_generator else generator
        seed = int(torch.randint(2**62, (), generator=source, device=source.device))
        if isinstance(rng, torch.Generator):
            rng.manual_seed(seed)
        with seeded(seed, y.device):
            return self.noise(y, generator=generator) if self._takes_generator else self.noise(y)
