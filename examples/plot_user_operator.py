"""
A user-defined operator
=======================

An operator is any class with ``A`` and ``A_dagger``. This one keeps random rows of the Fourier transform. `diagnose`
answers before any training whether EI can work for it: with rotations it can, with shifts never.
"""

import os

import matplotlib.pyplot as plt
import torch

from ei.closure import EIClosure
from ei.datasets import EllipsePhantoms, make_loader
from ei.evaluation import compare, diagnose
from ei.models import Reconstructor, UNet
from ei.training import Trainer, one_cycle_schedule
from ei.transforms import FourierRotate, Rotate, Shift

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 1 minute on one core
size, epochs, n_images = (16, 1, 20) if short else (48, 10, 150)


class FourierRows:
    """Rows of the 2-D Fourier transform; real and imaginary parts as channels, ``[B, 1, N, N]`` to ``[B, 2, N, N]``."""

    def __init__(self, size, keep=0.4):
        score = torch.rand(size, generator=torch.Generator().manual_seed(0))
        score = torch.minimum(score, score.flip(0).roll(1))  # row k with row -k, so that images stay real
        score[:2] = score[-1:] = 0  # the lowest frequencies are always measured
        self.mask = (score <= score.quantile(keep)).float().view(-1, 1)

    def A(self, x):
        spectrum = self.mask * torch.fft.fft2(x, norm="ortho")
        return torch.cat([spectrum.real, spectrum.imag], dim=1)

    def A_dagger(self, y):
        return torch.fft.ifft2(self.mask * torch.complex(*y.chunk(2, dim=1)), norm="ortho").real


# %%
# On a small version of the problem the answer is exact.
for transform in (Shift(2), Rotate(2)):
    print(f"{type(transform).__name__}: {diagnose(FourierRows(16), transform, (1, 16, 16)).verdict}")

# %%
physics = FourierRows(size)
torch.manual_seed(0)
f = Reconstructor(UNet(1, 1, base_channels=16, norm="none"), physics)
optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=2e-3)}
trainer = Trainer(f, physics, FourierRotate(1), EIClosure(alpha=1), optimizers, epochs=epochs, clip_norm=0.01,
                  schedule=one_cycle_schedule(epochs), out=False, progress=not short)  # fmt: skip
trainer.fit(make_loader(EllipsePhantoms("train", size, n_images), batch_size=2))
compare(f, physics, EllipsePhantoms("test", size, n_images))
plt.show()
