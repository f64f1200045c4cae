"""The tree of a run: plain values that describe its parts. Reading, merging and changing trees.

    physics: {name: CT, img_width: 128, radon_view: 50}
    transform: {name: Rotate, n_trans: 5}
    closure: {name: EIClosure, alpha: 100}
    network: {name: UNet, base_channels: 64}
    reconstructor: {name: Reconstructor}
    data: {train: {name: CTData, root_dir: dataset/CT/CT100_128x128.mat}, batch_size: 2}
    optimizer: {name: Adam, lr: 5e-4, weight_decay: 1e-8}
    schedule: {name: step_schedule, milestones: [2000, 3000, 4000]}
    trainer: {epochs: 5000}

A name is a class of the part's room or ``FILE.py:NAME``. Trees are merged by key, the last one wins, and a part with
another name replaces the whole part. ``config.yaml``, the checkpoints, ``configs/`` and the presets are such trees. A
file may also have ``stages: [{..}, {..}]``: changes to the tree, for trainings one after the other.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

import ei.closure
import ei.datasets
import ei.models
import ei.physics
import ei.training
import ei.transforms
from ei.common.parts import Built, Classes, Context, build, classes_of, find, normalized, signature_of, suggestion
from ei.common.user_code import absolute, is_user_code
from ei.common.yaml_text import parse_yaml, read_yaml
from ei.diagnosis.user_defined import check_group
from ei.errors import InputError
from ei.models.base import ReconstructionFunction

Tree = dict[str, Any]

OPTIMIZERS = {
    name: value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
}
SCHEDULES: dict[str, Callable[..., Any]] = {
    name: getattr(ei.training, name) for name in ("step_schedule", "cosine_schedule", "one_cycle_schedule")
}
# The classes of each part, by name.
CLASSES: dict[str, Classes] = {
    "physics": classes_of(ei.physics, ei.physics.Physics, ei.physics.TiledInpainting),
    "noise": classes_of(ei.physics, ei.physics.Noise),
    "transform": classes_of(ei.transforms, ei.transforms.Transform),
    "closure": classes_of(ei.closure, ei.closure.Closure),
    "network": classes_of(ei.models, nn.Module, ReconstructionFunction, ei.models.Discriminator),
    "reconstructor": classes_of(ei.models, ReconstructionFunction),
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "trainer": {"Trainer": ei.training.Trainer},
}
# The parts of a tree in the order in which it is written.
PARTS = (*list(CLASSES)[:6], "data", *list(CLASSES)[6:])
DATASETS: Classes = classes_of(ei.datasets, Dataset, ei.datasets.Tiles, ei.datasets.Pairs)
# What an argument of a part may name.
NESTED: Classes = {
    **{name: value for classes in CLASSES.values() for name, value in classes.items()},
    **DATASETS,
    "Discriminator": ei.models.Discriminator,
    "random_columns": ei.physics.random_columns,
    "mask_for": ei.physics.mask_for,
}
# The class of a part without a name.
DEFAULT_NAMES = {"network": "UNet", "reconstructor": "Reconstructor", "optimizer": "Adam", "trainer": "Trainer"}
DATA_KEYS = (
    "train", "validation", "test", "measurements", "truth", "slices", "bin", "batch_size", "workers", "tile",
)  # fmt: skip
# Keys of a part that are not arguments of its class, but of the run.
RUN_KEYS = {"trainer": ("device", "tensorboard", "cuda_graphs"), "network": ("weights",)}
# What changes where and how a run is computed, but not what: it is in config.yaml and not in checkpoints.
MACHINE_KEYS = (
    "trainer.max_steps", "trainer.save_every", "trainer.device", "trainer.tensorboard", "trainer.cuda_graphs",
    "trainer.progress", "data.workers", "reconstructor.recompute", "reconstructor.network_tile",
    "network.weights",
)  # fmt: skip

# Keys whose text is a path, and endings of files; a text of the parts physics and data with a folder in it is one, too.
PATH_KEYS = {"measurements", "truth", "train", "test", "path", "root", "root_dir", "folder", "split", "weights"}
FILES = (".pt", ".pth", ".tar", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".txt", ".csv", ".png", ".bmp", ".tif", ".tiff")
SYNTHETIC = "synthetic"
STAGES = "stages"


def build_part(
    description: Any, path: str, sizes: Mapping[str, Any] | None = None, objects: Mapping[str, Any] | None = None
) -> Built:
    """The object of a part, or of a data set; `ei.common.parts.build` has the arguments."""
    return build(description, CLASSES.get(path, DATASETS), path, Context(sizes or {}, objects or {}, NESTED))


def build_group(tree: Mapping[str, Any], shape: tuple[int, int, int]) -> Any:
    """The group of a tree, tried on an image of ``shape`` (C, H, W)."""
    group = build_part(tree.get("transform"), "transform").object
    check_group(group, shape, str(name_of(tree, "transform")))
    return group


def read_tree(path: str) -> Tree:
    """The tree in a YAML file, with absolute paths (those in the file are relative to its folder), and its stages,
    where it has some."""
    content = read_yaml(path)
    content.pop("versions", None)  # those that a run was made with
    stages = content.pop(STAGES, None)
    is_list = isinstance(stages, list) and len(stages) > 0 and all(isinstance(stage, Mapping) for stage in stages)
    if stages is not None and not is_list:
        raise InputError(f"{path}: stages must be a list of trees, [{{data: {{bin: 4}}}}, {{}}], got {stages!r:.60}")
    folder = Path(path).resolve().parent
    trees = [content, *(stages or [])]
    for number, tree in enumerate(trees):
        try:
            check_keys(tree)
        except InputError as error:
            raise InputError(f"{path}: {f'stage {number}: ' if number else ''}{error}") from error
    content, *stages = (with_absolute_paths(tree, folder) for tree in trees)
    return {**content, STAGES: stages} if stages else content


def read_physics(path: str) -> Tree:
    """The parts physics and noise in a file of ``--physics``: one of the operator alone, or a tree with it."""
    if not path.endswith((".yaml", ".yml")):
        raise InputError(f"--physics must be FILE.yaml or FILE.py:NAME, got {path}")
    content = read_yaml(path, "physics file")
    if "physics" not in content:
        if "name" not in content:
            raise InputError(f"{path}: name is missing: one of {', '.join(CLASSES['physics'])}, or FILE.py:NAME")
        noise = {"noise": content.pop("noise")} if "noise" in content else {}
        content = {"physics": content, **noise}
    tree: Tree = {key: content[key] for key in ("physics", "noise") if key in content}
    return with_absolute_paths(tree, Path(path).resolve().parent)


def check_keys(tree: Mapping[str, Any]) -> None:
    """Raise unless the keys of a tree are parts, and those of ``data`` are its keys."""
    data = tree.get("data")
    if not isinstance(data, Mapping | None):
        raise InputError(f"data must hold keys ({', '.join(DATA_KEYS)}), got {data!r}")
    for prefix, keys, valid in (("", tree, PARTS), ("data.", data or {}, DATA_KEYS)):
        for key in keys:
            if key not in valid:
                listed = f"{prefix.rstrip('.') or 'a run'} has {', '.join(valid)}"
                raise InputError(f"{prefix}{key} is unknown: {listed}{suggestion(key, valid)}")


def with_absolute_paths(tree: Mapping[str, Any], folder: Path) -> Tree:
    """A tree whose paths, relative to ``folder``, are absolute, and whose ranges are lists."""

    def walk(value: Any, key: str, path: str) -> Any:
        if isinstance(value, Mapping):
            if set(value) == {"start", "step", "count"}:
                return _range(value, path)
            return {str(name): walk(one, str(name), f"{path}.{name}".lstrip(".")) for name, one in value.items()}
        if isinstance(value, list):
            return [walk(one, key, f"{path}.{index}") for index, one in enumerate(value)]
        if not isinstance(value, str) or value == SYNTHETIC:
            return value
        if is_user_code(value):
            return absolute(str(folder / value))
        is_path = key in PATH_KEYS or Path(value).suffix.lower() in FILES or "/" in value
        return os.path.abspath(folder / value) if is_path and path.split(".")[0] in PATH_PARTS else value

    return walk(tree, "", "")


PATH_PARTS = ("physics", "data", "network")


def _range(value: Mapping[str, Any], path: str) -> list[float]:
    numbers = list(value.values())
    is_valid = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
    if not is_valid or int(value["count"]) != value["count"] or value["count"] < 1:
        raise InputError(f"{path} must be a range {{start: a, step: b, count: n}}, n >= 1, got {dict(value)}")
    return [value["start"] + k * value["step"] for k in range(int(value["count"]))]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """``base`` with ``over`` laid over it by key. A part with another name replaces the whole part."""
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        if isinstance(before, str) and key in CLASSES and key != "noise":
            before = {"name": before}
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            is_other = "name" in value and value["name"] != before.get("name", DEFAULT_NAMES.get(key))
            merged[key] = dict(value) if is_other else merge(before, value)
        elif isinstance(value, str) and isinstance(before, Mapping) and key in CLASSES and key != "noise":
            merged[key] = merge({key: before}, {key: {"name": value}})[key]
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`merge` for a file: a part without a name, as recipes have them, gives its arguments to whatever part is there;
    what that one does not take and another class of its room does is left out, with a note."""
    fitting = dict(over)
    for key, value in over.items():
        before = base.get(key)
        if key not in CLASSES or not isinstance(value, Mapping) or "name" in value or not isinstance(before, Mapping):
            continue
        name = before.get("name", DEFAULT_NAMES.get(key))
        if is_user_code(name):
            continue
        taken = arguments_for(key, name)
        others = {argument for other in CLASSES[key] for argument in arguments_for(key, other)}
        ignored = [argument for argument in value if argument not in taken and argument in others]
        fitting[key] = {argument: one for argument, one in value.items() if argument not in ignored}
        for argument in ignored:
            print(f"note: {key}.{argument} has no effect on {name}")
    return merge(base, fitting)


def arguments_for(key: str, name: Any) -> set[str]:
    """The keys that a part may have if it is of this class."""
    signature = signature_of(find(name, CLASSES[key], key))
    variadic = [signature.variadic] if signature.variadic else []
    return {*signature.parameters, *variadic, *RUN_KEYS.get(key, ())}


ASSIGNMENT = re.compile(r"(?P<path>[a-z_]+(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)


def is_assignment(text: str) -> bool:
    """Whether a word of the command line is ``part.key=value``."""
    match = ASSIGNMENT.fullmatch(text)
    return match is not None and ("." in match["path"] or match["path"] in PARTS)


def assign(tree: Mapping[str, Any], text: str) -> Tree:
    """A tree with ``part.key=value`` in it; a value is YAML: ``closure.alpha=3``, ``closure='{name: MCClosure}'``."""
    found = ASSIGNMENT.fullmatch(text)
    assert found is not None
    check_keys({found["path"].split(".")[0]: None})
    value = parse_yaml(found["value"], text)
    *way, last = found["path"].split(".")
    node: Any = tree
    for index, key in enumerate(way):
        node = node.get(key) or {}
        if isinstance(node, str) and node != SYNTHETIC and way[index] in CLASSES:
            node = {"name": node}
        if not isinstance(node, Mapping):
            path = ".".join(way[: index + 1])
            raise InputError(f"{text}: {path} is {node!r}, which has no keys; write {path}='{{name: .., {last}: ..}}'")
    change: Any = {last: value}
    for key in reversed(way):
        change = {key: change}
    change = with_absolute_paths(change, Path.cwd())
    check_keys(change)
    return merge(tree, change)


def walk_texts(tree: Any) -> Iterator[str]:
    """All texts in a tree."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping | list | tuple):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from walk_texts(value)


def check_code_is_typed(tree: Mapping[str, Any], typed: set[str], path: str) -> None:
    """Raise if a tree that comes from the checkpoint ``path`` names user-defined code that was not typed now."""
    for key, part in tree.items():
        for text in walk_texts(part):
            if is_user_code(text) and text not in typed:
                where = key if key != "data" else next(f"data.{k}" for k, v in part.items() if text in walk_texts(v))
                typing = f"--physics {text}" if key == "physics" else f"{where}='{{name: {text}}}'"
                raise InputError(f"{path} names code, {text}, which is imported only if it is typed: give {typing}")


def in_order_of(tree: Mapping[str, Any], before: Mapping[str, Any]) -> Tree:
    """A tree with its keys in the order of another one, and further ones behind them: equal trees are equal files."""
    keys = [*(key for key in before if key in tree), *(key for key in tree if key not in before)]
    pairs = {key: (tree[key], before.get(key)) for key in keys}
    return {key: in_order_of(a, b) if isinstance(a, Mapping) and isinstance(b, Mapping) else a
            for key, (a, b) in pairs.items()}  # fmt: skip


def get(tree: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """The value at ``part.key`` of a tree."""
    node: Any = tree
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return default
        node = node[key]
    return node


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree with their paths."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, tree


def without(tree: Mapping[str, Any], paths: Sequence[str]) -> Tree:
    """A tree without the values at these paths."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for path in paths:
        part, key = path.split(".")
        if isinstance(result.get(part), dict):
            result[part].pop(key, None)
    return result


def name_of(tree: Mapping[str, Any], key: str) -> Any:
    """The name of a part; None where there is none."""
    part = tree.get(key)
    if part is None:
        return DEFAULT_NAMES.get(key)
    return normalized(part, key).get("name", DEFAULT_NAMES.get(key))
