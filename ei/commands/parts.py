"""The parts of a run from options: data, operator, group; by name, or out of people's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ei.physics
from ei.commands.options import Options
from ei.commands.presets import TASKS, Shape, task_of
from ei.common.describe import describe, rebuild
from ei.common.files import read_yaml
from ei.common.own_code import import_own, made, names_own_code
from ei.datasets import (
    CTData,
    DeadLeaves,
    EllipsePhantoms,
    FixedCrops,
    ImageTree,
    Measurements,
    image_of,
    split_images,
)
from ei.datasets.tree import holds_images
from ei.errors import InputError
from ei.evaluation.load import noise_in, physics_of
from ei.physics import Inpainting, WithPseudoInverse
from ei.transforms import Compose, Reflect, Rotate, Rotate90, Scale, Shift, Transform

GROUPS: dict[str, type[Transform]] = {
    "shift": Shift,
    "rotate": Rotate,
    "reflect": Reflect,
    "rotate90": Rotate90,
    "scale": Scale,
}
# Values of a physics file with these endings are paths.
FILES = (".pt", ".pth", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".txt", ".csv", ".png")

# In the run folder: which of one's own images were left for testing.
SPLIT = "split.txt"


# ---- the operator -------------------------------------------------------------------------------------------------


def read_physics_file(path: str) -> dict[str, Any]:
    """What a physics file says: ``name`` and arguments of a class of `ei.physics`, with absolute paths and ranges
    ``{start, step, count}`` as lists.

    Raises:
        InputError: if it cannot be read, or names no class.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        raise InputError(f"--physics must be FILE.yaml or FILE.py:NAME, not {path}")
    folder, content = Path(path).resolve().parent, read_yaml(path)
    if "name" not in content:
        raise InputError(f"{path}: 'name' is missing: a class of ei.physics, as name: CT")

    def resolved(value: Any) -> Any:
        if isinstance(value, str) and Path(value).suffix in FILES:
            return str(folder / value)
        if isinstance(value, dict) and set(value) == {"start", "step", "count"}:
            return [value["start"] + k * value["step"] for k in range(value["count"])]
        return value

    return {key: resolved(value) for key, value in content.items()}


def named_physics(setting: Mapping[str, Any] | str, device: torch.device) -> Any:
    """The operator of ``--physics``: of a file's content, or ``FILE.py:NAME`` of one's own. One without ``A_dagger``
    gets conjugate gradients, which is said.

    Raises:
        InputError: if it cannot be made, or is no operator.
    """
    if isinstance(setting, Mapping):
        arguments = {name: value for name, value in setting.items() if name != "noise"}
        found = getattr(ei.physics, str(setting.get("name")), ei.physics.Physics)
        if not (isinstance(found, type) and issubclass(found, ei.physics.Physics)):
            raise InputError(f"the file of --physics names {setting['name']}, which is no operator")
        physics = rebuild(arguments, ei.physics, where="the file of --physics", device=device)
        physics.noise = noise_in({"physics": setting})
        return physics
    thing = made(import_own(setting), setting)
    if not callable(getattr(thing, "A", None)):
        raise InputError(f"{setting} is no operator: it is of type {type(thing).__name__}, without A(x)")
    if isinstance(thing, torch.nn.Module):
        thing = thing.to(device)
    if not callable(getattr(thing, "A_dagger", None)):
        thing = WithPseudoInverse(thing)
        print(f"note: {setting} has no A_dagger: {thing.steps} steps of conjugate gradients stand in for it")
    return thing


def known_physics(setting: Any, state: Any, device: torch.device) -> Any:
    """The operator that is known before any data: of a checkpoint's content ``state`` and of ``--physics``, which may
    repeat what the checkpoint carries; None where neither says one.

    Raises:
        InputError: if they contradict each other, or the checkpoint's is of one's own and ``--physics`` is not given.
    """
    carried = physics_of(state, device)
    given = None if setting is None else named_physics(setting, device)
    text = (state.get("config") or {}).get("physics") if isinstance(state, Mapping) else None
    if carried is None and given is None and names_own_code(text):
        raise InputError(code_needed("checkpoint", str(text), "--physics"))
    if carried is None:
        return given
    if given is not None:
        masks = (getattr(given, "mask", None), getattr(carried, "mask", None))
        equal = masks[0] is masks[1] if None in masks else torch.equal(*masks)  # type: ignore[arg-type]
        if describe(given) != describe(carried) or not equal:
            raise InputError(f"--physics gives {given}, but the checkpoint was trained for {carried}")
    return carried


def code_needed(what: str, text: str, option: str) -> str:
    return f"the {what} has code of your own, {text}, which is not run because a file names it: give {option} {text}"


def check_size(physics: Any, shape: tuple[int, ...]) -> None:
    """Raise unless an operator that tells its ``image_shape`` is for images of ``shape`` (C, H, W)."""
    own = tuple(getattr(physics, "image_shape", None) or ())
    if own and own != tuple(shape)[-len(own) :]:
        sides, given = (" x ".join(map(str, sides)) for sides in (own, tuple(shape)[-len(own) :]))
        raise InputError(f"the operator is for images of {sides}, but the data has {given}")


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
        other = Inpainting(*physics.image_shape, mask=given["mask"])
        if not torch.equal(other.mask, physics.mask.cpu()):
            raise InputError(f"--mask {given['mask']} contradicts the checkpoint's own mask; leave the option out")


# ---- the group ----------------------------------------------------------------------------------------------------


def named_group(text: str, n_trans: int) -> Any:
    """The group of ``--group``: names with commas (composed from left to right), or ``FILE.py:NAME`` of one's own,
    which is given ``n_trans`` if it takes it.

    Raises:
        InputError: for an unknown name, or code that gives no group.
    """
    if names_own_code(text):
        group = made(import_own(text), text, n_trans=n_trans)
        if not callable(getattr(group, "apply", None)):
            raise InputError(f"{text} is no group: it is of type {type(group).__name__}, without apply(x)")
        return group
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in GROUPS:
            raise InputError(f"--group {name}: there is no such group; it is one of {', '.join(GROUPS)}, several with "
                             "commas, or FILE.py:NAME")  # fmt: skip
    groups = [GROUPS[name](n_trans) for name in names]
    return groups[0] if len(groups) == 1 else Compose(*groups)


# ---- the data -----------------------------------------------------------------------------------------------------


def split_beside(checkpoint: Path | str) -> dict[str, str]:
    """The option ``split`` of a run that wrote its list of test images beside its checkpoints: images that came into
    the folder since must not change what is tested."""
    beside = Path(checkpoint).with_name(SPLIT)
    return {"split": str(beside)} if beside.exists() else {}


def images_for(options: Options, mode: str, told: tuple[int, ...] | None = None, patches: bool = True) -> Any:
    """The training or test images of a run: the data set, or patches of its images if the options ask for them.

    Args:
        options: of the run.
        mode: "train" or "test".
        told: the image shape that the operator tells; generated images get its size.
        patches: whether to cut them.

    Raises:
        InputError: for data that cannot be used.
    """
    images = _images(options, mode, told)
    return FixedCrops(images, options.patch, options.patches or 1) if options.patch and patches else images


def _images(options: Options, mode: str, told: tuple[int, ...] | None) -> Any:
    task, data = task_of(options.task), options.data
    if data is None:
        raise InputError("the run was trained from measurements alone: give images to test on with --data")
    if data == "synthetic":
        size = {} if options.patch or not told else {"img_size": _side_of(told)}
        channels = told[0] if told and len(told) == 3 else task.channels if task else 1
        generated = task.generated if task and task.channels == channels else _generated(channels)
        return generated(mode, **size)
    own = _own_images(options, data, mode)
    if own is not None:
        return own
    if task is not None:
        return task.images(data, mode)
    if Path(data).is_dir():
        return ImageTree(Path(data) / mode)
    return CTData(mode, data)


def _side_of(told: tuple[int, ...]) -> int:
    height, width = told[-2:]
    if height != width:
        raise InputError(
            f"--data synthetic makes square images, and the operator is for {height} x {width}; give others"
        )
    return height


def _generated(channels: int) -> Any:
    if channels not in (1, 3):
        raise InputError(f"--data synthetic makes images of 1 or 3 channels, and the operator is for {channels}")
    return EllipsePhantoms if channels == 1 else DeadLeaves


def _own_images(options: Options, data: str, mode: str) -> ImageTree | None:
    """A folder of people's own: one that holds train/ and test/ or, divided by --split or --test-fraction, one that
    does not. None where neither the folder nor the options say that it is of one's own."""
    sizes: dict[str, Any] = {"crop": options.crop, "resize": options.resize, "gray": bool(options.gray)}
    if not Path(data).is_dir() or not holds_images(data):
        return None
    if all((Path(data) / part).is_dir() for part in ("train", "test")):
        return ImageTree(Path(data) / mode, **sizes) if any(sizes.values()) else None
    if (Path(data) / "train").is_dir() or (Path(data) / "test").is_dir():
        return None  # half of the layout: whoever reads it will say what is missing
    fraction = options.test_fraction
    return ImageTree(data, split_images(data, options.split or (0.1 if fraction is None else fraction))[mode], **sizes)


def image_shape(images: Any) -> Shape:
    """(C, H, W) of a data set's images."""
    channels, height, width = image_of(images[0]).shape[1:]
    return channels, height, width


def sample_of_the_paper(task: str | None, images: Any) -> int:
    """Which of the test ``images`` the paper's figure shows (its first patch, where they are patches); the last one if
    there are too few."""
    shown = 0 if task is None else TASKS[task].sample_to_show
    return min(shown * getattr(images, "per_image", 1), len(images) - 1)


def measurements_for(path: str, options: Options | None, physics: Any) -> tuple[Measurements, Shape]:
    """Measurements without images, and the shape (C, H, W) of the images they are of: that of the task, or, where the
    ``physics`` is there already, that of its ``A_dagger y``.

    Raises:
        InputError: for measurements that do not fit.
    """
    if physics is None:
        assert options is not None and options.task is not None
        found, task = Measurements(path), TASKS[options.task]
        if task.measured_shape is not None:
            return found, task.measured_shape(found.item_shape, options)
        raise InputError(f"--task {options.task} does not tell what images its measurements are of: give --data")
    found = Measurements(path, _shape_measured(physics))
    shape = tuple(probe(physics, "A_dagger", found[0][None]).shape[1:])
    if len(shape) != 3:
        raise InputError(f"A_dagger of a measurement must be images [1, C, H, W], not {[1, *shape]}")
    check_size(physics, shape)
    return found, shape


def _shape_measured(physics: Any) -> tuple[int, ...] | None:
    """The shape of one measurement where the operator tells that of its images and the two differ in axes."""
    image = tuple(getattr(physics, "image_shape", None) or ())
    if not image:
        return None
    y = probe(physics, "A", torch.zeros(1, *(image if len(image) == 3 else (1, *image))))
    return tuple(y.shape[1:]) if y.dim() != 4 or len(image) == 3 else None


def probe(physics: Any, name: str, tensor: Tensor) -> Tensor:
    """``physics.<name>(tensor)`` of an operator that may be of one's own: what goes wrong in it is told in a line.

    Raises:
        InputError: if it fails, or gives no tensor.
    """
    device = next((t.device for t in getattr(physics, "buffers", list)()), torch.device("cpu"))
    try:
        with torch.no_grad():
            found = getattr(physics, name)(tensor.to(device))
    except InputError:
        raise
    except Exception as error:  # whatever the code raises
        raise InputError(
            f"{name} of the operator cannot take a tensor of the shape {list(tensor.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Tensor):
        raise InputError(f"{name} of the operator must give a tensor, not a {type(found).__name__}")
    return found
