"""What makes EI train well in few steps on CT? Short trainings of a small network, one knob at a time.

    python benchmarks/knobs.py --data CT100_128x128.mat --trials plain image_mc --seeds 0 1 --out knobs.csv

Slices 0-79 train, slices 80-89 judge; the test slices are not opened. Every trial has the same number of steps unless
its name says otherwise. A row for each evaluation goes to ``--out``: step, CPU seconds, mean usual PSNR of the weights,
of their exponential moving average (0.99 a step), and, at the end, with BatchNorm's statistics re-estimated.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.closure import EIClosure, MCClosure, SupervisedClosure
from ei.closure.base import Closure
from ei.common.seeds import derive_seed
from ei.datasets import CTData, image_of, make_loader
from ei.metrics import psnr
from ei.models import Reconstructor, UNet
from ei.physics import CT
from ei.physics.krylov import pinv_cg
from ei.training import Trainer, cosine_schedule, one_cycle_schedule
from ei.transforms import Rotate


@dataclass(frozen=True)
class Knobs:
    """The settings of a trial; the defaults are the plain EI of the paper, with 2 rotations."""

    method: str = "ei"
    alpha: float = 100.0
    n_trans: int = 2
    batch_size: int = 2
    lr: float = 1e-3
    rise: float = 0.0
    clip: float | None = None
    input_steps: int = 0
    mc_domain: str = "measurement"
    circle: bool = False
    stop_gradient: bool = False
    precision: str = "bf16"


IMAGE: dict[str, Any] = {"mc_domain": "image", "alpha": 1.0}
ONE_CYCLE: dict[str, Any] = {"lr": 3e-3, "rise": 0.3}
STOPPED: dict[str, Any] = IMAGE | {"stop_gradient": True, "alpha": 10.0}

TRIALS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sup": {"method": "sup"},
    "mc": {"method": "mc"},
    "warmup": {"rise": 0.1},
    "onecycle": ONE_CYCLE,
    "lr3e-3": {"lr": 3e-3},
    "lr3e-4": {"lr": 3e-4},
    "trans1": {"n_trans": 1},
    "trans5": {"n_trans": 5},
    "batch1": {"batch_size": 1},
    "batch4": {"batch_size": 4},
    "alpha10": {"alpha": 10.0},
    "alpha1000": {"alpha": 1000.0},
    "alpha1e4": {"alpha": 1e4},
    "clip": {"clip": 1.0},
    "circle": {"circle": True},
    "stop": {"stop_gradient": True},
    "plain_clip": {"clip": 0.01},
    "stop_clip": {"stop_gradient": True, "clip": 0.01},
    "mc_clip": {"method": "mc", "clip": 0.01},
    "sup_clip": {"method": "sup", "clip": 0.01},
    "fp32": {"precision": "fp32"},
    "cg10": {"input_steps": 10},
    "cg20": {"input_steps": 20},
    "cg20_alpha1000": {"input_steps": 20, "alpha": 1000.0},
    "mc_cg20": {"method": "mc", "input_steps": 20},
    "sup_cg20": {"method": "sup", "input_steps": 20},
    "image_mc_only": {"method": "mc", "mc_domain": "image"},
    "image_mc_only_onecycle": {"method": "mc", "mc_domain": "image", **ONE_CYCLE},
    "image_mc_only_clip": {"method": "mc", "mc_domain": "image", "clip": 0.01},
    "image_mc_only_cg20": {"method": "mc", "mc_domain": "image", "input_steps": 20},
    "image_mc": IMAGE,
    "image_mc_a01": IMAGE | {"alpha": 0.1},
    "image_mc_a10": IMAGE | {"alpha": 10.0},
    "image_mc_a100": IMAGE | {"alpha": 100.0},
    "image_mc_cg10": IMAGE | {"input_steps": 10},
    "image_mc_cg20": IMAGE | {"input_steps": 20},
    "image_mc_cg20_a10": IMAGE | {"input_steps": 20, "alpha": 10.0},
    "image_mc_trans1": IMAGE | {"n_trans": 1},
    "image_mc_trans5": IMAGE | {"n_trans": 5},
    "image_mc_batch1": IMAGE | {"batch_size": 1},
    "image_mc_circle": IMAGE | {"circle": True},
    "image_mc_fp32": IMAGE | {"precision": "fp32"},
    "image_mc_lr3e-3": IMAGE | {"lr": 3e-3},
    "image_mc_onecycle": IMAGE | ONE_CYCLE,
    "image_mc_onecycle_a10": IMAGE | ONE_CYCLE | {"alpha": 10.0},
    "image_mc_onecycle_trans1": IMAGE | ONE_CYCLE | {"n_trans": 1},
    "image_mc_onecycle_cg10": IMAGE | ONE_CYCLE | {"input_steps": 10},
    "image_mc_onecycle_batch1": IMAGE | ONE_CYCLE | {"batch_size": 1},
    "image_mc_onecycle_clip": IMAGE | ONE_CYCLE | {"clip": 0.01},
    "image_mc_stop": STOPPED | {"alpha": 1.0},
    "image_mc_stop_a10": STOPPED,
    "image_mc_stop_a100": STOPPED | {"alpha": 100.0},
    "image_mc_stop_a10_onecycle": STOPPED | ONE_CYCLE,
    "image_mc_stop_a10_trans1": STOPPED | {"n_trans": 1},
    "image_mc_stop_a10_trans5": STOPPED | {"n_trans": 5},
    "image_mc_stop_a10_batch1": STOPPED | {"batch_size": 1},
    "image_mc_stop_a10_batch4": STOPPED | {"batch_size": 4},
    "image_mc_stop_a10_clip": STOPPED | {"clip": 0.01},
    "image_mc_stop_a10_clip_trans1": STOPPED | {"clip": 0.01, "n_trans": 1},
    "image_mc_stop_a10_clip_batch4": STOPPED | {"clip": 0.01, "batch_size": 4},
    "image_mc_stop_a10_clip_lr3e-3": STOPPED | {"clip": 0.01, "lr": 3e-3},
    "image_mc_stop_a10_clip_onecycle": STOPPED | ONE_CYCLE | {"clip": 0.01},
    "image_mc_stop_a10_circle": STOPPED | {"circle": True},
    "image_mc_stop_a10_lr3e-3": STOPPED | {"lr": 3e-3},
}


def inside_circle(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean squared error, of images inside the inscribed circle alone: a rotation leaves nothing outside it."""
    axis = torch.arange(size) - (size - 1) / 2
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2 <= (size / 2) ** 2).float()
    weights = inside / inside.mean()

    def criterion(a: Tensor, b: Tensor) -> Tensor:
        squared = (a - b).square()
        return (weights * squared if squared.shape[-2:] == weights.shape else squared).mean()

    return criterion


def closure_of(knobs: Knobs, size: int) -> Closure:
    if knobs.method == "sup":
        return SupervisedClosure()
    if knobs.method == "mc":
        return MCClosure(mc_domain=knobs.mc_domain)
    criterion = inside_circle(size) if knobs.circle else "l2"
    return EIClosure(knobs.alpha, knobs.stop_gradient, criterion=criterion, mc_domain=knobs.mc_domain)


class KrylovInput:
    """A CT whose A_dagger is a few steps of conjugate gradients."""

    def __init__(self, physics: CT, steps: int) -> None:
        self.physics, self.steps = physics, steps
        self.A, self.image_shape = physics.A, physics.image_shape

    def A_dagger(self, y: Tensor) -> Tensor:
        return pinv_cg(self.physics, y, steps=self.steps)


def validate(net: torch.nn.Module, f: Reconstructor, physics: CT, images: Any) -> float:
    f = Reconstructor(net, f.physics, f.precision).eval()
    values = []
    with torch.no_grad():
        for i in range(len(images)):
            x = image_of(images[i])
            values.append(float(psnr(f(physics.A(x)), x)))
    return statistics.fmean(values)


def slices(data: str, size: int) -> tuple[Tensor, Tensor]:
    """The slices to train on and those to judge by, ``[n, 1, size, size]``: means of 128 / size pixels squared."""
    images = torch.nn.functional.avg_pool2d(CTData("train", data).images[:, None], 128 // size)
    return images[:80], images[80:90]


def run_trial(name: str, seed: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    knobs = Knobs(**TRIALS[name])
    train, judge = slices(given.data, given.size)
    physics = CT(given.size, given.views)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "weights"))
        net = UNet(1, 1, base_channels=given.base_channels)
    f = Reconstructor(net, KrylovInput(physics, knobs.input_steps) if knobs.input_steps else physics, knobs.precision)
    optimizer = torch.optim.Adam(net.parameters(), lr=knobs.lr, weight_decay=1e-8)
    steps = -(-len(train) // knobs.batch_size)
    # The same number of steps for every trial, whatever its batch size.
    epochs = given.epochs * 40 // steps
    every = max(1, given.every * 40 // steps)
    schedule = one_cycle_schedule(epochs, knobs.rise) if knobs.rise else cosine_schedule(epochs)
    trainer = Trainer(f, physics, Rotate(knobs.n_trans), closure_of(knobs, given.size), {"total": optimizer},
                      epochs=epochs, seed=seed, schedule=schedule, out=False, progress=False,
                      clip_norm=knobs.clip, average=0.99)  # fmt: skip
    assert trainer.averaged is not None
    loader = make_loader(train, knobs.batch_size, seed=seed)
    rows: list[dict[str, Any]] = []
    spent = 0.0
    while trainer.epoch < epochs:
        trainer.max_steps = min(trainer.step + every * steps, epochs * steps)
        began = time.process_time()
        trainer.fit(loader)
        spent += time.process_time() - began
        row: dict[str, Any] = {"trial": name, "seed": seed, "step": trainer.step, "cpu_seconds": round(spent, 1)}
        row["psnr"] = round(validate(net, f, physics, judge), 3)
        row["psnr_ema"] = round(validate(trainer.averaged.module, f, physics, judge), 3)
        rows.append(row | {"psnr_bn": ""})
    # BatchNorm's statistics once more, as plain means over the training set, with the weights at rest.
    torch.optim.swa_utils.update_bn((physics.A(image_of(train[i])) for i in range(len(train))), f)
    rows[-1]["psnr_bn"] = round(validate(net, f, physics, judge), 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CT100_128x128.mat")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=20, help="of 40 steps of 2 images")
    parser.add_argument("--every", type=int, default=4, help="epochs between evaluations")
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--size", type=int, choices=[32, 64, 128], default=128, help="of the images")
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for seed in given.seeds:
        for name in given.trials:
            rows = run_trial(name, seed, given)
            new = not given.out.exists()
            with open(given.out, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                if new:
                    writer.writeheader()
                writer.writerows(rows)
            print(name, seed, [row["psnr"] for row in rows], rows[-1], flush=True)


if __name__ == "__main__":
    main()
