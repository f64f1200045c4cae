"""The paper's tasks and methods by name. A task of your own is one more entry of `TASKS`, a method of `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ei.closure import (
    AdversarialEIClosure,
    Closure,
    EIClosure,
    MCClosure,
    RobustEIClosure,
    SplittingClosure,
    SplittingEIClosure,
    SupervisedClosure,
    SupervisedEIClosure,
    SUREClosure,
    UNSUREClosure,
)
from ei.closure.base import CRITERIA, InUnits
from ei.commands.options import Options
from ei.datasets import CVDB, CTData, DeadLeaves, EllipsePhantoms, MagnitudePhantoms, MRIData
from ei.errors import InputError
from ei.models import Discriminator
from ei.physics import CT, MRI, Inpainting
from ei.physics.ct import n_detectors_of
from ei.physics.mri import mask_for, random_columns

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """An inverse problem by name: its operator, and where its data lies. Its settings are in the table of options
    (`ei.commands.options`), under its name; its group is the default of ``--group`` there.

    Attributes:
        physics: from options, the image shape (C, H, W) and a device to the forward operator.
        images: from a path and "train" or "test" to the data set in the layout of this task.
        generated: the data set of ``--data synthetic``, from "train" or "test".
        channels: of its images.
        physics_options: the options that the physics depends on, and what they are in its ``config``.
        measured_shape: from the shape of measurements (C, ...) and options to the image shape; None where the physics
            is asked.
        place: where the data of a name lies, as ``dataset/{}``.
        dataset_name: the name of the paper's data.
        sample_to_show: the test image of the paper's figure.
        papers: the paper's PSNR at its budget, for A_dagger y ("pinv") and each method (from memory).
        defaults: of options, for tasks that the table does not know.
    """

    physics: Callable[[Options, tuple[int, ...], torch.device], Any]
    images: Callable[[str, str], Any]
    generated: Callable[[str], Any]
    channels: int = 1
    physics_options: Mapping[str, str] = field(default_factory=dict)
    measured_shape: Callable[[tuple[int, ...], Options], Shape] | None = None
    place: str = "dataset/{}"
    dataset_name: str = ""
    sample_to_show: int = 0
    papers: Mapping[str, float] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _ct(options: Options, shape: tuple[int, ...], device: torch.device) -> CT:
    if shape[-1] != shape[-2]:
        raise InputError(f"CT needs square images, not {shape[-2]} x {shape[-1]}")
    return CT(shape[-1], options.ct_views, device=device)


def _ct_shape(shape: tuple[int, ...], options: Options) -> Shape:
    channels, detectors, views = shape
    if views != options.ct_views:
        raise InputError(
            f"sinograms are read as [detectors, views]: these have {detectors} detectors and {views} views, and "
            f"--ct-views is {options.ct_views}. Give --ct-views {views}; or, if they are [views, detectors], swap "
            "their axes"
        )
    side = next((n for n in range(1, detectors + 1) if n_detectors_of(n, circle=False) == detectors), None)
    if side is None:
        raise InputError(f"sinograms [n, detectors, views] of {detectors} detectors belong to no image size: CT has "
                         "ceil(sqrt(2) N) detectors")  # fmt: skip
    return channels, side, side


def _inpainting(options: Options, shape: tuple[int, ...], device: torch.device) -> Inpainting:
    # The mask belongs to the problem, not to the run: it does not change with --seed.
    return Inpainting(*shape[-2:], mask_rate=options.mask_rate, mask=options.mask, seed=0, device=device)


def _inpainting_shape(shape: tuple[int, ...], options: Options) -> Shape:
    if options.mask is None:
        raise InputError("--measurements of inpainting need the mask they were made with: give --mask")
    channels, height, width = shape
    return channels, height, width


def _mri(options: Options, shape: tuple[int, ...], device: torch.device) -> MRI:
    channels, height, width = shape
    if channels != 2:
        raise InputError(f"MRI needs images of two channels, real and imaginary part, and the data has {channels}: "
                         "give an .npz or .npy file of images [n, H, W]")  # fmt: skip
    # As for inpainting, the mask belongs to the problem.
    mask = random_columns(width, options.acceleration) if options.mask is None else mask_for(options.mask, width)
    if options.mask is not None and mask.dim() == 1 and MRI(options.mask).mask.shape != mask.shape:
        print(f"note: the mask {options.mask} has more columns than the images: its middle {width} are taken, of which "
              f"{int(mask.sum())} are measured")  # fmt: skip
    if mask.shape[-1] != width or (mask.dim() == 2 and len(mask) != height):
        raise InputError(f"the mask {options.mask} has the shape {list(mask.shape)}, and images are {height} x {width}")
    return MRI(mask, height=height if mask.dim() == 1 else None, device=device)


def _mri_shape(shape: tuple[int, ...], options: Options) -> Shape:
    if options.mask is None:
        raise InputError("--measurements of mri need the mask they were made with: give --mask")
    if len(shape) != 3 or shape[0] != 2:
        raise InputError(
            f"--task mri has one coil, whose k-space is [n, H, W], complex, or [n, 2, H, W]; one of these measurements "
            f"is {list(shape)}: for several coils give a file with mask and maps with --physics"
        )
    _, height, width = shape
    return 2, height, width


TASKS: dict[str, Task] = {
    "ct": Task(
        physics=_ct,
        images=lambda data, mode: CTData(mode, data),
        generated=EllipsePhantoms,
        physics_options={"ct_views": "radon_view"},
        measured_shape=_ct_shape,
        place="dataset/CT/{}_128x128.mat",
        dataset_name="CT100",
        sample_to_show=4,
        papers={"pinv": 30.24, "mc": 30.83, "ei": 36.94, "ei_adv": 36.96, "sup": 38.17, "ei_sup": 38.79},
    ),
    "inpainting": Task(
        physics=_inpainting,
        images=CVDB,
        generated=DeadLeaves,
        channels=3,
        physics_options={"mask_rate": "mask_rate"},
        measured_shape=_inpainting_shape,
        dataset_name="Urban100",
        sample_to_show=6,
        papers={"pinv": 5.84, "mc": 5.84, "ei": 25.14, "ei_adv": 23.26, "sup": 26.51, "ei_sup": 26.75},
    ),
    "mri": Task(
        physics=_mri,
        images=lambda data, mode: MRIData(mode, data),
        generated=MagnitudePhantoms,
        channels=2,
        measured_shape=_mri_shape,
        place="dataset/MRI/{}.npz",
        dataset_name="mri_chest_256",
    ),
}


def task_of(name: str | None) -> Task | None:
    return None if name is None else TASKS[name]


@dataclass(frozen=True)
class Method:
    """A way to train: from options and the image shape (C, H, W) to the closure, and its title in tables. What options
    mean something to it, and whether it has a group, is in the table of options."""

    closure: Callable[[Options, Shape], Closure]
    title: str


def _in_units(options: Options) -> dict[str, Any]:
    """Losses in units of the image scale, so that their weights, the learning rate and --clip-norm carry over."""
    scale = options.image_scale or 1.0
    return {} if scale == 1 else {"criterion": lambda a, b: CRITERIA["l2"](a / scale, b / scale)}


def _divided(closure: Closure, options: Options) -> Closure:
    """The same of a closure whose losses are squares of measurements by themselves."""
    scale = options.image_scale or 1.0
    return closure if scale == 1 else InUnits(closure, scale)


METHODS: dict[str, Method] = {
    "ei": Method(
        lambda o, shape: EIClosure(
            o.ei_alpha, o.stop_gradient, mc_domain=o.mc_domain, frozen_targets=o.frozen_targets, **_in_units(o)
        ),
        "EI",
    ),
    "mc": Method(lambda o, shape: MCClosure(mc_domain=o.mc_domain, **_in_units(o)), "MC"),
    "split": Method(lambda o, shape: SplittingClosure(o.keep, mc_domain=o.mc_domain, **_in_units(o)), "Splitting"),
    "split_ei": Method(
        lambda o, shape: SplittingEIClosure(o.ei_alpha, o.keep, o.stop_gradient, mc_domain=o.mc_domain, **_in_units(o)),
        "Splitting + EI",
    ),
    "sure": Method(lambda o, shape: _divided(SUREClosure(mc_domain=o.mc_domain), o), "SURE"),
    "rei": Method(
        lambda o, shape: _divided(RobustEIClosure(o.ei_alpha, o.stop_gradient, mc_domain=o.mc_domain), o), "REI"
    ),
    "sup": Method(lambda o, shape: SupervisedClosure(**_in_units(o)), "Sup"),
    "ei_sup": Method(lambda o, shape: SupervisedEIClosure(o.ei_alpha, o.stop_gradient, **_in_units(o)), "EI_sup"),
    "ei_adv": Method(
        lambda o, shape: AdversarialEIClosure(
            Discriminator(shape), o.ei_alpha, o.adv_beta, o.stop_gradient, mc_domain=o.mc_domain, **_in_units(o)
        ),
        "EI_adv",
    ),
}


# The methods that can do without the level of the noise, and what they are then: from options and the level that the
# search starts from.
UNKNOWN_NOISE: dict[str, Callable[[Options, float], UNSUREClosure]] = {
    "sure": lambda o, start: UNSUREClosure(start, mc_domain=o.mc_domain),
    "rei": lambda o, start: UNSUREClosure(start, o.ei_alpha, o.stop_gradient, mc_domain=o.mc_domain),
}


def closure_of(options: Options, shape: Shape, start: float | None) -> Closure:
    """The closure of a run for images of ``shape`` (C, H, W); ``start`` is the level that the search for that of the
    noise starts from, None where it is known."""
    if start is None:
        return METHODS[options.method].closure(options, shape)
    return _divided(UNKNOWN_NOISE[options.method](options, start), options)
