"""Error bars beside true errors: trainings of minutes, the bootstrap of their networks, calibration from measurements.

    python benchmarks/uncertainty.py train [PROBLEM ...] --data FOLDER --runs RUNS      a few CPU minutes a network
    python benchmarks/uncertainty.py measure [PROBLEM ...] --data FOLDER --runs RUNS    results/uncertainty/*.csv, *.png
    python benchmarks/uncertainty.py keep NAME --runs FOLDER     of ``ei test --uncertainty --out FOLDER``: results/
    python benchmarks/uncertainty.py page                                               docs/results/uncertainty.md

FOLDER holds ``CT100_128x128.mat`` and ``Urban100/``. A network is trained on the first images of a set, calibrated by
measurements of the next, and tested on the last.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pages import markdown
from scipy.io import loadmat
from torch import Tensor

from ei.closure import EIClosure, RobustEIClosure, SupervisedClosure
from ei.common.drawing import error_maps
from ei.common.files import load_file
from ei.common.seeds import generator
from ei.datasets import CVDB, make_loader
from ei.evaluation.calibration import Calibration, Scores, coverage, held_out_scores, joined, true_scores
from ei.evaluation.missing_power import missing_power_scores
from ei.evaluation.uncertainty import bootstrap
from ei.models import UNet, Unrolled
from ei.physics import Inpainting, Tomography, TransmissionNoise
from ei.physics.noise_adapter import get_noise
from ei.training import Trainer, cosine_schedule
from ei.transforms import FourierRotate, Shift, Turn

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "uncertainty"
PAGE = ROOT / "docs" / "results" / "uncertainty.md"
# Measured by `ei test --uncertainty` on networks that have a page of their own.
BY_COMMAND = {
    "helsinki_ei": "Helsinki, 60 views over 120 degrees: EI",
    "helsinki_sup": "Helsinki, 60 views over 120 degrees: supervised",
}
# The columns of a table of coverage, by those of its file.
COVERAGE = {
    "level": "nominal [%]",
    "norm": "norm",
    "norm_calibrated": "calibrated by measurements",
    "norm_by_truth": "by ground truth",
    "pixels": "pixels",
    "pixels_calibrated": "calibrated by measurements",
    "pixels_by_truth": "by ground truth",
}
SIDE = 64
BATCH = 10


@dataclass
class Problem:
    """What a network is trained for."""

    physics: Any
    images: Callable[[Path], dict[str, Tensor]]  # training, validation and test images [n, C, H, W]
    title: str
    group: Any  # of the training
    closure: Any
    epochs: int
    batch: int = 2
    lr: float = 1e-3
    f: dict[str, Any] = field(default_factory=dict)
    positions: Any = None  # the group of the bootstrap; None for that of the training
    max_steps: int | None = None

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

    def cut(images: list[Tensor], count: int) -> Tensor:
        return torch.stack([image[:, r : r + SIDE, c : c + SIDE] for image in images for r, c in places[:count]])

    return {
        "train": cut([train[n] for n in range(80)], 4),
        "validation": cut([train[n] for n in range(80, 90)], 2),
        "test": cut([test[n] for n in range(10)], 2),
    }


def scanner(views: int, arc: float, noise: Any = None) -> Tomography:
    made = Tomography((SIDE, SIDE), [arc / views * v for v in range(views)], 91)
    made.noise = noise
    return made


def problems() -> dict[str, Problem]:
    """A new set of problems, by name."""
    moved: dict[str, Any] = {"alpha": 1, "stop_gradient": True, "frozen_targets": True}
    three: dict[str, Any] = {"iterations": 3, "cg_steps": 5}
    filtered: dict[str, Any] = {"iterations": 3, "cg_steps": 3, "filtered": True}
    even, wedge = scanner(25, 180), scanner(30, 120)
    # Pixels are of 2 x 2 of CT100's, for which the scale is 0.0064.
    counts = scanner(25, 180, TransmissionNoise(photons=1e5, sigma=30, scale=0.0128))
    rei = RobustEIClosure(alpha=1, stop_gradient=True, mc_domain="image", move="operator")
    denoising: dict[str, Any] = {"iterations": 4, "cg_steps": 3, "last": "net"}
    mask = Inpainting(SIDE, SIDE, mask_rate=0.3)
    one: dict[str, Any] = {"iterations": 1, "cg_steps": 1}
    turn = Turn(2, step=7.2)
    ei, sup = EIClosure(**moved, move="operator"), SupervisedClosure()
    any_angle: dict[str, Any] = {"positions": Turn(1)}
    ct, limited, inpainting = "CT, 25 views", "CT, 30 views over 120 degrees", "inpainting, 30 % of the pixels missing"
    return {
        "ct_ei": Problem(even, slices, f"{ct}: EI", turn, ei, 13, f=three, max_steps=297, **any_angle),
        "inpainting_ei": Problem(mask, crops, f"{inpainting}: EI", Shift(1), ei, 3, batch=4, lr=2e-3, f=one),
        "limited_ei": Problem(
            wedge, slices, f"{limited}: EI", FourierRotate(2), EIClosure(**moved), 3, f=filtered, **any_angle
        ),
        "ct_counts_rei": Problem(counts, slices, f"{ct}, photon counts: REI", turn, rei, 10, f=denoising, **any_angle),
        "ct_counts_sup": Problem(
            counts, slices, f"{ct}, photon counts: supervised", None, sup, 6, f=denoising, **any_angle
        ),
        "ct_sup": Problem(even, slices, f"{ct}: supervised", None, sup, 6, f=three, **any_angle),
    }


def train(name: str, data: Path, runs: Path) -> None:
    torch.set_num_threads(1)
    problem = problems()[name]
    f = problem.network()
    optimizer = torch.optim.Adam(f.net.parameters(), lr=problem.lr)
    trainer = Trainer(
        f, problem.physics, problem.group, problem.closure, {"total": optimizer}, epochs=problem.epochs,
        schedule=cosine_schedule(problem.epochs), clip_norm=0.01, out=runs / name, ckp_interval=1000, progress=False,
        max_steps=problem.max_steps,
    )  # fmt: skip
    trainer.fit(make_loader(problem.images(data)["train"], batch_size=problem.batch))


# ---- figures --------------------------------------------------------------------------------------------------------


def measure(name: str, data: Path, runs: Path, draws: int) -> None:
    """Measure the coverage of one network's error bars, before and after calibration, and write its files."""
    torch.set_num_threads(1)
    problem = problems()[name]
    f = problem.network()
    f.net.load_state_dict(load_file(runs / name / "ckp_last.pth.tar")["state_dict"])
    f.eval()
    group = problem.positions or problem.group
    sets = problem.images(data)
    began = time.process_time()
    tested = joined([_scores(problem, f, group, x, draws) for x in sets["test"].split(BATCH)])
    seconds = (time.process_time() - began) / len(sets["test"])
    seen = joined([_scores(problem, f, group, x, draws) for x in sets["validation"].split(BATCH)])
    measurements = [(f, problem.physics, _measured(problem, x)) for x in sets["validation"].split(BATCH)]
    held_out = joined([
        held_out_scores(*measured[:2], group, measured[2], draws, seed=k, noise=get_noise(problem.physics))
        for k, measured in enumerate(measurements)
    ])  # fmt: skip
    sources = {"held-out measurements": held_out}
    if getattr(problem.physics, "step_between_views", None) is not None:
        sources["the power between the views"] = missing_power_scores(measurements, group, draws)
    calibration = Calibration.of(list(sources.values())[-1], "")
    by_measurements = coverage(tested, calibration)
    by_truth = coverage(tested, Calibration.of(seen, "ground truth"))
    rows = [
        {**row, "norm_by_truth": other["norm_calibrated"], "pixels_by_truth": other["pixels_calibrated"]}
        for row, other in zip(by_measurements, by_truth, strict=True)
    ]
    write(RESULTS / f"{name}_coverage.csv", rows)
    write(RESULTS / f"{name}_factors.csv", [
        _factors("test images, ground truth", tested, seconds),
        _factors("validation images, ground truth", seen),
        *(_factors(f"validation images, {source}", scores) for source, scores in sources.items()),
    ])  # fmt: skip
    write(RESULTS / f"{name}_images.csv", [
        {"index": n, "estimated": float(a), "true": float(b)}
        for n, (a, b) in enumerate(zip(tested.predicted, tested.norms, strict=True))
    ])  # fmt: skip
    _draw(problem, f, group, sets["test"][:2], draws, calibration.factor, RESULTS / f"{name}.png")


def _scores(problem: Problem, f: Any, group: Any, x: Tensor, draws: int) -> Scores:
    y = _measured(problem, x)
    return true_scores(bootstrap(f, problem.physics, group, y, draws, generator=generator(0)), x)


def _measured(problem: Problem, x: Tensor) -> Tensor:
    noise, y = get_noise(problem.physics), problem.physics.A(x)
    return y if noise is None else noise(y, generator=generator(0, "noise"))


def _factors(source: str, scores: Scores, seconds: float = 0.0) -> dict[str, Any]:
    low, high = (float(torch.quantile(scores.factors, p)) for p in (0.1, 0.9))
    return {
        "source": source, "images": len(scores.norms), "factor": float(scores.factors.mean()), "low": low, "high": high,
        "correlation": scores.correlation, "cpu_seconds_an_image": seconds,
    }  # fmt: skip


def _draw(problem: Problem, f: Any, group: Any, x: Tensor, draws: int, factor: float, path: Path) -> None:
    result = bootstrap(f, problem.physics, group, _measured(problem, x), draws, generator=generator(0))
    gray = lambda error: error.square().mean(0, keepdim=True).sqrt()  # noqa: E731
    error_maps([
        {"x": image, "estimated, times the factor": factor * gray(rmse), "true error": gray(image - truth)}
        for image, rmse, truth in zip(result.x, result.rmse, x, strict=True)
    ], path)  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tables() -> str:
    """The sections of the page: of every problem that was measured here, and by command."""
    measured = [section(name, problem.title) for name, problem in problems().items()]
    return "\n".join(filter(None, [*measured, *(section(name, title) for name, title in BY_COMMAND.items())]))


def section(name: str, title: str) -> str:
    """The section of a problem; empty where it was not measured."""
    if not (RESULTS / f"{name}_coverage.csv").exists():
        return ""
    factors = factors_by_command(name) if name in BY_COMMAND else factor_table(name)
    rows = read(RESULTS / f"{name}_coverage.csv")
    columns = [column for column in COVERAGE if column in rows[0]]
    cells = [[f"{100 * float(row[column]):.0f}" for column in columns] for row in rows]
    table = markdown([COVERAGE[column] for column in columns], cells)
    picture = f"![{title}](../../results/uncertainty/{name}.png)"
    return "\n\n".join([f"## {title}", factors, table, picture]) + "\n"


def factor_table(name: str) -> str:
    rows = read(RESULTS / f"{name}_factors.csv")
    cells = []
    for row in rows:
        factor, low, high, correlation = (f"{float(row[key]):.2f}" for key in ("factor", "low", "high", "correlation"))
        cells.append([row["source"], row["images"], factor, f"{low} to {high}", correlation])
    head = ["true mean squared error / estimated, by", "images", "mean", "10th to 90th percentile", "correlation"]
    seconds = float(rows[0]["cpu_seconds_an_image"])
    return f"{markdown(head, cells)}\n\nOne image took {seconds:.1f} CPU seconds."


def factors_by_command(name: str) -> str:
    images = [(float(row["true"]), float(row["estimated"])) for row in read(RESULTS / f"{name}_images.csv")]
    ratios = ", ".join(f"{(true / estimated) ** 2:.2f}" for true, estimated in images)
    return f"True mean squared error / estimated, test scan by test scan: {ratios}."


def keep(name: str, folder: Path) -> None:
    """Copy the files of a call of `ei test` to the results."""
    for source, kept in (("coverage.csv", "coverage.csv"), ("errors.csv", "images.csv"), ("sample_1_errors.png", "")):
        shutil.copyfile(folder / source, RESULTS / (f"{name}_{kept}" if kept else f"{name}.png"))


MARKER = "<!-- below: python benchmarks/uncertainty.py page -->"


def write_page() -> None:
    """Write the tables below the marker of the page."""
    text = PAGE.read_text(encoding="utf-8").split(MARKER)[0]
    PAGE.write_text(f"{text}{MARKER}\n\n{tables()}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure", "keep", "page"])
    parser.add_argument("problems", nargs="*", default=list(problems()))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    if options.what == "page":
        write_page()
        return
    for name in options.problems:
        if options.what == "keep":
            keep(name, options.runs)
        elif options.what == "measure":
            measure(name, options.data, options.runs, options.draws)
        elif not list((options.runs / name).glob("ckp_last.pth.tar")):
            train(name, options.data, options.runs)


if __name__ == "__main__":
    main()
