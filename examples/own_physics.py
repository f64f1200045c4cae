"""Your own operator: only A and A_dagger are written. Here, random rows of the Fourier transform, and rotations.

    python examples/own_physics.py [--epochs N]

Prints whether EI can work for it (`ei.evaluation.diagnose`), trains, and writes table and figures into the run folder.
"""

import argparse

import torch
from torch import Tensor

from ei.closure import EIClosure
from ei.datasets import EllipsePhantoms, make_loader
from ei.evaluation import diagnose, report
from ei.models import Reconstructor, UNet
from ei.training import Trainer, cosine_schedule
from ei.transforms import Rotate


class FourierRows:
    """Some rows of the 2-D Fourier transform, real and imaginary parts as channels: ``[B, 1, N, N]`` to
    ``[B, 2, N, N]``. The mask holds row k with row -k, so that real images stay real."""

    def __init__(self, size: int, keep: float, seed: int = 0) -> None:
        score = torch.rand(size, generator=torch.Generator().manual_seed(seed))
        score = torch.minimum(score, score.flip(0).roll(1))
        score[:2] = score[-1:] = 0  # the lowest frequencies are always measured
        self.mask = (score <= score.quantile(keep)).float().view(-1, 1)

    def A(self, x: Tensor) -> Tensor:
        spectrum = self.mask * torch.fft.fft2(x, norm="ortho")
        return torch.cat([spectrum.real, spectrum.imag], dim=1)

    def A_dagger(self, y: Tensor) -> Tensor:
        real, imaginary = y.chunk(2, dim=1)
        return torch.fft.ifft2(self.mask * torch.complex(real, imaginary), norm="ortho").real


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=40)
epochs = parser.parse_args().epochs
size = 64

physics, transform = FourierRows(size, keep=0.4), Rotate(2)
print(diagnose(FourierRows(32, keep=0.4), transform, (1, 32, 32)))  # small, so that it is exact and quick

torch.manual_seed(0)
f = Reconstructor(UNet(1, 1, base_channels=16), physics)
optimizer = torch.optim.Adam(f.net.parameters(), lr=2e-3)
trainer = Trainer(f, physics, transform, EIClosure(alpha=1), {"total": optimizer}, epochs=epochs,
                  schedule=cosine_schedule(epochs), task="fourier_rows")  # fmt: skip
trainer.fit(make_loader(EllipsePhantoms("train", size), batch_size=4))
report(f, physics, EllipsePhantoms("test", size), trainer.folder, name="EI")
