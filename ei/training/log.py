"""The log of the losses, and what the user sees while training."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ei.common.files import CONTINUE, write_atomically, writing
from ei.errors import MissingExtraError

LOG = "training_loss.csv"
# After so many steps the first line prints how long the run will take.
FIRST_STEPS = 20


class TrainingLog:
    """``training_loss.csv``: one row an epoch (counted from 1), on the disk as soon as the epoch ends."""

    def __init__(self, path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.path, self.columns = path, ["epoch", *columns]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue().encode(), advice=CONTINUE)

    def append(self, row: Mapping[str, Any]) -> None:
        with writing(self.path, CONTINUE), open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
            file.flush()
            os.fsync(file.fileno())


def check_tensorboard() -> None:
    """Raise unless TensorBoard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("trainer.tensorboard needs TensorBoard: pip install tensorboard")


class Progress:
    """One tqdm bar over all epochs on a terminal; elsewhere plain lines: after
    the first steps how long all will take, then one at the end of an epoch, every few seconds."""

    def __init__(self, epochs: int, steps_per_epoch: int | None, first_step: int, show: bool) -> None:
        self.epochs = epochs
        self.total = None if steps_per_epoch is None else epochs * steps_per_epoch
        self.first_step = first_step
        self.step = first_step
        self.began = time.monotonic()
        self.last_line = -math.inf
        self.lines = show and not (sys.stdout.isatty() and sys.stderr.isatty())
        self.bar = tqdm(
            total=self.total, initial=first_step, unit="step", disable=not show or self.lines, dynamic_ncols=True
        )

    def advance(self) -> None:
        self.step += 1
        self.bar.update()
        if self.lines and self.total is not None and self.step - self.first_step == FIRST_STEPS:
            seconds = (time.monotonic() - self.began) / FIRST_STEPS
            steps = self.total - self.first_step
            print(f"{steps} steps, {seconds:.2g} s/step: about {_interval(seconds * steps)}", flush=True)

    def losses(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show the losses of a step on the bar."""
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(_format(values), refresh=False)

    def epoch_ended(self, epoch: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if not self.lines or (now - self.last_line < 5 and epoch + 1 < self.epochs):
            return
        self.last_line = now
        seconds = (now - self.began) / max(1, self.step - self.first_step)
        left = "" if self.total is None else f"  {_interval(seconds * (self.total - self.step))} left"
        print(f"epoch {epoch + 1}/{self.epochs}  {_format(values)}  {seconds:.3g} s/step{left}", flush=True)

    def close(self) -> None:
        self.bar.close()


def _interval(seconds: float) -> str:
    return str(tqdm.format_interval(max(0, round(seconds))))


def _format(values: Mapping[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.2f}" if name.endswith("psnr") else f"{name} {value:.3e}" for name, value in values.items()
    )
