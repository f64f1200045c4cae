"""
The paper's toy problem in one dimension
========================================

Signals are scaled copies of one triangle, and a quarter of each is never measured. Left: networks that fit the
measurements fill the gap at will, five seeds, five fillings (black: ground truth). Right: the set of signals is made
invariant to shifts, so what is missing in one signal is measured in another, and EI fills the gap.
"""

import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from ei.closure import EIClosure, MCClosure
from ei.datasets import make_loader
from ei.models import Reconstructor
from ei.training import Trainer, cosine_schedule
from ei.transforms import Shift1D

short = "EI_EXAMPLES_SHORT" in os.environ  # a few steps; the full run takes 2 minutes on one core
seeds, epochs_mc, epochs_ei = (2, 1, 1) if short else (5, 40, 250)
position = torch.arange(64) / 64
triangle = 1 - (2 * position - 1).abs()


class Gap:
    """Samples in [0.50, 0.75) are not measured."""

    mask = 1 - ((position >= 0.5) & (position < 0.75)).float()

    def A(self, x):
        return self.mask * x

    A_dagger = A


def fit(signals, closure, transform, seed, epochs):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
    f = Reconstructor(net, Gap())
    optimizers = {"total": torch.optim.Adam(net.parameters(), lr=1e-3)}
    trainer = Trainer(f, Gap(), transform, closure, optimizers, epochs=epochs, seed=seed, out=False,
                      schedule=cosine_schedule(epochs), report_psnr=False, progress=False)  # fmt: skip
    trainer.fit(make_loader(list(signals), batch_size=32, seed=seed))
    return f(Gap().A(triangle.view(1, 1, 1, -1))).detach().flatten()


signals = (0.5 + torch.rand(512, 1, 1, 1)) * triangle
shifted = torch.stack([signal.roll(k, -1) for k, signal in enumerate(signals)])
fillings = [fit(signals, MCClosure(), None, seed, epochs_mc) for seed in range(seeds)]
equivariant = fit(shifted, EIClosure(alpha=1), Shift1D(3), 0, epochs_ei)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for ax, title, lines in ((left, "MC, five seeds", fillings), (right, "EI, shifts", [equivariant])):
    ax.axvspan(0.5, 0.75, color="0.9")
    ax.plot(position, triangle, "k", *(part for line in lines for part in (position, line)))
    ax.set(title=title, xlabel="position (gray: not measured)")
plt.show()
