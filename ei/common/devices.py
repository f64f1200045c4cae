"""Where tensors are."""

from __future__ import annotations

import torch

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
