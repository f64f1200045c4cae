"""Run the gallery's scripts in full, and write the figures that its pages show: docs/gallery_figures/NAME.png.

python docs/gallery_figures.py [NAME ...]       by default all; prints the CPU seconds of each
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "gallery_figures"


def main(names: list[str]) -> None:
    FIGURES.mkdir(exist_ok=True)
    for path in sorted((ROOT / "examples").glob("plot_*.py")):
        if names and path.stem not in names:
            continue
        began, cpu = time.monotonic(), time.process_time()
        runpy.run_path(str(path), run_name="__main__")
        for number in plt.get_fignums():
            plt.figure(number).savefig(FIGURES / f"{path.stem}.png", dpi=90)
        plt.close("all")
        seconds = time.process_time() - cpu
        print(f"{path.stem}: {seconds:.0f} CPU seconds, {time.monotonic() - began:.0f} in all", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
