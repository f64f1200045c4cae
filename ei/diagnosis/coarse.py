"""How much of a sinogram a coarse reconstruction explains, with any geometry."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ei.datasets.scans import bin_detectors
from ei.physics import Tomography, pinv_cg
from ei.physics.scan import Scan

# The coarse reconstruction: at most this many detectors, views, pixels a side, and steps of conjugate gradients.
DETECTORS = 96
VIEWS = 60
PIXELS = 56
STEPS = 12


def with_fewer_detectors(scan: Scan, y: np.ndarray, most: int) -> tuple[Scan, np.ndarray]:
    """A scan and its sinogram ``[D, V]`` with detectors joined to at most so many."""
    each = max(1, math.ceil(len(y) / most))
    binned = bin_detectors(y, each, axis=0)
    shift = len(y) % each % 2 / 2  # of the middle, where the rest cannot be cut off evenly
    spacing, centre = scan.detector_spacing * each, (scan.centre + shift) / each
    return replace(scan, n_detectors=len(binned), detector_spacing=spacing, centre=centre), binned


def coarse_fit(scan: Scan, y: np.ndarray) -> tuple[float, float]:
    """The part of a sinogram ``[D, V]`` that a few steps of conjugate gradients leave unexplained at a coarse
    resolution, and its scale: the largest value of that reconstruction, but for a hundredth."""
    views = np.linspace(0, y.shape[1] - 1, min(y.shape[1], VIEWS)).round().astype(int)
    scan, binned = with_fewer_detectors(scan, y[:, views], DETECTORS)
    if np.all(np.abs(scan.distances(scan.positions)) >= scan.pixel_size * min(scan.image_shape) / 2):
        return 1.0, 0.0  # an axis so far away that no ray meets the image: wrong angles lead to one
    height, width = scan.image_shape
    coarse = max(1.0, max(height, width) / PIXELS)
    physics = Tomography(
        (max(1, round(height / coarse)), max(1, round(width / coarse))),
        np.asarray(scan.angles)[views],
        len(binned),
        detector_spacing=scan.detector_spacing,
        pixel_size=scan.pixel_size * coarse,
        centre=scan.centre,
        source_origin=scan.source_origin,
        origin_detector=scan.origin_detector,
        detector=scan.detector,
    )
    sinogram = torch.from_numpy(binned)[None, None].float()  # the matrix of a geometry is made in float32 first
    x = pinv_cg(physics, sinogram, STEPS, tol=0, orthogonal=True)
    left = float((physics.A(x) - sinogram).norm() / sinogram.norm())
    return left, float(x.flatten().abs().quantile(0.99))


def unexplained(scan: Scan, y: np.ndarray) -> float:
    """The first figure of `coarse_fit`."""
    return coarse_fit(scan, y)[0]
