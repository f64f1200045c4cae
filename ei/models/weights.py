"""Weights of networks: those in a checkpoint of ours or of the authors, and loading them exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ei.errors import InputError

AVERAGED = "state_dict_averaged"
FIFTH_LEVEL = ("Conv5.", "Up5.", "Up_conv5.")


def generator_weights(checkpoint: Any, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights of the reconstruction network in a checkpoint of ours or of the authors; their moving average, if the
    run kept one.

    Raises:
        InputError: if there is neither ``state_dict`` nor ``state_dict_G``.
    """
    for key in (AVERAGED, "state_dict", "state_dict_G"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            return dict(checkpoint[key])
    raise InputError(f"{path} is no checkpoint: it has neither 'state_dict' nor 'state_dict_G'")


def load_weights(net: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Load ``weights`` into ``net``, exactly.

    The authors' files carry a fifth UNet level that a network of four levels never uses: exactly those keys are
    dropped for such a network.

    Raises:
        InputError: for any other difference in names or shapes, naming the first of them.
    """
    if getattr(net, "compact", None) == 4:
        weights = {name: value for name, value in weights.items() if not name.startswith(FIFTH_LEVEL)}
    own = net.state_dict()
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"the checkpoint {path} is damaged: {name} in it is no tensor, but {type(value).__name__}")
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    reshaped = [
        f"{name} is {list(weights[name].shape)} in the file and {list(own[name].shape)} in the network"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    difference = (
        reshaped
        or [f"{name} is not in the file" for name in missing]
        or [f"{name} is not in the network" for name in unexpected]
    )
    if difference:
        raise InputError(
            f"the checkpoint {path} is of another network: {difference[0]} (check task and network options)"
        )
    net.load_state_dict(dict(weights))
