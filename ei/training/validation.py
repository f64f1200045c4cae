"""What is logged of a step, and the validation set after every epoch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ei.closure.sure import SUREClosure, is_precise
from ei.common.processes import Part, Processes
from ei.common.seeds import derive_seed, seed_all
from ei.datasets.batches import images_and_measurements, indices_of, seeded_batches
from ei.metrics import cal_psnr
from ei.models.base import evaluating, select_function
from ei.physics.noise_adapter import noise_with_variance
from ei.training.parallel import draws_of_part
from ei.training.run import Run
from ei.transforms.seeded import SeededGroup

PREFIX = "validation_"


def columns_of(closure: Any, losses: Iterable[str]) -> Mapping[str, str]:
    """The columns of the log, and the losses they show."""
    return getattr(closure, "columns", None) or {f"loss_{key}": key for key in losses if key != "x1"}


def log_columns(run: Run) -> list[str]:
    """All columns of the log; none where the closure's losses are known after the first step only."""
    columns = list(getattr(run.closure, "columns", None) or {})
    if not columns:
        return []
    validation = [] if run.validation is None else [*columns, *_further_columns(run)]
    images = ["psnr", "mse"] if run.report_psnr else []
    return [*columns, *images, *(PREFIX + column for column in validation)]


def _further_columns(run: Run) -> list[str]:
    """What is computed of the validation set beside the losses of the closure: the PSNR where there is ground truth, or
    SURE where the noise is known and the closure does not have it. A loss that compares with noisy measurements is
    lowest where it overfits the noise."""
    if run.report_psnr:
        return ["psnr"]
    has_sure = any("sure" in column for column in getattr(run.closure, "columns", None) or {})
    needs_sure = not has_sure and is_precise(run.f) and noise_with_variance(run.physics) is not None
    return ["sure"] if needs_sure else []


def seeded_group(run: Run, *place: str | int) -> Any:
    """The group with the elements of a step, or of another ``place``: the same in all processes, and whatever else was
    drawn there before."""
    return None if run.transform is None else SeededGroup(run.transform, run.seed, "group", *place)


def validate(run: Run) -> dict[str, float]:
    """The columns of the log for the validation set and the network that evaluation will take: means over its images of
    the closure's losses and of `_further_columns`. All processes get the same values."""
    if run.validation is None:
        return {}
    sums: dict[str, float] = {"images": 0.0}
    # The same items in every epoch, whatever the data set draws for them.
    batches = seeded_batches(run.validation, derive_seed(run.seed, "held-out items"), epoch=0, first=0)
    part_of = getattr(getattr(run.validation, "batch_sampler", None), "part", None)
    with evaluating(run.f), torch.no_grad():
        for number, batch in enumerate(batches):
            part = None if part_of is None else part_of(number)
            values, images = _validate_batch(run, number, batch, part)
            sums["images"] += images
            if images:  # a process may have none of a batch
                for column, value in values.items():
                    sums[column] = sums.get(column, 0.0) + images * value
    # Of a loader that divides its batches each process has a part, of another one all: the mean is the same.
    columns = sorted(sums)
    totals = run.processes.sum(torch.tensor([sums[column] for column in columns], dtype=torch.float64)).tolist()
    total = dict(zip(columns, totals, strict=True))
    return {PREFIX + column: total[column] / total["images"] for column in sums if column != "images"}


def _validate_batch(run: Run, number: int, batch: Any, part: Part | None) -> tuple[dict[str, float], float]:
    """The columns of a batch of the validation set, or of this process's ``part`` of it, and how many images they are
    the mean of."""
    seed_all(derive_seed(run.seed, "held out", number))
    f, physics = select_function(run.f, run.physics, indices_of(batch))
    like = next(run.networks["total"].parameters())
    x, y = images_and_measurements(batch, physics, like=like, seed=run.seed)
    part, processes = (Part.of(len(y), Processes()), Processes()) if part is None else (part, run.processes)
    with draws_of_part(physics, part, processes):
        losses = run.closure(f, physics, seeded_group(run, "held out", number), y, x)
    values = {column: float(losses[key]) for column, key in columns_of(run.closure, losses).items()}
    further = _further_columns(run)
    if x is not None and "psnr" in further:
        # Of f(y) as evaluation computes it, which of some closures is not x1: splitting reconstructs from a part.
        each = [float(cal_psnr(image[None], truth[None])) for image, truth in zip(f(y), x, strict=True)]
        values["psnr"] = sum(each) / len(each)
    if "sure" in further:
        with draws_of_part(physics, part, processes):
            values["sure"] = float(SUREClosure()(f, physics, None, y)["total"])
    return values, part.weight * part.size


def selecting_column(run: Run) -> tuple[str, int]:
    """The column of the log that selects the best epoch, and 1 where lower is better, -1 where higher is. It is the
    PSNR of the validation set where there is ground truth, SURE where the noise is known, else the closure's total."""
    for column, sign in ((PREFIX + "psnr", -1), (PREFIX + "sure", 1)):
        if run.history and column in run.history[-1]:
            return column, sign
    columns = columns_of(run.closure, ["total"])
    return next((PREFIX + column for column, key in columns.items() if key == "total"), ""), 1


def _costs(run: Run) -> list[float]:
    """The selecting column of every finished epoch, lower is better; infinite where it is no number. Empty without a
    validation set."""
    column, sign = selecting_column(run)
    if not run.history or column not in run.history[-1]:
        return []
    values = [sign * row.get(column, math.inf) for row in run.history]
    return [math.inf if math.isnan(value) else value for value in values]


def is_best(run: Run) -> bool:
    """Whether no epoch was better on the validation set; never without one, or if it has no value, which is warned
    of."""
    costs = _costs(run)
    if costs and costs[-1] == math.inf and run.processes.first:
        column, _ = selecting_column(run)
        value = run.history[-1][column]
        print(f"warning: {column} is {value} after epoch {len(costs)}: it cannot be the best epoch", file=sys.stderr)
    return bool(costs) and costs[-1] < math.inf and costs[-1] == min(costs)


def out_of_patience(run: Run) -> bool:
    """Whether the last ``run.patience`` epochs were all no better than the best one before them."""
    costs = _costs(run)
    if run.patience is None or len(costs) < run.patience:
        return False
    best = min(costs)
    since = len(costs) if best == math.inf else len(costs) - 1 - costs.index(best)
    return since >= run.patience
