"""Weights of networks: those in a checkpoint of ours or of others, and loading them exactly."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ei.errors import InputError

AVERAGED = "state_dict_averaged"
FIFTH_LEVEL = ("Conv5.", "Up5.", "Up_conv5.")
COMPILED = "_orig_mod."  # what torch.compile puts into names
NOT_WEIGHTS = ("n_averaged", "physics.")  # of torch's AveragedModel, and of an operator that lies beside a network


def generator_weights(checkpoint: Any, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights of the reconstruction network in a checkpoint of ours or of the authors; their moving average, if the
    run kept one. Of other files: those under the one key that holds weights, or the file itself, if it is a state dict;
    it warns.

    Raises:
        InputError: if there are none, or several.
    """
    if isinstance(checkpoint, Mapping):
        for key in (AVERAGED, "state_dict", "state_dict_G"):
            if isinstance(checkpoint.get(key), Mapping):
                return dict(checkpoint[key])
        if _holds_weights(checkpoint):
            warnings.warn(f"{path} is a bare state dict: its weights are taken", stacklevel=2)
            return dict(checkpoint)
        found = [key for key, value in checkpoint.items() if _holds_weights(value)]
        if len(found) == 1:
            warnings.warn(f"{path} has no 'state_dict': the weights under {found[0]!r} are taken", stacklevel=2)
            return dict(checkpoint[found[0]])
        if found:
            raise InputError(
                f"{path} holds weights under {', '.join(map(repr, found))}: save those of the reconstruction network "
                "alone, as 'state_dict'"
            )
    raise InputError(f"{path} is no checkpoint: it has neither 'state_dict' nor 'state_dict_G'")


def _holds_weights(content: Any) -> bool:
    """Whether this is a state dict: names and tensors, and nothing else."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    )


def load_weights(net: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Load ``weights`` into ``net``, exactly.

    What wrappers put in front of all names ("module.", "net.", "_orig_mod.") is left out where only that makes them
    the network's; it warns. The authors' files carry a fifth UNet level that a network of four levels never
    uses: exactly those keys are dropped for such a network.

    Raises:
        InputError: for any other difference in names or shapes, naming the first of them.
    """
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"the checkpoint {path} is damaged: {name} in it is no tensor, but {type(value).__name__}")
    names = net.state_dict()
    weights, note = _without_prefix(weights, list(names), path)
    if getattr(net, "compact", None) == 4:
        weights = {name: value for name, value in weights.items() if not name.startswith(FIFTH_LEVEL)}
    differences = {
        "": [
            f"{name} is {list(weights[name].shape)} in the file and {list(names[name].shape)} in the network"
            for name in names
            if name in weights and weights[name].shape != names[name].shape
        ],
        "not in the file: ": [name for name in names if name not in weights],
        "not in the network: ": [name for name in weights if name not in names],
    }
    if any(differences.values()):
        listed = "; ".join(what + _first(names) for what, names in differences.items() if names)
        raise InputError(
            f"the checkpoint {path} is of another network: {listed} (check task and network{note and '; '}{note})"
        )
    net.load_state_dict(dict(weights))
    if note:
        warnings.warn(f"the checkpoint {path}: {note}", stacklevel=2)


def weight_called(name: str, weights: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The weight of this ``name``, whatever a wrapper has put in front of it; None if there is none."""
    return next((value for key, value in weights.items() if f".{key}".endswith(f".{name}")), None)


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _without_prefix(
    weights: Mapping[str, torch.Tensor], names: Sequence[str], path: str | os.PathLike
) -> tuple[dict[str, torch.Tensor], str]:
    """``weights`` under the ``names`` of a network, where they are these behind one prefix; and what was left out, in
    words. What does not fit is left as it is: the comparison of names reports it.

    Raises:
        InputError: if there are all weights of the network several times.
    """
    result, left_out = dict(weights), []
    if any(COMPILED in name for name in result) and not any(COMPILED in name for name in names):
        result = {name.replace(COMPILED, ""): value for name, value in result.items()}
        left_out.append(f"{COMPILED!r}")
    prefix = _prefix_of(result, names, path) if names and not set(names) & set(result) else None
    if prefix is not None:
        dropped = [name for name in result if not name.startswith(prefix) and name.startswith(NOT_WEIGHTS)]
        result = {name.removeprefix(prefix): value for name, value in result.items() if name not in dropped}
        left_out += [f"{prefix!r}", *dropped]
    return result, f"left out of the names in it: {', '.join(left_out)}" if left_out else ""


def _prefix_of(weights: Mapping[str, torch.Tensor], names: Sequence[str], path: str | os.PathLike) -> str | None:
    """The prefix behind which most ``names`` of a network are; None if there is none, or several are as good."""
    prefixes = sorted({name[: -len(one)] for one in names for name in weights if name.endswith(f".{one}")})
    counts = {prefix: sum(prefix + name in weights for name in names) for prefix in prefixes}
    best = [prefix for prefix in prefixes if counts[prefix] == max(counts.values())]
    if len(best) > 1 and counts[best[0]] == len(names):
        raise InputError(
            f"the checkpoint {path} holds this network several times, in front of its names {', '.join(best)}: save "
            "one of them alone"
        )
    return best[0] if len(best) == 1 else None
