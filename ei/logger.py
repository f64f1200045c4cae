"""The run folder: its name, the log of the losses, the configuration, and what the user sees while training."""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from ei.errors import InputError

LOG = "training_loss.csv"
CONFIG = "config.yaml"


def new_run_folder(method: str, task: str, parent: str | os.PathLike = "ckp") -> Path:
    """Make ``<parent>/<time>_<method>_<task>``, never one that is there already (``-2``, ``-3``, ... follow)."""
    name = "_".join(part for part in (time.strftime("%Y-%m-%d_%H-%M-%S"), method, task) if part)
    number = 1
    while True:
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        try:
            _make(folder, exist_ok=False)
            return folder
        except FileExistsError:
            number += 1


def claim_run_folder(out: str | os.PathLike) -> Path:
    """Make ``out`` and return it.

    Raises:
        InputError: if it is a file, cannot be written, or holds a run already.
    """
    folder = Path(out)
    check_run_folder(folder)
    _make(folder, exist_ok=True)
    return folder


def check_run_folder(folder: Path) -> None:
    """Raise if ``folder`` cannot become a run folder; makes nothing."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the run folder {folder} is a file; choose another --out")
    if folder.is_dir():
        held = sorted(p.name for p in folder.iterdir() if p.name in (LOG, CONFIG) or p.name.startswith("ckp_"))
        if held:
            raise InputError(
                f"the run folder {folder} already holds a run ({held[0]}): choose another --out, or continue it with "
                f"--resume {folder}/ckp_last.pth.tar"
            )
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"the run folder {folder} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"the run folder {folder} cannot be written: no permission in {nearest}")


def _make(folder: Path, exist_ok: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise InputError(f"the run folder {folder} cannot be made: {error.strerror or error}") from error


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``; it can be given to ``--config`` again."""
    with open(folder / CONFIG, "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(config), file, sort_keys=False, allow_unicode=True)


class TrainingLog:
    """``training_loss.csv``: one row an epoch (counted from 1), on the disk as soon as the epoch ends."""

    def __init__(self, path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.path, self.columns = path, ["epoch", *columns]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
            file.flush()
            os.fsync(file.fileno())


class Progress:
    """One tqdm bar over all epochs on a terminal; elsewhere a plain line at the end of an epoch, every few seconds."""

    def __init__(self, epochs: int, steps_per_epoch: int | None, first_step: int, show: bool) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.first_step, self.step = first_step, first_step
        self.began = time.monotonic()
        self.last_line = -math.inf
        self.lines = show and not (sys.stdout.isatty() and sys.stderr.isatty())
        total = None if steps_per_epoch is None else epochs * steps_per_epoch
        self.bar = tqdm(
            total=total, initial=first_step, unit="step", disable=not show or self.lines, dynamic_ncols=True
        )

    def advance(self) -> None:
        self.step += 1
        self.bar.update()

    def losses(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show the losses of a step on the bar."""
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(_format(values), refresh=False)

    def epoch_ended(self, epoch: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        last = epoch + 1 == self.epochs
        if self.lines and (now - self.last_line >= 5 or last):
            self.last_line = now
            seconds = (now - self.began) / max(1, self.step - self.first_step)
            left = "" if self.steps_per_epoch is None else self._left(seconds)
            print(f"epoch {epoch + 1}/{self.epochs}  {_format(values)}  {seconds:.3g} s/step{left}", flush=True)

    def _left(self, seconds_per_step: float) -> str:
        steps = self.epochs * (self.steps_per_epoch or 0) - self.step
        return f"  {tqdm.format_interval(max(0, round(seconds_per_step * steps)))} left"

    def close(self) -> None:
        self.bar.close()


def _format(values: Mapping[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.2f}" if name == "psnr" else f"{name} {value:.3e}" for name, value in values.items()
    )
