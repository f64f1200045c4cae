"""The tables of benchmarks/README.md from what was measured (``measured/``)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

Rows = list[list[str]]


def race(path: Path, section: str) -> Rows:
    """A section of a file of run.py: our median time, that of the others as its multiple, and the memory they add."""
    measured = json.loads(path.read_text(encoding="utf-8"))[section]
    programs = list(dict.fromkeys(name for timed in measured.values() for name in timed))

    def cell(figures: dict[str, float] | None, ours: bool) -> str:
        if figures is None:
            return "-"
        ms = figures["median_ms"]
        time = f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.3g} ms"
        memory = f", {figures['peak_MB'] / 1000:.2f} GB" if "peak_MB" in figures else ""
        return (time if ours else f"{figures['ratio']:.3g} x") + memory

    rows = [[title, *(cell(timed.get(name), name == "ours") for name in programs)] for title, timed in measured.items()]
    return [["", *programs], *rows]


def steps(path: Path) -> Rows:
    """A file of gpu.py: a step with and without CUDA graphs."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(row["step"], float(row["plain_ms"]), float(row["graphs_ms"])) for row in csv.DictReader(file)]
    return [["", "plain", "with CUDA graphs", ""]] + [
        [name, f"{plain:.1f} ms", f"{graphs:.1f} ms", f"{plain / graphs:.1f} x"] for name, plain, graphs in rows
    ]


def growth(path: Path) -> Rows:
    """What CT takes to make and to keep, size by size."""
    measured: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["growth"]
    head = ["", "build", "matrices", "while made", "bytes / (N^2 V)", "A, an image", "A_dagger, an image"]
    return [head] + [
        [
            size, f"{row['build_s']:.2f} s", f"{row['matrices_MB']:.0f} MB", f"{row['while_building_MB']:.0f} MB",
            f"{row['bytes_per_pixel_and_view']:.0f}", f"{row['A_ms_per_image']:.2f} ms",
            f"{row['A_dagger_ms_per_image']:.2f} ms",
        ]
        for size, row in measured.items()
    ]  # fmt: skip


def minutes_to(curve: list[tuple[float, float]], level: float) -> tuple[float | None, float | None]:
    """When the PSNR of a curve of (minute, PSNR) is first at least ``level``, and from when on for good."""
    first = next((minute for minute, value in curve if value >= level), None)
    lasting = next((curve[k][0] for k in range(len(curve)) if all(value >= level for _, value in curve[k:])), None)
    return first, lasting


def quality(folder: Path, decibels: str) -> Rows:
    """When each library's training came to so many ``decibels``, and where it ended (time_to_quality.py)."""
    rows, level = [], float(decibels)
    for name in ("ours", "deepinv"):
        with open(folder / f"time_to_quality_{name}.csv", newline="", encoding="utf-8") as file:
            curve: list[dict[str, Any]] = [{key: float(x) for key, x in row.items()} for row in csv.DictReader(file)]
        last = curve[-1]
        reached = minutes_to([(row["cpu_minutes"], row["psnr"]) for row in curve], level)
        minutes = ["never" if spent is None else f"{spent:.1f} min" for spent in (*reached, last["cpu_minutes"])]
        rows.append([name, *minutes, f"{last['psnr']:.2f} dB"])
    head = ["", f"{level:g} dB first", f"{level:g} dB for good", f"{last['step']:.0f} steps", "at the end"]
    return [head, *rows]
