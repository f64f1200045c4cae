"""
MRI with noise: Robust EI
=========================

Two fifths of the columns of k-space are measured, with noise. A network that fits the measurements overfits the noise;
Robust EI (Chen, Tachella & Davies, CVPR 2022) replaces the data term by SURE, an unbiased estimate of the error without
ground truth.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure, RobustEIClosure
from ei.datasets import MagnitudePhantoms, make_loader
from ei.evaluation import compare
from ei.models import Reconstructor, UNet
from ei.physics import MRI, GaussianNoise, random_columns
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import FourierRotate

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1.5 minutes on one core
size, epochs, n_images = (16, 1, 20) if short else (48, 5, 150)

# %%
# Images have two channels, real and imaginary part.
physics = MRI(random_columns(size, acceleration=2.5), height=size, noise=GaussianNoise(0.05))
train, test = (MagnitudePhantoms(mode, size, n_images) for mode in ("train", "test"))


# %%
# The same network with either loss. The network is last: a data-consistency step would put the noise back.
def fit(closure):
    torch.manual_seed(0)
    f = Reconstructor(UNet(2, 2, base_channels=16, norm="none"), physics)
    optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=2e-3)}
    trainer = Trainer(f, physics, FourierRotate(1), closure, optimizers, epochs=epochs, clip_norm=0.01, out=False,
                      schedule=one_cycle_schedule(epochs), progress=not short)  # fmt: skip
    trainer.fit(make_loader(train, batch_size=2))
    return f


ei, robust = fit(EIClosure(alpha=1)), fit(RobustEIClosure(alpha=1))

# %%
# PSNRs are means over the test images, of magnitudes.
compare(robust, physics, test, {"EI": lambda physics, y: ei(y)}, name="Robust EI", pinv="zero-filled")
plt.show()
