"""Trials of settings on training images alone: a trial is a tree that is merged over a cell of ``configs/``.

    python benchmarks/trials.py --cell ct_ei --data CT100_128x128.mat --shrink 2 --epochs 20 --out trials.csv \
        --base configs/recipe/unrolled.yaml benchmarks/trials/25_views.yaml -- benchmarks/trials/1_iteration.yaml

Each trial is one tree or several with commas between them (the last one wins) over those of --base, which are also
run by themselves. For CT, slices 0-89 are split as any file is: 81 for training, 9 for evaluation; the test slices are
never opened. For images, give a folder with --split. A row for each trial, named after its files, and seed goes to
--out: steps, minutes, and means of the usual PSNR and SSIM on the evaluation images, of the network and of its average
over quarter turns and flips. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scipy.io

from ei.common.files import load_file

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("trial", "seed", "steps", "minutes", "psnr_pinv", "psnr", "psnr_average", "ssim", "ssim_average")


def training_slices(data: Path, folder: Path, shrink: int) -> Path:
    """The training slices of CT100 as a file of their own, means of ``shrink`` x ``shrink`` pixels."""
    out = folder / "training_slices.mat"
    slices = scipy.io.loadmat(data)["DATA"][:90]
    count, height, width = slices.shape
    parts = slices.reshape(count, height // shrink, shrink, width // shrink, shrink)
    scipy.io.savemat(out, {"DATA": parts.mean((2, 4))})
    return out


def name_of(trial: str) -> str:
    """The name of a trial, after its files; "as it is" where there are none."""
    return " + ".join(Path(path).stem.replace("_", " ") for path in trial.split(",") if path) or "as it is"


def run_trial(trial: str, seed: int, options: argparse.Namespace, data: Path, folder: Path) -> dict[str, object]:
    run = folder / f"{name_of(trial)} {seed}".replace(" ", "_")
    command = [sys.executable, "-m", "ei"]
    trees = [path for path in [f"{ROOT}/configs/{options.cell}.yaml", *options.base, *trial.split(",")] if path]
    split = [f"data.train.split={options.split}"] if options.split else []
    flags = ["--data", data, "--epochs", options.epochs, "--seed", seed, "--out", run, "--resume", "auto"]
    began = time.monotonic()
    subprocess.run([*command, "train", *trees, *map(str, flags), *split], check=True)
    minutes = (time.monotonic() - began) / 60
    tested = ["--ckp", str(run / "ckp_last.pth.tar"), "--average-over", "rotate90,reflect", "--sample-to-show", "--out"]
    subprocess.run([*command, "test", *tested, str(run / "test")], check=True)
    with open(run / "test" / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    means = {
        name: statistics.fmean(float(row[name]) for row in rows) for name in rows[0] if name not in ("index", "file")
    }
    figures = {
        column: round(means[name], 4)
        for column, name in {
            "psnr_pinv": "psnr_pinv", "psnr": "psnr_net", "psnr_average": "psnr_average",
            "ssim": "ssim_net", "ssim_average": "ssim_average",
        }.items()
    }  # fmt: skip
    steps = load_file(run / "ckp_last.pth.tar")["step"]
    return {"trial": name_of(trial), "seed": seed, "steps": steps, "minutes": round(minutes, 1), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", help="trees; several of one trial with commas")
    parser.add_argument("--base", nargs="*", default=[], metavar="FILE.yaml", help="trees under those of each trial")
    parser.add_argument("--cell", default="ct_ei", help="of configs/, under all of them")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="of slices, take means of N x N pixels")
    parser.add_argument("--split", help="for a folder of images: the list of those for evaluation")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, help="keep the run folders here")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    done: set[tuple[str, str]] = set()
    if options.out.exists():
        with open(options.out, newline="", encoding="utf-8") as file:
            done = {(row["trial"], row["seed"]) for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        data = (
            training_slices(options.data, folder, options.shrink)
            if options.data.suffix == ".mat"
            else options.data.resolve()
        )
        for seed in options.seeds:
            for trial in ["", *options.trials]:
                if (name_of(trial), str(seed)) in done:
                    continue
                row = run_trial(trial, seed, options, data, folder)
                new = not options.out.exists()
                with open(options.out, "a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
