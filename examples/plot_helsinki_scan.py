"""
A scan from its detector counts
===============================

From the counts of a fan-beam scanner to a reconstruction: flats and darks, the logarithm, a rotation axis that is not
where the drawing says, and the check of the geometry. The scan is simulated with the geometry of the Helsinki
tomography challenge (HTC 2022), coarser: a plate with holes, 1 degree steps, counts with Poisson noise.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from ei.datasets import line_integrals
from ei.evaluation import check_sinogram, least_squares, show_images
from ei.physics import Tomography

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 0.2 minutes on one core
size, step = (32, 4) if short else (128, 1)

# %%
# The geometry in millimetres, and a plate of acrylic with holes in it.
geometry = {"source_origin": 410.66, "origin_detector": 143.08, "pixel_size": 80 / size,
            "detector_spacing": 112 / size, "n_detectors": int(1.2 * size)}  # fmt: skip
axis = np.arange(size) - (size - 1) / 2
discs = [(0, 0, 0.42), (0.18, -0.12, 0.14), (-0.22, 0.1, 0.1), (0.02, 0.28, 0.05)]
disc, *holes = [np.hypot(axis[None] - x * size, axis[:, None] - y * size) < r * size for x, y, r in discs]
plate = torch.from_numpy(0.04 * (disc & ~np.logical_or.reduce(holes)))[None, None].float()

# %%
# What the scanner records: counts of 100000 photons in the open beam, uneven flats, a dark current; the axis falls
# 2.3 bins beside the middle of the detector.
rng = np.random.default_rng(0)
scanner = Tomography((size, size), range(0, 360, step), centre=2.3, **geometry)
y = scanner.A(plate)[0, 0].numpy()  # [detectors, views]
beam = 1e5 * rng.uniform(0.9, 1.1, (len(y), 1))
counts, flats = rng.poisson(beam * np.exp(-y)) + 100, rng.poisson(beam, (len(y), 20)).T + 100
darks = np.full((5, len(y)), 100)

# %%
# From counts to line integrals, and from them the axis.
sinogram = line_integrals(counts.T, flats.mean(0), darks.mean(0)).T
sinogram = torch.from_numpy(sinogram.copy()).float()[None, None]
as_drawn = Tomography((size, size), range(0, 360, step), **geometry)
report = check_sinogram(as_drawn, sinogram)
print(report)
corrected = Tomography((size, size), range(0, 360, step), centre=report.centre or 0.0, **geometry)

# %%
# With the axis in the middle every edge is double. ``ei prepare sinogram`` does these steps for files.
show_images({"axis in the middle": as_drawn.A_dagger(sinogram), "axis found": corrected.A_dagger(sinogram),
             "CGLS": least_squares(corrected, sinogram, 15), "plate": plate}, high=0.05)  # fmt: skip
plt.show()
