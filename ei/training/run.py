"""The parts of a run and where it is: what the loop, validation and checkpoints share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, IterableDataset

from ei.common.checks import check_number, check_optional
from ei.common.processes import Processes
from ei.errors import InputError
from ei.models.base import keep_average
from ei.physics.base import check_measures
from ei.training.folder import RunFolder
from ei.training.schedules import LearningRate, step_schedule
from ei.training.stepping import check_optimizers, moving_average
from ei.training.tally import Tally


class Run:
    """The parts of a training and its state; `ei.training.Trainer` documents the arguments and trains it.

    Attributes:
        networks: the module that each optimiser trains, by the key of its loss.
        averaged: the moving average of the network, or None.
        epoch, batch, step: finished epochs, batches of the open epoch, and steps in all.
        tally: the sums of the open epoch.
        history: a row of means for every finished epoch.
    """

    def __init__(
        self,
        f: Any,
        physics: Any,
        transform: Any,
        closure: Any,
        optimizers: Mapping[str, Optimizer],
        *,
        epochs: int,
        schedule: LearningRate | None = None,
        seed: int = 0,
        out: RunFolder | str | os.PathLike | bool | None = None,
        ckp_interval: int | None = None,
        save_every: float = 5.0,
        max_steps: int | None = None,
        clip_norm: float | None = None,
        average: float | None = None,
        report_psnr: bool = True,
        validation: Iterable | None = None,
        patience: int | None = None,
        config: Mapping[str, Any] | None = None,
        method: str = "",
        task: str = "",
        progress: bool = True,
        on_epoch_end: Callable[[Any], None] | None = None,
    ) -> None:
        _check_parts(f, physics, transform, closure)
        self.f = f
        self.physics = physics
        self.transform = transform
        self.closure = closure
        self.schedule: LearningRate = _called("schedule(epoch)", schedule) or step_schedule()
        self.validation = validation
        self.report_psnr = report_psnr
        self.progress = progress
        self.on_epoch_end = _called("on_epoch_end(trainer)", on_epoch_end)
        self.method = method or type(closure).__name__.removesuffix("Closure").lower()
        self.task = task

        self.epochs = check_number("epochs", epochs, integer=True, least=1)
        self.seed = check_number("seed", seed, integer=True)
        self.ckp_interval = check_optional("ckp_interval", ckp_interval, integer=True, least=1) or self.epochs
        self.save_every = check_number("save_every", save_every, above=0)
        self.max_steps = check_optional("max_steps", max_steps, integer=True, least=1)
        self.clip_norm = check_optional("clip_norm", clip_norm, above=0)
        self.patience = check_optional("patience", patience, integer=True, least=1)
        _check_validation(validation, self.patience)
        plain = {"trainer": {"epochs": self.epochs, "seed": self.seed, "method": self.method, "task": task}}
        self.config = dict(plain if config is None else config)

        check_optimizers(optimizers)
        self.optimizers = dict(optimizers)
        self.networks = networks_trained(f, closure, self.optimizers)
        self.base_lr = {name: [g["lr"] for g in opt.param_groups] for name, opt in self.optimizers.items()}
        self.averaged = None if average is None else moving_average(self.networks["total"], average)
        keep_average(f, None if self.averaged is None else self.averaged.module)

        self.run_folder = out if isinstance(out, RunFolder) else RunFolder(out)
        if self.run_folder.path is not None:
            raise InputError("a RunFolder belongs to one training: make another one")
        self.processes = Processes.current()
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.tally = Tally(self.processes)
        self.history: list[dict[str, float]] = []

    @property
    def folder(self) -> Path | None:
        """The run folder, once it is there."""
        return self.run_folder.path

    @property
    def device(self) -> torch.device:
        return next(self.networks["total"].parameters()).device


def networks_trained(f: Any, closure: Any, optimizers: Mapping[str, Optimizer]) -> dict[str, nn.Module]:
    """The module that each optimiser trains: ``f.net`` under "total", else that attribute of the closure which has the
    optimiser's parameters.

    Raises:
        InputError: for an optimiser of parameters that are in no module of the closure, or without "total".
    """
    if "total" not in optimizers:
        raise InputError(f"optimizers must have the key 'total', got {', '.join(optimizers) or 'none'}")
    modules = [value for value in vars(closure).values() if isinstance(value, nn.Module)]
    networks: dict[str, nn.Module] = {"total": f.net}
    for key, optimizer in optimizers.items():
        if key != "total":
            trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            holders = [module for module in modules if trained <= {id(p) for p in module.parameters()}]
            if not holders:
                where = f"no module of {type(closure).__name__}: keep them in an attribute that is an nn.Module"
                raise InputError(f"the optimiser {key!r} trains parameters of {where}")
            networks[key] = holders[0]
    return networks


def _check_parts(f: Any, physics: Any, transform: Any, closure: Any) -> None:
    """Raise unless what a user may have defined has what a training uses."""
    check_measures(physics)
    for name, part in (("f", f), ("transform", transform), ("closure", closure)):
        if isinstance(part, type):
            raise InputError(f"{name} must be an object, got the class {part.__name__}: write {part.__name__}(..)")
    if not isinstance(getattr(f, "net", None), nn.Module):
        raise InputError(
            f"f must have its network as f.net, as Reconstructor(net, physics) has, got a {type(f).__name__}"
        )
    if transform is not None and not callable(getattr(transform, "apply", None)):
        raise InputError(
            f"transform must have a method apply(x), got a {type(transform).__name__}; derive it from "
            "ei.transforms.Transform"
        )
    if not callable(closure):
        raise InputError(
            f"closure must be called as closure(f, physics, transform, y, x), got a {type(closure).__name__}"
        )
    if transform is None and getattr(closure, "needs_transform", False):
        raise InputError(f"transform is missing: {type(closure).__name__} needs a group, as Rotate(5)")


def _check_validation(validation: Any, patience: int | None) -> None:
    if validation is not None:
        check_loader(validation, "validation")
    elif patience is not None:
        raise InputError("patience needs a validation set: data.validation, --held-out 0.1")


def _called(call: str, function: Any) -> Any:
    """``function``; raises `InputError` unless it is None or can be called."""
    if function is not None and not callable(function):
        raise InputError(f"{call.split('(')[0]} must be a function that is called as {call}, got {function!r}")
    return function


def check_loader(loader: Any, what: str) -> None:
    """Raise `InputError` unless ``loader`` gives batches: the items of a data set would be taken for them."""
    is_dataset = isinstance(loader, Dataset | Tensor) and not isinstance(loader, IterableDataset)
    if is_dataset or not isinstance(loader, Iterable):
        raise InputError(f"{what} needs a loader, got a {type(loader).__name__}: make_loader(images, batch_size=2)")
