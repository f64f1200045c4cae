"""Where tensors are, and the device that a user asks for."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ei.errors import InputError


def device_of(name: torch.device | str) -> torch.device:
    """The device of a name, as tensors have it: of "cuda", "cuda:0". Raises `InputError` if there is none here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"torch cannot use the device {str(name)!r} here: {reason}") from None


def device_of_tensors(operator: Any) -> torch.device | None:
    """Where an operator's tensors are: the first of its buffers, parameters, or attributes; of one that wraps another
    as ``physics``, that one's. None where it has none."""
    attributes = getattr(operator, "__dict__", {})
    registered = [*operator.buffers(), *operator.parameters()] if isinstance(operator, torch.nn.Module) else []
    for value in [*registered, *attributes.values()]:
        if isinstance(value, Tensor):
            return value.device
    return device_of_tensors(attributes["physics"]) if attributes.get("physics") is not None else None


def choose_device(asked: str | None) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda:N`` asks for; auto by default.

    Raises:
        InputError: if there is none of that name, or several processes would share it.
    """
    # Each of several processes that torchrun started on this machine takes a GPU for itself.
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = ("cuda" if available else "cpu") if asked in (None, "auto") else str(asked)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device must be auto, cpu or cuda:N, got {name!r}")
    if device.type == "cpu":
        return device
    if device.index is not None and count > 1:
        raise InputError(f"{count} processes cannot share {device}; leave --device and --gpu out: each takes its own")
    if not available:
        raise InputError(f"{device} was asked for, but torch sees no CUDA device; use --device cpu")
    index = rank if device.index is None else device.index
    last = max(index, count - 1)
    if last >= available:
        needed = f"cuda:{last} is needed for {count} processes" if count > 1 else f"cuda:{last} was asked for"
        raise InputError(f"{needed}, and torch sees {available}: start fewer, or give --device cpu")
    return torch.device("cuda", index)
