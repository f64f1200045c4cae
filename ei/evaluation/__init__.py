"""Evaluation: how good reconstructions are, those without learning beside them, and whether EI can work at all."""

from ei.evaluation.classical import classical_for, harmonic_fill, least_squares, total_variation
from ei.evaluation.diagnosis import Diagnosis, diagnose
from ei.evaluation.loading import load
from ei.evaluation.quality import evaluate, reconstruct_all, report, summary
from ei.evaluation.sinograms import check_sinogram

__all__ = [
    "Diagnosis",
    "check_sinogram",
    "classical_for",
    "diagnose",
    "evaluate",
    "harmonic_fill",
    "least_squares",
    "load",
    "reconstruct_all",
    "report",
    "summary",
    "total_variation",
]
