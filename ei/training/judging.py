"""What is logged of a step, and how held-out batches judge an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from ei.common.seeds import derive_seed, seed_all
from ei.datasets.batches import indices_of, measured, seeded_batches
from ei.errors import InputError
from ei.models.base import evaluating
from ei.physics import operator_of
from ei.transforms.seeded import SeededGroup

if TYPE_CHECKING:
    from ei.training.trainer import Trainer


def columns_of(closure: Any, losses: Iterable[str]) -> Mapping[str, str]:
    """The columns of the log, and the losses they show."""
    return getattr(closure, "columns", None) or {f"loss_{key}": key for key in losses if key != "x1"}


def known_columns(trainer: Trainer) -> list[str]:
    """All columns of the log; none where only the first step tells the closure's losses."""
    columns = list(getattr(trainer.closure, "columns", None) or {})
    if not columns:
        return []
    held_out = [f"held_out_{column}" for column in columns] if trainer.held_out is not None else []
    return [*columns, *(["psnr", "mse"] if trainer.report_psnr else []), *held_out]


def of_batch(f: Any, physics: Any, batch: Any) -> tuple[Any, Any]:
    """The reconstruction function and the operator of a batch's images: those given, where one operator serves all."""
    own = operator_of(physics, indices_of(batch))
    if own is not physics and not callable(getattr(f, "of", None)):
        raise InputError(
            f"the operator differs by image, and {type(f).__name__} has no of(physics), the same f with another "
            "operator: Reconstructor and Unrolled have"
        )
    return (f, physics) if own is physics else (f.of(own), own)


def group_of(trainer: Trainer, *place: str | int) -> Any:
    """The trainer's group with the elements of a step, or of another ``place``: the same in all processes, and
    whatever else was drawn there before."""
    if trainer.transform is None or trainer.rules == 1:
        return trainer.transform
    return SeededGroup(trainer.transform, trainer.seed, "group", *place)


def judged(trainer: Trainer) -> dict[str, float]:
    """The closure's losses on the held-out batches, of the network that evaluation will take."""
    if trainer.held_out is None:
        return {}
    sums: dict[str, float] = {}
    count = 0
    with as_evaluated(trainer), torch.no_grad():
        # The same items in every epoch, whatever the data set draws for them.
        batches = seeded_batches(trainer.held_out, derive_seed(trainer.seed, "held-out items"), epoch=0, first=0)
        for number, batch in enumerate(batches):
            seed_all(derive_seed(trainer.seed, "held out", number))
            like = next(trainer.networks["total"].parameters())
            f, physics = of_batch(trainer.f, trainer.physics, batch)
            x, y = measured(batch, physics, like=like, seed=trainer.seed)
            losses = trainer.closure(f, physics, group_of(trainer, "held out", number), y, x)
            count += len(y)
            for column, key in columns_of(trainer.closure, losses).items():
                sums[column] = sums.get(column, 0.0) + len(y) * float(losses[key])
    return {f"held_out_{column}": total / count for column, total in sums.items()}


def is_best(trainer: Trainer) -> bool:
    """Whether no epoch had a lower total on the held-out batches; never where there are none."""
    columns = columns_of(trainer.closure, ["total"])
    total = next((f"held_out_{column}" for column, key in columns.items() if key == "total"), "")
    newest = trainer.history[-1]
    return total in newest and newest[total] == min(row[total] for row in trainer.history)


def as_evaluated(trainer: Trainer) -> AbstractContextManager[Any]:
    """``f`` in evaluation mode in a ``with`` block, with the averaged network if there is one."""
    return evaluating(trainer.f)
