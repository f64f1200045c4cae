"""The training loop. There is one; methods, problems and groups are what it is given.

    f = Reconstructor(UNet(3, 3), physics)
    trainer = Trainer(f, physics, Shift(3), EIClosure(alpha=1), {"total": Adam(f.net.parameters())}, epochs=100)
    trainer.fit(make_loader(images, batch_size=2))

An epoch goes through the loader once. A step measures a batch of images, calls the closure, and steps each optimiser
on its loss. Everything random is seeded by (seed, epoch) or (seed, step), so a run continues exactly where its newest
checkpoint stands (`Trainer.resume`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ei
from ei.checkpoint import (
    AVERAGED,
    BEST,
    LAST,
    LAST_BUT_ONE,
    is_run_state,
    load_weights,
    remove_temporaries,
    save_file,
    write_atomically,
    writing,
)
from ei.datasets.batches import images_of, release_workers, simulate
from ei.describe import describe
from ei.distributed import NoiseOfPart, Part, Processes
from ei.errors import InputError, TrainingDivergedError, TrainingStoppedError
from ei.logger import (
    LOG,
    Progress,
    RunLock,
    TensorBoard,
    TrainingLog,
    check_tensorboard,
    claim_run_folder,
    new_run_folder,
    write_config,
)
from ei.plot import loss_curves
from ei.seeding import derive_seed
from ei.signals import StopRequest
from ei.tally import Tally

__all__ = ["Trainer", "TrainingDivergedError", "cosine_schedule", "one_cycle_schedule", "step_schedule"]

LearningRate = Callable[[int], float]


def step_schedule(milestones: Iterable[int] = ()) -> LearningRate:
    """The learning rate's factor: x0.1 at each milestone (epochs counted from 0)."""
    drops = sorted(milestones)
    return lambda epoch: 0.1 ** sum(epoch >= drop for drop in drops)


def cosine_schedule(epochs: int) -> LearningRate:
    """The learning rate's factor ``(1 + cos(pi * epoch / epochs)) / 2``."""
    return lambda epoch: (1 + math.cos(math.pi * epoch / epochs)) / 2


def one_cycle_schedule(epochs: int, rise: float = 0.3) -> LearningRate:
    """The learning rate's factor that climbs linearly over the first ``rise`` of the epochs and then falls as a cosine
    (Smith & Topin, "Super-convergence", 2018): it allows a higher peak than a schedule that begins there."""
    top = max(1, round(rise * epochs)) if epochs > 1 else 0
    fall = cosine_schedule(max(1, epochs - top))
    return lambda epoch: (epoch + 1) / (top + 1) if epoch < top else fall(epoch - top)


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
        save_every: minutes between the rolling checkpoints ``ckp_last``, ``ckp_last-1``; fractions allowed.
        max_steps: stop after so many steps in all.
        clip_norm: the largest Euclidean norm an optimiser's gradient may have; a larger one is scaled down to it.
        average: keep an exponential moving average of the network, weights and BatchNorm statistics, of this decay a
            step (0.99, say). It is in the checkpoints as ``state_dict_averaged``, and evaluation takes it from there.
        report_psnr: log PSNR and MSE of the training batches (needs the loader to give images).
        held_out: a loader of batches to judge by after every epoch: the closure's losses on them, in evaluation mode
            and under the same group elements every time, are logged as ``held_out_<loss>``, and ``ckp_best.pth.tar``
            is the checkpoint of the epoch with the lowest total. For runs without ground truth.
        config: what to write to ``config.yaml`` and into the checkpoints (plain values).
        files: what else to write into the run folder: names and texts.
        environment: what else to write to ``config.yaml``: what does not change the result (device, workers).
        networks: what is saved for each optimiser; by default ``{"total": f.net}`` and the closure's discriminator.
        method, task: name the default run folder.
        progress: show a bar, or lines.
        tensorboard: log for TensorBoard, too (if it is installed).
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
        save_every: float = 5.0,
        max_steps: int | None = None,
        clip_norm: float | None = None,
        average: float | None = None,
        report_psnr: bool = True,
        held_out: Iterable | None = None,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        networks: Mapping[str, nn.Module] | None = None,
        method: str = "",
        task: str = "",
        progress: bool = True,
        tensorboard: bool = False,
    ) -> None:
        if epochs < 1 or (ckp_interval is not None and ckp_interval < 1):
            raise InputError(f"epochs and ckp_interval must be at least 1, not {epochs} and {ckp_interval}")
        self.f, self.physics, self.transform, self.closure = f, physics, transform, closure
        if clip_norm is not None and not clip_norm > 0:
            raise InputError(f"clip_norm must be above 0, not {clip_norm}; None for no limit")
        if average is not None and not 0 < average < 1:
            raise InputError(f"average must be between 0 and 1, not {average}; None for none")
        self.optimizers = dict(optimizers)
        self.networks = dict(networks) if networks is not None else self._default_networks()
        if self.networks.keys() != self.optimizers.keys():
            raise InputError(f"optimizers for {list(self.optimizers)} but networks for {list(self.networks)}")
        self.epochs, self.max_steps, self.seed = epochs, max_steps, seed
        self.clip_norm = clip_norm
        self.averaged: AveragedModel | None = None
        if average is not None:
            mean = get_ema_multi_avg_fn(average)
            self.averaged = AveragedModel(self.networks["total"], multi_avg_fn=mean, use_buffers=True)
        self.schedule: LearningRate = schedule or step_schedule()
        self.base_lr = {name: [g["lr"] for g in opt.param_groups] for name, opt in self.optimizers.items()}
        self.out, self.ckp_interval, self.save_every = out, ckp_interval or epochs, save_every
        self.report_psnr, self.held_out, self.progress = report_psnr, held_out, progress
        self.method, self.task = method or type(closure).__name__.removesuffix("Closure").lower(), task
        self.config = dict(config or {"method": self.method, "task": task, "epochs": epochs, "seed": seed})
        self.environment, self.files = dict(environment or {}), dict(files or {})

        # The state of a run, besides weights and optimisers: where it is, and the open epoch's sums.
        self.processes = Processes.current()
        self.epoch, self.batch, self.step = 0, 0, 0
        self.tally = Tally(self.processes)
        self.history: list[dict[str, float]] = []
        self.continues = False
        self._rolled_at: tuple[int, int] | None = None
        self._drawn = 0
        self.folder: Path | None = None
        if tensorboard:
            check_tensorboard()
        self.tensorboard = tensorboard
        self.board: TensorBoard | None = None
        self.log: TrainingLog | None = None

    def fit(self, loader: Iterable) -> list[dict[str, float]]:
        """Train on the batches of ``loader`` (see `ei.datasets.images_of`) up to the last epoch or ``max_steps``.

        Returns:
            The log: a dict of means for every finished epoch.

        Raises:
            TrainingDivergedError: if a loss or a weight is NaN or infinite; no checkpoint is written after it.
            TrainingStoppedError: after SIGINT, SIGTERM or SIGUSR1, when the step is finished and the state saved. A
                second signal ends the process at once.
            StorageError: if a file cannot be written; those written before are whole.
            InputError: for batches, or a run folder, that cannot be used.
        """
        steps = len(loader) if isinstance(loader, Sized) else None
        if steps == 0:
            raise InputError("the loader gives no batches")
        part_of = self._division(loader)
        # Before anything is written: a signal must find a run that can be saved.
        with StopRequest(grace=2.0 if self.processes.count > 1 else 0.0) as stop, self._run_folder():
            self._train(loader, steps, part_of, stop)
        return self.history

    def _train(
        self, loader: Iterable, steps: int | None, part_of: Callable[[int], Part | None], stop: StopRequest
    ) -> None:
        progress = Progress(self.epochs, steps, self.step, self.progress and self.processes.first)
        self.f.train()
        for network in self.networks.values():
            network.train()
        saved, signal = time.monotonic(), 0
        try:
            # Seeding per step must not disturb the random numbers of the program that calls us.
            with self._replicated(), torch.random.fork_rng(devices=_cuda_devices(self._device)):
                while self.epoch < self.epochs and not self._enough() and not signal:
                    self._set_learning_rates()
                    with contextlib.closing(self._batches(loader)) as batches:
                        for batch in batches:
                            self._step(batch, part_of(self.batch))
                            progress.advance()
                            if self._device.type == "cpu" or self.step % 20 == 0:
                                progress.losses(self.epoch, self.tally.read())
                            due = time.monotonic() - saved > 60 * self.save_every
                            signal, save = self._agree(stop.received, due)
                            if self._enough() or signal:
                                break
                            if save:
                                self._save_rolling(self.epoch)
                                saved = time.monotonic()
                    if not (self._enough() or signal) or self.batch == steps:
                        progress.epoch_ended(self.epoch, self._end_epoch())
        finally:
            progress.close()
            release_workers(loader)
        self._save_rolling(max(self.epoch - (self.batch == 0), 0))
        if signal and self.epoch < self.epochs and not self._enough():
            raise TrainingStoppedError(self._where_to_continue(signal), signal)

    def _where_to_continue(self, signal: int) -> str:
        message = f"stopped by {Signals(signal).name} after step {self.step}, in epoch {self.epoch + 1}"
        return message if self.folder is None else f"{message}; continue with --resume {self.folder / LAST}"

    def _agree(self, signal: int, save: bool) -> tuple[int, bool]:
        """The same decision in all processes: which signal to stop for (0: none), and whether to save."""
        if self.processes.count == 1:
            return signal, save
        signals, saves = self.processes.largest(torch.tensor([signal, int(save)])).tolist()
        return signals, bool(saves)

    def _batches(self, loader: Iterable) -> Generator:
        """The epoch's batches from ``self.batch`` on. Each fetch is seeded, so that the order of the epoch, and what a
        data set draws for an item, do not depend on where a run was interrupted."""
        for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
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

    def _step(self, batch: Any, part: Part | None) -> None:
        """One optimisation step; with several processes, on this one's ``part`` of a batch."""
        torch.manual_seed(derive_seed(self.seed, "step", self.step))
        x, y = self._measured(batch)
        part = part or Part.of(len(y), Processes())
        with self._noise_of(part):
            losses = self.closure(self.f, self.physics, self.transform, y, x)
        # Gradients are averaged over the processes; what counts is the mean over the images of the batch.
        scale = part.weight * self.processes.count
        for key, optimizer in self.optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            optimizer.zero_grad()
            (losses[key] * scale).backward(inputs=parameters)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.networks["total"])
        self.batch, self.step = self.batch + 1, self.step + 1
        shown = {column: losses[key] for column, key in self._loss_columns(losses).items()}
        truth = (losses["x1"], x, part.size) if self.report_psnr and x is not None else None
        with torch.no_grad():
            self.tally.note(self.epoch, self.step, shown, part.weight, truth)

    def _measured(self, batch: Any) -> tuple[Tensor | None, Tensor]:
        """The images and the measurements of a batch; None where there are only measurements."""
        if isinstance(batch, dict) and "y" in batch:
            return None, batch["y"].to(self._device, non_blocking=True)
        x = images_of(batch).to(self._device, next(self.networks["total"].parameters()).dtype, non_blocking=True)
        with torch.no_grad():
            return x, simulate(self.physics, x, batch["index"] if isinstance(batch, dict) else None, self.seed)

    def _judge(self) -> dict[str, float]:
        """The closure's losses on the held-out batches, of the network that evaluation will take."""
        if self.held_out is None:
            return {}
        sums: dict[str, float] = {}
        count = 0
        with self._as_evaluated(), torch.no_grad():
            for number, batch in enumerate(self.held_out):
                torch.manual_seed(derive_seed(self.seed, "held out", number))
                x, y = self._measured(batch)
                losses = self.closure(self.f, self.physics, self.transform, y, x)
                count += len(y)
                for column, key in self._loss_columns(losses).items():
                    sums[column] = sums.get(column, 0.0) + len(y) * float(losses[key])
        return {f"held_out_{column}": total / count for column, total in sums.items()}

    @contextlib.contextmanager
    def _as_evaluated(self) -> Iterator[None]:
        """``f`` in evaluation mode, with the averaged network if there is one."""
        held = getattr(self.f, "net", None)
        if self.averaged is not None:
            self.f.net = self.averaged.module
        self.f.eval()
        try:
            yield
        finally:
            if self.averaged is not None:
                self.f.net = held
            self.f.train()

    def _end_epoch(self) -> dict[str, float]:
        if self.batch == 0:
            raise InputError("the loader gives no batches")
        means = {**self.tally.close(), **self._judge()}
        row = {"epoch": self.epoch + 1, **means}
        self.history.append(row)
        ended = self.epoch
        self.epoch, self.batch = self.epoch + 1, 0
        if self.folder is not None:
            if self.log is None:
                self.log = TrainingLog(self.folder / LOG, list(means), self.history[:-1])
            self.log.append(row)
            if self.board is not None:
                self.board.append(row)
        if self.folder is not None and self._is_best(row):
            self._save(ended, self.folder / BEST)
        if ended % self.ckp_interval == 0 or self.epoch == self.epochs:
            if self.folder is not None:
                self._save(ended, self.folder / f"ckp_{ended}.pth.tar")
            self._save_rolling(ended)
        return means

    def _is_best(self, row: Mapping[str, float]) -> bool:
        """Whether no epoch had a lower total on the held-out batches; never where there are none."""
        total = next((f"held_out_{c}" for c, key in self._loss_columns(["total"]).items() if key == "total"), "")
        return total in row and row[total] == min(past[total] for past in self.history)

    def _division(self, loader: Iterable) -> Callable[[int], Part | None]:
        """Which part of an epoch's batches ``loader`` gives this process, by their number."""
        if self.processes.count == 1:
            return lambda number: None
        if getattr(self.transform, "per_image", False):
            raise InputError("per_image=True draws for the images of one process only; with several, leave it out")
        part_of = getattr(getattr(loader, "batch_sampler", None), "part", None)
        if part_of is None:
            raise InputError("several processes need a loader that divides its batches: ei.datasets.make_loader")
        return part_of

    @contextlib.contextmanager
    def _replicated(self) -> Iterator[None]:
        """With several processes, networks whose gradients are averaged stand in for the plain ones."""
        if self.processes.count == 1:
            yield
            return
        places = [(holder, name, getattr(holder, name, None)) for holder, name in
                  ((self.f, "net"), (self.closure, "discriminator"))]  # fmt: skip
        for network in self.networks.values():
            if not any(network is held for _, _, held in places):
                raise InputError("several processes need the networks to be f.net and the closure's discriminator")
        try:
            for holder, name, held in places:
                if held is not None:
                    setattr(holder, name, self.processes.replicated(held))
            yield
        finally:
            for holder, name, held in places:
                if held is not None:
                    setattr(holder, name, held)

    @contextlib.contextmanager
    def _noise_of(self, part: Part) -> Iterator[None]:
        """With several processes, noise that a closure draws is this part of the whole batch's."""
        noise = getattr(self.physics, "noise", None)
        if self.processes.count == 1 or noise is None:
            yield
            return
        self.physics.noise = NoiseOfPart(noise, part)
        try:
            yield
        finally:
            self.physics.noise = noise

    def _loss_columns(self, losses: Iterable[str]) -> Mapping[str, str]:
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

    @contextlib.contextmanager
    def _run_folder(self) -> Iterator[None]:
        """Have the run folder, and keep it to this process while it trains."""
        if self.out is False or not self.processes.first:
            yield
            return
        if self.folder is None:
            if self.out is None:
                self.folder = new_run_folder(self.method, self.task)
            else:
                assert not isinstance(self.out, bool)
                self.folder = Path(self.out) if self.continues else claim_run_folder(self.out)
                with writing(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock(self.folder)
        try:
            remove_temporaries(self.folder)
            versions = {"ei": ei.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
            write_config(self.folder, {**self.config, **self.environment, "versions": versions})
            for name, text in self.files.items():
                write_atomically(self.folder / name, text.encode())
            columns = [c for c in self.history[0] if c != "epoch"] if self.history else self._known_columns()
            self.log = TrainingLog(self.folder / LOG, columns, self.history) if columns else None
            self.board = TensorBoard(self.folder, self.epoch) if self.tensorboard else None
            yield
        finally:
            if self.board is not None:
                self.board.close()
            lock.release()

    def _known_columns(self) -> list[str]:
        named = list(getattr(self.closure, "columns", None) or {})
        judged = [f"held_out_{column}" for column in named] if self.held_out is not None else []
        return [*named, *(["psnr", "mse"] if self.report_psnr else []), *judged] if named else []

    def _save_rolling(self, epoch: int) -> None:
        if self._rolled_at == (self.epoch, self.step):
            return
        self._rolled_at = (self.epoch, self.step)
        self.tally.read()  # a loss that is not finite must not reach the disk
        if self.folder is None:
            return
        self._save(epoch, self.folder / LAST, previous=self.folder / LAST_BUT_ONE)
        if len(self.history) > self._drawn:
            self._drawn = len(self.history)
            with writing(self.folder / "loss.png"):
                loss_curves(self.folder / LOG, self.folder / "loss.png")

    def _save(self, epoch: int, path: Path, previous: Path | None = None) -> None:
        state = self.state(epoch)
        # The losses are of the weights before the last step: that step itself may have gone wrong.
        for key in self.networks:
            for name, value in state[f"state_dict{self._suffix(key)}"].items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise TrainingDivergedError(
                        f"{name} became NaN or infinite in epoch {self.epoch + 1}, by step {self.step}, while the "
                        "losses were finite: lower the learning rate"
                    )
        save_file(state, path, previous)

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
        if self.averaged is not None:
            state[AVERAGED] = self.averaged.module.state_dict()
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
            "sums": dict(self.tally.sums),
            "history": [dict(row) for row in self.history],
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's content (from `ei.checkpoint.load_file`).

        Raises:
            InputError: if it is no full checkpoint of this kind of run.
        """
        if not is_run_state(state, "given"):
            raise InputError("the checkpoint is not of this kind of run: it cannot be continued")
        for key, network in self.networks.items():
            weights, optimizer = (state.get(f"{part}{self._suffix(key)}") for part in ("state_dict", "optimizer"))
            if not isinstance(weights, Mapping) or not isinstance(optimizer, Mapping):
                raise InputError("the checkpoint is not of this kind of run: it cannot be continued")
            load_weights(network, weights, "given")
            _load_optimizer(self.optimizers[key], optimizer)
        if self.averaged is not None and isinstance(state.get(AVERAGED), Mapping):
            load_weights(self.averaged.module, state[AVERAGED], "given")
            self.averaged.n_averaged.fill_(state["step"])  # at 0 it would begin anew from the weights
        self.epoch, self.batch, self.step = state["next_epoch"], state["next_batch"], state["step"]
        self.tally.sums, self.tally.steps = dict(state["sums"]), self.batch
        self.history = [dict(row) for row in state["history"]]
        self.continues = True
        self._rolled_at = (self.epoch, self.step)  # what it came from is on the disk


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what the optimiser has gathered; its settings (weight decay, ...) stay those it was made with."""
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    shapes = [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(dict(state))
        for group, own, sizes in zip(optimizer.param_groups, settings, shapes, strict=True):
            group.update(own)
            for parameter, size in zip(group["params"], sizes, strict=True):
                for name, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, torch.Tensor) and value.dim() and list(value.shape) != size:
                        raise ValueError(f"{name} has the shape {list(value.shape)}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(f"the optimiser's state in the checkpoint does not fit: {error}") from error


def _cuda_devices(device: torch.device) -> list[int]:
    return [] if device.type != "cuda" else [device.index if device.index is not None else torch.cuda.current_device()]
