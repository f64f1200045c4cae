"""The operator of a run: from a task, a file of ``--physics``, people's own code, or a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.commands.options import Options
from ei.commands.presets import TASKS, Shape, task_of
from ei.common.describe import describe
from ei.common.devices import device_of_tensors
from ei.common.files import read_yaml
from ei.common.user_code import import_user_code, is_user_code, made
from ei.errors import InputError
from ei.evaluation.loading import noise_in, operator_in, physics_of
from ei.physics import MRI, Inpainting, image_shape_of, with_pseudo_inverse
from ei.physics.krylov import filter_of
from ei.physics.mri import mask_for
from ei.physics.noise_adapter import get_noise
from ei.training.state import CARRIED

# Values of a physics file with these endings are paths.
FILES = (".pt", ".pth", ".tar", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".txt", ".csv", ".png", ".bmp", ".tif", ".tiff")


def read_physics_file(path: str) -> dict[str, Any]:
    """What a physics file says: ``name`` and arguments of a class of `ei.physics`, with absolute paths and ranges
    ``{start, step, count}`` as lists.

    Raises:
        InputError: if it cannot be read, or names no class.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        raise InputError(f"--physics must be FILE.yaml or FILE.py:NAME, not {path}")
    content = read_yaml(path)
    if "name" not in content:
        raise InputError(f"{path}: 'name' is missing: a class of ei.physics, as name: CT")
    return resolved_physics(content, Path(path).resolve().parent, path)


def resolved_physics(content: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The ``content`` of a physics file with paths below ``folder``, and ranges as lists.

    Raises:
        InputError: naming ``where`` and the key of a range that is none.
    """

    def resolved(key: str, value: Any) -> Any:
        if isinstance(value, str) and Path(value).suffix in FILES:
            return str(folder / value)
        if not isinstance(value, dict):
            return value
        numbers = [value.get(part) for part in ("start", "step", "count")]
        if set(value) != {"start", "step", "count"} or not all(
            isinstance(number, (int, float)) and math.isfinite(number) for number in numbers
        ) or int(value["count"]) != value["count"] or value["count"] < 1:  # fmt: skip
            raise InputError(f"{where}: {key} must be a range {{start: a, step: b, count: n}} of numbers, n >= 1")
        return [value["start"] + k * value["step"] for k in range(int(value["count"]))]

    return {str(key): resolved(str(key), value) for key, value in content.items()}


def named_physics(setting: Mapping[str, Any] | str, device: torch.device) -> Any:
    """The operator of ``--physics``, without noise of ours: of a file's content, or ``FILE.py:NAME`` of one's own. One
    without ``A_dagger`` gets conjugate gradients, which is said.

    Raises:
        InputError: if it cannot be made, or is no operator.
    """
    if isinstance(setting, Mapping):
        return operator_in(setting, "the file of --physics", device)
    thing = made(import_user_code(setting), setting, "A")
    if isinstance(thing, torch.nn.Module):
        thing = thing.to(device)
    for name, value in list(vars(thing).items()) if hasattr(thing, "__dict__") else ():
        if isinstance(value, Tensor):  # of a class that is no module, or not registered as a buffer
            object.__setattr__(thing, name, value.to(device))
    image_shape_of(thing)  # raises if it is none
    physics = with_pseudo_inverse(thing)
    if physics is not thing:
        print(f"note: {setting} has no A_dagger: {physics.steps} steps of conjugate gradients stand in for it")
    return physics


def known_physics(setting: Any, state: Mapping[str, Any], device: torch.device) -> Any:
    """The operator, without noise of ours, that is known before any data: of a checkpoint's content ``state`` (empty
    where there is none) and of ``--physics``, which may repeat what it carries; None where neither says one.

    Raises:
        InputError: if they contradict each other, or the checkpoint's is of one's own and ``--physics`` is not given.
    """
    text = (state.get("config") or {}).get("physics")
    carried = physics_of(state, device)
    if is_user_code(text) and setting is None:
        raise InputError(code_needed("checkpoint", str(text), "--physics"))
    if is_user_code(text) and not is_user_code(setting):
        raise InputError(f"--physics gives {setting.get('name')}, but the checkpoint was trained for {text}")
    given = None if setting is None else named_physics(setting, device)
    if is_user_code(text) and setting != text:
        print(f"note: the checkpoint was trained for {text}; {setting} stands in for it")
    if carried is None or given is None:
        return carried if given is None else given
    equal = all(_same(getattr(given, name, None), getattr(carried, name, None)) for name in CARRIED)
    if describe(given) != describe(carried) or not equal:
        told = setting if isinstance(setting, str) else given
        raise InputError(f"--physics gives {told}, but the checkpoint was trained for {carried}")
    return carried


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b


def code_needed(what: str, text: str, option: str) -> str:
    return f"the {what} has code of your own, {text}, which is not run because a file names it: give {option} {text}"


def operator_for(
    options: Options,
    shape: Shape,
    device: torch.device,
    known: Any,
    state: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Any:
    """The operator of a run for images of ``shape`` (C, H, W), with its noise: the one that is ``known`` (see
    `known_physics`), else the task's.

    Args:
        options: of the run.
        shape: (C, H, W).
        device: where to compute.
        known: what `known_physics` found.
        state: a checkpoint's content, or nothing.
        given: the options the user gave; they may not contradict the checkpoint.

    Raises:
        InputError: if it is for other images, or contradicts the checkpoint.
    """
    physics = known
    if physics is None:
        assert options.task is not None
        physics = TASKS[options.task].physics(options, shape, device)
    elif state:
        check_contradictions(state, given, options.task, physics)
    check_size(physics, shape)
    named = {"noise": options.noise, "noise_sigma": options.noise_sigma, "physics": options.physics}
    if options.noise or options.noise_sigma or not is_user_code(options.physics):  # code of one's own may have its own
        try:
            physics.noise = noise_in(named)
        except AttributeError as error:
            raise InputError(f"{options.physics} takes no attribute 'noise', which --noise needs") from error
    return physics


def check_size(physics: Any, shape: tuple[int, ...]) -> None:
    """Raise unless an operator that tells its ``image_shape`` is for images of ``shape`` (C, H, W)."""
    own = image_shape_of(physics) or ()
    if own and own != tuple(shape)[-len(own) :]:
        sides, given = (" x ".join(map(str, sides)) for sides in (own, tuple(shape)[-len(own) :]))
        raise InputError(f"the operator is for images of {sides}, but the data has {given}")


def check_count(physics: Any, count: int, what: str) -> None:
    """Raise unless an operator that differs by image is for so many images."""
    masks = getattr(physics, "count", 1) if isinstance(physics, Inpainting) else 1
    if masks not in (1, count):
        raise InputError(f"there is a mask for each of {masks} images, and there are {count} {what}")


def for_other_images(physics: Any, given: Mapping[str, Any]) -> Any:
    """A checkpoint's operator for the images of the call: where every image has a mask of its own, ``--mask`` gives
    those of other images."""
    if given.get("mask") is None or not isinstance(physics, Inpainting) or physics.count == 1:
        return physics
    return Inpainting(*physics.image_shape, mask=given["mask"], device=physics.mask.device)


def check_contradictions(state: Mapping[str, Any], given: Mapping[str, Any], task: str | None, physics: Any) -> None:
    """Raise if options that were ``given`` contradict the operator that a checkpoint carries."""
    described = state.get("physics") or {}
    for option, name in (task_of(task).physics_options if task else {}).items():  # type: ignore[union-attr]
        if given.get(option) is not None and name in described and given[option] != described[name]:
            raise InputError(
                f"--{option.replace('_', '-')} {given[option]} contradicts the checkpoint, which was trained with "
                f"{described[name]}; leave the option out"
            )
    if given.get("mask") is not None and isinstance(physics, Inpainting):
        check_mask(Inpainting(*physics.image_shape, mask=given["mask"]).mask, physics, given["mask"])
    if given.get("mask") is not None and isinstance(physics, MRI):
        check_mask(mask_for(given["mask"], physics.mask.shape[-1]), physics, given["mask"])


def check_mask(mask: Tensor, physics: Any, name: str) -> None:
    if not torch.equal(mask, physics.mask.cpu()):
        raise InputError(f"--mask {name} contradicts the checkpoint's own mask; leave the option out")


def probe_operator(physics: Any, shape: Shape, device: torch.device | None = None) -> Tensor:
    """Try an operator of one's own on an image of ``shape`` (C, H, W), on ``device``, its noise, too.

    Returns:
        The measurements ``[1, ...]`` of an image of zeros.

    Raises:
        InputError: telling in a line what goes wrong.
    """
    y = probe(physics, "A", torch.zeros(1, *shape), device)
    back = _probe_back(physics, "A_dagger", y, shape, device)
    if back.is_complex():
        raise InputError("A_dagger gives complex images: let it give real and imaginary part as two channels")
    try:
        noise = get_noise(physics)
        if noise is not None:
            noise(y, generator=torch.Generator())
    except Exception as error:  # whatever the code raises
        raise InputError(
            "noise of the operator must be None, or a function noise(y, generator=None) of measurements: "
            f"{type(error).__name__}: {error}"
        ) from error
    return y


def _probe_back(physics: Any, name: str, y: Tensor, shape: Shape, device: torch.device | None) -> Tensor:
    """`probe` of what takes measurements ``y`` to an image, whose shape must be ``shape``."""
    back = probe(physics, name, y, device)
    if back.shape[1:] != shape:
        raise InputError(f"{name} A of images {[1, *shape]} must have their shape, not {list(back.shape)}")
    return back


def probe_steps(physics: Any, y: Tensor, shape: Shape, filtered: bool, device: torch.device | None = None) -> None:
    """Try what an operator of one's own has for steps towards the data (`ei.physics.pinv_cg`), for measurements like
    ``y`` of images of ``shape`` (C, H, W): its adjoint, and, where steps are ``filtered``, its filter, which must be
    symmetric and positive.

    Raises:
        InputError: telling in a line what goes wrong.
    """
    if callable(getattr(physics, "A_adjoint", None)):
        _probe_back(physics, "A_adjoint", y, shape, device)
    if not filtered:
        return
    filter_of(physics)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device) for _ in range(2))
    Wu, Wv = (probe(physics, "filter", random, device) for random in (u, v))
    if (Wu.shape, Wu.dtype) != (u.shape, u.dtype):
        raise InputError(
            f"filter of the operator must give measurements as it takes them, {list(u.shape)} of {u.dtype}, not "
            f"{list(Wu.shape)} of {Wu.dtype}"
        )

    def product(a: Tensor, b: Tensor) -> complex:
        return complex((a.conj() * b).sum())

    if not abs(product(u, Wv) - product(Wu, v)) <= 1e-3 * float(u.norm()) * float(Wv.norm()):
        raise InputError("filter of the operator is not symmetric: <u, filter(v)> and <filter(u), v> differ")
    if not (product(u, Wu).real > 0 and product(v, Wv).real > 0):
        raise InputError("filter of the operator is not positive definite: <u, filter(u)> is not above 0")


def probe(physics: Any, name: str, tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """``physics.<name>(tensor)`` of an operator that may be of one's own: what goes wrong in it is told in a line. On
    ``device``, by default where the operator's tensors are, or the CPU.

    Raises:
        InputError: if it fails, or gives no tensor.
    """
    if device is None:
        device = device_of_tensors(physics) or torch.device("cpu")
    try:
        with torch.no_grad():
            found = getattr(physics, name)(tensor.to(device))
    except InputError:
        raise
    except Exception as error:  # whatever the code raises
        raise InputError(
            f"{name} of the operator cannot take a tensor of the shape {list(tensor.shape)}"
            f"{'' if device.type == 'cpu' else f' on {device} (--device cpu computes on the CPU)'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Tensor):
        raise InputError(f"{name} of the operator must give a tensor, not a {type(found).__name__}")
    return found
