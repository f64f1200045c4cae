"""Tables of committed results across problems, and of the scans of benchmarks/scans.py (see pages.py)."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from reproduce import PAPERS, classical_title
from speed_tables import Rows

from ei.evaluation.quality import read_metrics

ROOT = Path(__file__).resolve().parents[1]
DIGITS = {"psnr": 2, "ssim": 3, "matthews": 3}
NOT_RUN = "not run"
CHALLENGE = {
    "cgls": "least squares (CGLS, 40 iterations), 128 x 128",
    "ei_128": "EI, operators of any scan, 128 x 128",
    "ei_256": "EI, the same, continued at 256 x 256",
}


# ---- real scans -----------------------------------------------------------------------------------------------------


def read_scans(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The figures of each reconstruction, a row for each test scan."""
    with open(folder / "scans.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        figures.setdefault(row["name"], []).append({key: float(row[key]) for key in DIGITS})
    return figures


def seeds_of(figures: Mapping[str, Any], method: str) -> list[str]:
    """The names of the rows of a method: "EI", "EI, seed 1", ..."""
    return [name for name in figures if name == method or re.fullmatch(rf"{method}, seed \d+", name)]


def mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


def scans(folder: Path) -> Rows:
    """Means and standard deviations over the test scans."""
    steps = json.loads((folder / "choices.json").read_text())["training_steps"]
    table = [["", "PSNR [dB]", "SSIM", "Matthews", "steps"]]
    for name, rows in read_scans(folder).items():
        cells = [
            f"{mean(rows, key):.{digits}f} +- {statistics.pstdev(row[key] for row in rows):.{digits}f}"
            for key, digits in DIGITS.items()
        ]
        table.append([classical_title(name), *cells, str(steps.get(name, "-"))])
    return table


def scan_by_scan(folder: Path) -> Rows:
    """PSNR of each test scan, of EI for each seed and of supervised training."""
    figures = read_scans(folder)
    names = [*seeds_of(figures, "EI"), *seeds_of(figures, "Sup")]
    count = len(figures[names[0]])
    head = ["PSNR [dB]", *(f"scan {number + 1}" for number in range(count))]
    return [head, *([name, *(f"{row['psnr']:.2f}" for row in figures[name])] for name in names)]


def four(folder: Path) -> Rows:
    """The four rows of README: least squares, total variation, EI, supervised, the learned ones over their seeds."""
    figures = read_scans(folder)
    trained = {"EI": "15 sinograms", "Sup": "15 sinograms and their images"}
    labels = {"TV": "total variation", "EI": "**EI**", "Sup": "supervised, the same network"}
    table = [["", "learns from", "seeds", "PSNR [dB]", "SSIM"]]
    for name in ("CGLS", *labels):
        rows = [key for key in figures if key.startswith("CGLS")] if name == "CGLS" else seeds_of(figures, name)
        scores = [score for row in rows for score in figures[row]]
        seeds = str(len(rows)) if name in trained else "-"
        table.append([labels.get(name, classical_title(rows[0])), trained.get(name, "-"), seeds,
                      f"{mean(scores, 'psnr'):.2f}", f"{mean(scores, 'ssim'):.3f}"])  # fmt: skip
    return table


def challenge(folder: Path) -> Rows:
    """Scores of the Helsinki challenge (benchmarks/htc_challenge.py): the sum of the three discs of each level."""
    table: list[list[str]] = []
    for stem, title in CHALLENGE.items():
        with open(folder / f"{stem}.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        levels = sorted({int(row["degrees"]) for row in rows}, reverse=True)
        sums = [sum(float(row["correlation"]) for row in rows if int(row["degrees"]) == level) for level in levels]
        table = table or [["", *(f"{level} degrees" for level in levels)]]
        table.append([title, *(f"{value:.2f}" for value in sums)])
    return table


# ---- problems -------------------------------------------------------------------------------------------------------


def cell_means(folder: Path, cell: str, column: str) -> list[float]:
    """The mean of a column over the test images, for each seed of a cell; none where it was not run."""
    paths = [folder / f"{cell}.csv", *sorted(folder.glob(f"{cell}_seed_*.csv"))]
    return [mean(read_metrics(path), column) for path in paths if path.exists()]


def decibels(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" if values else NOT_RUN


def title_of_best(name: str) -> str:
    """A classical reconstruction without its settings: "TV, x >= 0, weight 1" is "TV"."""
    return re.split(r",| \d", name)[0]


def of_reproduce(folder: Path, problem: str) -> dict[str, str]:
    """The cells of a row of the summary, from a folder of benchmarks/reproduce.py."""
    methods = json.loads((folder / f"{problem}.json").read_text(encoding="utf-8"))["methods"]
    first = next(iter(methods))
    rows = read_metrics(folder / f"{problem}_{first}.csv")  # files of other seeds have no classical reconstructions
    classical = {title_of_best(name): mean(rows, f"psnr_paper_{name}") for name in methods[first]["classical"]}
    best = max(classical, key=lambda name: classical[name], default=None)
    values = {name: cell_means(folder, f"{problem}_{name}", "psnr_paper_net") for name in ("mc", "ei", "rei", "sup")}
    robust = f"; REI {decibels(values['rei'])}" if values["rei"] else ""
    method = "ei" if values["ei"] else "rei"
    return {
        "pinv": decibels(cell_means(folder, f"{problem}_{first}", "psnr_paper_pinv")),
        "best": "-" if best is None else f"{best} {classical[best]:.2f}",
        "mc": decibels(values["mc"]),
        "ei": decibels(values["ei"]) + robust,
        "sup": decibels(values["sup"]),
        "seeds": str(len(values[method])),
        "minutes": f"{methods[method]['minutes']:.0f}",
    }


def of_scans(folder: Path) -> dict[str, str]:
    """The cells of a row of the summary, from a folder of benchmarks/scans.py, which notes no minutes."""
    figures = read_scans(folder)
    means = {name: mean(rows, "psnr") for name, rows in figures.items()}
    best = max((means[name], name.split()[0]) for name in means if name.startswith(("CGLS", "TV")))
    values = {key: decibels([means[name] for name in seeds_of(means, title)])
              for key, title in (("pinv", "A_dagger y"), ("mc", "MC"), ("ei", "EI"), ("sup", "Sup"))}  # fmt: skip
    return {
        **values,
        "best": f"{best[1]} {best[0]:.2f}",
        "seeds": str(len(seeds_of(means, "EI"))),
        "minutes": "-",
    }


def summary(path: Path) -> Rows:
    """A row for each problem of a list: its title and page, the folder of its results and what is in it."""
    head = ["problem", "A_dagger y", "without learning", "MC", "EI", "supervised", "the paper's EI", "seeds", "minutes"]
    rows = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        folder = ROOT / entry["folder"]
        cells = of_scans(folder) if entry["kind"] == "scans" else of_reproduce(folder, entry["kind"])
        papers = PAPERS.get(entry["kind"], {}).get("ei")
        rows.append([f"[{entry['problem']}]({entry['page']})", cells["pinv"], cells["best"], cells["mc"],
                     f"**{cells['ei']}**", cells["sup"], "-" if papers is None else f"{papers:.2f}", cells["seeds"],
                     cells["minutes"]])  # fmt: skip
    return [head, *rows]


def paper(folder: Path) -> Rows:
    """The paper's table: each method on its two problems, ours and the paper's."""
    titles = {"pinv": "A_dagger y", "mc": "MC", "ei": "**EI**", "ei_adv": "adversarial EI", "sup": "supervised",
              "ei_sup": "supervised + EI"}  # fmt: skip
    rows = []
    for method, title in titles.items():
        row = [title]
        for problem in ("ct", "inpainting"):
            cell, column = (f"{problem}_ei", "pinv") if method == "pinv" else (f"{problem}_{method}", "net")
            ours = decibels(cell_means(folder / problem, cell, f"psnr_paper_{column}"))
            row += [ours, f"{PAPERS[problem][method]:.2f}"]
        rows.append(row)
    return [["paper PSNR [dB]", "CT, ours", "CT, the paper's", "inpainting, ours", "inpainting, the paper's"], *rows]
