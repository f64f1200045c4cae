"""The everyday flags: one table from the command line into the tree of a run, applied in its order.

A flag sets one key of the tree, or, where one key is not enough, calls a function of this file. Everything that has no
flag is a key: ``closure.stop_gradient=true``.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ei.commands.presets import METHODS, PAPER, closure_for, method_of
from ei.commands.problem import GENERATED
from ei.commands.tree import (
    CLASSES,
    SYNTHETIC,
    Tree,
    arguments_for,
    get,
    merge,
    name_of,
    read_physics,
    with_absolute_paths,
)
from ei.common.parts import describe
from ei.common.user_code import absolute, is_user_code
from ei.datasets import dataset_for
from ei.errors import InputError
from ei.physics import parse_noise
from ei.physics.noise import UNKNOWN

GROUPS = {
    "shift": "Shift",
    "rotate": "Rotate",
    "rotate_fourier": "FourierRotate",
    "reflect": "Reflect",
    "rotate90": "Rotate90",
    "scale": "Scale",
    "turn": "Turn",
}
UNKNOWN_NOISE = ("sure", "rei")  # the methods that find the level of the noise


def path(text: str) -> str:
    if not text.strip():  # as an unset shell variable makes it
        raise ArgumentTypeError("must not be empty")
    return text


# ---- flags that are more than one key: from the tree and the value to the new tree


def _physics(tree: Tree, value: str) -> Tree:
    rest = {key: part for key, part in tree.items() if key != "physics"}
    if is_user_code(value):
        return {**rest, "physics": {"name": absolute(value)}}
    return {**rest, **read_physics(value)}


def _mask(tree: Tree, value: str) -> Tree:
    name = name_of(tree, "physics")
    if name not in ("Inpainting", "MRI"):
        print(f"note: --mask has no effect on {name}")
        return tree
    mask = value if name == "Inpainting" else {"name": "mask_for", "source": value}
    physics = {key: part for key, part in tree["physics"].items() if key not in ("mask", "mask_rate")}
    return {**tree, "physics": {**physics, "mask": mask}}


def _data(tree: Tree, value: str) -> Tree:
    """The data set of the task where the path is in its layout, else what the path holds."""
    task, where = get(tree, "trainer.task"), Path(value)
    if value == SYNTHETIC:
        part: Any = SYNTHETIC if task is None else {"name": GENERATED[PAPER[task].channels].__name__}
    elif task is not None and (task == "mri" or not where.exists() or _is_in_layout(where, task)):
        part = {"name": PAPER[task].dataset, PAPER[task].argument: value}
    else:
        part = dataset_for(value)
    before = get(tree, "data.train")
    if isinstance(part, Mapping) and isinstance(before, Mapping) and before.get("name") == part["name"]:
        part = {**{key: one for key, one in before.items() if key != "split"}, **part}
    return _with_data(tree, train=part)


def _is_in_layout(where: Path, task: str) -> bool:
    if task == "ct":
        return where.suffix.lower() == ".mat"
    return where.is_dir() and any((where / mode).is_dir() for mode in ("train", "test"))


def _with_data(tree: Tree, **source: Any) -> Tree:
    others = ("train", "test", "measurements", "truth")
    rest = {key: value for key, value in (tree.get("data") or {}).items() if key not in others}
    return {**tree, "data": {**rest, **source}}


def _noise(tree: Tree, value: str) -> Tree:
    if value != UNKNOWN:
        return {**tree, "noise": describe(parse_noise(value))}
    method = method_of(tree)
    if method not in UNKNOWN_NOISE:
        raise InputError(f"--noise unknown is for --method {' and '.join(UNKNOWN_NOISE)}, got {method}")
    return {**tree, "closure": closure_for(method, tree, is_noise_unknown=True)}


def _group(tree: Tree, value: str) -> Tree:
    count = {"n_trans": get(tree, "transform.n_trans", 2)}
    if is_user_code(value):
        name = absolute(value)
        takes_count = "n_trans" in arguments_for("transform", name)
        return {**tree, "transform": {"name": name, **(count if takes_count else {})}}
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in GROUPS:
            raise InputError(f"--group must be some of {', '.join(GROUPS)}, with commas, or FILE.py:NAME, got {name!r}")
    parts = [{"name": GROUPS[name], **count} for name in names]
    return {**tree, "transform": parts[0] if len(parts) == 1 else {"name": "Compose", "transforms": parts}}


def _ei_trans(tree: Tree, value: int) -> Tree:
    transform = tree.get("transform") or {}
    closure = CLASSES["closure"].get(str(name_of(tree, "closure")))
    if not getattr(closure, "needs_transform", True):
        print(f"note: --ei-trans has no effect on {name_of(tree, 'closure')}")
        return tree
    if "transforms" in transform:
        parts = [{**part, "n_trans": value} for part in transform["transforms"]]
        return {**tree, "transform": {**transform, "transforms": parts}}
    return set_key(tree, "--ei-trans", "transform.n_trans", value)


def _ei_alpha(tree: Tree, value: float) -> Tree:
    is_adversarial = name_of(tree, "closure") == METHODS["ei_adv"].closure
    return set_key(tree, "--ei-alpha", "closure.alpha_ei" if is_adversarial else "closure.alpha", value)


def _reconstructor(tree: Tree, value: str) -> Tree:
    name = {"direct": "Reconstructor", "unrolled": "Unrolled"}[value]
    taken = arguments_for("reconstructor", name)
    kept = {key: one for key, one in (tree.get("reconstructor") or {}).items() if key in taken}
    return {**tree, "reconstructor": {**kept, "name": name}}


class Flag(NamedTuple):
    """A flag of ``ei train``.

    ``group`` and ``help`` are for ``--help``. ``kind`` converts the text to a value; None makes a switch. ``sets`` is
    the key that the flag sets, or a function of tree and value, or None where the command itself uses the flag.
    ``more`` are further options of argparse.
    """

    name: str
    group: str
    help: str
    kind: Callable[[str], Any] | None = str
    sets: str | Callable[[Tree, Any], Tree] | None = None
    metavar: str | None = None
    more: Mapping[str, Any] = {}


PROBLEM, DATA, METHOD, NETWORK, TRAINING, RUN = (
    "problem", "data", "method", "network", "training", "run folder and machine",
)  # fmt: skip

FLAGS = [
    Flag("task", PROBLEM, "a problem of the paper (mri: of Robust EI) with its settings", more={"choices": [*PAPER]}),
    Flag("physics", PROBLEM, "the operator: FILE.yaml (name: a class of ei.physics, its arguments, noise), or "
         "FILE.py:NAME", path, _physics, "FILE"),
    Flag("mask", PROBLEM, "a saved mask, of inpainting or MRI", path, _mask, "PATH"),
    Flag("mask_rate", PROBLEM, "fraction of pixels removed", float, "physics.mask_rate", "RATE"),
    Flag("ct_views", PROBLEM, "number of views", int, "physics.radon_view", "N"),
    Flag("data", DATA, "images: a folder, a .mat or .npy file, or synthetic", path, _data, "PATH"),
    Flag("measurements", DATA, "train from measurements alone: an array or a folder of them", path,
         lambda tree, value: _with_data(tree, measurements=value), "PATH"),
    Flag("truth", DATA, "the ground truth of --measurements, in the same order", path, "data.truth", "PATH"),
    Flag("held_out", DATA, "the fraction that is the validation set (default: 0.1 of --measurements, none of --data)",
         float, "data.validation", "FRACTION"),
    Flag("batch_size", DATA, "images a step, over all processes", int, "data.batch_size", "N"),
    Flag("workers", DATA, "processes that load data", int, "data.workers", "N"),
    Flag("method", METHOD, "what to train with (default: ei)", str,
         lambda tree, value: {**tree, "closure": closure_for(value, tree)}, more={"choices": [*METHODS]}),
    Flag("noise", METHOD, "gaussian:SIGMA, poisson:GAIN, poisson-gaussian:GAIN,SIGMA, transmission:PHOTONS,SIGMA,SCALE;"
         " or unknown (sure and rei)", str, _noise, "NAME:NUMBERS"),
    Flag("group", METHOD, f"invariance of the images: {', '.join(GROUPS)}, several with commas, or FILE.py:NAME", path,
         _group, "NAME"),
    Flag("ei_trans", METHOD, "transforms a step", int, _ei_trans, "N"),
    Flag("ei_alpha", METHOD, "weight of the equivariance loss", float, _ei_alpha, "ALPHA"),
    Flag("reconstructor", NETWORK, "direct: network after A_dagger; unrolled: with data-consistency steps", str,
         _reconstructor, more={"choices": ["direct", "unrolled"]}),
    Flag("base_channels", NETWORK, "of the first level of the UNet", int, "network.base_channels", "N"),
    Flag("precision", NETWORK, "fp32, tf32 or bf16", str, "reconstructor.precision"),
    Flag("weights", NETWORK, "begin with the weights of a checkpoint", path, "network.weights", "PATH"),
    Flag("epochs", TRAINING, "passes through the data", int, "trainer.epochs", "N"),
    Flag("max_steps", TRAINING, "stop after N steps in all", int, "trainer.max_steps", "N"),
    Flag("lr", TRAINING, "learning rate", float, "optimizer.lr", "LR"),
    Flag("wd", TRAINING, "weight decay", float, "optimizer.weight_decay", "WD"),
    Flag("schedule", TRAINING, "epochs at which the learning rate drops to a tenth", int,
         lambda tree, value: {**tree, "schedule": {"name": "step_schedule", "milestones": value}}, "EPOCH",
         {"nargs": "*"}),
    Flag("cos", TRAINING, "cosine learning-rate schedule", None,
         lambda tree, _: {**tree, "schedule": {"name": "cosine_schedule"}}),
    Flag("patience", TRAINING, "stop after N epochs without a better validation loss", int, "trainer.patience", "N"),
    Flag("seed", TRAINING, "random seed", int, "trainer.seed", "N"),
    Flag("config", RUN, "trees, as without --config", str, None, "FILE.yaml", {"nargs": "+"}),
    Flag("out", RUN, "the run folder (default: ckp/<time>_<method>_<task>)", path, None, "PATH"),
    Flag("resume", RUN, "continue from a checkpoint (auto: the newest one in --out, or begin)", str, None, "PATH|auto"),
    Flag("ckp_interval", RUN, "epochs between the checkpoints that are kept", int, "trainer.ckp_interval", "N"),
    Flag("save_every", RUN, "minutes between rolling checkpoints", float, "trainer.save_every", "MINUTES"),
    Flag("device", RUN, "auto, cpu or cuda:N (default: auto)", str, "trainer.device", "DEVICE"),
    Flag("gpu", RUN, "the same as --device cuda:N", int, None, "N"),
]  # fmt: skip
BY_NAME = {flag.name: flag for flag in FLAGS}
OF_PHYSICS = {flag.name for flag in FLAGS if flag.sets in (_physics, _mask) or str(flag.sets).startswith("physics.")}


def apply_flags(tree: Mapping[str, Any], flags: Mapping[str, Any]) -> Tree:
    """A tree with everyday flags translated into it. Those that have no effect are left out, with a note."""
    if "data" in flags and "measurements" in flags:
        raise InputError("--data (images) and --measurements exclude each other: give one of them")
    result = dict(tree)
    for flag in FLAGS:
        if flag.name not in flags or flag.sets is None:
            continue
        value = flags[flag.name]
        if isinstance(flag.sets, str):
            result = set_key(result, "--" + flag.name.replace("_", "-"), flag.sets, value)
        else:
            result = flag.sets(result, value)
    return with_absolute_paths(result, Path.cwd())


def set_key(tree: Tree, flag: str, where: str, value: Any) -> Tree:
    """A tree with the value at ``part.key``, if the part's class takes the key."""
    part, key = where.split(".")
    name = name_of(tree, part)
    if part == "data" or (name is not None and key in arguments_for(part, name)):
        return merge(tree, {part: {key: value}})
    print(f"note: {flag} has no effect on {name or f'a run without {part}'}")
    return tree
