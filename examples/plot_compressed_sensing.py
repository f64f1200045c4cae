"""
Compressed sensing of handwritten digits
========================================

64 random measurements of 16 x 16 pixels, as on the paper's project page. Measurement consistency alone (MC) does not
learn what A loses; EI with two shifts does. The digits are scikit-learn's, enlarged; without it, generated phantoms.
"""

import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from ei.closure import EIClosure, MCClosure
from ei.datasets import EllipsePhantoms, make_loader
from ei.evaluation import compare
from ei.models import Reconstructor
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 0.6 minutes on one core
epochs, n_images = (1, 16) if short else (6, 1500)
try:
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().images[:, None] / 16).float()
    digits = nn.functional.interpolate(digits, size=(16, 16), mode="bilinear")
except ImportError:  # pip install 'equivariant-imaging[examples]'
    digits = torch.stack(list(EllipsePhantoms("train", 16, 2000)))[:, None]
train, test = list(digits[:n_images]), list(digits[1500 : 1500 + n_images // 5])


# The operator: a Gaussian matrix and its pseudo-inverse.
class CompressedSensing:
    matrix = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) / 8
    pinv = torch.linalg.pinv(matrix)

    def A(self, x):
        return x.flatten(2) @ self.matrix.T

    def A_dagger(self, y):
        return (y @ self.pinv.T).unflatten(2, (16, 16))


# The same fully connected network with either loss.
def fit(closure):
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.Unflatten(1, (1, 16, 16))
    f = Reconstructor(nn.Sequential(*layers), CompressedSensing())
    optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=1e-3)}
    trainer = Trainer(f, f.physics, Shift(2), closure, optimizers, epochs=epochs, out=False, progress=not short,
                      schedule=one_cycle_schedule(epochs))  # fmt: skip
    trainer.fit(make_loader(train, batch_size=8))
    return f


mc, ei = fit(MCClosure()), fit(EIClosure(alpha=1))
compare(ei, ei.physics, test, {"MC": lambda physics, y: mc(y)})
plt.show()
