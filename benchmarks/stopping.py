"""When does a training on noisy measurements stop learning and begin to fit their noise, and does SURE see it?

    python benchmarks/stopping.py --data CT100_128x128.mat --out results/stopping
    python benchmarks/stopping.py --data CT100_128x128.mat --shrink 2 --views 25 --noise transmission:1e5,30,0.0128 \
        --epochs 40 --out results/stopping --more configs/recipe/unrolled_noise.yaml closure.mc_domain=measurement

The measurements of the training slices of CT100 are simulated with noise and written to a file; a network is trained
from that file alone, by measurement consistency, with a tenth as the validation set. After every epoch the log has the
validation loss and, as the noise is known, SURE. Beside them stands the PSNR of the test slices, epoch by epoch, which
the training does not know. Writes stopping.csv and stopping.png.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.io
import torch

import ei
from ei.common.drawing import new_figure
from ei.datasets.batches import simulate
from ei.evaluation.quality import read_metrics, write_metrics
from ei.metrics import psnr
from ei.physics import CT, parse_noise

COLUMNS = ("epoch", "validation_loss", "validation_sure", "psnr_test")


def picked(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of the rows of stopping.csv the one of the epoch that each criterion stops at."""
    return {
        "SURE is least": min(rows, key=lambda row: row["validation_sure"]),
        "the validation loss is least": min(rows, key=lambda row: row["validation_loss"]),
        "the last epoch": rows[-1],
        "the PSNR against ground truth is highest": max(rows, key=lambda row: row["psnr_test"]),
    }


def train(folder: Path, noise: str, views: int, epochs: int, more: list[str]) -> list[dict[str, float]]:
    """The log of a training on ``y.npy`` in a folder, whose run folder is ``run``."""
    flags = {
        "task": "ct", "ct-views": views, "measurements": folder / "y.npy", "noise": noise, "method": "mc",
        "epochs": epochs, "ckp-interval": 1, "batch-size": 2, "base-channels": 16, "lr": 1e-3,
        "out": folder / "run",
    }  # fmt: skip
    command = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "ei", "train", *command, *more], check=True)
    return read_metrics(folder / "run" / "training_loss.csv")


def draw(rows: list[dict[str, float]], path: Path) -> None:
    epochs = [row["epoch"] for row in rows]
    figure = new_figure(figsize=(7, 4))
    left = figure.subplots()
    right = left.twinx()
    for ax, name, colour in ((left, "validation_loss", "tab:gray"), (left, "validation_sure", "tab:blue")):
        ax.plot(epochs, [row[name] for row in rows], color=colour, label=name.replace("_", " "))
    right.plot(epochs, [row["psnr_test"] for row in rows], color="tab:red", label="PSNR of test slices")
    picks = picked(rows)
    left.axvline(picks["SURE is least"]["epoch"], color="tab:blue", linestyle=":")
    positive = all(row[name] > 0 for row in rows for name in ("validation_loss", "validation_sure"))
    left.set(xlabel="epoch", ylabel="validation set", yscale="log" if positive else "linear")
    right.set_ylabel("dB")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CT100_128x128.mat")
    parser.add_argument("--noise", default="transmission:1e5,30,0.0064")
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="take means of N x N pixels")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="more trees, flags and keys of ei train")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    slices = torch.from_numpy(scipy.io.loadmat(options.data)["DATA"]).float()[:, None]
    slices = torch.nn.functional.avg_pool2d(slices, options.shrink)
    physics = CT(slices.shape[-1], options.views, noise=parse_noise(options.noise))
    y = simulate(physics, slices, range(len(slices)), seed=0)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "y.npy", y[:90].numpy())
        for epoch, row in enumerate(train(folder, options.noise, options.views, options.epochs, options.more)):
            f = ei.load(folder / "run" / f"ckp_{epoch}.pth.tar")
            with torch.no_grad():
                reached = [float(psnr(f(y[k : k + 1]), slices[k : k + 1])) for k in range(90, 100)]
            found = (epoch + 1, row["validation_loss_fc"], row["validation_sure"], statistics.fmean(reached))
            rows.append(dict(zip(COLUMNS, found, strict=True)))
    write_metrics([{name: f"{value:.6g}" for name, value in row.items()} for row in rows], options.out / "stopping.csv")

    draw(rows, options.out / "stopping.png")
    for text, row in picked(rows).items():
        print(f"{text:46} epoch {row['epoch']:.0f}: {row['psnr_test']:.2f} dB")


if __name__ == "__main__":
    main()
