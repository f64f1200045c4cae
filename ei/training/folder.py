"""The run folder: its name, its lock, and the files that a training keeps in it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ei import __version__
from ei.common.drawing import loss_curves
from ei.common.files import CONTINUE, remove_temporaries, save_file, write_atomically, writing
from ei.common.locks import Lock
from ei.errors import InputError
from ei.training.log import LOG, TrainingLog, check_tensorboard

LOCK = ".lock"
CONFIG = "config.yaml"
STAGE = "stage_{}"
FIRST_STAGE = STAGE.format(1)
LAST, LAST_BUT_ONE, BEST = "ckp_last.pth.tar", "ckp_last-1.pth.tar", "ckp_best.pth.tar"


class RunFolder:
    """Where a training keeps its files: ``config.yaml``, ``training_loss.csv``, ``loss.png``, checkpoints.

    Args:
        out: the folder; None makes ``ckp/<time>_<method>_<task>`` when the training begins, False keeps nothing.
        config: the tree to write to ``config.yaml``, where it is more than that of the checkpoints.
        files: what else to write: names and texts.
        tensorboard: log for TensorBoard, too (if it is installed).

    Attributes:
        path: the folder, once it is there.
        continues: whether ``out`` may hold the run already.

    >>> RunFolder("runs/first").out
    'runs/first'
    """

    def __init__(
        self,
        out: str | os.PathLike | bool | None,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        tensorboard: bool = False,
    ) -> None:
        if tensorboard:
            check_tensorboard()
        self.out = out
        self.config = config
        self.files = dict(files or {})
        self.path: Path | None = None
        self.continues = False
        self._tensorboard = tensorboard
        self._board: Any = None
        self._log: TrainingLog | None = None
        self._drawn = 0

    @contextlib.contextmanager
    def held(
        self, name: tuple[str, str], config: Mapping[str, Any], columns: Sequence[str], history: Sequence[Mapping]
    ) -> Iterator[None]:
        """Have the folder, and keep it to this process in a ``with`` block.

        Args:
            name: method and task, which name the default folder.
            config: what to write to ``config.yaml``.
            columns: of the log, if they are known before the first epoch ends.
            history: the log's rows so far.

        Raises:
            InputError: if the folder cannot be had.
        """
        if self.out is False:
            yield
            return
        if self.path is None:
            if self.out is None:
                self.path = new_run_folder(*name)
            else:
                out = Path(str(self.out))
                if not self.continues:
                    check_run_folder(out)
                self.path = make_folder(out)
        lock = RunLock(self.path)
        try:
            remove_temporaries(self.path)
            versions = {"ei": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
            content = {**(config if self.config is None else self.config), "versions": versions}
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            for file, written in {CONFIG: text, **self.files}.items():
                write_atomically(self.path / file, written.encode(), advice=CONTINUE)
            columns = [c for c in history[0] if c != "epoch"] if history else columns
            self._log = TrainingLog(self.path / LOG, columns, history) if columns else None
            if self._tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                # What an interrupted run wrote after the checkpoint it continues from is dropped.
                self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=len(history) + 1)
            yield
        finally:
            if self._board is not None:
                self._board.close()
            lock.release()

    def append(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Add the newest row of ``history`` to the log."""
        if self.path is None:
            return
        row = history[-1]
        # Columns may be known only now: a closure gives its losses by computing them, a loader its images.
        if self._log is None or (len(history) == 1 and set(self._log.columns) != set(row)):
            self._log = TrainingLog(self.path / LOG, [column for column in row if column != "epoch"], history[:-1])
        self._log.append(row)
        if self._board is not None:
            for column in row.keys() - {"epoch"}:
                self._board.add_scalar(column, row[column], row["epoch"])
            self._board.flush()

    def save(self, state: Mapping[str, Any], name: str) -> None:
        """Write a checkpoint. What was ``ckp_last.pth.tar`` before stays as ``ckp_last-1.pth.tar``."""
        if self.path is not None:
            save_file(state, self.path / name, previous=self.path / LAST_BUT_ONE if name == LAST else None)

    def draw_curves(self, rows: int) -> None:
        """Draw ``loss.png`` if the log, of ``rows`` rows, has grown."""
        if self.path is not None and rows > self._drawn:
            self._drawn = rows
            with writing(self.path / "loss.png", CONTINUE):
                loss_curves(self.path / LOG, self.path / "loss.png")


def new_run_folder(method: str, task: str, parent: str | os.PathLike = "ckp") -> Path:
    """Make ``<parent>/<time>_<method>_<task>``, never one that is there already (``-2``, ``-3``, ... follow)."""
    name = "_".join(part for part in (time.strftime("%Y-%m-%d_%H-%M-%S"), method, task) if part)
    number = 1
    while True:
        try:
            return make_folder(Path(parent) / (name if number == 1 else f"{name}-{number}"), exist_ok=False)
        except FileExistsError:
            number += 1


def make_folder(folder: Path, exist_ok: bool = True) -> Path:
    """Make a folder, with those above it; raises `InputError` if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if not exist_ok and isinstance(error, FileExistsError):
            raise
        raise InputError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    return folder


def check_run_folder(folder: Path, begun: bool = False, stages: bool = False) -> None:
    """Raise if ``folder`` cannot become a run folder, or with ``stages`` that of the folders of stages; makes nothing.
    It may hold a run that has ``begun`` without a checkpoint, if that is given."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"the run folder {folder} cannot be made: {nearest} is a file; choose another --out")
    if not stages and (folder / FIRST_STAGE).is_dir():
        advice = "give the tree with its stages, too, or choose another --out"
        raise InputError(f"the folder {folder} holds a training in stages ({FIRST_STAGE}): {advice}")
    if nearest == folder and not begun:
        held = sorted(p.name for p in folder.iterdir() if p.name in (LOG, CONFIG) or p.name.startswith("ckp_"))
        if held:
            advice = f"choose another --out, or continue it with --resume {folder}/ckp_last.pth.tar"
            raise InputError(f"the run folder {folder} already holds a run ({held[0]}): {advice}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"the run folder {folder} cannot be written: no permission in {nearest}")


class RunLock(Lock):
    """Keeps a run folder to one living process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LOCK, f"the run folder {folder}", "--out")
