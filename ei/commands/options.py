"""The one table of options. An option is one entry of `Options`: its name, type, defaults, help, to what it means
something, and whether it belongs to the run. The parsers, the keys of YAML files, ``config.yaml``, the notes on options
without effect, the checks of a resumed run and the README's list read it. To add an option, add an entry and use it.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ei.closure.base import DOMAINS
from ei.commands.parser import Parser, named, names_of, number
from ei.common.seeds import RULES
from ei.errors import InputError
from ei.models.averaged import GROUPS as AVERAGES
from ei.models.base import PRECISIONS
from ei.models.unet import NORMS
from ei.models.unrolled import LASTS
from ei.physics import parse_noise
from ei.physics.noise import UNKNOWN

Scope = Literal["run", "machine", "call"]
ALL = ("train", "test", "reconstruct", "diagnose")


@dataclass(frozen=True)
class Option:
    """What there is to know of an option, beside its name and Python type.

    Attributes:
        help: what it is; by command where that differs.
        kind: turns text into a value; None for a flag.
        default: where no task has one of its own.
        presets: the paper's value for each task that has one.
        commands: which have it.
        needs: other options, and the values that they must have for this one to mean something.
        tasks: to which tasks it means something; None for all.
        images: whether it means something to runs of images alone, not of measurements.
        fixed: whether a run that is continued may not change it.
        scope: "run" if it changes what is computed, so that it is kept in checkpoints; "machine" if it says where and
            how, so that it is written to ``config.yaml`` alone; "call" if it is of one call of a command.
        flags: names beside ``--<name with - for _>``.
        mapping: whether a YAML file may hold a mapping for it.
        nargs, choices, metavar: as argparse has them.
    """

    help: str | Mapping[str, str]
    kind: Callable[[str], Any] | None = str
    default: Any = None
    presets: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ("train",)
    needs: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    images: bool = False
    fixed: bool = False
    scope: Scope = "run"
    flags: tuple[str, ...] = ()
    mapping: bool = False
    nargs: str | int | None = None
    choices: tuple[str, ...] | None = None
    metavar: str | tuple[str, ...] | None = None

    def default_for(self, task: str | None) -> Any:
        return self.presets.get(task, self.default) if task is not None else self.default


def option(
    help: str | Mapping[str, str], kind: Callable[[str], Any] | None = str, default: Any = None, **more: Any
) -> Any:
    return field(default=None, metadata={"option": Option(help, kind, default, **more)})


def of_call(command: str, help: str, kind: Callable[[str], Any] | None = str, default: Any = None, **more: Any) -> Any:
    return option(help, kind, default, commands=(command,), scope="call", **more)


def papers(ct: Any, inpainting: Any, mri: Any) -> dict[str, Any]:
    """The paper's settings of ct and inpainting, Robust EI's (Chen, Tachella & Davies, 2022) of mri."""
    return {"ct": ct, "inpainting": inpainting, "mri": mri}


def noise_text(text: str) -> str:
    """An option's type: what `ei.physics.parse_noise` reads, or "unknown"."""
    if text == UNKNOWN:
        return text
    try:
        parse_noise(text)
    except InputError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


COUNT = number(int, least=1)
GROUPED = ("ei", "ei_sup", "ei_adv", "split_ei", "rei")  # the methods with a group
SELF_SUPERVISED = ("ei", "mc", "ei_adv", "sure", "rei", "split", "split_ei")
WITH_GROUP, ADVERSARIAL, UNROLLED = {"method": GROUPED}, {"method": ("ei_adv",)}, {"reconstructor": ("unrolled",)}
SAVED_MASK = (
    "a saved mask (.pt .npy .npz .mat .png), instead of a random one; for mri [H, W] or columns [W], of which "
    "the middle is taken where there are more than images have"
)
OF_A_CHECKPOINT = "of a checkpoint that does not say it"


# fmt: off
@dataclass
class Options:
    # What is trained.
    task: str | None = option("a problem of the paper: its operator, group, data and settings", commands=ALL,
                              fixed=True)
    method: str = option("what to train with", default="ei", fixed=True)
    physics: Any = option(
        "the operator, instead of the task's: FILE.yaml (name: a class of ei.physics, its arguments, noise), or "
        "FILE.py:NAME, one of your own",
        named, commands=ALL, mapping=True, metavar="FILE")
    group: str = option(
        "what images are invariant to: shift, rotate, rotate_fourier (sharper), reflect, rotate90, scale, several with "
        "commas; or FILE.py:NAME",
        named, "shift", presets=papers("rotate", "shift", "rotate"), commands=("train", "diagnose"), needs=WITH_GROUP,
        metavar="NAME")
    # From what.
    data: str | None = option(
        {"train": "a .mat or .npy file of images, a folder of images (with train/ and test/, or any), or 'synthetic'",
         "test": "the test images (default: the task's; of a run of yours, the run's)",
         "diagnose": "images, of which only the size matters"},
        presets=papers("dataset/CT/CT100_128x128.mat", "dataset/Urban100", "dataset/MRI/mri_chest_256.npz"),
        commands=("train", "test", "diagnose"), metavar="PATH")
    measurements: str | None = option(
        {"train": "train from measurements alone: an array (.npy .npz .pt .mat .h5) or a folder of them",
         "test": "measured ones, instead of simulated ones of --data; they need their --truth",
         "diagnose": "an array (.npy .npz .pt .mat .h5) or a folder of them"},
        commands=("train", "test", "diagnose"), metavar="PATH")
    truth: str | None = option("of --measurements: their true images [n, C, H, W] or [n, H, W], in the same order",
                               commands=("train", "test"), metavar="PATH")
    held_out: float | None = option(
        "the part of the training images or measurements, drawn, that does not train but judges after every epoch "
        "(ckp_best), images by their PSNR; if not given 0.1 of --measurements, nothing of --data",
        number(least=0, below=1), fixed=True, metavar="FRACTION")
    patience: int | None = option("stop when N epochs in a row were no better on what is held out than the best before",
                                  COUNT, metavar="N")
    crop: int | None = option("own images: a square of N pixels about the centre", COUNT, images=True)
    resize: int | None = option("own images: to a shorter side of N, after --crop", COUNT, images=True)
    range: list[float] | None = option(
        "which values of image files become 0 and 1, others are clipped; needed where they are not unsigned of 8 or 16 "
        "bit (floating-point and 32-bit TIFF, .npy, DICOM: --range -1000 400 for a CT window)",
        number(), nargs=2, images=True, metavar=("LOW", "HIGH"),
        commands=("train", "test", "diagnose"))
    gray: bool = option("own images: make colour gray", None, False, images=True)
    patch: int | None = option("train on patches of N x N at fixed random places", COUNT, images=True)
    patches: int = option("how many an image", COUNT, 1, images=True)
    tile: int | None = option(
        "inpainting: train on the tiles of N x N that images divide into, each under its part of the mask, and test on "
        "whole images", COUNT, metavar="N", fixed=True)
    split: str | None = option(
        "own images: a list of the test images, one path a line (split.txt of a run)",
        commands=("train", "test"), scope="machine", metavar="FILE", images=True)
    test_fraction: float | None = option("own images: drawn for testing, 0.1 if not given", number(above=0, below=1),
                                         images=True)
    noise_sigma: float = option("the same as --noise gaussian:SIGMA", number(least=0), 0.0)
    noise: str | None = option(
        "of the measurements, drawn once an image of --data: gaussian:SIGMA, poisson:GAIN, "
        "poisson-gaussian:GAIN,SIGMA, transmission:PHOTONS,SIGMA,SCALE; --method sure and rei need it, or 'unknown', "
        "Gaussian noise whose level they find (docs/noise.md)",
        noise_text, metavar="NAME:NUMBERS", commands=("train", "diagnose", "reproduce"))
    ct_views: int = option(
        {"train": "views", "diagnose": "views", "test": OF_A_CHECKPOINT, "reconstruct": OF_A_CHECKPOINT},
        COUNT, 50, tasks=("ct",), commands=ALL)
    mask_rate: float = option("fraction of pixels removed", number(least=0, below=1), 0.3, tasks=("inpainting",),
                              needs={"mask": (None,)}, commands=("train", "diagnose"))
    acceleration: float = option(
        "of k-space columns, one in so many is measured: a sixth of them in the middle, the others at random",
        number(least=1), 4.0, tasks=("mri",), needs={"mask": (None,)}, commands=("train", "diagnose"), metavar="R")
    mask: str | None = option(
        {"train": SAVED_MASK, "test": OF_A_CHECKPOINT, "diagnose": SAVED_MASK, "reconstruct": OF_A_CHECKPOINT,
         "reproduce": "a saved mask, as the authors' mask_random0.3.pt, or Robust EI's for mri"},
        tasks=("inpainting", "mri"), commands=(*ALL, "reproduce"), metavar="PATH")
    # For how long, and how.
    epochs: int = option({"train": "how often to go through the data", "reproduce": "instead of the budget's"},
                         COUNT, 50, presets=papers(5000, 2000, 500), commands=("train", "reproduce"))
    max_steps: int | None = option("stop after N optimiser steps in all", COUNT, scope="machine")
    batch_size: int = option(
        {"train": "images a step, over all processes", "reconstruct": "measurements at a time (default: 8)"},
        COUNT, 2, presets=papers(2, 1, 2), commands=("train", "reconstruct"), flags=("-b",))
    lr: float = option("learning rate", number(above=0), 1e-3, presets=papers(5e-4, 1e-3, 5e-4))
    lr_d: float | None = option("learning rate of the discriminator, --lr if not given", number(above=0),
                                needs=ADVERSARIAL)
    wd: float = option("weight decay", number(least=0), 1e-8)
    schedule: list[int] = option(
        "epochs, counted from 0, at which the learning rate drops to a tenth", number(int, least=0), (),
        presets=papers((2000, 3000, 4000), (500, 1000, 1500), (300,)), nargs="*", metavar="EPOCH")
    cos: bool = option("cosine learning rate instead of --schedule", None, True, presets=papers(False, False, False))
    one_cycle: bool = option(
        "learning rate that climbs to --lr over 30 %% of the epochs, then falls as a cosine, instead of --schedule and "
        "--cos; not the paper's", None, False)
    ei_trans: int = option("transforms a step", COUNT, 2, presets=papers(5, 3, 2), needs=WITH_GROUP,
                           commands=("train", "diagnose"))
    ei_alpha: float = option("weight of the equivariance loss", number(least=0), 1.0, presets=papers(100.0, 1.0, 1.0),
                             needs=WITH_GROUP)
    mc_domain: str = option(
        "measurement consistency (or SURE) of A x1 with y (measurement), or of A_dagger A x1 with A_dagger y (image), "
        "whose --ei-alpha is about 1; not the paper's",
        default="measurement", choices=DOMAINS, needs={"method": SELF_SUPERVISED})
    stop_gradient: bool = option(
        "the transformed image is data, no gradient flows through it; not the paper's", None, False,
        needs=WITH_GROUP)
    frozen_targets: bool = option(
        "the images that are transformed are made without gradient: faster, for a reconstruction that ends with the "
        "data; not the paper's", None, False, needs={"method": ("ei",), "reconstructor": ("unrolled",)})
    keep: float = option("the part of the measurements that is reconstructed from, all are compared with",
                         number(above=0, below=1), 0.8, needs={"method": ("split", "split_ei")})
    adv_beta: float = option("weight of the adversarial loss", number(least=0), 1e-8, needs=ADVERSARIAL,
                             flags=("--adv_beta",))
    clip_norm: float | None = option("scale a gradient of a larger norm down to N; not the paper's", number(above=0),
                                     0.01, presets=papers(None, None, None), metavar="N")
    average: float | None = option("keep, and evaluate, a moving average of the network, of decay D a step; not the "
                                   "paper's", number(above=0, below=1), metavar="D")
    # The reconstruction function.
    reconstructor: str = option(
        "direct: a network after A_dagger, the paper's; unrolled: a network between steps of conjugate gradients to "
        "the data", default="direct", choices=("direct", "unrolled"), fixed=True)
    iterations: int = option("how many times network and data alternate", COUNT, 3, needs=UNROLLED)
    cg_steps: int = option("steps towards the data in each iteration, twice as many before the first", COUNT, 5,
                           needs=UNROLLED)
    filtered: bool = option(
        "for tomography: weight these steps with the ramp filter of FBP; of many views around three then do what ten "
        "do without, and noise at high frequencies weighs more", None, False, needs=UNROLLED)
    last: str = option("what it ends with: the data, or the net, for noisy data", default="data", choices=LASTS,
                       needs=UNROLLED)
    recompute: bool = option("keep less for the backward pass and compute it again: less memory, more time", None,
                             False, needs=UNROLLED, scope="machine")
    image_scale: float | None = option(
        "the network sees images divided by this, and losses are in these units (default: 1; for measurements alone, "
        "found from A_dagger y)", number(above=0), metavar="S")
    base_channels: int = option("of the UNet's first level", COUNT, 16, presets=papers(64, 64, 64), fixed=True)
    norm: str = option("of the UNet: BatchNorm, or none", default="batch", choices=NORMS, fixed=True)
    precision: str = option("of the network; tf32 (on a GPU) and bf16 are faster, and not the paper's", default="fp32",
                            choices=PRECISIONS)
    weights: str | None = option("begin with the weights of a checkpoint", named, scope="machine", metavar="PATH")
    seed: int = option("of everything random in the run", number(int, least=0), 0)
    rules: int = option("by which random numbers are drawn and data divided; 1: as up to version 0.2, by which run "
                        "folders of then go on and repeat", number(int, least=1, below=RULES + 1), RULES, fixed=True)
    # Where, and what is kept.
    config: list[str] = option(
        "options from files: long names with _ for -; a later file wins over an earlier one, the command line over all",
        nargs="+", scope="call", metavar="FILE.yaml", commands=("train", "diagnose"))
    out: str | None = option(
        {"train": "the run folder itself (default: ckp/<time>_<method>_<task>)",
         "test": "folder for metrics.csv and figures (default: evaluations/<time>_<name>_<task>)",
         "diagnose": "the figure (default: diagnosis.png)",
         "reproduce": "(default: reproduction/<budget>, with -<recipe> and -<epochs> where they are given)",
         "prepare": "where it goes, if not below dataset/"},
        named, scope="call", metavar="PATH", commands=("train", "test", "diagnose", "reproduce", "prepare"))
    resume: str | None = option(
        "continue from a checkpoint of ours (auto: the newest good one in --out, or begin); of another one, take the "
        "weights", scope="call", metavar="PATH|auto")
    device: str | None = option("where to compute (default: auto)", scope="machine", metavar="{auto,cpu,cuda:N}",
                                commands=(*ALL, "reproduce"))
    gpu: int | None = option("the same as --device cuda:N", number(int, least=0), scope="call",
                             commands=(*ALL, "reproduce"), metavar="N")
    ckp_interval: int = option("epochs between the checkpoints that are kept", COUNT, 50,
                               presets=papers(1000, 500, 100))
    save_every: float = option("between the rolling checkpoints ckp_last, ckp_last-1", number(above=0), 5.0,
                               scope="machine", metavar="MINUTES")
    workers: int = option("processes that load data", number(int, least=0), 0, scope="machine", metavar="N")
    compile: bool = option("run the network through torch.compile (CUDA; experimental)", None, False,
                           scope="machine")
    cuda_graphs: bool = option("record the kernels of the reconstruction once and replay them (CUDA)", None, False,
                               scope="machine")
    sync_bn: bool = option("several processes: BatchNorm over all of them, not in each its own", None, False,
                           needs={"norm": ("batch",)})
    tensorboard: bool = option("log for TensorBoard, too (pip install tensorboard)", None, False, scope="machine")
    # Of single commands.
    average_over: list[str] | None = option(
        "evaluate, too, the average of the network over exact groups: rotate90, reflect, or both with a comma",
        names_of(AVERAGES), commands=("test", "reconstruct", "reproduce"), scope="call", metavar="NAME[,NAME]")
    draws: int = of_call("test", "of a run of split or split_ei: average over so many random parts of the data, "
                         "too (default: 8)", COUNT, 8)
    ckp: str = option({"test": "the checkpoint, the authors' (default: ckp/<task>/ckp_ei_final.pth.tar) or yours",
                       "reconstruct": "the checkpoint; without it --physics alone, for A_dagger"},
                      named, commands=("test", "reconstruct"), scope="call", metavar="PATH")
    dataset_name: str = of_call("test", "look for the task's data under this name", metavar="NAME")
    model_name: str = of_call("test", "what to call the network in table and figures (default: its method, or EI)",
                              metavar="NAME")
    sample_to_show: list[int] = of_call("test", "test images to draw, counted from 0 (default: the paper's)",
                                        number(int, least=0), nargs="*", metavar="I")
    data_range: float | None = of_call("test", "the range of the true images, for the usual PSNR and SSIM (default: 1 "
                                       "for images in [0, 1], else found from them)", number(above=0), metavar="R")
    network_compact: int | None = of_call("test", "levels of the network, if the checkpoint does not say (4)",
                                          number(int), metavar="N")
    input: str = of_call("reconstruct", "the measurements: a file or a folder (needed)", named, metavar="PATH")
    output: str = of_call("reconstruct", "where the images go (needed)", named, metavar="X.npy")
    png: bool = of_call("reconstruct", "write a folder of PNG files beside the output, too", None, False)
    size: int | None = of_call("diagnose", "images of N x N, instead of any data", number(int, least=4), metavar="N")
    tol: float = of_call("diagnose", "singular values below TOL of the largest are null (default: 0.01)",
                         number(above=0, below=1), 1e-2)
    max_elements: int = of_call("diagnose", "group elements stacked at most (default: 64)", COUNT, 64)
    cells: list[str] = of_call("reproduce", "cells of the paper's table: the files of configs/ (needed)", nargs="+",
                               metavar="CELL")
    budget: str = of_call("reproduce", "how long to train: one of configs/budget (needed)")
    recipe: str | None = of_call("reproduce", "settings that are not the paper's: one of configs/recipe")
    ct_data: str | None = of_call("reproduce", "instead of dataset/CT/CT100_128x128.mat; or 'synthetic'",
                                  metavar="PATH")
    mri_data: str | None = of_call("reproduce", "instead of dataset/MRI/mri_chest_256.npz; or 'synthetic'",
                                   metavar="PATH")
    urban_data: str | None = of_call("reproduce", "instead of dataset/Urban100; or 'synthetic'", metavar="PATH")
    dicom: str | None = of_call("prepare", "ct100: the folder or ZIP of DICOM files", named, metavar="PATH")
    source: str | None = of_call("prepare", "urban100: the folder or ZIP of images; htc2022: the folder of "
                                 "htc2022_*_full.mat; tooth: tooth.h5; kspace: a complex array", named, metavar="PATH")
    counts: str | None = of_call("prepare", "sinogram: what the detector counted, [views, detectors] or [views, rows, "
                                 "detectors]: .npy, .npz, .mat, .csv, or FILE.h5:NAME", named, metavar="PATH")
    flat: str | None = of_call("prepare", "sinogram, noise: what it counts without the object, one or several", named,
                               metavar="PATH")
    dark: str | None = of_call("prepare", "sinogram, noise: what it counts without the beam, one or several", named,
                               metavar="PATH")
    angles: str | None = of_call("prepare", "sinogram: of the views, in degrees", named, metavar="PATH")
    bin: int | None = of_call("prepare", "average N neighbouring detectors (default: 1; htc2022 and tooth 4)", COUNT)
    views: int = of_call("prepare", "htc2022: how many (default: 30)", COUNT, 30)
    arc: float = of_call("prepare", "htc2022: degrees that they are spread over (default: 360)", number(above=0), 360.0,
                         metavar="DEGREES")
# fmt: on


OPTIONS: dict[str, Option] = {entry.name: entry.metadata["option"] for entry in fields(Options)}


def flag(name: str) -> str:
    """How an option is written on the command line."""
    return "--" + name.replace("_", "-")


def described_default(entry: Option, command: str = "train") -> str:
    """The defaults of an option in words; empty where there is none, or the help says it."""
    shown = {task: value for task, value in entry.presets.items() if value is not None}
    if command != "train" or (not shown and (entry.default is None or entry.default is False)):
        return ""
    if not shown:
        return f"default: {'none; without --task ' if entry.presets else ''}{_word(entry.default)}"
    without = "" if entry.default is None else f"; without --task {_word(entry.default)}"
    if len(set(map(str, shown.values()))) == 1 and len(shown) == len(entry.presets):
        return f"default: {_word(next(iter(shown.values())))}{without}"
    return "default: " + ", ".join(f"{task} {_word(value)}" for task, value in shown.items()) + without


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def add_options(parser: Parser, command: str, choices: Mapping[str, Any] | None = None) -> Parser:
    """Give ``parser`` the options of a command.

    Args:
        parser: the parser.
        command: which one.
        choices: of options whose values are registered elsewhere (tasks, methods, cells).
    """
    for name, entry in OPTIONS.items():
        if command not in entry.commands:
            continue
        text = entry.help if isinstance(entry.help, str) else entry.help[command]
        only = "" if entry.tasks is None else f"{', '.join(entry.tasks)}: "
        default = described_default(entry, command)
        more: dict[str, Any] = {"help": only + text + (f" ({default})" if default else ""), "dest": name}
        if entry.kind is None:
            more["action"] = "store_true"
        else:
            metavar = entry.metavar or ("N" if entry.kind is COUNT else None)
            more |= {"type": entry.kind, "nargs": entry.nargs, "metavar": metavar}
            more["choices"] = entry.choices or (choices or {}).get(name)
        parser.add_argument(*entry.flags, flag(name), **more)
        if entry.mapping:
            parser.mappings.add(name)
        if entry.default is None or None in entry.presets.values():
            parser.optional.add(name)
    return parser


def markdown() -> str:
    """The options of a training as the README lists them."""
    lines = ["| option | default | what |", "|---|---|---|"]
    for name, entry in OPTIONS.items():
        if "train" in entry.commands:
            text = entry.help if isinstance(entry.help, str) else entry.help["train"]
            only = "" if entry.tasks is None else f"{', '.join(entry.tasks)}: "
            default = described_default(entry).removeprefix("default: ")
            lines.append(f"| `{flag(name)}` | {default} | {only}{text.replace('%%', '%').replace('|', ',')} |")
    return "\n".join(lines)
