"""
An operator of deepinv
======================

Operators of deepinv work as they are: they have ``A`` and ``A_dagger``. Here its inpainting, with shifts. Skipped with
a line where deepinv is not installed (``pip install deepinv``).
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure
from ei.datasets import DeadLeaves, make_loader
from ei.evaluation import compare
from ei.models import Reconstructor, UNet
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1.5 minutes on one core
size, epochs, n_images = (16, 1, 20) if short else (48, 10, 150)
try:
    from deepinv.physics import Inpainting
except ImportError:
    Inpainting = None
    print("deepinv is not installed: pip install deepinv")


def fit(physics):
    torch.manual_seed(0)
    f = Reconstructor(UNet(3, 3, base_channels=16, norm="none"), physics)
    optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=2e-3)}
    trainer = Trainer(f, physics, Shift(1), EIClosure(alpha=1), optimizers, epochs=epochs, clip_norm=0.01,
                      schedule=one_cycle_schedule(epochs), out=False, progress=not short)  # fmt: skip
    trainer.fit(make_loader(DeadLeaves("train", size, n_images), batch_size=1))
    return f


# %%
# The paper's reconstruction: a network after A_dagger. PSNRs are means over the test images.
if Inpainting is not None:
    f = fit(Inpainting((3, size, size), mask=0.7, rng=torch.Generator().manual_seed(0)))
    compare(f, f.physics, DeadLeaves("test", size, n_images))
    plt.show()
