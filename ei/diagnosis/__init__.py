"""Diagnosis: can EI work for this operator and group, and does this sinogram fit its geometry."""

from ei.diagnosis.diagnose import diagnose
from ei.diagnosis.report import Diagnosis
from ei.diagnosis.sinograms import SinogramReport, check_sinogram

__all__ = ["Diagnosis", "SinogramReport", "check_sinogram", "diagnose"]
