"""Put the tables of committed results into the pages that show them, or check that they are there.

    python benchmarks/pages.py            writes; --check only compares (exit code 1 where a page and its files differ)

A place is ``<!-- table PATH KIND -->`` to ``<!-- end -->`` in one of PAGES. KIND is one of

    a problem, "seeds CELL"         of a folder of benchmarks/reproduce.py, less its run folders
    "trials", "seeded_trials", "cg_steps"   of a file of benchmarks/trials.py, of benchmarks/cg_steps.py
    "sizes"                         of a file of benchmarks/sizes.py
    "scans", "scan_by_scan", "four" of a folder of benchmarks/scans.py: all rows, PSNR by scan, the four rows of README
    "challenge"                     of a folder of files of benchmarks/htc_challenge.py
    "stopping"                      of a folder of benchmarks/stopping.py
    "sure_step"                     of a file of benchmarks/sure_step.py
    "race SECTION", "growth"        of a file of benchmarks/run.py
    "steps", "quality DECIBELS"     of benchmarks/gpu.py, of the folder of benchmarks/time_to_quality.py
    "summary", "paper"              of a list of problems (benchmarks/summary.yaml), of the folder results
    "keys"                          the keys of the part of a tree that stands in place of PATH (key_tables.py)
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from key_tables import keys
from reproduce import table
from result_tables import challenge, four, paper, scan_by_scan, scans, summary
from speed_tables import Rows, growth, quality, race, steps
from stopping import picked

from ei.evaluation.quality import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("RESULTS.md", "README.md", "benchmarks/README.md", "docs/reference/run_keys.md")),
    *sorted((ROOT / "docs" / "results").glob("*.md")),
]
MEASURED: dict[str, Callable[..., Rows]] = {
    "race": race, "growth": growth, "quality": quality, "steps": steps, "scans": scans, "scan_by_scan": scan_by_scan,
    "four": four, "challenge": challenge, "summary": summary, "paper": paper,
}  # fmt: skip
PLACE = re.compile(r"(<!-- table (?P<path>\S+) (?P<kind>\S+)(?: (?P<cell>\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def trials(path: Path) -> str:
    """A row for each trial; all are of seed 0."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return markdown(
        ["trial", "steps", "minutes", "usual PSNR [dB]", "with test-time augmentation", "SSIM"],
        [
            [row["trial"], row["steps"], row["minutes"], f"{float(row['psnr']):.2f}",
             f"{float(row['psnr_average']):.2f}", f"{float(row['ssim']):.3f}"]
            for row in rows
        ],
    )  # fmt: skip


def seeded_trials(path: Path) -> str:
    """A row for each trial: the mean over its seeds, and each of them."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_trial: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], []).append(row)

    def means(of_seeds: list[dict[str, str]], column: str) -> str:
        return f"{statistics.fmean(float(row[column]) for row in of_seeds):.2f}"

    return markdown(
        ["trial", "steps", "usual PSNR [dB]", "of each seed", "with test-time augmentation"],
        [
            [trial, some[0]["steps"], means(some, "psnr"), ", ".join(f"{float(row['psnr']):.2f}" for row in some),
             means(some, "psnr_average")]
            for trial, some in by_trial.items()
        ],
    )  # fmt: skip


def sizes(path: Path) -> str:
    """A row for each size, beam and program of benchmarks/sizes.py; "-" for what a program does not have."""
    columns = ("build_s", "peak_MB", "A_ms", "adjoint_ms", "A_dagger_ms", "CG_step_ms", "EI_step_ms")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return markdown(
        ["N", "beam", "program", *(f"{name.rpartition('_')[0].replace('_', ' ')} [{name.rpartition('_')[2]}]"
                                   for name in columns)],
        [[row["N"], row["beam"], row["program"], *(row[name] or "-" for name in columns)]
         for row in rows if not row["skipped"]],
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
    return markdown(["seed", "paper PSNR [dB]", "with test-time augmentation", "SSIM"], rows)


def stopping(folder: Path) -> str:
    """The epoch that each criterion stops at, and how good the network is there."""
    rows = [[text, f"{row['epoch']:.0f}", f"{row['psnr_test']:.2f}"] for text, row in
            picked(read_metrics(folder / "stopping.csv")).items()]  # fmt: skip
    return markdown(["stopped where", "epoch", "PSNR of test slices [dB]"], rows)


def sure_step(path: Path) -> str:
    """SURE beside the true error as trainings go on, for each step of the finite differences."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = {(row["step"], row["trained"]): row for row in csv.DictReader(file)}
    steps, lengths = (list(dict.fromkeys(key[k] for key in rows)) for k in (0, 1))
    head = ["steps of the training", *(f"{name}, tau {step}" for step in steps for name in ("SURE", "true error"))]
    return markdown(head, [
        [length, *(f"{float(rows[step, length][name]):.1e}" for step in steps for name in ("sure", "true"))]
        for length in lengths
    ])  # fmt: skip


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


WRITTEN = {"trials": trials, "seeded_trials": seeded_trials, "sizes": sizes, "cg_steps": cg_steps, "stopping": stopping,
           "sure_step": sure_step}  # fmt: skip


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
