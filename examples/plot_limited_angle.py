"""
Limited angle: a missing wedge
==============================

The scanner turns by 120 degrees only, and no view shows the edges along the missing 60. In a rotated image the wedge
falls on other edges, so EI learns from the scans alone what no reconstruction of a single scan knows.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure
from ei.datasets import EllipsePhantoms, make_loader
from ei.evaluation import compare, least_squares
from ei.models import UNet, Unrolled
from ei.physics import Tomography
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import FourierRotate

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1.5 minutes on one core
size, epochs, n_images = (16, 1, 20) if short else (48, 4, 100)

# %%
# A parallel beam; `Tomography` takes any angles, and a fan by two distances.
physics = Tomography((size, size), angles=range(0, 120, 4), n_detectors=3 * size // 2)
train, test = (EllipsePhantoms(mode, size, n_images) for mode in ("train", "test"))

# %%
# Two iterations of network and data consistency.
torch.manual_seed(0)
f = Unrolled(UNet(1, 1, base_channels=16, norm="none"), physics, iterations=2, cg_steps=4)
closure = EIClosure(alpha=1, stop_gradient=True, mc_domain="image")
optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=2e-3)}
trainer = Trainer(f, physics, FourierRotate(1), closure, optimizers, epochs=epochs, clip_norm=0.01, out=False,
                  schedule=one_cycle_schedule(epochs), progress=not short)  # fmt: skip
trainer.fit(make_loader(train, batch_size=1))

# %%
# PSNRs are means over the test images.
compare(f, physics, test, {"CGLS": least_squares}, pinv="FBP")
plt.show()
