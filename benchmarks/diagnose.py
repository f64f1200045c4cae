"""Are the verdicts of `diagnose` on rotations true? Operators whose answers are known, of many sizes.

    python benchmarks/diagnose.py                    everything, an hour on one core
    python benchmarks/diagnose.py --sides 16 25 --step 2 --seeds 1

To isotropic filters (ideal discs of 0.1 to 0.5 cycles a pixel, Gaussian blurs of 0.5 to 2 pixels) rotations bring
nothing; to CT of few views, strips, wedges and masks they bring something. Prints each verdict that is not the right
one, and a table: right, undecided, wrong. The exit code is 1 where one is wrong, or more than a tenth undecided.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ei.diagnosis.verdicts import CANNOT, HOLDS, NOTHING, UNDECIDED
from ei.evaluation import diagnose
from ei.physics import CT, Inpainting
from ei.transforms import Rotate

RADII = [0.1 + 0.02 * k for k in range(21)]
SIGMAS = [0.5 + 0.075 * k for k in range(21)]
SIDES = [16, 17, 20, 21, 24, 25, 28, 29, 32, 33, 36]


class Operator:
    """A linear operator."""

    def __init__(self, A: Callable[[Tensor], Tensor]) -> None:
        self.A = A


def frequencies(side: int) -> tuple[Tensor, Tensor]:
    """Of rows and of columns, each ``[side, side]``, in cycles a pixel."""
    f = torch.fft.fftfreq(side)
    return f[:, None].expand(side, side), f[None].expand(side, side)


def convolution(response: Tensor) -> Operator:
    return Operator(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * response).real)


def disc(side: int, radius: float) -> Operator:
    return convolution((torch.hypot(*frequencies(side)) <= radius).float())


def blur(side: int, sigma: float, across: float | None = None) -> Operator:
    """A Gaussian blur of ``sigma`` pixels down the columns, and of ``across`` pixels (the same) along the rows."""
    row, column = frequencies(side)
    across = sigma if across is None else across
    return convolution(torch.exp(-2 * math.pi**2 * ((row * sigma) ** 2 + (column * across) ** 2)))


def isotropic(side: int, step: int) -> Iterator[tuple[str, Any]]:
    for radius in RADII[::step]:
        yield f"disc {radius:.2f}", disc(side, radius)
    for sigma in SIGMAS[::step]:
        yield f"blur {sigma:.3f}", blur(side, sigma)


def directed(side: int, seed: int) -> Iterator[tuple[str, Any]]:
    row, column = frequencies(side)
    for share in (0.1, 0.2):
        yield f"strip {share}", convolution((column.abs() <= share).float())
    for views in (side // 4, side // 2):
        yield f"CT of {views} views", CT(side, views)
    yield "wedge", convolution((torch.atan2(row.abs(), column.abs()) < 1).float())
    yield "blur of rows", blur(side, 2, 0.5)
    for rate in (0.3, 0.6):
        torch.manual_seed(seed)
        yield f"mask {rate}", Inpainting(side, side, mask_rate=rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--step", type=int, default=1, help="every so manieth radius and blur")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    tally: dict[str, Counter[str]] = {"isotropic": Counter(), "directed": Counter()}
    for side in options.sides:
        for seed in range(options.seeds):
            for kind, operators in (("isotropic", isotropic(side, options.step)), ("directed", directed(side, seed))):
                right = (CANNOT, NOTHING) if kind == "isotropic" else (HOLDS,)
                for name, physics in operators:
                    found = diagnose(physics, Rotate(1), (1, side, side), seed=seed)
                    answer = "right" if found.verdict.startswith(right) else "wrong"
                    answer = "undecided" if found.verdict.startswith(UNDECIDED) else answer
                    tally[kind][answer] += 1
                    if answer != "right":
                        print(f"{side:3} seed {seed} {name:16} {answer}: {found.verdict}", flush=True)
    bad = False
    for kind, counts in tally.items():
        print(f"{kind:10} " + ", ".join(f"{counts[answer]} {answer}" for answer in ("right", "undecided", "wrong")))
        bad |= counts["wrong"] > 0 or counts["undecided"] > 0.1 * sum(counts.values())
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
