"""Evaluation: the quality of reconstructions, and classical reconstructions beside them.

`diagnose` and `check_sinogram` are here, too: they are imported from `ei.diagnosis`, the room above, when asked for.
"""

import importlib
from typing import Any

from ei.evaluation.classical import classical_for, harmonic_fill, least_squares, total_variation
from ei.evaluation.figures import compare, show_images
from ei.evaluation.loading import load
from ei.evaluation.quality import evaluate, reconstruct_all, report, summary
from ei.evaluation.uncertainty import Bootstrap, bootstrap

__all__ = [
    "Bootstrap",
    "Diagnosis",
    "bootstrap",
    "check_sinogram",
    "classical_for",
    "compare",
    "diagnose",
    "evaluate",
    "harmonic_fill",
    "least_squares",
    "load",
    "reconstruct_all",
    "report",
    "show_images",
    "summary",
    "total_variation",
]


def __getattr__(name: str) -> Any:
    if name in ("Diagnosis", "diagnose", "check_sinogram"):
        return getattr(importlib.import_module("ei.diagnosis"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
