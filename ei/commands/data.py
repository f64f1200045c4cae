"""What a run trains on, from options."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ei.commands.options import Options
from ei.commands.parts import SPLIT, image_shape, images_for, measurements_for, pairs_for, split_beside
from ei.commands.presets import Shape
from ei.datasets import ImageTree, Pairs, Tiles, image_of, split_validation
from ei.datasets.batches import Indexed
from ei.datasets.batches import evenly_spaced as spread
from ei.datasets.batches import index_in_whole as number_of
from ei.datasets.validation import split_by_mode as split
from ei.diagnosis.measurements import look_at
from ei.diagnosis.sinograms import SinogramReport, check_sinogram
from ei.errors import InputError
from ei.physics import image_shape_of, select_physics
from ei.physics.projections import Projections

# Values of measurements up to which all are read before a training begins.
LOOKED_THROUGH = 2**28


class TrainingData:
    """What a run trains on: ``train`` (images, or, where ``measured``, measurements alone), ``shape`` (C, H, W) of its
    images, ``trained`` that of what a step sees of them (their tiles, with --tile), ``count`` of its images or
    measurements, ``held_out`` batches of them to judge by (None: all train), all ``pairs`` where the truth of
    measurements is known, and ``files`` for the run folder.

    Args:
        options: of the run.
        physics: the operator of ``--physics``, if there is one.
    """

    train: Any
    shape: Shape
    trained: Shape
    count: int

    def __init__(self, options: Options, physics: Any) -> None:
        self.held_out: DataLoader | None = None
        self.pairs: Pairs | None = None
        self.measured = options.measurements is not None
        self.files: dict[str, str] = {}
        if options.measurements is not None:
            found: Any
            found, self.shape = measurements_for(options.measurements, options, physics)
            self.count = len(found)
            if self.count * found[0].numel() <= LOOKED_THROUGH:
                for index in range(self.count):
                    found[index]  # raises where one is not finite: now, and not after an epoch
            if options.truth is not None:
                self.pairs = found = pairs_for(found, options.truth, self.shape)
            self.train = found
            self._tile(options)
            if options.rules == 1 and options.held_out is None:
                whole, what = self.train, f"the measurements of {options.measurements}"
                rest, self.train = (Subset(whole, split(range(len(whole)), mode, what)) for mode in ("test", "train"))
                self.held_out = DataLoader(Indexed(rest, measured=True), batch_size=1)
                return
            self._hold_out(0.1 if options.held_out is None else options.held_out, options.batch_size)
            return
        if options.split is None and options.resume is not None:
            options.split = split_beside(options.resume).get("split")
        told = None if physics is None else image_shape_of(physics)
        self.train = images_for(options, "train", told)
        self.shape, self.count = image_shape(self.train), len(self.train)
        if isinstance(getattr(self.train, "dataset", self.train), ImageTree):
            tests = images_for(options, "test", told, patches=False).names
            self.files[SPLIT] = "".join(f"{name}\n" for name in tests)
        self._tile(options)
        self._hold_out(options.held_out or 0.0, options.batch_size)

    def _tile(self, options: Options) -> None:
        self.trained = self.shape
        if options.tile is not None:
            if options.patch is not None:
                raise InputError("--tile and --patch both cut images: choose one")
            self.train = Tiles(self.train, options.tile)
            self.trained = (self.shape[0], options.tile, options.tile)

    def _hold_out(self, fraction: float, batch_size: int) -> None:
        if not fraction:
            return
        what = ("tiles of " if self.trained != self.shape else "") + (
            "measurements" if self.measured else "training images"
        )
        whole = len(self.train)
        self.train, rest = split_validation(self.train, fraction, f"the {what}")
        self.held_out = DataLoader(Indexed(rest, self.measured), batch_size)
        print(f"held out: {len(rest)} of {whole} {what} judge after every epoch")


def level_to_start_from(physics: Any, data: TrainingData, device: torch.device) -> float:
    """Where the search for an unknown level of noise starts: a hundredth of the root mean square of a few measurements,
    where they are not zero. Noise is seldom below, and the search is to come from there.

    Raises:
        InputError: if all are zero.
    """
    squares = []
    for index in spread(data.train):
        if data.measured:
            y = _measurement(data.train, index)
        else:
            y = select_physics(physics, [number_of(data.train, index)]).A(image_of(data.train[index]).to(device))
        squares.append(y[y != 0].abs().square().mean())
    level = float(f"{0.01 * float(torch.stack(squares).nanmean()) ** 0.5:.3g}")
    if not level > 0:
        raise InputError("the measurements are all zero: there is no noise to find in them")
    return level


def look_of(physics: Any, measurements: Any) -> str:
    """What is to be said of measurements before a training (`ei.diagnosis.measurements`)."""
    some = spread(measurements)
    ys = [_measurement(measurements, index) for index in some]
    return look_at(physics, ys, [number_of(measurements, index) for index in some])


def fit_of(physics: Any, measurements: Any) -> SinogramReport | None:
    """Whether measured sinograms fit their geometry; None for measurements that are none."""
    if not isinstance(physics, Projections):
        return None
    some = spread(measurements, 16)
    return check_sinogram(physics, torch.stack([_measurement(measurements, index) for index in some]))


def _measurement(measurements: Any, index: int) -> Tensor:
    item = measurements[index]
    return item[0] if isinstance(item, tuple) else item


def find_image_scale(physics: Any, measurements: Any, device: torch.device) -> float:
    """The largest value of ``A_dagger y``, but for its thousandth part, over a few measurements; 1 where images are in
    about [0, 1] already."""
    peaks = []
    for index in spread(measurements):
        own = select_physics(physics, [number_of(measurements, index)])
        x = own.A_dagger(_measurement(measurements, index)[None].to(device)).abs().flatten()
        peaks.append(float(x.kthvalue(max(1, math.ceil(0.999 * len(x)))).values))
    scale = float(f"{statistics.median(peaks):.3g}")
    if not scale > 0:
        raise InputError("A_dagger of the measurements is zero: is this the operator that they were made with?")
    return 1.0 if 1 / 3 <= scale <= 3 else scale
