"""The losses of an open epoch: noted on the device in every step, read from it seldom, summed exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ei.closure.base import CRITERIA
from ei.common.processes import Processes
from ei.errors import InputError, TrainingDivergedError


@dataclass(frozen=True)
class _Note:
    epoch: int
    step: int
    columns: tuple[str, ...]
    values: Tensor  # on the device: this process's share of each column
    # The largest |x| of the ground truth; where it is there, the last column is the mean squared error.
    peak: Tensor | None
    per_image: int  # images times channels of the whole batch


class Tally:
    """Sums the columns of the log over the steps of an epoch.

    What a step notes stays on the device; only `read` waits for it. Sums are of Python floats in the order of the
    steps, so when they are read does not change them.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.sums: dict[str, float] = {}
        self.steps = 0
        self._unread: list[_Note] = []

    @torch.no_grad()
    def note(
        self,
        epoch: int,
        step: int,
        losses: Mapping[str, Tensor],
        weight: float,
        truth: tuple[Tensor, Tensor, int] | None = None,
    ) -> None:
        """Note the losses of a step for this process's part of the batch. Epochs count from 0, steps from 1. ``weight``
        is the share of the part in the batch. ``truth`` is the part's reconstructions, its ground truth, and the number
        of images in the whole batch."""
        columns, values, peak, per_image = tuple(losses), [v.detach().double() for v in losses.values()], None, 0
        if truth is not None:
            x1, x, images = truth
            columns = (*columns, "psnr", "mse")
            values.append(CRITERIA["l2"](x1, x).double())
            peak, per_image = x.abs().max().double(), images * x.shape[1]
        self._unread.append(_Note(epoch, step, columns, weight * torch.stack(values), peak, per_image))

    def read(self) -> dict[str, float]:
        """Add what was noted to ``sums``, and return the newest step's values (over all processes, which have to call
        this together).

        Raises:
            TrainingDivergedError: naming the first step, epoch and part that is not finite.
            InputError: if the steps of an epoch give different columns.
        """
        values: dict[str, float] = {}
        for note, row, peak in self._rows():
            values = dict(zip([c for c in note.columns if c != "psnr"], row, strict=True))
            if peak is not None:
                values = {column: values.get(column, _psnr(peak, row[-1], note.per_image)) for column in note.columns}
            for column, value in values.items():
                # The PSNR of an exact reconstruction is infinite, and that is no failure.
                if not math.isfinite(value) and column != "psnr":
                    place = f"epoch {note.epoch + 1}, step {note.step}"
                    advice = "lower the learning rate or the loss weights, or look for bad values in the data"
                    raise TrainingDivergedError(f"{column} became {value} in {place}: {advice}")
            if self.steps and values.keys() != self.sums.keys():
                before = f"those before it in epoch {note.epoch + 1} gave {', '.join(self.sums)}"
                advice = "All batches must have ground truth, or none, and a closure the same losses in every step"
                raise InputError(f"step {note.step} gives {', '.join(values)}, {before}. {advice}")
            for column, value in values.items():
                self.sums[column] = self.sums.get(column, 0.0) + value
            self.steps += 1
        return values

    def _rows(self) -> list[tuple[_Note, list[float], float | None]]:
        notes, self._unread = self._unread, []
        if not notes:
            return []
        sizes = [len(note.values) for note in notes]
        values = self.processes.sum(torch.cat([note.values for note in notes]).cpu())
        peaks = [note.peak for note in notes if note.peak is not None]
        largest = iter(self.processes.largest(torch.stack(peaks).cpu()).tolist() if peaks else [])
        return [
            (note, row.tolist(), None if note.peak is None else next(largest))
            for note, row in zip(notes, values.split(sizes), strict=True)
        ]

    def close(self) -> dict[str, float]:
        """The means of the epoch; begins the next one."""
        self.read()
        means = {column: total / self.steps for column, total in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


def _psnr(peak: float, mse: float, per_image: int) -> float:
    """`ei.metrics.cal_psnr` of a whole batch, from its mean squared error and the largest true value."""
    if mse == 0:
        return math.inf
    return 10 * math.log10(peak**2 / (mse * per_image)) if peak > 0 else -math.inf
