"""
Inpainting from masked images alone
===================================

30 % of the pixels are missing, the same ones in every image, and no complete image is ever seen. Images are invariant
to shifts, so pixels that are missing in one image are measured in the shifted one: EI learns to fill them.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure
from ei.datasets import DeadLeaves, make_loader
from ei.evaluation import compare, harmonic_fill
from ei.models import UNet, Unrolled
from ei.physics import Inpainting
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 2 minutes on one core
size, epochs, n_images = (16, 1, 20) if short else (48, 14, 200)

# %%
# The operator, and generated images, of which training sees the measurements alone.
physics = Inpainting(size, size, mask_rate=0.3)
train, test = (DeadLeaves(mode, size, n_images) for mode in ("train", "test"))

# %%
# f(y) keeps the measured pixels, and a network fills the others.
torch.manual_seed(0)
f = Unrolled(UNet(3, 3, base_channels=16, norm="none"), physics, iterations=1, cg_steps=1)
closure = EIClosure(alpha=1, frozen_targets=True)
optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=8e-3)}
trainer = Trainer(f, physics, Shift(1), closure, optimizers, epochs=epochs, schedule=one_cycle_schedule(epochs),
                  clip_norm=0.01, out=False, progress=not short)  # fmt: skip
trainer.fit(make_loader(train, batch_size=1))

# %%
# The harmonic fill, without learning, is the reconstruction to beat. PSNRs are means over the test images.
compare(f, physics, test, {"harmonic fill": harmonic_fill})
plt.show()
