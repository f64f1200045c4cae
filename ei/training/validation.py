"""What is logged of a step, and how held-out batches judge an epoch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ei.closure.sure import SUREClosure, fine_enough
from ei.common.processes import Part, Processes
from ei.common.seeds import derive_seed, seed_all
from ei.datasets.batches import images_and_measurements, indices_of, seeded_batches
from ei.errors import InputError
from ei.metrics import cal_psnr
from ei.models.base import evaluating
from ei.physics import select_physics
from ei.physics.noise_adapter import noise_with_variance
from ei.training.parallel import draws_of_part
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
    held_out += ["held_out_psnr"] if held_out and _tells_psnr(trainer) else []
    held_out += ["held_out_sure"] if held_out and _tells_sure(trainer) else []
    return [*columns, *(["psnr", "mse"] if trainer.report_psnr else []), *held_out]


def of_batch(f: Any, physics: Any, batch: Any) -> tuple[Any, Any]:
    """The reconstruction function and the operator of a batch's images: those given, where one operator serves all."""
    own = select_physics(physics, indices_of(batch))
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
    """What the held-out batches say of the network that evaluation will take, as columns of the log: means over their
    images of the closure's losses and, where they have true images, of the paper's PSNR of each, or else, where the
    noise is known and the closure does not have it, of SURE. All processes get the same values."""
    if trainer.held_out is None:
        return {}
    sums: dict[str, float] = {"images": 0.0}
    # The same items in every epoch, whatever the data set draws for them.
    batches = seeded_batches(trainer.held_out, derive_seed(trainer.seed, "held-out items"), epoch=0, first=0)
    part_of = getattr(getattr(trainer.held_out, "batch_sampler", None), "part", None)
    with evaluating(trainer.f), torch.no_grad():
        for number, batch in enumerate(batches):
            part = None if part_of is None else part_of(number)
            values, images = _judged_batch(trainer, number, batch, part)
            sums["images"] += images
            if images:  # a process may have none of a batch
                for column, value in values.items():
                    sums[column] = sums.get(column, 0.0) + images * value
    # Of a loader that divides its batches each process has a part, of another one all: the mean is the same.
    columns = sorted(sums)
    totals = trainer.processes.sum(torch.tensor([sums[column] for column in columns], dtype=torch.float64)).tolist()
    total = dict(zip(columns, totals, strict=True))
    return {f"held_out_{column}": total[column] / total["images"] for column in sums if column != "images"}


def _judged_batch(trainer: Trainer, number: int, batch: Any, part: Part | None) -> tuple[dict[str, float], float]:
    """The columns of a held-out batch, or of this process's ``part`` of it, and how many images they are the mean of.

    What else is to judge an epoch is one more column here, and in `judge` if it is to choose the best one.
    """
    seed_all(derive_seed(trainer.seed, "held out", number))
    f, physics = of_batch(trainer.f, trainer.physics, batch)
    like = next(trainer.networks["total"].parameters())
    x, y = images_and_measurements(batch, physics, like=like, seed=trainer.seed)
    part, processes = (Part.of(len(y), Processes()), Processes()) if part is None else (part, trainer.processes)
    with draws_of_part(physics, part, processes):
        losses = trainer.closure(f, physics, group_of(trainer, "held out", number), y, x)
    values = {column: float(losses[key]) for column, key in columns_of(trainer.closure, losses).items()}
    if x is not None and _tells_psnr(trainer):
        # Of f(y) as evaluation computes it, which of some closures is not x1: splitting reconstructs from a part.
        each = [float(cal_psnr(ours[None], true[None])) for ours, true in zip(f(y), x, strict=True)]
        values["psnr"] = sum(each) / len(each)
    if _tells_sure(trainer):
        with draws_of_part(physics, part, processes):
            values["sure"] = float(SUREClosure()(f, physics, None, y)["total"])
    return values, part.weight * part.size


def _tells_psnr(trainer: Trainer) -> bool:
    return trainer.report_psnr and trainer.rules > 1


def _tells_sure(trainer: Trainer) -> bool:
    """Whether SURE judges: a loss that compares with noisy measurements is least where their noise is fitted."""
    has_it = any("sure" in column for column in getattr(trainer.closure, "columns", None) or {})
    if trainer.report_psnr or trainer.rules == 1 or has_it or not fine_enough(trainer.f):
        return False
    return noise_with_variance(trainer.physics) is not None


def judge(trainer: Trainer) -> tuple[str, int]:
    """The column of the log that chooses the best epoch: the PSNR of what is held out where there are true images, SURE
    where the noise is known, else the closure's total on it. And 1 where less of it is better, -1 where more is."""
    for column, sign in (("held_out_psnr", -1), ("held_out_sure", 1)):
        if trainer.history and column in trainer.history[-1]:
            return column, sign
    columns = columns_of(trainer.closure, ["total"])
    return next((f"held_out_{column}" for column, key in columns.items() if key == "total"), ""), 1


def _costs(trainer: Trainer) -> list[float]:
    """What every epoch so far is judged by, the less the better; infinite where that is no number. Empty where nothing
    is held out."""
    column, sign = judge(trainer)
    if not trainer.history or column not in trainer.history[-1]:
        return []
    values = [sign * row.get(column, math.inf) for row in trainer.history]
    return [math.inf if math.isnan(value) else value for value in values]


def is_best(trainer: Trainer) -> bool:
    """Whether no epoch was better on the held-out batches; never where there are none, or it cannot be judged, which is
    said."""
    costs = _costs(trainer)
    if costs and costs[-1] == math.inf and trainer.processes.first:
        column, _ = judge(trainer)
        print(f"warning: {column} is {trainer.history[-1][column]} after epoch {len(costs)}: it cannot be the best one",
              file=sys.stderr)  # fmt: skip
    return bool(costs) and costs[-1] < math.inf and costs[-1] == min(costs)


def out_of_patience(trainer: Trainer) -> bool:
    """Whether the last ``trainer.patience`` epochs were all no better than the best one before them."""
    costs = _costs(trainer)
    if trainer.patience is None or len(costs) < trainer.patience:
        return False
    best = min(costs)
    since = len(costs) if best == math.inf else len(costs) - 1 - costs.index(best)
    return since >= trainer.patience
