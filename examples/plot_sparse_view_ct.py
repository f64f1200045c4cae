"""
CT with few views
=================

Phantoms are measured by a parallel beam from few angles. Images are invariant to rotations, and the views of a rotated
image lie between those of the scan: EI learns from the sinograms alone.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure
from ei.datasets import EllipsePhantoms, make_loader
from ei.evaluation import compare, least_squares
from ei.models import UNet, Unrolled
from ei.physics import CT
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import FourierRotate

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1 minute on one core
size, views, epochs, n_images = (16, 10, 1, 20) if short else (64, 25, 3, 100)

# %%
# 25 views at 64 x 64 pixels are as sparse as the paper's 50 at 128 x 128.
physics = CT(size, views)
train, test = (EllipsePhantoms(mode, size, n_images) for mode in ("train", "test"))

# %%
# A network between conjugate-gradient steps. Consistency is compared after A_dagger, in the units of images.
torch.manual_seed(0)
f = Unrolled(UNet(1, 1, base_channels=16, norm="none"), physics, iterations=1, cg_steps=3, filtered=True)
closure = EIClosure(alpha=1, stop_gradient=True, mc_domain="image")
optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=2e-3)}
trainer = Trainer(f, physics, FourierRotate(1), closure, optimizers, epochs=epochs, clip_norm=0.01, out=False,
                  schedule=one_cycle_schedule(epochs), progress=not short)  # fmt: skip
trainer.fit(make_loader(train, batch_size=1))

# %%
# Filtered back-projection and CGLS (50 iterations) learn nothing. PSNRs are means over the test images.
compare(f, physics, test, {"CGLS": least_squares}, pinv="FBP")
plt.show()
