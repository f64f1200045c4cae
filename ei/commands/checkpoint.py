"""What a checkpoint carries, with what was typed over it: the same run, the same operator, no code unless typed."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.commands import presets
from ei.commands.problem import binned, build_physics, sizes_of, with_noise_apart
from ei.commands.tree import (
    MACHINE_KEYS,
    Tree,
    build_part,
    check_code_is_typed,
    check_keys,
    get,
    leaves,
    merge,
    name_of,
    walk_texts,
)
from ei.commands.typed import Typed
from ei.common.arrays import split_name
from ei.common.parts import describe
from ei.common.user_code import is_user_code
from ei.diagnosis.user_defined import Shape
from ei.errors import InputError
from ei.evaluation.loading import function_of, physics_of
from ei.models.base import ReconstructionFunction
from ei.models.network_tiles import check_tile
from ei.models.padding import padding_for
from ei.training.state import CARRIED

# What a run that is continued may not change.
FIXED = ("network", "reconstructor.name", "closure.name", "data.validation", "data.tile", "data.truth", "data.bin")


def check_same_run(tree: Mapping[str, Any], state: Mapping[str, Any], path: str) -> None:
    """Raise if a tree contradicts the run of a checkpoint; print what else changes."""
    before = dict(leaves(with_noise_apart(state["config"])))
    now = dict(leaves(with_noise_apart(tree)))
    before = _with_moved_network(before, now)
    for key in [*now, *(key for key in before if key not in now)]:
        value, old = now.get(key), before.get(key)
        if value == old or key in MACHINE_KEYS or key.startswith("physics."):
            continue  # the operator is compared when it is built
        if key in FIXED or key.split(".")[0] in FIXED:
            raise InputError(f"{key} {value} contradicts the checkpoint {path}, whose run has {old}")
        if key == "data.batch_size" and state["next_batch"]:
            raise InputError(f"{key} {value} contradicts {path}, in the middle of an epoch of batches of {old}")
        print(f"note: the run continues with {key} {value}; it had {old}")
        schedule = name_of(tree, "schedule")
        if key == "trainer.epochs" and schedule in ("cosine_schedule", "one_cycle_schedule"):
            rates = f"learning rates so far were those of {old} epochs, those to come are of {value}"
            print(f"warning: {schedule} depends on the number of epochs: {rates}", file=sys.stderr)


def _with_moved_network(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run; if its user-defined network is now in another file, with that one. Its weights must fit."""
    name, old = now.get("network.name"), before.get("network.name")
    if name == old or not is_user_code(name) or not is_user_code(old):
        return dict(before)
    print(f"note: the run continues with the network {name}; it had {old}")
    # A part with another name has lost the sizes that were filled in.
    kept = {key: value for key, value in before.items() if key in now or not key.startswith("network.")}
    return {**kept, "network.name": name}


def tree_of_checkpoint(state: Mapping[str, Any], typed: Typed, path: str) -> Tree:
    """The tree of a checkpoint for the commands that use it, or of the task for those of the authors, with what was
    typed laid over it; without the measurements that it was trained on.
    """
    task = typed.flags.pop("task", None)
    base = dict(state.get("config") or {})
    if base:
        check_keys(base)
        trained = get(base, "trainer.task")
        if task is not None and trained not in (None, "", task):
            raise InputError(f"the checkpoint was trained for the task {trained}, not for {task}")
        base |= {key: state[key] for key in ("noise", "network") if base.get(key) is None and state.get(key)}
        base = {**presets.data_of(task), **base}  # a script (`ei.ei.EI`) has none
    elif task is not None:
        base = presets.problem(task)
        base["network"] = {"name": "UNet"}
    elif "physics" not in typed.flags:
        raise InputError(f"the checkpoint {path} names no operator: give --physics, or --task for the authors'")
    if task is not None:
        base = merge(base, {"trainer": {"task": task}})
    of_files = ("measurements", "truth", "slices")
    data = {key: value for key, value in (base.get("data") or {}).items() if key not in of_files}
    tree = with_noise_apart(typed.over({**base, "data": data}))
    used = {key: tree.get(key) for key in ("physics", "noise", "network", "reconstructor", "data")}
    check_code_is_typed(used, typed.code, path)
    return tree


def carried_physics(
    state: Mapping[str, Any], tree: Tree, is_typed: bool, device: torch.device, path: str, others: bool = False
) -> Any:
    """The operator of a checkpoint's run, without noise: the one that it carries, or the user-defined one of the tree;
    None where it has none, as those of the authors. With ``others``, it may be called for other scans or images, with
    their geometry or masks; ``tree`` is that of the checkpoint with what was typed laid over it, ``is_typed`` whether
    the operator is among that."""
    described, typed = _leaves_of_physics(state, tree)
    carried = physics_of(state, device)
    if carried is None:
        return _user_defined_physics(tree, described, typed, device)
    if not typed or (not described and typed.get("name") is None):
        return carried
    if typed == described and not (is_typed and files_of_physics(tree)):
        return carried
    if is_user_code(typed.get("name")):
        raise InputError(f"physics {typed['name']} contradicts the checkpoint {path}, which was trained for {carried}")
    other = _physics_of_call(state, tree, carried, device)
    differences = _differences(carried, other)
    contradicting = differences - _may_differ(carried, others)
    if contradicting:
        what = _first_contradiction(contradicting, described, typed)
        raise InputError(f"physics.{what} contradicts {path}, trained for {carried}; leave it out")
    for name in sorted(differences) if carried.count == 1 else ():
        print(f"note: physics.{name} is that of this scan, not the one that the network was trained with")
    return other if differences else carried


def _user_defined_physics(
    tree: Tree, described: Mapping[str, Any], typed: Mapping[str, Any], device: torch.device
) -> Any:
    """The operator of a tree for a checkpoint that carries none; None where its run had no user-defined one."""
    if not is_user_code(described.get("name")):
        return None
    if typed != described:
        print(f"note: the checkpoint was trained for {described['name']}; {typed.get('name')} stands in for it")
    return build_physics(tree["physics"], device, {}).object


def _may_differ(physics: Any, others: bool) -> set[str]:
    """The arguments of an operator in which ``others``, scans or images that a network reconstructs, may differ."""
    if not others:
        return set()
    own = {physics.own_argument} if physics.count > 1 else set()
    return own | set(getattr(physics, "of_a_scan", ()))


def _physics_of_call(state: Mapping[str, Any], tree: Tree, carried: Any, device: torch.device) -> Any:
    """The operator that a tree describes, for images and bins of the one that a checkpoint carries."""
    bins = get(state["config"], "data.bin") or 1  # the tree describes the operator of the files, not of their bins
    description = binned(tree["physics"], bins) if bins > 1 else tree["physics"]
    sides = (getattr(carried, "image_shape", None) or (1, 1))[-2:]
    return build_physics(description, device, sizes_of((1, *sides))).object


def _leaves_of_physics(state: Mapping[str, Any], tree: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values, by their paths, that describe the operator in a checkpoint, and in a tree."""
    described = (state.get("config") or {}).get("physics")
    return dict(leaves(described)), dict(leaves(tree.get("physics")))


def files_of_physics(tree: Tree) -> list[Path]:
    """The files and folders, without code, that the operator of a tree reads. They may have other contents by now."""
    texts = [text for text in walk_texts(tree.get("physics") or {}) if not is_user_code(text)]
    return [path for path in (split_name(text)[0] for text in texts) if path.is_absolute() and path.exists()]


def _first_contradiction(names: set[str], described: Mapping[str, Any], typed: Mapping[str, Any]) -> str:
    """The first of the arguments ``names`` of an operator whose value contradicts a checkpoint's, with this value."""
    keys = [key for key in {**typed, **described} if key.split(".")[0] in names]
    unlike = [key for key in keys if typed.get(key) != described.get(key)]
    key = [*unlike, *keys, *sorted(names)][0]
    changed = "" if unlike or not keys else ", whose content has changed,"
    return f"{key} {reprlib.repr(typed.get(key))}{changed}"


def _differences(carried: Any, other: Any) -> set[str]:
    """The arguments by which an operator differs from the one that a checkpoint carries, tensors included."""
    descriptions = [describe(physics) or {} for physics in (carried, other)]
    differ = {key for key in {**descriptions[0], **descriptions[1]} if _unlike(*(d.get(key) for d in descriptions))}
    return differ | {key for key in CARRIED if _unlike(*(getattr(one, key, None) for one in (carried, other)))}


def _unlike(a: Any, b: Any) -> bool:
    return not torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a != b


def load_function(
    state: Mapping[str, Any], path: str, tree: Tree, physics: Any, shape: Shape, device: torch.device
) -> ReconstructionFunction:
    """The reconstruction function of a checkpoint for images of ``shape`` (C, H, W)."""
    net = None
    if not isinstance(state.get("network"), Mapping):
        part = {key: value for key, value in (tree.get("network") or {}).items() if key != "weights"}
        if is_user_code(part.get("name")) or "next_epoch" not in state:
            sizes = {"in_channels": shape[0], "out_channels": shape[0]}
            net = build_part({"name": "UNet", **part}, "network", sizes).object
    f = function_of(state, path, physics, net, device)
    padding_for(f.net, *shape[1:])  # raises now if they are too small
    tile = get(tree, "reconstructor.network_tile")  # no checkpoint has it: it changes how a run is computed, not what
    f.network_tile = None if tile is None else check_tile(f.net, tile, "reconstructor.network_tile")
    return f
