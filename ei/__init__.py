"""Equivariant Imaging: learning to reconstruct images from measurements alone (Chen, Tachella & Davies, ICCV 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ei.evaluation.loading import load as load

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # found when it is asked for: the rooms of the house import this file first
        from ei.evaluation.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
