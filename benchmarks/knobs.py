"""What makes EI train well in few steps on CT? Short trainings of a small network, one knob at a time.

    python benchmarks/knobs.py --data CT100_128x128.mat --trials plain image_mc --seeds 0 1 --out knobs.csv

Slices 0-79 train, slices 80-89 judge; the test slices are not opened. Every trial has the same number of steps unless
its name says otherwise. A row for each evaluation goes to ``--out``: step, CPU seconds, mean usual PSNR of the weights,
of their exponential moving average (0.99 a step), and, at the end, with BatchNorm's statistics re-estimated.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Subset

from ei.closure import EIClosure, MCClosure, SupervisedClosure
from ei.closure.base import Closure, measure
from ei.datasets import CTData, image_of, make_loader
from ei.metrics import psnr
from ei.models import Reconstructor, UNet
from ei.physics import CT
from ei.physics.krylov import pinv_cg
from ei.seeding import derive_seed
from ei.trainer import Trainer, cosine_schedule
from ei.transforms import Rotate


class Knobs:
    """The settings of a trial; the defaults are the plain EI of the paper, with 2 rotations."""

    method = "ei"
    alpha = 100.0
    n_trans = 2
    batch_size = 2
    lr = 1e-3
    schedule = "cosine"
    clip = 0.0
    input_steps = 0
    mc_domain = "sinogram"
    circle = False
    stop_gradient = False
    precision = "bf16"

    def __init__(self, **changes: Any) -> None:
        for name, value in changes.items():
            assert hasattr(Knobs, name), name
            setattr(self, name, value)


TRIALS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sup": {"method": "sup"},
    "mc": {"method": "mc"},
    "warmup": {"schedule": "warmup"},
    "onecycle": {"schedule": "onecycle", "lr": 3e-3},
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
    "fp32": {"precision": "fp32"},
    "cg10": {"input_steps": 10},
    "cg20": {"input_steps": 20},
    "mc_cg20": {"method": "mc", "input_steps": 20},
    "sup_cg20": {"method": "sup", "input_steps": 20},
    "image_mc": {"mc_domain": "image", "alpha": 1.0},
    "image_mc_a01": {"mc_domain": "image", "alpha": 0.1},
    "image_mc_a10": {"mc_domain": "image", "alpha": 10.0},
    "image_mc_cg10": {"mc_domain": "image", "alpha": 1.0, "input_steps": 10},
    "image_mc_cg20": {"mc_domain": "image", "alpha": 1.0, "input_steps": 20},
    "cg20_alpha1000": {"input_steps": 20, "alpha": 1000.0},
    "image_mc_trans1": {"mc_domain": "image", "alpha": 1.0, "n_trans": 1},
    "image_mc_lr3e-3": {"mc_domain": "image", "alpha": 1.0, "lr": 3e-3},
    "image_mc_onecycle": {"mc_domain": "image", "alpha": 1.0, "lr": 3e-3, "schedule": "onecycle"},
    "image_mc_onecycle_trans1": {"mc_domain": "image", "alpha": 1.0, "lr": 3e-3, "schedule": "onecycle", "n_trans": 1},
    "image_mc_onecycle_cg10": {
        "mc_domain": "image",
        "alpha": 1.0,
        "lr": 3e-3,
        "schedule": "onecycle",
        "input_steps": 10,
    },
    "image_mc_onecycle_batch1": {
        "mc_domain": "image",
        "alpha": 1.0,
        "lr": 3e-3,
        "schedule": "onecycle",
        "batch_size": 1,
    },
    "image_mc_onecycle_clip": {"mc_domain": "image", "alpha": 1.0, "lr": 3e-3, "schedule": "onecycle", "clip": 0.01},
    "image_mc_onecycle_a03": {"mc_domain": "image", "alpha": 0.3, "lr": 3e-3, "schedule": "onecycle"},
    "image_mc_onecycle_a3": {"mc_domain": "image", "alpha": 3.0, "lr": 3e-3, "schedule": "onecycle"},
    "image_mc_only": {"mc_domain": "image", "alpha": 0.0},
}


class TrialEI(Closure):
    """EI with the measurement consistency measured elsewhere, or the equivariance inside the inscribed circle."""

    def __init__(self, knobs: Knobs, physics: CT) -> None:
        super().__init__()
        self.knobs = knobs
        axis = torch.arange(physics.img_width) - (physics.img_width - 1) / 2
        inside = axis[:, None] ** 2 + axis[None, :] ** 2 <= (physics.img_width / 2) ** 2
        self.inside = inside.float() / inside.float().mean() if knobs.circle else torch.ones(())

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        x2 = transform.apply(x1)
        x3 = f(measure(physics, x2))
        target = x2.detach() if self.knobs.stop_gradient else x2
        ei = (self.inside * (x3 - target).square()).mean()
        residual = physics.A(x1) - y
        if self.knobs.mc_domain == "image":
            residual = physics.A_dagger(residual)
        mc = residual.square().mean()
        return {"mc": mc, "ei": ei, "total": mc + self.knobs.alpha * ei, "x1": x1.detach()}


class KrylovInput:
    """A CT whose A_dagger is a few steps of conjugate gradients."""

    def __init__(self, physics: CT, steps: int) -> None:
        self.physics, self.steps = physics, steps
        self.A, self.image_shape = physics.A, physics.image_shape

    def A_dagger(self, y: Tensor) -> Tensor:
        return pinv_cg(self.physics, y, steps=self.steps)


def schedule_of(knobs: Knobs, epochs: int) -> Callable[[int], float]:
    cosine = cosine_schedule(epochs)
    if knobs.schedule == "cosine":
        return cosine
    rise = max(1, round((0.1 if knobs.schedule == "warmup" else 0.3) * epochs))
    return lambda epoch: (epoch + 1) / (rise + 1) if epoch < rise else (
        (1 + math.cos(math.pi * (epoch - rise) / (epochs - rise))) / 2)  # fmt: skip


def validate(net: torch.nn.Module, f: Reconstructor, physics: CT, images: Any) -> float:
    f = Reconstructor(net, f.physics, f.precision).eval()
    values = []
    with torch.no_grad():
        for i in range(len(images)):
            x = image_of(images[i])
            values.append(float(psnr(f(physics.A(x)), x)))
    return statistics.fmean(values)


def run_trial(name: str, seed: int, data: str, epochs: int, every: int, net_channels: int) -> list[dict[str, Any]]:
    knobs = Knobs(**TRIALS[name])
    images = CTData("train", data)
    train, judge = Subset(images, range(80)), Subset(images, range(80, 90))
    physics = CT(128, 50)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "weights"))
        net = UNet(1, 1, base_channels=net_channels)
    f = Reconstructor(net, KrylovInput(physics, knobs.input_steps) if knobs.input_steps else physics, knobs.precision)
    closure: Closure = TrialEI(knobs, physics)
    if (knobs.mc_domain, knobs.circle, knobs.stop_gradient) == ("sinogram", False, False):
        closure = EIClosure(knobs.alpha)
    closure = {"sup": SupervisedClosure(), "mc": MCClosure()}.get(knobs.method, closure)
    optimizer = torch.optim.Adam(net.parameters(), lr=knobs.lr, weight_decay=1e-8)
    if knobs.clip:
        optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_norm_(net.parameters(), knobs.clip) and None)  # fmt: skip
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(net))
    steps = -(-len(train) // knobs.batch_size)
    # The same number of steps for every trial, whatever its batch size.
    epochs = epochs * 40 // steps
    every = max(1, every * 40 // steps)
    trainer = Trainer(f, physics, Rotate(knobs.n_trans), closure, {"total": optimizer}, epochs=epochs, seed=seed,
                      schedule=schedule_of(knobs, epochs), out=False, progress=False)  # fmt: skip
    loader = make_loader(train, knobs.batch_size, seed=seed)
    rows, spent = [], 0.0
    while trainer.epoch < epochs:
        trainer.max_steps = min(trainer.step + every * steps, epochs * steps)
        began = time.process_time()
        trainer.fit(loader)
        spent += time.process_time() - began
        row = {"trial": name, "seed": seed, "step": trainer.step, "cpu_seconds": round(spent, 1)}
        row["psnr"] = round(validate(net, f, physics, judge), 3)
        row["psnr_ema"] = round(validate(averaged.module, f, physics, judge), 3)
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for seed in given.seeds:
        for name in given.trials:
            rows = run_trial(name, seed, given.data, given.epochs, given.every, given.base_channels)
            new = not given.out.exists()
            with open(given.out, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                if new:
                    writer.writeheader()
                writer.writerows(rows)
            print(name, seed, [row["psnr"] for row in rows], rows[-1], flush=True)


if __name__ == "__main__":
    main()
