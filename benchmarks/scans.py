"""Real scans: what reconstructs best from few measured views, compared with a reconstruction from all of them.

    python benchmarks/prepare_scans.py htc2022 --source HTC2022 --views 60 --arc 120
    ei train ... --measurements dataset/HTC2022/60_over_120/train.npy --out RUN          (once for each method)
    python benchmarks/scans.py dataset/HTC2022/60_over_120 --runs MC=RUN1 EI=RUN2 "EI, seed 1=RUN3" --out OUT

The rows without learning get their one number (steps of CGLS, weight of TV) from the training scans, by PSNR; what
choices.json in --out already says is not tried again, and the rows of other runs stay (then the picture does, too). All
figures are of the disc inside the image: PSNR and SSIM with the largest value of the reference there as the peak, and
the Matthews correlation of image and reference after each was divided at its own Otsu threshold, which is what the
challenge scored. Writes scans.csv, choices.json and scans.png to --out.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity
from torch import Tensor

import ei
from ei.common.drawing import image_grid
from ei.common.files import load_file
from ei.evaluation.classical import best_of, least_squares, total_variation
from ei.physics import Tomography

CGLS_STEPS = (2, 3, 5, 7, 10, 14, 20, 28, 40, 60, 80, 120)
ORDER = ("A_dagger", "CGLS", "TV", "MC", "EI", "Sup")  # of the rows, by the first word of their names; others last
TV_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def inside(side: int) -> np.ndarray:
    """The pixels ``[N, N]`` of the inscribed disc."""
    across = np.arange(side) - (side - 1) / 2
    return np.hypot(across[:, None], across[None, :]) <= side / 2


def quality(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """PSNR [dB], SSIM and Matthews correlation of an image ``[N, N]`` inside the disc."""
    disc = inside(len(reference))
    peak = reference[disc].max()
    error = np.mean((image[disc] - reference[disc]) ** 2)
    _, ssim = structural_similarity(image * disc, reference * disc, data_range=peak, full=True)
    solid = [part[disc] > threshold_otsu(part[disc]) for part in (image, reference)]
    return {
        "psnr": 10 * math.log10(peak**2 / error),
        "ssim": float(ssim[disc].mean()),
        "matthews": float(np.corrcoef(*solid)[0, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder that prepare_scans.py htc2022 wrote")
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=RUN", help="trained networks")
    parser.add_argument("--sample", type=int, default=1, help="which test scan to draw, from 0")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    arguments = yaml.safe_load((options.data / "geometry.yaml").read_text())
    arguments.pop("name")
    physics = Tomography(**arguments)
    train, train_x, y, x = (
        torch.from_numpy(stored if stored.ndim == 4 else stored[:, None]).float()
        for stored in (
            np.load(options.data / f"{name}.npy") for name in ("train", "train_reference", "test", "test_reference")
        )
    )
    scale = float(train_x.max())  # TV weights mean the same whatever the unit of length

    def cgls(y: Tensor, steps: int) -> Tensor:
        return torch.cat([least_squares(physics, one[None], steps) for one in y])

    def tv(y: Tensor, weight: float) -> Tensor:
        return scale * total_variation(physics, y / scale, weight, 1000)

    some = slice(0, None, 3)

    def mean_psnr(images: Tensor) -> float:
        pairs = zip(images[:, 0].numpy(), train_x[some, 0].numpy(), strict=True)
        return round(statistics.fmean(quality(*pair)["psnr"] for pair in pairs), 3)

    kept = options.out / "choices.json"
    stored = json.loads(kept.read_text()) if kept.exists() else {}
    # JSON has no numbers as names.
    of_steps = {int(steps): value for steps, value in stored.get("cgls_steps", {}).items()}
    of_weights = {float(weight): value for weight, value in stored.get("tv_weights", {}).items()}
    of_steps = of_steps or best_of(CGLS_STEPS, lambda steps: cgls(train[some], steps), mean_psnr)[1]
    of_weights = of_weights or best_of(TV_WEIGHTS, lambda weight: tv(train[some], weight), mean_psnr)[1]
    steps, weight = max(of_steps, key=of_steps.__getitem__), max(of_weights, key=of_weights.__getitem__)
    images = {"A_dagger y": physics.A_dagger(y), f"CGLS {steps}": cgls(y, steps), "TV": tv(y, weight)}
    length = stored.get("training_steps", {})
    for text in options.runs:
        name, run = text.split("=", 1)
        f = ei.load(f"{run}/ckp_last.pth.tar")
        with torch.no_grad():
            images[name] = torch.cat([f(one[None]) for one in y])
        length[name] = load_file(f"{run}/ckp_last.pth.tar")["step"]

    rows: list[dict[str, Any]] = []
    log = options.out / "scans.csv"
    if log.exists():
        with open(log, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["name"] not in images]
    others = list(dict.fromkeys(row["name"] for row in rows))
    for name, found in images.items():
        for index in range(len(x)):
            figures = quality(found[index, 0].numpy(), x[index, 0].numpy())
            rows.append({"name": name, "scan": index, **{key: round(value, 4) for key, value in figures.items()}})
        print(f"{name:14} " + "  ".join(
            f"{key} {statistics.fmean(row[key] for row in rows if row['name'] == name):.3f}"
            for key in ("psnr", "ssim", "matthews")
        ))  # fmt: skip

    def place(row: dict[str, Any]) -> tuple[int, str, int]:
        first = re.split("[ ,]", row["name"])[0]
        return ORDER.index(first) if first in ORDER else len(ORDER), row["name"], int(row["scan"])

    rows.sort(key=place)
    with open(log, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    choices = {"cgls_steps": of_steps, "tv_weights": of_weights, "training_steps": length}
    kept.write_text(json.dumps(choices, indent=1) + "\n")

    if others:
        print(f"of {', '.join(others)} the figures stay, and so does the picture")
        return
    disc, sample = torch.from_numpy(inside(x.shape[-1])), options.sample
    # Of several seeds of a method one is enough to see.
    one_each = {name: found for name, found in {**images, "all views": x}.items() if "seed" not in name}
    shown = {name: found[sample] * disc / x[sample].max() for name, found in one_each.items()}
    captions = {row["name"]: f"{row['psnr']:.2f} dB" for row in rows if row["scan"] == sample}
    image_grid([shown], options.out / "scans.png", [captions])


if __name__ == "__main__":
    main()
