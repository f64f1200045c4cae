"""
Super-resolution: the group matters
===================================

A takes the means of 2 x 2 pixels. Shifts cannot bring back the fine details, since a shifted image has its details
where A loses them, too. Scalings can: what is coarse in an image is fine in the shrunk one (Scanvic et al., 2023).
"""

import os

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional

from ei.closure import EIClosure
from ei.datasets import DeadLeaves, make_loader
from ei.evaluation import compare, diagnose
from ei.models import Reconstructor
from ei.training import Trainer, cosine_schedule
from ei.transforms import Scale, Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1.5 minutes on one core
size, epochs, n_images = (16, 1, 20) if short else (64, 15, 100)


# %%
# A user-defined operator needs A and A_dagger. What `diagnose` says of it before any training:
class Means:
    def A(self, x):
        return functional.avg_pool2d(x, 2)

    def A_dagger(self, y):
        return y.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


physics = Means()
print("shifts:", diagnose(physics, Shift(3), (1, 16, 16)).verdict)


# %%
# Five convolutions, trained with either group; with scalings no gradient flows through the shrunk image.
def fit(transform, stop_gradient):
    torch.manual_seed(0)
    inner = [layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *inner, nn.Conv2d(32, 3, 3, padding=1))
    f = Reconstructor(net, physics)
    optimizers = {"total": torch.optim.Adam(net.parameters(), lr=1e-3)}
    closure = EIClosure(alpha=1, stop_gradient=stop_gradient)
    trainer = Trainer(f, physics, transform, closure, optimizers, epochs=epochs, out=False, progress=not short,
                      schedule=cosine_schedule(epochs))  # fmt: skip
    trainer.fit(make_loader(DeadLeaves("train", size, n_images), batch_size=2))
    return f


shifts, scalings = fit(Shift(1), False), fit(Scale(1), True)
test = DeadLeaves("test", size, n_images)
compare(scalings, physics, test, {"EI, shifts": lambda physics, y: shifts(y)}, name="EI, scalings")
plt.show()
