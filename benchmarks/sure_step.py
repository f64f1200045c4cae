"""What the step of SURE's finite differences does to a training: SURE beside the true error, by the steps of training.

    python benchmarks/sure_step.py --data mri_chest_256.npz --out results/trials_noise/sure_step.csv

Denoising by SURE alone: the real parts of Robust EI's images in means of 4 x 4 pixels, 64 x 64, Gaussian noise of 0.1,
90 images that keep their noise. A small UNet, batches of 4, one training for each step. Both figures are of the ten
test images: SURE with the step of the training, and the mean squared error that it estimates. Minutes for each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.closure import SUREClosure
from ei.common.seeds import generator, seeded
from ei.datasets import MRIData
from ei.datasets.batches import simulate
from ei.evaluation.quality import write_metrics
from ei.models import Reconstructor, UNet
from ei.physics import GaussianNoise, Inpainting

SIGMA, SIDE, BATCH, ROWS = 0.1, 64, 4, 4


def images(data: Path, mode: str) -> Tensor:
    whole = MRIData(mode, data)
    real = torch.stack([whole[index] for index in range(len(whole))])[:, :1]
    return torch.nn.functional.avg_pool2d(real, real.shape[-1] // SIDE)


def train(step: float | None, x: Tensor, test: Tensor, steps: int) -> list[dict[str, Any]]:
    """The rows of one training with finite differences of ``step`` in units of the noise (None: the default)."""
    physics = Inpainting(SIDE, SIDE, mask_rate=0, noise=GaussianNoise(SIGMA))
    y, unseen = (simulate(physics, some, range(len(some)), seed) for some, seed in ((x, 0), (test, 1)))
    torch.manual_seed(0)
    f = Reconstructor(UNet(1, 1, base_channels=16, norm="none"), physics)
    closure = SUREClosure(tau=None if step is None else step * SIGMA)
    optimizer = torch.optim.Adam(f.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = generator(0, "order")
    rows: list[dict[str, Any]] = []
    for number in range(1, steps + 1):
        batch = y[torch.randint(len(y), (BATCH,), generator=order)]
        optimizer.zero_grad()
        closure(f, physics, None, batch)["total"].backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 0.01)
        optimizer.step()
        schedule.step()
        if number % (steps // ROWS) == 0:
            with torch.no_grad(), seeded(0):
                x1 = f(unseen)
                sure, true = closure.risk(f, physics, unseen, x1), (x1 - test).square().mean()
            rows.append({"step": step or "default", "trained": number, "sure": float(sure), "true": float(true)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = images(options.data, "train"), images(options.data, "test")
    rows = [row for step in (0.3, None) for row in train(step, *sets, options.steps)]
    write_metrics([{**row, "sure": f"{row['sure']:.3e}", "true": f"{row['true']:.3e}"} for row in rows], options.out)


if __name__ == "__main__":
    main()
