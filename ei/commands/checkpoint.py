"""What a checkpoint carries, compared with what was typed: the same run, the same operator."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ei.commands.problem import Shape, build_physics, check_size, set_noise, sizes_of, with_noise_apart
from ei.commands.tree import CLASSES, MACHINE_KEYS, NESTED, Tree, name_of
from ei.common.parts import Context, build, describe
from ei.common.user_code import is_user_code
from ei.errors import InputError
from ei.evaluation.loading import function_of, noise_of_checkpoint, physics_of
from ei.models.base import ReconstructionFunction
from ei.models.padding import padding_for
from ei.physics import Inpainting
from ei.training.state import CARRIED

# What a run that is continued may not change.
FIXED = ("network", "reconstructor.name", "closure.name", "data.validation", "data.tile", "data.truth")


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree with their paths."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, tree


def check_same_run(tree: Mapping[str, Any], state: Mapping[str, Any], path: str) -> None:
    """Raise if a tree contradicts the run of a checkpoint; print what else changes.

    Raises:
        InputError: with the full path of the key.
    """
    before = dict(leaves(with_noise_apart(state["config"])))
    now = dict(leaves(with_noise_apart(tree)))
    for key in [*now, *(key for key in before if key not in now)]:
        value, old = now.get(key), before.get(key)
        if value == old or key in MACHINE_KEYS or key.startswith("physics."):
            continue  # the operator is compared when it is built
        if key in FIXED or key.split(".")[0] in FIXED:
            raise InputError(f"{key} {value} contradicts the checkpoint {path}, whose run has {old}")
        if key == "data.batch_size" and state["next_batch"]:
            raise InputError(
                f"{key} {value} contradicts the checkpoint {path}, which is in the middle of an epoch of batches of "
                f"{old}"
            )
        print(f"note: the run continues with {key} {value}; it had {old}")
        schedule = name_of(tree, "schedule")
        if key == "trainer.epochs" and schedule in ("cosine_schedule", "one_cycle_schedule"):
            print(
                f"warning: {schedule} depends on the number of epochs: the learning rates so far were those of {old} "
                f"epochs, those to come are of {value}",
                file=sys.stderr,
            )


def carried_physics(state: Mapping[str, Any], tree: Tree, device: torch.device, path: str) -> Any:
    """The operator of a checkpoint's run, without noise: the one that it carries, or the user-defined one of the tree.

    Args:
        state: the checkpoint's content.
        tree: that of the checkpoint with what was typed laid over it.
        device: where to compute.
        path: of the checkpoint, for messages.

    Raises:
        InputError: if the tree says another operator than the checkpoint carries.
    """
    described = dict(leaves((state.get("config") or {}).get("physics")))
    typed = dict(leaves(with_noise_apart(tree).get("physics")))
    carried = physics_of(state, device)
    if carried is None or typed == described:
        if carried is None and tree.get("physics"):
            carried = build_physics(with_noise_apart(tree)["physics"], device).object
            if typed != described and described:
                print(f"note: the checkpoint was trained for {described.get('name')}; {typed.get('name')} stands in")
        return carried
    if is_user_code(typed.get("name")):
        raise InputError(f"physics {typed['name']} contradicts the checkpoint {path}, which was trained for {carried}")
    shape = (1, *carried.image_shape[-2:]) if getattr(carried, "image_shape", None) else None
    sizes = {} if shape is None else sizes_of(shape)
    other = build_physics(with_noise_apart(tree)["physics"], device, sizes).object
    equal = all(_is_same(getattr(other, name, None), getattr(carried, name, None)) for name in CARRIED)
    if describe(other) != describe(carried) or not equal:
        changed = [key for key in typed if typed[key] != described.get(key)]
        key = changed[0] if changed else "name"
        raise InputError(
            f"physics.{key} {typed.get(key)} contradicts the checkpoint {path}, which was trained for {carried}; leave "
            "it out"
        )
    return carried


def _is_same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b


def with_other_masks(physics: Any, mask: str | None) -> Any:
    """A checkpoint's operator for the images of the call: where every image has its own mask, ``--mask`` gives those of
    other images."""
    if mask is None or not isinstance(physics, Inpainting) or physics.count == 1:
        return physics
    return Inpainting(*physics.image_shape, mask=mask, device=physics.mask.device)


def load_function(
    state: Mapping[str, Any], path: str, tree: Tree, physics: Any, shape: Shape, device: torch.device
) -> ReconstructionFunction:
    """The reconstruction function of a checkpoint for images of ``shape`` (C, H, W); its operator gets the noise of the
    tree, or of the checkpoint.

    Raises:
        InputError: if it does not fit the data.
    """
    check_size(physics, shape)
    if tree.get("noise") is None and state.get("noise"):
        physics.noise = noise_of_checkpoint(state)
    else:
        set_noise(physics, tree.get("noise"))
    net = None
    if not isinstance(state.get("network"), Mapping):
        part = {key: value for key, value in (tree.get("network") or {}).items() if key != "weights"}
        if is_user_code(part.get("name")) or "next_epoch" not in state:
            net = build_network(part, shape)
    f = function_of(state, path, physics, net, device)
    padding_for(f.net, *shape[1:])  # raises now if they are too small
    return f


def build_network(part: Mapping[str, Any], shape: Shape) -> Any:
    """The network of a tree for images of ``shape`` (C, H, W): a user-defined one, or that of the authors' files."""
    sizes = {"in_channels": shape[0], "out_channels": shape[0]}
    return build({"name": "UNet", **part}, CLASSES["network"], "network", Context(sizes, {}, NESTED)).object
