"""The training loop. There is one; methods, problems and groups are what it is given.

    f = Reconstructor(UNet(3, 3), physics)
    trainer = Trainer(f, physics, Shift(3), EIClosure(alpha=1), {"total": Adam(f.net.parameters())}, epochs=100)
    trainer.fit(make_loader(images, batch_size=2))

An epoch goes through the loader once. A step measures a batch of images, calls the closure, and steps each optimiser
on its loss. Everything random is seeded by (seed, epoch) or (seed, step), so a run continues exactly where its newest
checkpoint stands (`Trainer.resume`).
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ei
from ei.checkpoint import save_file
from ei.datasets.batches import images_of, simulate
from ei.describe import describe
from ei.errors import InputError
from ei.logger import LOG, Progress, TrainingLog, claim_run_folder, new_run_folder, write_config
from ei.metrics import cal_psnr
from ei.plot import loss_curves
from ei.seeding import derive_seed

LearningRate = Callable[[int], float]


def step_schedule(milestones: Iterable[int] = ()) -> LearningRate:
    """The learning rate's factor: x0.1 at each milestone (epochs counted from 0)."""
    drops = sorted(milestones)
    return lambda epoch: 0.1 ** sum(epoch >= drop for drop in drops)


def cosine_schedule(epochs: int) -> LearningRate:
    """The learning rate's factor ``(1 + cos(pi * epoch / epochs)) / 2``."""
    return lambda epoch: (1 + math.cos(math.pi * epoch / epochs)) / 2


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite."""


class Trainer:
    """Trains a reconstruction function.

    Args:
        f: the reconstruction function (a `Reconstructor`), on the device to train on.
        physics: the forward operator that measures and that the closure uses.
        transform: the group, or None for closures that use none.
        closure: what a step computes (`ei.closure`).
        optimizers: which optimiser steps on which loss of the closure, as in ``{"total": opt_G, "D": opt_D}``.
        epochs: how often to go through the data.
        schedule: the learning rate's factor of an epoch; 1 if not given.
        seed: of everything random.
        out: the run folder; None makes ``ckp/<time>_<method>_<task>``, False keeps no files.
        ckp_interval: epochs between the checkpoints that are kept.
        save_every: minutes between the rolling checkpoints ``ckp_last``, ``ckp_last-1``.
        max_steps: stop after so many steps in all.
        report_psnr: log PSNR and MSE of the training batches (needs the loader to give images).
        config: what to write to ``config.yaml`` and into the checkpoints (plain values).
        environment: what else to write to ``config.yaml``: what does not change the result (device, workers).
        networks: what is saved for each optimiser; by default ``{"total": f.net}`` and the closure's discriminator.
        method, task: name the default run folder.
        progress: show a bar, or lines.
    """

    def __init__(
        self,
        f: Any,
        physics: Any,
        transform: Any,
        closure: Any,
        optimizers: Mapping[str, torch.optim.Optimizer],
        *,
        epochs: int,
        schedule: LearningRate | None = None,
        seed: int = 0,
        out: str | os.PathLike | bool | None = None,
        ckp_interval: int | None = None,
        save_every: float = 10.0,
        max_steps: int | None = None,
        report_psnr: bool = True,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        networks: Mapping[str, nn.Module] | None = None,
        method: str = "",
        task: str = "",
        progress: bool = True,
    ) -> None:
        if epochs < 1 or (ckp_interval is not None and ckp_interval < 1):
            raise InputError(f"epochs and ckp_interval must be at least 1, not {epochs} and {ckp_interval}")
        self.f, self.physics, self.transform, self.closure = f, physics, transform, closure
        self.optimizers = dict(optimizers)
        self.networks = dict(networks) if networks is not None else self._default_networks()
        if self.networks.keys() != self.optimizers.keys():
            raise InputError(f"optimizers for {list(self.optimizers)} but networks for {list(self.networks)}")
        self.epochs, self.max_steps, self.seed = epochs, max_steps, seed
        self.schedule: LearningRate = schedule or step_schedule()
        self.base_lr = {name: [g["lr"] for g in opt.param_groups] for name, opt in self.optimizers.items()}
        self.out, self.ckp_interval, self.save_every = out, ckp_interval or epochs, save_every
        self.report_psnr, self.progress = report_psnr, progress
        self.method, self.task = method or type(closure).__name__.removesuffix("Closure").lower(), task
        self.config = dict(config or {"method": self.method, "task": task, "epochs": epochs, "seed": seed})
        self.environment = dict(environment or {})

        # The state of a run, besides weights and optimisers: where it is, and the open epoch's sums.
        self.epoch, self.batch, self.step = 0, 0, 0
        self.sums: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self._rolled_at: int | None = None
        self.folder: Path | None = None
        self.log: TrainingLog | None = None

    def fit(self, loader: Iterable) -> list[dict[str, float]]:
        """Train on the batches of ``loader`` (see `ei.datasets.images_of`) up to the last epoch or ``max_steps``.

        Returns:
            The log: a dict of means for every finished epoch.

        Raises:
            TrainingDivergedError: if a loss is NaN or infinite; no checkpoint is written after it.
            InputError: for batches, or a run folder, that cannot be used.
        """
        steps = len(loader) if isinstance(loader, Sized) else None
        if steps == 0:
            raise InputError("the loader gives no batches")
        self._open_folder()
        progress = Progress(self.epochs, steps, self.step, self.progress)
        saved = time.monotonic()
        self.f.train()
        for network in self.networks.values():
            network.train()
        try:
            # Seeding per step must not disturb the random numbers of the program that calls us.
            with torch.random.fork_rng(devices=_cuda_devices(self._device)):
                while self.epoch < self.epochs and not self._enough():
                    self._set_learning_rates()
                    for batch in self._batches(loader):
                        shown = self._step(batch)
                        progress.advance()
                        if shown is not None:
                            progress.losses(self.epoch, shown)
                        if self._enough():
                            break
                        if time.monotonic() - saved > 60 * self.save_every:
                            self._save_rolling(self.epoch)
                            saved = time.monotonic()
                    if not self._enough() or self.batch == steps:
                        progress.epoch_ended(self.epoch, self._end_epoch())
        finally:
            progress.close()
        self._save_rolling(max(self.epoch - (self.batch == 0), 0))
        return self.history

    def _batches(self, loader: Iterable) -> Iterable:
        """The epoch's batches from ``self.batch`` on. Each fetch is seeded, so that the order of the epoch, and what a
        data set draws for an item, do not depend on where a run was interrupted."""
        sampler = getattr(loader, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)
        torch.manual_seed(derive_seed(self.seed, "epoch", self.epoch))
        iterator = iter(loader)
        for number in itertools.count():
            if number > 0:  # at the first fetch torch's own samplers still draw the order of the epoch
                torch.manual_seed(derive_seed(self.seed, "fetch", self.epoch, number))
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if number >= self.batch:
                yield batch

    def _step(self, batch: Any) -> dict[str, float] | None:
        """One optimisation step. Returns the losses when they are to be shown (reading them waits for the device)."""
        device = self._device
        torch.manual_seed(derive_seed(self.seed, "step", self.step))
        x = images_of(batch).to(device, next(self.networks["total"].parameters()).dtype, non_blocking=True)
        with torch.no_grad():
            y = simulate(self.physics, x, batch["index"] if isinstance(batch, dict) else None, self.seed)
        losses = self.closure(self.f, self.physics, self.transform, y, x)
        for key, optimizer in self.optimizers.items():
            optimizer.zero_grad()
            losses[key].backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step()

        x1 = losses["x1"]
        values = {column: losses[key].detach() for column, key in self._loss_columns(losses).items()}
        if self.report_psnr:
            values |= {"psnr": cal_psnr(x1, x), "mse": nn.functional.mse_loss(x1, x)}
        for column, value in values.items():
            self.sums[column] = self.sums.get(column, 0) + value.double()
        self.batch, self.step = self.batch + 1, self.step + 1
        if device.type == "cpu" or self.step % 20 == 0:
            shown = {column: float(value) for column, value in values.items()}
            self._check_finite(shown)
            return shown
        return None

    def _end_epoch(self) -> dict[str, float]:
        if self.batch == 0:
            raise InputError("the loader gives no batches")
        means = {column: float(total) / self.batch for column, total in self.sums.items()}
        self._check_finite(means)
        row = {"epoch": self.epoch + 1, **means}
        self.history.append(row)
        ended = self.epoch
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        if self.folder is not None:
            if self.log is None:
                self.log = TrainingLog(self.folder / LOG, list(means), self.history[:-1])
            self.log.append(row)
            if ended % self.ckp_interval == 0 or self.epoch == self.epochs:
                save_file(self.state(ended), self.folder / f"ckp_{ended}.pth.tar")
                self._save_rolling(ended)
        return means

    def _check_finite(self, values: Mapping[str, float]) -> None:
        for column, value in values.items():
            # The PSNR of an exact reconstruction is infinite, and that is no failure.
            if not math.isfinite(value) and column != "psnr":
                raise TrainingDivergedError(
                    f"{column} became {value} in epoch {self.epoch + 1}, by step {self.step}: lower the learning rate "
                    "or the loss weights, or look for bad values in the data"
                )

    def _loss_columns(self, losses: Mapping[str, Tensor]) -> Mapping[str, str]:
        named = getattr(self.closure, "columns", None)
        return named or {f"loss_{key}": key for key in losses if key != "x1"}

    def _set_learning_rates(self) -> None:
        factor = self.schedule(self.epoch)
        for name, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self.base_lr[name], strict=True):
                group["lr"] = lr * factor

    def _enough(self) -> bool:
        return self.max_steps is not None and self.step >= self.max_steps

    @property
    def _device(self) -> torch.device:
        return next(self.networks["total"].parameters()).device

    def _default_networks(self) -> dict[str, nn.Module]:
        networks = {"total": self.f.net}
        if "D" in self.optimizers:
            networks["D"] = self.closure.discriminator
        return networks

    def _open_folder(self) -> None:
        if self.folder is not None or self.out is False:
            return
        if self.out is None:
            self.folder = new_run_folder(self.method, self.task)
        else:
            assert not isinstance(self.out, bool)
            self.folder = Path(self.out) if self.history or self.step else claim_run_folder(self.out)
            self.folder.mkdir(parents=True, exist_ok=True)
        versions = {"ei": ei.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
        write_config(self.folder, {**self.config, **self.environment, "versions": versions})
        columns = [column for column in self.history[0] if column != "epoch"] if self.history else self._known_columns()
        self.log = TrainingLog(self.folder / LOG, columns, self.history) if columns else None

    def _known_columns(self) -> list[str]:
        named = list(getattr(self.closure, "columns", None) or {})
        return [*named, *(["psnr", "mse"] if self.report_psnr else [])] if named else []

    def _save_rolling(self, epoch: int) -> None:
        if self.folder is None or self._rolled_at == self.step:
            return
        self._rolled_at = self.step
        self._check_finite({column: float(total) for column, total in self.sums.items()})
        last = self.folder / "ckp_last.pth.tar"
        save_file(self.state(epoch), last, previous=self.folder / "ckp_last-1.pth.tar")
        if self.history:
            loss_curves(self.folder / LOG, self.folder / "loss.png")

    def _suffix(self, key: str) -> str:
        """What 2021 appended to "state_dict" and "optimizer": nothing, or _G and _D where there are two networks."""
        return "" if len(self.networks) == 1 else "_G" if key == "total" else f"_{key}"

    def state(self, epoch: int) -> dict[str, Any]:
        """Everything to continue from here: 2021's keys, and ours. ``epoch`` is the epoch the file is named after."""
        state: dict[str, Any] = {"epoch": epoch}
        for key, network in self.networks.items():
            suffix = self._suffix(key)
            state[f"state_dict{suffix}"] = network.state_dict()
            state[f"optimizer{suffix}"] = self.optimizers[key].state_dict()
        mask = getattr(self.physics, "mask", None)
        return state | {
            "config": dict(self.config),
            "physics": describe(self.physics),
            "network": describe(self.networks["total"]),
            "mask": mask.cpu() if isinstance(mask, torch.Tensor) else None,
            "seed": self.seed,
            "step": self.step,
            "next_epoch": self.epoch,
            "next_batch": self.batch,
            "sums": {column: float(total) for column, total in self.sums.items()},
            "history": [dict(row) for row in self.history],
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's content (from `ei.checkpoint.load_file`).

        Raises:
            InputError: if it is no full checkpoint of this kind of run.
        """
        for key, network in self.networks.items():
            suffix = self._suffix(key)
            if f"state_dict{suffix}" not in state or f"optimizer{suffix}" not in state or "next_epoch" not in state:
                raise InputError("the checkpoint is not of this kind of run: it cannot be continued")
            network.load_state_dict(state[f"state_dict{suffix}"])
            self.optimizers[key].load_state_dict(state[f"optimizer{suffix}"])
        self.epoch, self.batch, self.step = state["next_epoch"], state["next_batch"], state["step"]
        self.sums = {
            c: torch.tensor(total, dtype=torch.float64, device=self._device) for c, total in state["sums"].items()
        }
        self.history = [dict(row) for row in state["history"]]


def _cuda_devices(device: torch.device) -> list[int]:
    return [] if device.type != "cuda" else [device.index if device.index is not None else torch.cuda.current_device()]
