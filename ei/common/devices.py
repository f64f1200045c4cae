"""Where tensors are."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from ei.errors import InputError


def device_of(name: torch.device | str) -> torch.device:
    """The device of a name, as tensors tell theirs: of "cuda", "cuda:0".

    Raises:
        InputError: if there is none of that name here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"torch cannot use the device {str(name)!r} here: {reason}") from None


def device_of_tensors(operator: Any) -> torch.device | None:
    """Where an operator's tensors are: the first of its buffers, parameters, or attributes; of one that wraps another
    as ``physics``, that one's. None where it has none."""
    own = None
    if isinstance(operator, torch.nn.Module):
        own = next(itertools.chain(operator.buffers(), operator.parameters()), None)
    if own is None:
        own = next((value for value in getattr(operator, "__dict__", {}).values() if isinstance(value, Tensor)), None)
    if own is not None:
        return own.device
    inner = getattr(operator, "__dict__", {}).get("physics")
    return None if inner is None else device_of_tensors(inner)
