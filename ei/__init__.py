"""Equivariant Imaging: learning to reconstruct images from measurements alone (Chen, Tachella & Davies, ICCV 2021).

The rooms (`ei.physics`, `ei.models`, ...) and `ei.load` are imported at their first use: ``import ei`` does not import
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ei.evaluation.loading import load as load

__version__ = "0.2.0"

ROOMS = ("closure", "datasets", "diagnosis", "evaluation", "metrics", "models", "physics", "training", "transforms")


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return importlib.import_module(f"ei.{name}")
    if name == "load":
        return importlib.import_module("ei.evaluation").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS, "load"])
