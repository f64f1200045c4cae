"""The reconstruction function of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import ei.models
import ei.physics
from ei.common.describe import rebuild
from ei.common.files import load_file
from ei.errors import InputError
from ei.models import GroupAverage, UNet
from ei.models.base import ReconstructionFunction
from ei.models.weights import generator_weights, load_weights


def load(
    path: str | os.PathLike,
    physics: Any = None,
    net: nn.Module | None = None,
    *,
    device: torch.device | str = "cpu",
) -> ReconstructionFunction:
    """The reconstruction function of any checkpoint, in evaluation mode: ``x = ei.load("RUN/ckp_last.pth.tar")(y)``.

    Args:
        path: a checkpoint of ours or of the authors. Where the run kept a moving average, that is taken.
        physics: the forward operator. Needed where the checkpoint does not carry it: it carries those of `ei.physics`,
            not one of your own, and the authors' files carry none.
        net: the network to put the weights into. Needed where the checkpoint does not describe it: it describes
            `ei.models.UNet`, and the authors' is known.
        device: where to compute.

    Raises:
        MissingFileError, InputError: for a file that cannot be used, or if physics or net are needed.
    """
    state = load_file(path, "checkpoint")
    device = torch.device(device)
    if physics is None:
        physics = physics_of(state, device)
        if physics is None:
            raise InputError(f"the checkpoint {path} does not carry its operator: give it as physics")
    return function_of(state, path, physics, net, device)


def averaged(f: ReconstructionFunction, names: Sequence[str]) -> ReconstructionFunction:
    """The same f with its network averaged over exact groups (`ei.models.GroupAverage`), for evaluation."""
    other = f.of(f.physics)
    other.net = GroupAverage(f.net, names)
    return other


def physics_of(state: Any, device: torch.device) -> Any:
    """The forward operator, with its noise, that a checkpoint carries; None where it carries none.

    Raises:
        InputError: if what it carries cannot be built.
    """
    described = state.get("physics") if isinstance(state, Mapping) else None
    if described is None or described.get("name") not in ei.physics.__all__:
        return None
    mask = state.get("mask")
    physics = rebuild(described, ei.physics, device=device, **({} if mask is None else {"mask": mask}))
    physics.noise = noise_in(state.get("config") or {})
    return physics


def noise_in(config: Mapping[str, Any]) -> Any:
    """The noise model that a run's configuration names; None where it names none."""
    if config.get("noise_sigma"):
        return ei.physics.GaussianNoise(config["noise_sigma"])
    named = config.get("physics")
    text = named.get("noise") if isinstance(named, Mapping) else None
    return None if text is None else ei.physics.noise_of(text)


def function_of(
    state: Any,
    path: str | os.PathLike,
    physics: Any,
    net: nn.Module | None = None,
    device: torch.device | str = "cpu",
    compact: int | None = None,
) -> ReconstructionFunction:
    """`load` for a file's content ``state``; ``compact`` is the number of levels of a network that the file does not
    describe (the authors': 4)."""
    weights = generator_weights(state, path)
    if net is None and isinstance(state.get("network"), Mapping):
        net = rebuild(state["network"], ei.models)
    elif net is None and "next_epoch" in state:
        raise InputError(f"the checkpoint {path} is of a network of your own: give it as net")
    elif net is None:
        first, last = weights.get("Conv1.conv.0.weight"), weights.get("Conv_1x1.weight")
        channels = (1, 1) if first is None or last is None else (first.shape[1], last.shape[0])
        net = UNet(*channels, compact=compact or 4)
    load_weights(net, weights, path)
    # Checkpoints of before there was another one do not tell the reconstruction function: it is the paper's.
    described = state.get("reconstructor") or {"name": "Reconstructor"}
    return rebuild(described, ei.models, net=net.to(device), physics=physics).eval()
