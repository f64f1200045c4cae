"""The paper's experiments: what the two tasks and five methods are made of, put together from options.

A new task is one more entry of `TASKS`, a new method one more of `METHODS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam
from torch.utils.data import DataLoader, Subset

import ei.physics
from ei.checkpoint import generator_weights, is_run_state, load_weights
from ei.closure import (
    AdversarialEIClosure,
    Closure,
    EIClosure,
    MCClosure,
    SupervisedClosure,
    SupervisedEIClosure,
)
from ei.datasets import (
    CVDB,
    CTData,
    DeadLeaves,
    EllipsePhantoms,
    FixedCrops,
    ImageTree,
    Measurements,
    image_of,
    make_loader,
    split_images,
)
from ei.datasets.batches import Indexed
from ei.datasets.ctdb import split
from ei.datasets.tree import holds_images
from ei.describe import rebuild
from ei.distributed import Processes, synchronize_batch_norm
from ei.errors import InputError
from ei.models import Discriminator, Reconstructor, UNet
from ei.physics import CT, Inpainting
from ei.physics.ct import n_detectors_of
from ei.physics.noise import GaussianNoise
from ei.seeding import derive_seed
from ei.trainer import Trainer, cosine_schedule, one_cycle_schedule, step_schedule
from ei.transforms import Rotate, Shift, Transform

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """An inverse problem of the paper.

    Attributes:
        physics_class: the class of its forward operator.
        defaults: the paper's settings (``train_paper_bash.sh``).
        images: from a path or "synthetic", "train" or "test", and options to a data set of images.
        physics: from options, the image shape (C, H, W) and a device to the forward operator.
        physics_options: the options that the physics depends on, and what they are in its ``config``.
        measured_shape: from the shape of measurements (C, ...) and options to the image shape (C, H, W).
        transform: from the number of elements to the group.
        sample_to_show: the test image of the paper's figure.
    """

    physics_class: type
    defaults: Mapping[str, Any]
    images: Callable[[str, str, Options], Any]
    physics: Callable[[Options, tuple[int, ...], torch.device], Any]
    physics_options: Mapping[str, str]
    measured_shape: Callable[[tuple[int, ...], Options], tuple[int, int, int]]
    transform: Callable[[int], Transform]
    sample_to_show: int


def _own_images(data: str, mode: str, options: Options) -> ImageTree | None:
    """A folder of people's own: one that holds train/ and test/ or, divided by --split or --test-fraction, one that
    does not. None where neither the folder nor the options say that it is of one's own."""
    sizes: dict[str, Any] = {
        "crop": options.get("crop"),
        "resize": options.get("resize"),
        "gray": bool(options.get("gray")),
    }
    if not Path(data).is_dir() or not holds_images(data):
        return None
    if all((Path(data) / part).is_dir() for part in ("train", "test")):
        return ImageTree(Path(data) / mode, **sizes) if any(sizes.values()) else None
    if (Path(data) / "train").is_dir() or (Path(data) / "test").is_dir():
        return None  # half of the layout: whoever reads it will say what is missing
    fraction = options.get("test_fraction")
    test = options.get("split") or (0.1 if fraction is None else fraction)
    return ImageTree(data, split_images(data, test)[mode], **sizes)


def _ct_images(data: str, mode: str, options: Options) -> Any:
    own = _own_images(data, mode, options)
    return own or (EllipsePhantoms(mode) if data == "synthetic" else CTData(mode, data))


def _ct_physics(options: Options, shape: tuple[int, ...], device: torch.device) -> CT:
    if shape[-1] != shape[-2]:
        raise InputError(f"CT needs square images, not {shape[-2]} x {shape[-1]}")
    return CT(shape[-1], options["ct_views"], device=device)


def _ct_measured_shape(shape: tuple[int, ...], options: Options) -> tuple[int, int, int]:
    channels, detectors, views = shape
    if views != options["ct_views"]:
        raise InputError(f"the sinograms have {views} views, not {options['ct_views']}: give --ct-views {views}")
    side = next((n for n in range(1, detectors + 1) if n_detectors_of(n, circle=False) == detectors), None)
    if side is None:
        raise InputError(f"sinograms [n, detectors, views] of {detectors} detectors belong to no image size: CT has "
                         "ceil(sqrt(2) N) detectors")  # fmt: skip
    return channels, side, side


def _inpainting_measured_shape(shape: tuple[int, ...], options: Options) -> tuple[int, int, int]:
    if options.get("mask") is None:
        raise InputError("--measurements of inpainting need the mask they were made with: give --mask")
    channels, height, width = shape
    return channels, height, width


def _inpainting_images(data: str, mode: str, options: Options) -> Any:
    own = _own_images(data, mode, options)
    return own or (DeadLeaves(mode) if data == "synthetic" else CVDB(data, mode))


def _inpainting_physics(options: Options, shape: tuple[int, ...], device: torch.device) -> Inpainting:
    # The mask belongs to the problem, not to the run: it does not change with --seed.
    return Inpainting(*shape[-2:], mask_rate=options["mask_rate"], mask=options.get("mask"), seed=0, device=device)


TASKS: dict[str, Task] = {
    "ct": Task(
        physics_class=CT,
        defaults={
            "data": "dataset/CT/CT100_128x128.mat",
            "ct_views": 50,
            "epochs": 5000,
            "lr": 5e-4,
            "batch_size": 2,
            "ei_trans": 5,
            "ei_alpha": 100.0,
            "schedule": [2000, 3000, 4000],
            "ckp_interval": 1000,
        },
        images=_ct_images,
        physics=_ct_physics,
        physics_options={"ct_views": "radon_view"},
        measured_shape=_ct_measured_shape,
        transform=Rotate,
        sample_to_show=4,
    ),
    "inpainting": Task(
        physics_class=Inpainting,
        defaults={
            "data": "dataset/Urban100",
            "mask_rate": 0.3,
            "mask": None,
            "epochs": 2000,
            "lr": 1e-3,
            "batch_size": 1,
            "ei_trans": 3,
            "ei_alpha": 1.0,
            "schedule": [500, 1000, 1500],
            "ckp_interval": 500,
        },
        images=_inpainting_images,
        physics=_inpainting_physics,
        physics_options={"mask_rate": "mask_rate"},
        measured_shape=_inpainting_measured_shape,
        transform=Shift,
        sample_to_show=6,
    ),
}


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        closure: from options and the image shape (C, H, W) to what a step computes.
        options: those that mean something to it and not to every method; one with ``ei_trans`` has a group.
        needs_truth: whether it learns from images.
    """

    closure: Callable[[Options, tuple[int, int, int]], Closure]
    options: tuple[str, ...] = ()
    needs_truth: bool = False


METHODS: dict[str, Method] = {
    "ei": Method(
        lambda options, shape: EIClosure(options["ei_alpha"], options["stop_gradient"], mc_domain=options["mc_domain"]),
        options=("ei_trans", "ei_alpha", "stop_gradient", "mc_domain"),
    ),
    "mc": Method(lambda options, shape: MCClosure(mc_domain=options["mc_domain"]), options=("mc_domain",)),
    "sup": Method(lambda options, shape: SupervisedClosure(), needs_truth=True),
    "ei_sup": Method(
        lambda options, shape: SupervisedEIClosure(options["ei_alpha"]),
        options=("ei_trans", "ei_alpha"),
        needs_truth=True,
    ),
    "ei_adv": Method(
        lambda options, shape: AdversarialEIClosure(Discriminator(shape), options["ei_alpha"], options["adv_beta"]),
        options=("ei_trans", "ei_alpha", "adv_beta", "lr_d"),
    ),
}
OF_SOME_METHODS = frozenset(option for method in METHODS.values() for option in method.options)

COMMON_DEFAULTS: dict[str, Any] = {
    "method": "ei",
    "wd": 1e-8,
    "adv_beta": 1e-8,
    "lr_d": None,
    "cos": False,
    "one_cycle": False,
    "mc_domain": "measurement",
    "stop_gradient": False,
    "clip_norm": None,
    "average": None,
    "measurements": None,
    "noise_sigma": 0.0,
    "crop": None,
    "resize": None,
    "gray": False,
    "patch": None,
    "patches": 1,
    "split": None,
    "test_fraction": None,
    "seed": 0,
    "base_channels": 64,
    "precision": "fp32",
    "compile": False,
    "sync_bn": False,
    "workers": 0,
    "tensorboard": False,
    "save_every": 5.0,
    "max_steps": None,
}

# In the run folder: which of one's own images were left for testing.
SPLIT = "split.txt"

# Where a run is kept and computed does not change what it computes: left out of checkpoints and of contradictions.
NOT_OF_THE_RUN = (
    "out",
    "resume",
    "config",
    "device",
    "gpu",
    "compile",
    "workers",
    "save_every",
    "max_steps",
    "split",
    "tensorboard",
)


def split_beside(checkpoint: str | os.PathLike) -> dict[str, str]:
    """The option ``split`` of a run that wrote its list of test images beside its checkpoints: images that came into
    the folder since must not change what is tested."""
    beside = Path(checkpoint).with_name(SPLIT)
    return {"split": str(beside)} if beside.exists() else {}


def images_for(task: str, data: str, mode: str, options: Options) -> Any:
    """The training or test images of a task: the data set, or patches of its images if ``options`` ask for them."""
    images = TASKS[task].images(data, mode, options)
    patch = options.get("patch")
    return FixedCrops(images, patch, options.get("patches") or 1) if patch else images


def sample_of_the_paper(task: str, images: Any) -> int:
    """Which of the test ``images`` the paper's figure shows (its first patch, where they are patches); the last one if
    there are too few."""
    return min(TASKS[task].sample_to_show * getattr(images, "per_image", 1), len(images) - 1)


def image_shape(images: Any) -> tuple[int, int, int]:
    """(C, H, W) of a data set's images."""
    channels, height, width = image_of(images[0]).shape[1:]
    return channels, height, width


def rebuild_physics(state: Mapping[str, Any], device: torch.device) -> Any:
    """The forward operator that a checkpoint of ours describes.

    Raises:
        InputError: if it describes none.
    """
    mask = state.get("mask")
    return rebuild(state["physics"], ei.physics, device=device, **({} if mask is None else {"mask": mask}))


def physics_of_checkpoint(state: Mapping[str, Any], task: str, given: Options, device: torch.device) -> Any:
    """The forward operator a checkpoint of ours carries; options in ``given`` may repeat but not contradict it.

    Raises:
        InputError: naming the contradiction.
    """
    described = state["physics"]
    physics_class = TASKS[task].physics_class
    if described is None or described.get("name") != physics_class.__name__:
        held = (described or {}).get("name", "another physics")
        raise InputError(f"the checkpoint was trained for {held}, not for {physics_class.__name__} (task {task})")
    physics = rebuild_physics(state, device)
    for option, name in TASKS[task].physics_options.items():
        if given.get(option) is not None and given[option] != described[name]:
            raise InputError(
                f"--{option.replace('_', '-')} {given[option]} contradicts the checkpoint, which was trained with "
                f"{described[name]}; leave the option out"
            )
    if given.get("mask") is not None:
        other = Inpainting(*physics.image_shape, mask=given["mask"])
        if not torch.equal(other.mask, physics.mask.cpu()):
            raise InputError(f"--mask {given['mask']} contradicts the checkpoint's own mask; leave the option out")
    return physics


def _require_same_size(physics: Any, shape: tuple[int, ...]) -> None:
    if tuple(physics.image_shape) != tuple(shape[-2:]):
        raise InputError(
            f"the checkpoint is for images of {physics.image_shape[0]} x {physics.image_shape[1]}, but the data has "
            f"{shape[-2]} x {shape[-1]}"
        )


def check_batch_statistics(
    shape: tuple[int, int, int], halvings: int, n_images: int, batch_size: int, sync_bn: bool = False
) -> None:
    """Raise if BatchNorm would see a single value per channel, which has no variance, after ``halvings`` of the sides;
    or if BatchNorm over all processes had one without an image."""
    processes = Processes.current()
    smallest = n_images % batch_size or batch_size
    if sync_bn and smallest < processes.count:
        raise InputError(
            f"--sync-bn needs an image in every process, but the last batch of an epoch has {smallest} for "
            f"{processes.count} processes; choose another --batch-size"
        )
    smallest = smallest if sync_bn else max(1, smallest // processes.count)
    if smallest * -(-shape[1] // 2**halvings) * -(-shape[2] // 2**halvings) < 2:
        raise InputError(
            f"images of {shape[1]} x {shape[2]} in a batch of {smallest} leave BatchNorm one value per channel at the "
            "deepest level of the network; use larger images or batches"
        )


def build_training(
    options: Options, device: torch.device, state: Mapping[str, Any] | None = None, given: Options | None = None
) -> tuple[Trainer, Any]:
    """A trainer and its loader from resolved options (those of ``demo_train.py``).

    Everything a user can get wrong is checked here, before a run folder is made.

    Args:
        options: resolved options.
        device: where to train.
        state: the content of a checkpoint to continue from, or to take weights from if it is not one of ours.
        given: the options the user gave, checked against the checkpoint's.

    Raises:
        InputError: for what does not fit together.
    """
    task, method = TASKS[options["task"]], METHODS[options["method"]]
    held_out: Iterable | None = None
    files: dict[str, str] = {}
    if options["measurements"] is not None:
        if method.needs_truth:
            raise InputError(f"--method {options['method']} learns from images; --measurements have none: use ei or mc")
        found = Measurements(options["measurements"])
        numbers, what = range(len(found)), f"the measurements of {options['measurements']}"
        images: Any = Subset(found, split(numbers, "train", what))
        rest: Any = Subset(found, split(numbers, "test", what))
        shape = task.measured_shape(found.item_shape, options)
        held_out = DataLoader(Indexed(rest, measured=True), batch_size=1)
    else:
        if options["split"] is None and options.get("resume"):
            options = {**options, **split_beside(options["resume"])}
        images = images_for(options["task"], options["data"], "train", options)
        if isinstance(getattr(images, "dataset", images), ImageTree):
            tests = task.images(options["data"], "test", options).names
            files[SPLIT] = "".join(f"{name}\n" for name in tests)
        shape = image_shape(images)
    full = is_run_state(state, options.get("resume") or "given")
    if full:
        assert state is not None
        physics = physics_of_checkpoint(state, options["task"], given or {}, device)
        _require_same_size(physics, shape)
    else:
        physics = task.physics(options, shape, device)
    _set_noise(physics, options)
    transform: Transform | None = None
    if "ei_trans" in method.options:
        transform = task.transform(options["ei_trans"])
        transform.sample(torch.empty(1, *shape))  # raises now if the group has too few elements
    loader = make_loader(
        images, options["batch_size"], workers=options["workers"], seed=options["seed"], measured=held_out is not None
    )

    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(options["seed"], "weights"))
        net = UNet(shape[0], shape[0], base_channels=options["base_channels"])
        net.check_size(*shape[1:])
        batches = (len(images), options["batch_size"], options["sync_bn"])
        check_batch_statistics(shape, net.compact - 1, *batches)
        closure = method.closure(options, shape)
    net.to(device)
    if options["sync_bn"]:
        synchronize_batch_norm(net, device)
    f = Reconstructor(net, physics, options["precision"], options["compile"])
    optimizers: dict[str, torch.optim.Optimizer] = {
        "total": Adam(net.parameters(), lr=options["lr"], weight_decay=options["wd"])
    }
    if isinstance(closure, AdversarialEIClosure):
        check_batch_statistics(shape, 4, *batches)
        closure.discriminator.to(device)
        if options["sync_bn"]:
            synchronize_batch_norm(closure.discriminator, device)
        lr_d = options["lr"] if options["lr_d"] is None else options["lr_d"]
        optimizers["D"] = Adam(closure.discriminator.parameters(), lr=lr_d, weight_decay=0)

    trainer = Trainer(
        f,
        physics,
        transform,
        closure,
        optimizers,
        epochs=options["epochs"],
        schedule=_schedule(options),
        seed=options["seed"],
        out=options.get("out"),
        ckp_interval=options["ckp_interval"],
        save_every=options["save_every"],
        max_steps=options["max_steps"],
        clip_norm=options["clip_norm"],
        average=options["average"],
        report_psnr=held_out is None,
        held_out=held_out,
        files=files,
        tensorboard=options["tensorboard"],
        config={key: value for key, value in options.items() if key not in NOT_OF_THE_RUN},
        environment={"device": str(device)}
        | {name: options[name] for name in NOT_OF_THE_RUN if name in COMMON_DEFAULTS},
        method=options["method"],
        task=options["task"],
    )
    if full:
        assert state is not None
        trainer.resume(state)
    elif state is not None:
        load_weights(net, generator_weights(state, options["resume"]), options["resume"])
    return trainer, loader


def _set_noise(physics: Any, options: Mapping[str, Any]) -> None:
    if options.get("noise_sigma"):
        physics.noise = GaussianNoise(options["noise_sigma"])


def _schedule(options: Options) -> Callable[[int], float]:
    if options["one_cycle"]:
        return one_cycle_schedule(options["epochs"])
    return cosine_schedule(options["epochs"]) if options["cos"] else step_schedule(options["schedule"])


def load_for_test(
    state: Mapping[str, Any], path: str, task: str, given: Options, shape: tuple[int, int, int], device: torch.device
) -> tuple[Reconstructor, Any]:
    """The reconstruction function and the physics of a checkpoint, of ours or of the authors, for test images of
    ``shape`` (C, H, W).

    Raises:
        InputError: if it does not fit the task, the data or the options ``given``.
    """
    weights = generator_weights(state, path)
    if "physics" in state:
        physics = physics_of_checkpoint(state, task, given, device)
        _require_same_size(physics, shape)
        network = dict(state["network"] or {})
        compact = given.get("network_compact")
        if compact is not None and compact != network.get("compact"):
            raise InputError(
                f"--network-compact {compact} contradicts the checkpoint, whose network has {network.get('compact')} "
                "levels; leave the option out"
            )
        net = rebuild(network, ei.models)
        _set_noise(physics, state["config"])
    else:
        defaults = TASKS[task].defaults
        physics = TASKS[task].physics({**defaults, **{k: v for k, v in given.items() if v is not None}}, shape, device)
        net = UNet(shape[0], shape[0], compact=given.get("network_compact") or 4)
    load_weights(net, weights, path)
    net.check_size(*shape[1:])
    return Reconstructor(net.to(device), physics).eval(), physics
