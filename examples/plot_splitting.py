"""
Splitting the measurements
==========================

Where single pixels are missing at random, those look like pixels that are left out on purpose: a network that learns to
predict all measurements from a random part of them needs no group. Splitting and EI, with the same network and steps.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure, SplittingClosure
from ei.datasets import DeadLeaves, make_loader
from ei.evaluation import compare, harmonic_fill
from ei.models import UNet, Unrolled
from ei.physics import Inpainting
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 2 minutes on one core
size, epochs, n_images = (16, 1, 20) if short else (48, 6, 200)

# %%
# Half of the pixels are missing.
physics = Inpainting(size, size, mask_rate=0.5)
train, test = (DeadLeaves(mode, size, n_images) for mode in ("train", "test"))


def fit(closure):
    torch.manual_seed(0)
    f = Unrolled(UNet(3, 3, base_channels=16, norm="none"), physics, iterations=1, cg_steps=1)
    optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=5e-3)}
    trainer = Trainer(f, physics, Shift(1), closure, optimizers, epochs=epochs, clip_norm=0.01, out=False,
                      schedule=one_cycle_schedule(epochs), progress=not short)  # fmt: skip
    trainer.fit(make_loader(train, batch_size=1))
    return f


# %%
# Every pixel is kept with a probability of 0.8. After this short training both are level, and below the harmonic fill.
# PSNRs are means over the test images.
ei = fit(EIClosure(alpha=1, frozen_targets=True))
split = fit(SplittingClosure(keep=0.8))
more = {"harmonic fill": harmonic_fill, "EI": lambda physics, y: ei(y)}
compare(split, physics, test, more, name="splitting")
plt.show()
