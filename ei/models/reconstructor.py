"""The reconstruction function ``f = G o A_dagger``."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ei.errors import InputError

PRECISIONS = ("fp32", "bf16")


class Reconstructor(nn.Module):
    """``f(y) = net(physics.A_dagger(y))``, the only place that knows of precision and memory format.

    Args:
        net: the network G, from images ``[B, C, H, W]`` to images; it is put in channels-last format.
        physics: anything with ``A_dagger(y)``.
        precision: "fp32", or "bf16" to run the network under ``torch.autocast``; input and output stay float32 and
            the physics stays outside autocast.
        compile: run the network through ``torch.compile``, for CUDA (on a CPU it gained nothing; see benchmarks).

    ``net`` and ``physics`` are public; ``net.state_dict()`` is what is saved.
    """

    def __init__(self, net: nn.Module, physics: Any, precision: str = "fp32", compile: bool = False) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        self.precision = precision
        self.net = net.to(memory_format=torch.channels_last)
        self.physics = physics
        if compile:
            self.net.compile()  # in place, so that the names of the state dict stay

    def forward(self, y: Tensor) -> Tensor:
        """Measurements ``y`` to images ``[B, C, H, W]`` in the dtype of the network's weights (float32)."""
        device = y.device.type
        with torch.autocast(device, enabled=False):
            x = self.physics.A_dagger(y)
        dtype = next((p.dtype for p in self.net.parameters()), torch.float32)
        x = x.to(dtype)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        bf16 = torch.autocast(device, dtype=torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        with bf16:
            x = self.net(x)
        return x.to(dtype)
