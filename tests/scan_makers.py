"""Simulated parallel and fan scans of a phantom."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.physics import Tomography

FAN = {"source_origin": 120.0, "origin_detector": 60.0, "detector_spacing": 1.5}


def discs(side: int = 48) -> Tensor:
    """An image of discs, ``[1, 1, side, side]``, float64."""
    axis = torch.arange(side) - (side - 1) / 2
    image = torch.zeros(side, side)
    for x, y, radius, value in ((2, -3, 17, 0.02), (-6, 7, 5, 0.02), (9, 2, 4, -0.015), (3, -11, 3, 0.03)):
        image += value * ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2)
    return image[None, None].double()


def scan_arguments(*, fan: bool = False, **changes: Any) -> dict[str, Any]:
    """Arguments of `Tomography` for a scan of `discs`, with some of them changed."""
    beam = {"angles": np.arange(0, 360, 3.0), **FAN} if fan else {"angles": np.arange(0, 180, 2.0)}
    return {"image_shape": (48, 48), "n_detectors": 72, **beam, **changes}


def noisy_sinogram(arguments: dict[str, Any], noise: float = 0.004, seed: int = 0) -> Tensor:
    """The sinogram of `discs` with Gaussian noise."""
    y = Tomography(**arguments).A(discs())
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
