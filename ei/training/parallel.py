"""What several processes change in a training: parts of batches, averaged gradients, noise of the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ei.common.processes import Part, Processes, drawing_for
from ei.errors import InputError
from ei.physics.noise_adapter import get_noise


def division(loader: Iterable, transform: Any, processes: Processes) -> Callable[[int], Part | None]:
    """Which part of an epoch's batches ``loader`` gives this process, by their number. Raises `InputError` for a loader
    that does not divide its batches, or a group that draws for every image."""
    if processes.count == 1:
        return lambda number: None
    if getattr(transform, "per_image", False):
        raise InputError("per_image=True draws for the images of one process only; with several, leave it out")
    part_of = getattr(getattr(loader, "batch_sampler", None), "part", None)
    if part_of is None:
        raise InputError("several processes need a loader that divides its batches: ei.datasets.make_loader")
    return part_of


@contextlib.contextmanager
def replicated(f: Any, closure: Any, networks: Mapping[str, nn.Module], processes: Processes) -> Iterator[None]:
    """With several processes, networks whose gradients are averaged stand in for the plain ones."""
    if processes.count == 1:
        yield
        return
    places = [
        (holder, name, value)
        for holder in (f, closure)
        for name, value in _modules(holder)
        if any(value is network for network in networks.values())
    ]
    try:
        for holder, name, network in places:
            setattr(holder, name, processes.replicated(network))
        yield
    finally:
        for holder, name, network in places:
            setattr(holder, name, network)


def _modules(holder: Any) -> list[tuple[str, nn.Module]]:
    """The modules that an object has as attributes."""
    if isinstance(holder, nn.Module):
        return list(holder.named_children())
    return [(name, value) for name, value in vars(holder).items() if isinstance(value, nn.Module)]


@contextlib.contextmanager
def draws_of_part(physics: Any, part: Part, processes: Processes) -> Iterator[None]:
    """With several processes, what a closure draws for images, noise and other, is this part of the whole batch's."""
    if processes.count == 1:
        yield
        return
    held, noise = getattr(physics, "noise", None), get_noise(physics)
    if noise is not None:
        physics.noise = NoiseOfPart(noise, part)
    try:
        with drawing_for(part):
            yield
    finally:
        if noise is not None:
            physics.noise = held


class NoiseOfPart:
    """Noise for a part of a batch, as it would be drawn for the whole of it.

    Noise is drawn after the group acted, so measurements come transform-major: ``[n_trans * images of the part, ...]``.
    """

    def __init__(self, noise: Any, part: Part) -> None:
        self.noise, self.part = noise, part

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is not None:  # seeded by the image: no matter which process draws it
            return self.noise(y, generator=generator)
        # Counts are drawn by how many are expected, so what is measured is put where it stands in the whole batch.
        part = self.part
        ours = torch.arange(part.start, part.stop, device=y.device)
        y = y.reshape(-1, len(ours), *y.shape[1:])
        whole = y.new_zeros(len(y), part.size, *y.shape[2:]).index_copy(1, ours, y)
        noisy = self.noise(whole.flatten(0, 1)).view_as(whole)
        return noisy.index_select(1, ours).flatten(0, 1)

    def __getattr__(self, name: str) -> Any:
        if name == "noise":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.noise, name)
