"""Evaluation: image by image, in evaluation mode, fp32, outputs not clipped; both PSNR definitions and SSIM."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.common.complex import magnitude
from ei.common.drawing import image_grid
from ei.common.seeds import derive_seed
from ei.datasets import image_of, simulate
from ei.evaluation.classical import Reconstruction, classical_for
from ei.metrics import cal_psnr, psnr, ssim
from ei.models.base import ReconstructionFunction
from ei.physics import operator_of

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_paper": cal_psnr, "psnr": psnr, "ssim": ssim}


def reconstruct_all(
    f: ReconstructionFunction, physics: Any, x: Tensor, index: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """One image ``x`` ``[1, C, H, W]`` and what becomes of it: ``y``, ``pinv`` (A_dagger y), ``net`` (f(y)), ``x``."""
    was_training = f.training
    f.eval()
    try:
        with torch.no_grad():
            own = operator_of(physics, [index])
            y = simulate(own, x, [index], derive_seed(seed, "test"))  # not the noise of the training images
            net = f(y) if own is physics else f.of(own)(y)
            return {"y": y, "pinv": own.A_dagger(y), "net": net, "x": x}
    finally:
        f.train(was_training)


def evaluate(
    f: ReconstructionFunction,
    physics: Any,
    images: Any,
    more: Mapping[str, Reconstruction] | None = None,
    device: torch.device | str | None = None,
) -> list[dict[str, float]]:
    """Quality of A_dagger y (``pinv``), of the network (``net``) and of ``more`` reconstructions, one image at a time.

    Args:
        f: the reconstruction function.
        physics: the forward operator.
        images: a data set of images ``[H, W]`` or ``[C, H, W]`` with values in [0, 1].
        more: other reconstructions by name, called as ``reconstruct(physics, y)``.
        device: where to compute; by default where f's weights are.

    Returns:
        A row for each image: ``index`` and ``<metric>_<reconstruction>`` for psnr_paper, psnr and ssim; of complex
        images, and of two channels, which are a real and an imaginary part, those of the magnitudes.
    """
    device = device or next(f.parameters()).device
    rows = []
    for index in range(len(images)):
        x = image_of(images[index]).to(device)
        done = reconstruct_all(f, physics, x, index)
        outputs = {"pinv": done["pinv"], "net": done["net"]}
        with torch.no_grad():
            outputs |= {
                name: reconstruct(operator_of(physics, [index]), done["y"])
                for name, reconstruct in (more or {}).items()
            }
        row: dict[str, float] = {"index": index}
        truth = magnitude(x)
        for metric, function in METRICS.items():
            for name, output in outputs.items():
                row[f"{metric}_{name}"] = float(function(magnitude(output).to(truth.dtype), truth))
        rows.append(row)
    return rows


def mean_and_std(rows: Sequence[Mapping[str, float]], name: str) -> list[str]:
    """Mean and (population) standard deviation of every metric of the reconstruction ``name``, as text."""
    cells = []
    for metric in METRICS:
        values = [row[f"{metric}_{name}"] for row in rows]
        digits = 4 if metric == "ssim" else 2
        cells.append(f"{statistics.fmean(values):.{digits}f} +- {statistics.pstdev(values):.{digits}f}")
    return cells


def summary(rows: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """A table for a terminal; ``names`` maps reconstructions to their titles."""
    width = max(14, *(len(title) for title in names.values()))
    lines = [f"{'':{width}}  {'paper PSNR [dB]':>16}  {'usual PSNR [dB]':>16}  {'SSIM':>16}"]
    for name, title in names.items():
        lines.append(f"{title:{width}}  " + "  ".join(f"{cell:>16}" for cell in mean_and_std(rows, name)))
    return "\n".join(lines)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows that `write_metrics` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_metrics(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write the rows as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def comparison(
    f: ReconstructionFunction, physics: Any, x: Tensor, path: Path, name: str = "EI", index: int = 0
) -> None:
    """The figure ``y | A_dagger y | <name> | truth`` of one image ``[1, C, H, W]``, with the paper's PSNR."""
    done = reconstruct_all(f, physics, x, index)
    captions = {
        title: f"{float(cal_psnr(magnitude(done[key]), magnitude(x))):.2f} dB"
        for title, key in (("A_dagger y", "pinv"), (name, "net"))
    }
    row = {"y": done["y"][0], "A_dagger y": done["pinv"][0], name: done["net"][0], "truth": x[0]}
    image_grid([row], path, [captions])


def report(
    f: ReconstructionFunction,
    physics: Any,
    images: Any,
    folder: Path | None,
    n_drawn: int = 3,
) -> list[dict[str, float]]:
    """Evaluate on held-out images, print the table, and write ``metrics.csv`` and the figure ``reconstructions.png``
    into ``folder`` (None: the current one). Classical reconstructions that suit the physics stand beside the network.

    Arguments and result are those of `evaluate`; the first ``n_drawn`` images are drawn.
    """
    folder = Path(folder or ".")
    more = classical_for(physics)
    rows = evaluate(f, physics, images, more)
    print(f"{len(rows)} held-out images")
    print(summary(rows, {"pinv": "A_dagger y", **{name: name for name in more}, "net": "EI"}))
    write_metrics(rows, folder / "metrics.csv")
    device = next(f.parameters()).device
    drawn = []
    for index in range(min(n_drawn, len(images))):
        done = reconstruct_all(f, physics, image_of(images[index]).to(device), index)
        drawn.append({"y": done["y"][0], "A_dagger y": done["pinv"][0], "EI": done["net"][0], "truth": done["x"][0]})
    image_grid(drawn, folder / "reconstructions.png")
    print(f"files: {folder} (reconstructions.png, loss.png, training_loss.csv, metrics.csv, checkpoints)")
    return rows
