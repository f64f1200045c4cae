"""The run folder: its name, the log of the losses, the configuration, and what the user sees while training."""

from __future__ import annotations

import contextlib
import csv
import errno
import importlib.util
import io
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from ei.checkpoint import write_atomically, writing
from ei.errors import InputError, MissingExtraError

LOCK = ".lock"
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


def check_run_folder(folder: Path, begun: bool = False) -> None:
    """Raise if ``folder`` cannot become a run folder; makes nothing. It may hold a run that has ``begun`` without a
    checkpoint, if that is given."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the run folder {folder} is a file; choose another --out")
    if folder.is_dir() and not begun:
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


class RunLock:
    """Keeps a run folder to one living process. The system releases it when the process dies, however it dies.

    Args:
        folder: the run folder.

    Raises:
        InputError: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        while True:
            try:
                self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise InputError(f"the run folder {folder} cannot be written: {error.strerror or error}") from error
            if not _lock(self._file):
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise InputError(
                    f"the run folder {folder} is in use by {holder}; wait for its end, or choose another --out"
                )
            # Between our opening and locking it, the one that held it may have removed it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                    break
            self._file.close()
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}")
        self._file.flush()

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()


def _lock(file: Any) -> bool:
    """Take the lock on a file, or say that another process has it. POSIX record locks, because a forked process that
    loads data must not inherit it."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        print(
            f"warning: {file.name} cannot be locked ({error.strerror or error}): see to it that no other run uses its "
            "folder",
            file=sys.stderr,
        )
    return True


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``; it can be given to ``--config`` again."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(folder / CONFIG, text.encode())


class TrainingLog:
    """``training_loss.csv``: one row an epoch (counted from 1), on the disk as soon as the epoch ends."""

    def __init__(self, path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.path, self.columns = path, ["epoch", *columns]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue().encode())

    def append(self, row: Mapping[str, Any]) -> None:
        with writing(self.path), open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
            file.flush()
            os.fsync(file.fileno())


class TensorBoard:
    """The log's rows once more, for TensorBoard, in ``<run folder>/tensorboard``; see `check_tensorboard`."""

    def __init__(self, folder: Path, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote after the checkpoint it continues from is dropped.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)

    def append(self, row: Mapping[str, Any]) -> None:
        for column, value in row.items():
            if column != "epoch":
                self.writer.add_scalar(column, value, row["epoch"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def check_tensorboard() -> None:
    """Raise unless TensorBoard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("--tensorboard needs TensorBoard: pip install tensorboard")


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
