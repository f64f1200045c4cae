"""The everyday flags: one table from the command line into the tree of a run.

A flag sets one key of the tree (``path``), or, where one key is not enough, calls a function of this file. Everything
that has no flag is a key: ``closure.stop_gradient=true``.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ei.datasets
from ei.commands import presets
from ei.commands.presets import METHODS, PAPER
from ei.commands.problem import GENERATED
from ei.commands.tree import (
    CLASSES,
    SYNTHETIC,
    Tree,
    arguments_for,
    get,
    merge,
    name_of,
    read_part,
    with_absolute_paths,
)
from ei.common.parts import describe
from ei.common.user_code import absolute, is_user_code
from ei.errors import InputError
from ei.physics import parse_noise

GROUPS = {
    "shift": "Shift",
    "rotate": "Rotate",
    "rotate_fourier": "FourierRotate",
    "reflect": "Reflect",
    "rotate90": "Rotate90",
    "scale": "Scale",
}
UNKNOWN = "unknown"
UNKNOWN_NOISE = ("sure", "rei")  # the methods that find the level of the noise


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None


def path(text: str) -> str:
    if not text.strip():  # as an unset shell variable makes it
        raise ArgumentTypeError("must not be empty")
    return text


@dataclass(frozen=True)
class Flag:
    """A flag of ``ei train``.

    Attributes:
        name: with ``_`` for ``-``.
        group: under which ``--help`` lists it.
        help: what it is.
        kind: from text to a value; None for a switch.
        path: the key that it sets; empty where a function of this file or the command takes it.
        metavar, nargs, choices, alias: as argparse has them.
    """

    name: str
    group: str
    help: str
    kind: Callable[[str], Any] | None = str
    path: str = ""
    metavar: str | None = None
    nargs: str | None = None
    choices: tuple[str, ...] | None = None
    alias: str | None = None


PROBLEM, DATA, TRAINING, NETWORK, RUN = "problem", "data", "training", "network", "run folder and machine"

FLAGS = [
    Flag("task", PROBLEM, "a problem of the paper (mri: of Robust EI) with its settings", choices=tuple(PAPER)),
    Flag("method", PROBLEM, "what to train with (default: ei)", choices=tuple(METHODS)),
    Flag("physics", PROBLEM, "the operator: FILE.yaml (name: a class of ei.physics, its arguments, noise), or "
         "FILE.py:NAME", path, metavar="FILE"),
    Flag("group", PROBLEM, f"invariance of the images: {', '.join(GROUPS)}, several with commas, or FILE.py:NAME", path,
         metavar="NAME"),
    Flag("noise", PROBLEM, "gaussian:SIGMA, poisson:GAIN, poisson-gaussian:GAIN,SIGMA, transmission:PHOTONS,SIGMA,"
         "SCALE, or unknown (for sure and rei)", metavar="NAME:NUMBERS"),
    Flag("mask", PROBLEM, "a saved mask, of inpainting or MRI", path, metavar="PATH"),
    Flag("mask_rate", PROBLEM, "fraction of pixels removed", real, "physics.mask_rate", "RATE"),
    Flag("ct_views", PROBLEM, "number of views", whole, "physics.radon_view", "N"),
    Flag("data", DATA, "images: a folder, a .mat or .npy file, or synthetic", path, metavar="PATH"),
    Flag("measurements", DATA, "train from measurements alone: an array or a folder of them", path, metavar="PATH"),
    Flag("truth", DATA, "the ground truth of --measurements, in the same order", path, metavar="PATH"),
    Flag("held_out", DATA, "the fraction that is the validation set (default: 0.1 of --measurements, none of --data)",
         real, "data.validation", "FRACTION"),
    Flag("batch_size", DATA, "images a step, over all processes", whole, "data.batch_size", "N", alias="-b"),
    Flag("workers", DATA, "processes that load data", whole, "data.workers", "N"),
    Flag("epochs", TRAINING, "passes through the data", whole, "trainer.epochs", "N"),
    Flag("max_steps", TRAINING, "stop after N steps in all", whole, "trainer.max_steps", "N"),
    Flag("lr", TRAINING, "learning rate", real, "optimizer.lr", "LR"),
    Flag("wd", TRAINING, "weight decay", real, "optimizer.weight_decay", "WD"),
    Flag("schedule", TRAINING, "epochs at which the learning rate drops to a tenth", whole, metavar="EPOCH", nargs="*"),
    Flag("cos", TRAINING, "cosine learning-rate schedule", None),
    Flag("ei_trans", TRAINING, "transforms a step", whole, metavar="N"),
    Flag("ei_alpha", TRAINING, "weight of the equivariance loss", real, metavar="ALPHA"),
    Flag("patience", TRAINING, "stop after N epochs without a better validation loss", whole, "trainer.patience", "N"),
    Flag("seed", TRAINING, "random seed", whole, "trainer.seed", "N"),
    Flag("base_channels", NETWORK, "of the first level of the UNet", whole, "network.base_channels", "N"),
    Flag("precision", NETWORK, "fp32, tf32 or bf16", str, "reconstructor.precision", choices=("fp32", "tf32", "bf16")),
    Flag("reconstructor", NETWORK, "direct: network after A_dagger; unrolled: with data-consistency steps",
         choices=("direct", "unrolled")),
    Flag("weights", NETWORK, "begin with the weights of a checkpoint", path, "network.weights", "PATH"),
    Flag("config", RUN, "files of trees, as without --config; the last one wins", metavar="FILE.yaml", nargs="+"),
    Flag("out", RUN, "the run folder (default: ckp/<time>_<method>_<task>)", path, metavar="PATH"),
    Flag("resume", RUN, "continue from a checkpoint (auto: the newest one in --out, or begin)", metavar="PATH|auto"),
    Flag("ckp_interval", RUN, "epochs between the checkpoints that are kept", whole, "trainer.ckp_interval", "N"),
    Flag("save_every", RUN, "minutes between rolling checkpoints", real, "trainer.save_every", "MINUTES"),
    Flag("device", RUN, "auto, cpu or cuda:N (default: auto)", metavar="DEVICE"),
    Flag("gpu", RUN, "the same as --device cuda:N", whole, metavar="N"),
]  # fmt: skip
BY_NAME = {flag.name: flag for flag in FLAGS}


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def apply_flags(tree: Mapping[str, Any], flags: Mapping[str, Any]) -> Tree:
    """A tree with everyday flags translated into it. Those that have no effect are left out, with a note.

    Raises:
        InputError: for values that cannot be used, or flags that contradict each other.
    """
    result = dict(tree)
    for name in ("physics", "mask", "noise"):
        if name in flags:
            result = SETTERS[name](result, flags[name])
    result = _apply_data(result, flags)
    if "method" in flags:
        result["closure"] = presets.closure_for(flags["method"], result)
    if flags.get("noise") == UNKNOWN:
        result = _unknown_noise(result)
    for name, value in flags.items():
        if name in SETTERS and name not in ("physics", "mask", "noise"):
            result = SETTERS[name](result, value)
    for name, value in flags.items():
        if BY_NAME[name].path:
            result = _set(result, option(name), BY_NAME[name].path, value)
    return result


def _set(tree: Tree, flag: str, where: str, value: Any) -> Tree:
    """A tree with the value at ``part.key``, if the part's class takes the key."""
    part, key = where.split(".")
    name = name_of(tree, part)
    if part != "data" and not is_user_code(name) and (name is None or key not in arguments_for(part, name)):
        print(f"note: {flag} has no effect on {name or f'a run without {part}'}")
        return tree
    return merge(tree, with_absolute_paths({part: {key: value}}, Path.cwd()))


def _physics(tree: Tree, value: str) -> Tree:
    tree = {key: part for key, part in tree.items() if key != "physics"}
    if is_user_code(value):
        return {**tree, "physics": {"name": absolute(value)}}
    if not value.endswith((".yaml", ".yml")):
        raise InputError(f"--physics must be FILE.yaml or FILE.py:NAME, got {value}")
    return {**tree, **read_part(value, "physics")}


def _mask(tree: Tree, value: str) -> Tree:
    name = name_of(tree, "physics")
    if name not in ("Inpainting", "MRI"):
        print(f"note: --mask has no effect on {name}")
        return tree
    source = with_absolute_paths({"physics": {"path": value}}, Path.cwd())["physics"]["path"]
    mask = source if name == "Inpainting" else {"name": "mask_for", "source": source}
    physics = {key: part for key, part in tree["physics"].items() if key not in ("mask", "mask_rate")}
    return {**tree, "physics": {**physics, "mask": mask}}


def _noise(tree: Tree, value: str) -> Tree:
    if value == UNKNOWN:
        return tree
    if tree.get("noise") and "physics" not in tree:
        raise InputError("--noise needs an operator")
    return {**tree, "noise": describe(parse_noise(value))}


def _unknown_noise(tree: Tree) -> Tree:
    method = presets.method_of(tree)
    if method not in UNKNOWN_NOISE:
        raise InputError(f"--noise unknown is for --method {' and '.join(UNKNOWN_NOISE)}, got {method}")
    return {**tree, "closure": presets.closure_for(method, tree, is_noise_unknown=True)}


def check_unknown_noise(tree: Mapping[str, Any]) -> None:
    """Raise if ``--noise unknown`` is of images that are measured without noise.

    Raises:
        InputError: saying how to simulate it.
    """
    if get(tree, "data.measurements") is None and tree.get("noise") is None:
        raise InputError(
            "--noise unknown is for --measurements; to simulate it on images, give the noise that is added as a key: "
            "noise=gaussian:0.1"
        )


def _apply_data(tree: Tree, flags: Mapping[str, Any]) -> Tree:
    if "data" in flags and "measurements" in flags:
        raise InputError("--data (images) and --measurements exclude each other: give one of them")
    data = dict(tree.get("data") or {})
    if "data" in flags:
        part = images_part(flags["data"], tree)
        before = data.get("train")
        if isinstance(part, Mapping) and isinstance(before, Mapping) and before.get("name") == part["name"]:
            part = {**{key: value for key, value in before.items() if key != "split"}, **part}
        data = {key: value for key, value in data.items() if key not in ("train", "test", "measurements", "truth")}
        data["train"] = part
    if "measurements" in flags:
        data = {key: value for key, value in data.items() if key not in ("train", "test", "truth", "measurements")}
        data["measurements"] = flags["measurements"]
    if "truth" in flags:
        if "measurements" not in data:
            raise InputError("--truth is the ground truth of --measurements: give those, too")
        data["truth"] = flags["truth"]
    return {**tree, **with_absolute_paths({"data": data}, Path.cwd())}


def images_part(text: str, tree: Mapping[str, Any]) -> Any:
    """The data set that ``--data`` means: that of the task in its layout, else what the path holds."""
    task = get(tree, "trainer.task")
    if text == SYNTHETIC:
        return SYNTHETIC if task is None else {"name": GENERATED[PAPER[task].channels].__name__}
    found = ei.datasets.dataset_for(text) if task is None or not _is_in_layout(text, task) else None
    if found is not None:
        return found
    return {"name": PAPER[task].dataset, PAPER[task].argument: text}


def _is_in_layout(text: str, task: str) -> bool:
    """Whether a path is as the task's own data set reads it; what is not there is for that one to say."""
    where = Path(text)
    if not where.exists():
        return True
    if task == "mri":
        return True
    if task == "inpainting":
        return where.is_dir() and any((where / mode).is_dir() for mode in ("train", "test"))
    return where.suffix.lower() == ".mat"


def _group(tree: Tree, value: str) -> Tree:
    n_trans = get(tree, "transform.n_trans", 2)
    if is_user_code(value):
        part: Tree = {"name": absolute(value)}
        return {**tree, "transform": {**part, **({"n_trans": n_trans} if _takes_n_trans(part["name"]) else {})}}
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in GROUPS:
            raise InputError(
                f"--group must be one of {', '.join(GROUPS)}, several with commas, or FILE.py:NAME, got {name!r}"
            )
    parts = [{"name": GROUPS[name], "n_trans": n_trans} for name in names]
    return {**tree, "transform": parts[0] if len(parts) == 1 else {"name": "Compose", "transforms": parts}}


def _takes_n_trans(name: str) -> bool:
    return "n_trans" in arguments_for("transform", name)


def _ei_trans(tree: Tree, value: int) -> Tree:
    transform = tree.get("transform")
    if not transform or not _has_group(tree):
        print(f"note: --ei-trans has no effect on {name_of(tree, 'closure')}")
        return tree
    if is_user_code(transform["name"]) and not _takes_n_trans(transform["name"]):
        print(f"note: --ei-trans has no effect on {transform['name']}, which takes no n_trans")
        return tree
    if "transforms" in transform:
        parts = [{**part, "n_trans": value} for part in transform["transforms"]]
        return {**tree, "transform": {**transform, "transforms": parts}}
    return {**tree, "transform": {**transform, "n_trans": value}}


def _ei_alpha(tree: Tree, value: float) -> Tree:
    key = "alpha_ei" if name_of(tree, "closure") == METHODS["ei_adv"].closure else "alpha"
    return _set(tree, "--ei-alpha", f"closure.{key}", value)


def _has_group(tree: Tree) -> bool:
    closure = CLASSES["closure"].get(str(name_of(tree, "closure")))
    return closure is None or bool(getattr(closure, "needs_transform", True))


def _schedule(tree: Tree, value: list[int]) -> Tree:
    return {**tree, "schedule": {"name": "step_schedule", "milestones": list(value)}}


def _cos(tree: Tree, value: bool) -> Tree:
    return {**tree, "schedule": {"name": "cosine_schedule"}}


def _reconstructor(tree: Tree, value: str) -> Tree:
    name = {"direct": "Reconstructor", "unrolled": "Unrolled"}[value]
    taken = arguments_for("reconstructor", name)
    before = {key: part for key, part in (tree.get("reconstructor") or {}).items() if key in taken}
    return {**tree, "reconstructor": {**before, "name": name}}


def _device(tree: Tree, value: str) -> Tree:
    return merge(tree, {"trainer": {"device": value}})


def _gpu(tree: Tree, value: int) -> Tree:
    return merge(tree, {"trainer": {"device": f"cuda:{value}"}})


SETTERS: dict[str, Callable[[Tree, Any], Tree]] = {
    "physics": _physics,
    "mask": _mask,
    "noise": _noise,
    "group": _group,
    "ei_trans": _ei_trans,
    "ei_alpha": _ei_alpha,
    "schedule": _schedule,
    "cos": _cos,
    "reconstructor": _reconstructor,
    "device": _device,
    "gpu": _gpu,
}
