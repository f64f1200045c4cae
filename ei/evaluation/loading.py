"""The reconstruction function of a checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import ei.models
import ei.physics
from ei.common.devices import device_of
from ei.common.files import load_file
from ei.common.parts import Context, build, classes_of
from ei.errors import InputError
from ei.models import GroupAverage, UNet
from ei.models.base import ReconstructionFunction, keep_average
from ei.models.weights import AVERAGED, generator_weights, load_weights, weight_called
from ei.physics import with_pseudo_inverse
from ei.training.state import CARRIED


def load(
    path: str | os.PathLike,
    physics: Any = None,
    net: nn.Module | None = None,
    *,
    device: torch.device | str = "cpu",
) -> ReconstructionFunction:
    """The reconstruction function of any checkpoint, in evaluation mode: ``x = ei.load("RUN/ckp_last.pth.tar")(y)``.

    Args:
        path: a checkpoint of this project or of the authors. Where the run kept a moving average, that is taken.
        physics: the forward operator. Needed where the checkpoint does not carry it: it carries those of `ei.physics`,
            not a user-defined one, and the authors' files carry none.
        net: the network to put the weights into. Needed where the checkpoint does not describe it: it describes
            `ei.models.UNet`, and the authors' is known.
        device: where to compute.

    Raises:
        MissingFileError, InputError: for a file that cannot be used, if physics or net are needed, or for a device that
            is not there.

    >>> f = load("ckp/RUN/ckp_last.pth.tar")  # doctest: +SKIP
    >>> x = f(y)  # doctest: +SKIP
    """
    device = device_of(device)
    state = checked(load_file(path, "checkpoint"), path)
    if physics is None:
        physics = physics_of(state, device)
        if physics is None:
            raise InputError(f"the checkpoint {path} does not carry its operator: give it as physics")
        noises = classes_of(ei.physics, ei.physics.Noise)
        physics.noise = None if state.get("noise") is None else _rebuild(state["noise"], noises, "noise")
    return function_of(state, path, with_pseudo_inverse(physics), net, device)


KINDS = {
    **dict.fromkeys(("config", "physics", "noise", "network", "reconstructor"), Mapping),
    **dict.fromkeys(CARRIED, torch.Tensor),
}


def checked(state: Any, path: str | os.PathLike) -> dict[str, Any]:
    """A checkpoint's content, of this project or of the authors. Raises `InputError` if it is none, or what describes
    its parts is of the wrong kind."""
    if not isinstance(state, Mapping):
        raise InputError(f"{path} is no checkpoint: it has neither 'state_dict' nor 'state_dict_G'")
    for key, kind in KINDS.items():
        if not isinstance(state.get(key), (kind, type(None))):
            raise InputError(f"the checkpoint {path} is damaged: its {key!r} is a {type(state[key]).__name__}")
    return dict(state)


def averaged(f: ReconstructionFunction, names: Sequence[str]) -> ReconstructionFunction:
    """The same f with its network averaged over exact groups (`ei.models.GroupAverage`), for evaluation."""
    other = f.of(f.physics)
    other.net = GroupAverage(f.net if f.net_averaged is None else f.net_averaged, names, f.network_tile)
    keep_average(other, None)  # it is in there
    other.network_tile = None  # tiles of quarter turns are turned tiles: the average makes them
    return other


def physics_of(state: Mapping[str, Any], device: torch.device) -> Any:
    """The forward operator that a checkpoint carries, without noise; None where it carries none, as of user-defined
    code, whose name alone it has."""
    if state.get("physics") is None:
        return None
    tensors = {name: state[name] for name in CARRIED if state.get(name) is not None}
    classes = classes_of(ei.physics, ei.physics.Physics)
    return _rebuild(state["physics"], classes, "physics", device=device, **tensors)


def _rebuild(description: Mapping[str, Any], classes: Mapping[str, Any], key: str, **objects: Any) -> Any:
    """What `ei.common.parts.describe` described; code that a checkpoint names is never imported."""
    return build(description, classes, f"the checkpoint's {key}", Context({}, objects, {}, trusted=False)).object


def function_of(
    state: Any,
    path: str | os.PathLike,
    physics: Any,
    net: nn.Module | None = None,
    device: torch.device | str = "cpu",
) -> ReconstructionFunction:
    """`load` for a file's content ``state``."""
    weights = generator_weights(state, path)
    if net is None and isinstance(state.get("network"), Mapping):
        net = _rebuild(state["network"], classes_of(ei.models, nn.Module), "network")
    elif net is None and "next_epoch" in state:
        raise InputError(f"the checkpoint {path} is of a user-defined network: give it as net")
    elif net is None:
        first, last = (weight_called(name, weights) for name in ("Conv1.conv.0.weight", "Conv_1x1.weight"))
        channels = (1, 1) if first is None or last is None else (first.shape[1], last.shape[0])
        net = UNet(*channels)
    load_weights(net, weights, path)
    if not any(key in state for key in ("state_dict", "state_dict_G", AVERAGED)):
        warnings.warn(
            f"{path} has no reconstruction function: it is taken as the paper's, the network after A_dagger",
            stacklevel=2,
        )
    # The authors' checkpoints have no reconstruction function: it is the paper's.
    described = state.get("reconstructor") or {"name": "Reconstructor"}
    classes = classes_of(ei.models, ReconstructionFunction)
    return _rebuild(described, classes, "reconstructor", net=net.to(device), physics=physics).eval()
