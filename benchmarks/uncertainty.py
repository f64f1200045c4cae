"""Error bars beside true errors: trainings of minutes, the bootstrap of their networks, calibration from measurements.

    python benchmarks/uncertainty.py train --data FOLDER --runs RUNS [PROBLEM ...]        a few CPU minutes a network

FOLDER holds ``CT100_128x128.mat`` and ``Urban100/``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scipy.io import loadmat
from torch import Tensor

from ei.closure import EIClosure, RobustEIClosure, SupervisedClosure
from ei.datasets import CVDB, make_loader
from ei.models import UNet, Unrolled
from ei.physics import GaussianNoise, Inpainting, Tomography
from ei.training import Trainer, cosine_schedule
from ei.transforms import FourierRotate, Shift, Turn

SIDE = 64


@dataclass
class Problem:
    """What a network is trained for."""

    physics: Any
    images: Callable[[Path], dict[str, Tensor]]  # training, validation and test images [n, C, H, W]
    group: Any  # of the training
    closure: Any
    epochs: int
    batch: int = 2
    lr: float = 1e-3
    f: dict[str, Any] = field(default_factory=dict)

    def network(self) -> Unrolled:
        torch.manual_seed(0)
        channels = 3 if isinstance(self.physics, Inpainting) else 1
        return Unrolled(UNet(channels, channels, base_channels=16, norm="none"), self.physics, **self.f)


def slices(data: Path) -> dict[str, Tensor]:
    """CT100 in means of 2 x 2 pixels: slices 0-59, 60-79 and 80-99."""
    whole = torch.from_numpy(loadmat(data / "CT100_128x128.mat")["DATA"]).float()[:, None]
    small = torch.nn.functional.avg_pool2d(whole, 2)
    return {"train": small[:60], "validation": small[60:80], "test": small[80:]}


def crops(data: Path) -> dict[str, Tensor]:
    """Crops of Urban100 in 256 x 256: four each of images 1-80, two of 81-90 and of the ten test images."""
    train, test = CVDB(data / "Urban100", "train"), CVDB(data / "Urban100", "test")
    places = [(40, 40), (150, 150), (40, 150), (150, 40)]

    def cut(images: list[torch.Tensor], count: int) -> torch.Tensor:
        return torch.stack([image[:, r : r + SIDE, c : c + SIDE] for image in images for r, c in places[:count]])

    return {
        "train": cut([train[n] for n in range(80)], 4),
        "validation": cut([train[n] for n in range(80, 90)], 2),
        "test": cut([test[n] for n in range(10)], 2),
    }


def scanner(views: int, arc: float, noise: Any = None) -> Tomography:
    return Tomography((SIDE, SIDE), [arc / views * v for v in range(views)], 91, noise=noise)


def problems() -> dict[str, Problem]:
    """A new set of problems, by name."""
    moved: dict[str, Any] = {"alpha": 1, "stop_gradient": True, "frozen_targets": True}
    three = {"iterations": 3, "cg_steps": 5}
    filtered = {"iterations": 3, "cg_steps": 3, "filtered": True}
    noisy = {"iterations": 2, "cg_steps": 3, "last": "net"}
    even, wedge = scanner(25, 180), scanner(30, 120)
    counts = scanner(25, 180, GaussianNoise(0.5))
    mask = Inpainting(SIDE, SIDE, mask_rate=0.3)
    one = {"iterations": 1, "cg_steps": 1}
    turn = Turn(2, step=7.2)
    return {
        "ct_ei": Problem(even, slices, turn, EIClosure(**moved, move="operator"), 13, f=three),
        "inpainting_ei": Problem(
            mask, crops, Shift(1), EIClosure(**moved, move="operator"), 5, batch=4, lr=2e-3, f=one
        ),
        "limited_ei": Problem(wedge, slices, FourierRotate(2), EIClosure(**moved), 6, f=filtered),
        "ct_sup": Problem(even, slices, None, SupervisedClosure(), 6, f=three),
        "noise_rei": Problem(
            counts, slices, turn, RobustEIClosure(10, stop_gradient=True, move="operator"), 6, f=noisy
        ),
        "limited_sup": Problem(wedge, slices, None, SupervisedClosure(), 6, f=filtered),
        "inpainting_sup": Problem(mask, crops, None, SupervisedClosure(), 5, batch=4, lr=2e-3, f=one),
    }  # fmt: skip


def train(name: str, data: Path, runs: Path) -> None:
    torch.set_num_threads(1)
    problem = problems()[name]
    f = problem.network()
    optimizer = torch.optim.Adam(f.net.parameters(), lr=problem.lr)
    trainer = Trainer(
        f, problem.physics, problem.group, problem.closure, {"total": optimizer}, epochs=problem.epochs,
        schedule=cosine_schedule(problem.epochs), clip_norm=0.01, out=runs / name, ckp_interval=1000, progress=False,
    )  # fmt: skip
    trainer.fit(make_loader(problem.images(data)["train"], batch_size=problem.batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train"])
    parser.add_argument("problems", nargs="*", default=list(problems()))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    for name in options.problems:
        if not list((options.runs / name).glob("ckp_last.pth.tar")):
            train(name, options.data, options.runs)


if __name__ == "__main__":
    main()
