"""The training loop. There is one; methods, problems and groups are what it is given.

    f = Reconstructor(UNet(3, 3), physics)
    trainer = Trainer(f, physics, Shift(3), EIClosure(alpha=1), {"total": Adam(f.net.parameters())}, epochs=100)
    trainer.fit(make_loader(images, batch_size=2))

An epoch goes through the loader once. A step measures a batch of images, calls the closure, and steps each optimiser
on its loss. Everything random is seeded by (seed, epoch) or (seed, step), so a run continues exactly where its newest
checkpoint stands (`Trainer.resume`). Beside this file: the run folder, the log and its tally, the state of a run,
validation, and what several processes change.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from signal import Signals
from typing import Any

import torch

from ei.common.processes import Part, Processes
from ei.common.seeds import derive_seed, seed_all, states_kept
from ei.common.signals import SIGNALS, StopRequest, handled
from ei.datasets.batches import Batches, images_and_measurements, indices_of, seeded_batches
from ei.errors import InputError, TrainingStoppedError
from ei.models.base import computing, select_function
from ei.training.folder import BEST, LAST
from ei.training.log import Progress
from ei.training.losses import check_losses
from ei.training.parallel import division, draws_of_part, replicated
from ei.training.run import Run, check_loader
from ei.training.state import restore, state_of
from ei.training.stepping import descend, set_learning_rates
from ei.training.validation import (
    columns_of,
    is_best,
    log_columns,
    out_of_patience,
    seeded_group,
    validate,
)


class Trainer(Run):
    """Trains a reconstruction function.

    Args:
        f: the reconstruction function (a `Reconstructor`), on the device to train on.
        physics: the forward operator that measures and that the closure uses.
        transform: the group, or None for closures that use none.
        closure: what a step computes (`ei.closure`).
        optimizers: which optimiser steps on which loss of the closure, as in ``{"total": opt_G, "D": opt_D}``.
        epochs: how often to go through the data.
        schedule: the learning rate's factor of an epoch (or, with `by_step`, of a step); 1 by default.
        seed: of everything random.
        out: the run folder; None makes ``ckp/<time>_<method>_<task>``, False keeps no files. Or a `RunFolder`.
        ckp_interval: epochs between the checkpoints that are kept.
        save_every: minutes between the rolling checkpoints ``ckp_last``, ``ckp_last-1``; fractions allowed.
        max_steps: stop after so many steps in all.
        clip_norm: the largest Euclidean norm an optimiser's gradient may have; a larger one is scaled down to it.
        average: keep an exponential moving average of the network, weights and BatchNorm statistics, of this decay a
            step (for example 0.99). It is in the checkpoints as ``state_dict_averaged``, and evaluation uses it.
        report_psnr: log PSNR and MSE of the training batches, where they have images.
        validation: a loader of the validation set. After every epoch the closure's losses on it are logged as
            ``validation_<loss>``, in evaluation mode and with the same group elements every time. Where it has images,
            the mean of their PSNR (the paper's) is logged as ``validation_psnr``. ``ckp_best.pth.tar`` is the
            checkpoint of the epoch with the highest PSNR or, without images (or `report_psnr`), the lowest total.
        patience: stop when so many epochs in a row were no better than the best one before them.
        config: the tree of the run, for ``config.yaml`` and the checkpoints (plain values).
        method, task: name the default run folder.
        progress: show a bar, or lines.
        on_epoch_end: called with the trainer after every epoch, when its row is in ``history`` and on the disk.

    Raises:
        InputError: for an argument out of range or of another kind, or optimisers that share a parameter.

    >>> physics = ei.physics.Inpainting(16, 16)
    >>> f = ei.models.Reconstructor(ei.models.UNet(1, 1, base_channels=2), physics)
    >>> closure, adam = ei.closure.EIClosure(alpha=1), torch.optim.Adam(f.net.parameters())
    >>> transform, more = ei.transforms.Shift(1), {"out": False, "progress": False}
    >>> trainer = Trainer(f, physics, transform, closure, {"total": adam}, epochs=2, **more)
    >>> log = trainer.fit(ei.datasets.make_loader([torch.rand(1, 16, 16)] * 4, batch_size=2))
    >>> len(log), trainer.step
    (2, 4)
    """

    _saved_at: tuple[int, int] | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the patience has run out."""
        return self.epoch >= self.epochs or out_of_patience(self)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's content (from `ei.common.files.load_file`), in its folder.

        Raises:
            InputError: if it is no full checkpoint of this kind of run.
        """
        restore(self, state)
        self.run_folder.continues = True
        self._saved_at = (self.epoch, self.step)  # what it came from is on the disk

    def fit(self, loader: Iterable) -> list[dict[str, float]]:
        """Train on the batches of ``loader`` (see `ei.datasets.images_of`) up to the last epoch or ``max_steps``.

        Returns:
            The log: a dict of means for every finished epoch.

        Raises:
            TrainingDivergedError: if a loss or a weight is NaN or infinite; no checkpoint is written after it.
            TrainingStoppedError: after SIGINT, SIGTERM or SIGUSR1, when the step is finished and the state saved. A
                second signal ends the process at once.
            StorageError: if a file cannot be written; those written before are whole.
            InputError: for batches, or a run folder, that cannot be used; if a loss depends on nothing that its
                optimiser trains.
        """
        check_loader(loader, "fit")
        steps = len(loader) if isinstance(loader, Sized) else None
        if steps == 0:
            raise InputError("the loader gives no batches")
        part_of = division(loader, self.transform, self.processes)
        columns = log_columns(self)
        with contextlib.ExitStack() as stack:
            # Before anything is written: a signal must find a run that can be saved.
            stop = StopRequest(grace=2.0 if self.processes.count > 1 else 0.0)
            stack.enter_context(handled(SIGNALS, stop))
            if self.processes.first:
                stack.enter_context(self.run_folder.held((self.method, self.task), self.config, columns, self.history))
            stack.enter_context(replicated(self.f, self.closure, self.networks, self.processes))
            stack.enter_context(computing(self.f))
            # Seeding per step must not disturb the random numbers of the program that calls us.
            stack.enter_context(states_kept([self.device] if self.device.type == "cuda" else []))
            self._train(loader, steps, part_of, stop)
        return self.history

    def _train(
        self, loader: Iterable, steps: int | None, part_of: Callable[[int], Part | None], stop: StopRequest
    ) -> None:
        progress = Progress(self.epochs, steps, self.step, self.progress and self.processes.first)
        self._training_mode()
        signal = 0
        self._last_save = time.monotonic()
        try:
            while not (self.finished or self._enough() or signal):
                signal = self._epoch(loader, part_of, stop, progress)
                if not (self._enough() or signal) or self.batch == steps:
                    progress.epoch_ended(self.epoch, self._end_epoch())
        finally:
            progress.close()
            if isinstance(loader, Batches):
                loader.close()
        self._save_rolling(max(self.epoch - (self.batch == 0), 0))
        if signal and not (self.finished or self._enough()):
            message = f"stopped by {Signals(signal).name} after step {self.step}, in epoch {self.epoch + 1}"
            where = "" if self.folder is None else f"; continue with --resume {self.folder / LAST}"
            raise TrainingStoppedError(message + where, signal)

    def _epoch(
        self, loader: Iterable, part_of: Callable[[int], Part | None], stop: StopRequest, progress: Progress
    ) -> int:
        """The steps of the open epoch, up to its end, the last step, or a signal, whose number is returned (else 0)."""
        with contextlib.closing(seeded_batches(loader, self.seed, self.epoch, self.batch)) as batches:
            for batch in batches:
                self._step(batch, part_of(self.batch))
                progress.advance()
                if self.device.type == "cpu" or self.step % 20 == 0:
                    progress.losses(self.epoch, self.tally.read())
                due = time.monotonic() - self._last_save > 60 * self.save_every
                # The same decision in all processes: which signal to stop for (0: none), and whether to save.
                signal, save = self.processes.largest(torch.tensor([stop.received, int(due)])).tolist()
                if self._enough() or signal:
                    return signal
                if save:
                    self._save_rolling(self.epoch)
                    self._last_save = time.monotonic()
        return 0

    def _step(self, batch: Any, part: Part | None) -> None:
        """One optimisation step; with several processes, on this one's ``part`` of a batch."""
        at = self.step if getattr(self.schedule, "of_step", False) else self.epoch
        set_learning_rates(self.optimizers, self.base_lr, self.schedule(at))
        seed_all(derive_seed(self.seed, "step", self.step))
        f, physics = select_function(self.f, self.physics, indices_of(batch))
        like = next(self.networks["total"].parameters())
        x, y = images_and_measurements(batch, physics, like=like, seed=self.seed)
        part = part or Part.of(len(y), Processes())
        with draws_of_part(physics, part, self.processes):
            losses = self.closure(f, physics, seeded_group(self, self.step), y, x)
        check_losses(self, losses, x)
        # Gradients are averaged over the processes; what counts is the mean over the images of the batch.
        limits = dict.fromkeys(self.optimizers.keys() - getattr(self.closure, "unscaled", ()), self.clip_norm)
        descend(self.optimizers, losses, part.weight * self.processes.count, limits)
        if self.averaged is not None:
            self.averaged.update_parameters(self.networks["total"])
        self.batch += 1
        self.step += 1
        shown = {column: losses[key] for column, key in columns_of(self.closure, losses).items()}
        truth = (losses["x1"], x, part.size) if self.report_psnr and x is not None else None
        self.tally.note(self.epoch, self.step, shown, part.weight, truth)

    def _end_epoch(self) -> dict[str, float]:
        if self.batch == 0:
            raise InputError("the loader gives no batches")
        means = {**self.tally.close(), **validate(self)}
        self.history.append({"epoch": self.epoch + 1, **means})
        ended = self.epoch
        self.epoch += 1
        self.batch = 0
        self.run_folder.append(self.history)
        if self.folder is not None and is_best(self):
            self.run_folder.save(state_of(self, ended), BEST)
        if ended % self.ckp_interval == 0 or self.finished:
            if self.folder is not None:
                self.run_folder.save(state_of(self, ended), f"ckp_{ended}.pth.tar")
            self._save_rolling(ended)
        if self.on_epoch_end is not None:
            self.on_epoch_end(self)
            self._training_mode()  # whatever it has left f in
        return means

    def _training_mode(self) -> None:
        for network in (self.f, *self.networks.values()):
            network.train()

    def _save_rolling(self, epoch: int) -> None:
        if self._saved_at == (self.epoch, self.step):
            return
        self._saved_at = (self.epoch, self.step)
        self.tally.read()  # a loss that is not finite must not reach the disk
        if self.folder is not None:
            self.run_folder.save(state_of(self, epoch), LAST)
            self.run_folder.draw_curves(len(self.history))

    def _enough(self) -> bool:
        return self.max_steps is not None and self.step >= self.max_steps
