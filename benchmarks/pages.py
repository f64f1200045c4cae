"""Put the tables of committed results into the pages that show them, or check that they are there.

    python benchmarks/pages.py            writes; --check only compares (exit code 1 where a page and its files differ)

A place is ``<!-- table PATH KIND -->`` to ``<!-- end -->`` in one of PAGES. KIND is a problem, for a folder of
benchmarks/reproduce.py, less its run folders; "seeds CELL", for its files CELL.csv and CELL_seed_N.csv; "trials", for
a file of benchmarks/trials.py; "cg_steps", for one of cg_steps.py there; "scans", for a folder of benchmarks/scans.py;
"stopping", for one of benchmarks/stopping.py; "race SECTION" and "growth", for a file of benchmarks/run.py; "steps",
for one of benchmarks/gpu.py; or "quality DECIBELS", for the folder of the files of benchmarks/time_to_quality.py. With
the kind "keys" PATH is a part of a tree, whose keys are listed (key_tables.py).
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from key_tables import keys
from reproduce import table
from speed_tables import Rows, growth, quality, race, steps
from stopping import picked

from ei.evaluation.quality import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / name for name in ("RESULTS.md", "README.md", "results/earlier.md", "benchmarks/README.md", "docs/runs.md")
]
MEASURED: dict[str, Callable[..., Rows]] = {"race": race, "growth": growth, "quality": quality, "steps": steps}
PLACE = re.compile(r"(<!-- table (?P<path>\S+) (?P<kind>\S+)(?: (?P<cell>\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def scans(folder: Path) -> str:
    """Means and standard deviations over the test scans."""
    with open(folder / "scans.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = json.loads((folder / "choices.json").read_text())["training_steps"]
    table = []
    for name in dict.fromkeys(row["name"] for row in rows):
        selected = [row for row in rows if row["name"] == name]
        cells = [
            f"{statistics.fmean(values):.{digits}f} +- {statistics.pstdev(values):.{digits}f}"
            for key, digits in (("psnr", 2), ("ssim", 3), ("matthews", 3))
            for values in [[float(row[key]) for row in selected]]
        ]
        table.append([name, *cells, str(steps.get(name, "-"))])
    return markdown(["", "PSNR [dB]", "SSIM", "Matthews", "steps"], table)


def trials(path: Path) -> str:
    """A row for each trial and seed."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return markdown(
        ["trial", "seed", "steps", "minutes", "usual PSNR [dB]", "averaged", "SSIM"],
        [
            [row["trial"], row["seed"], row["steps"], row["minutes"], f"{float(row['psnr']):.2f}",
             f"{float(row['psnr_average']):.2f}", f"{float(row['ssim']):.3f}"]
            for row in rows
        ],
    )  # fmt: skip


def seeds(folder: Path, cell: str) -> str:
    """Test means of the same training from other seeds."""
    found = {0: folder / f"{cell}.csv"}
    found |= {int(path.stem.rpartition("_")[2]): path for path in folder.glob(f"{cell}_seed_*.csv")}
    columns = {"psnr_paper_net": 2, "psnr_paper_average": 2, "ssim_net": 4}
    rows = []
    for seed in sorted(found):
        metrics = read_metrics(found[seed])
        means = [f"{statistics.fmean(row[name] for row in metrics):.{digits}f}" for name, digits in columns.items()]
        rows.append([str(seed), *means])
    return markdown(["seed", "paper PSNR [dB]", "averaged", "SSIM"], rows)


def stopping(folder: Path) -> str:
    """The epoch that each criterion stops at, and how good the network is there."""
    rows = [[text, f"{row['epoch']:.0f}", f"{row['psnr_test']:.2f}"] for text, row in
            picked(read_metrics(folder / "stopping.csv")).items()]  # fmt: skip
    return markdown(["stopped where", "epoch", "PSNR of test slices [dB]"], rows)


def cg_steps(path: Path) -> str:
    """A row for each operator and way of stepping, a column for each number of steps."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = list(dict.fromkeys(row["steps"] for row in rows))
    psnr = {(row["operator"], way, row["steps"]): row[way] for row in rows for way in ("plain", "filtered")}
    table = [
        [operator, way, *(f"{float(psnr[operator, way, number]):.2f}" for number in numbers)]
        for operator, way in dict.fromkeys(key[:2] for key in psnr)
    ]
    return markdown(["PSNR [dB] after steps", "", *numbers], table)


WRITTEN = {"scans": scans, "trials": trials, "cg_steps": cg_steps, "stopping": stopping}


def content(place: re.Match) -> str:
    path, kind = ROOT / place["path"], place["kind"]
    if kind == "keys":
        head, *rows = keys(place["path"])
        return markdown(head, rows)
    if kind in WRITTEN:
        return WRITTEN[kind](path)
    if kind in MEASURED:
        head, *rows = MEASURED[kind](path, *filter(None, [place["cell"]]))
        return markdown(head, rows)
    return seeds(path, place["cell"]) if kind == "seeds" else table(path, kind)


def filled(text: str) -> str:
    """A page with the tables of its places as the files say."""
    return PLACE.sub(lambda place: f"{place[1]}{content(place)}\n{place[5]}", text)


def main() -> None:
    differ = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            differ.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    print("; ".join(f"{name} {'differs' if '--check' in sys.argv else 'written'}" for name in differ) or "all equal")
    sys.exit(bool(differ) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
