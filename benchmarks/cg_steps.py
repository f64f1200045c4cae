"""How far plain and filtered conjugate gradients come: PSNR of ``pinv_cg(y)`` for a number of steps.

    python benchmarks/cg_steps.py --data CT100_128x128.mat --out results/trials_64/cg_steps.csv

Means over slices 80-89 of the training set, without noise, in float32, of the paper's CT and of the limited angle.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import scipy.io
import torch

from ei.metrics import psnr
from ei.physics import CT, pinv_cg

VIEWS = {"CT, 50 views": (50, True), "limited angle": (120, False)}  # number, uniform
STEPS = (1, 2, 3, 5, 10, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    slices = torch.from_numpy(scipy.io.loadmat(options.data)["DATA"][80:90]).float()[:, None]
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["operator", "steps", "plain", "filtered"])
        for name, (views, uniform) in VIEWS.items():
            physics = CT(slices.shape[-1], views, uniform)
            y = physics.A(slices)
            for steps in STEPS:
                images = [
                    pinv_cg(physics, y, steps, tol=0, orthogonal=True, weight=weight)
                    for weight in (None, physics.filter)
                ]
                row = [name, steps, *(f"{float(psnr(x, slices).mean()):.3f}" for x in images)]
                writer.writerow(row)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
