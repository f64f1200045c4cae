"""The problem of a run: its operator and its data, which need each other's sizes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ei.datasets
from ei.commands.tree import CLASSES, DATASETS, NESTED, SYNTHETIC, Tree
from ei.common.devices import device_of_tensors
from ei.common.parts import Built, Context, build, describe, find, missing_arguments, normalized, signature_of
from ei.common.user_code import error_in_a_line, is_user_code
from ei.datasets import DeadLeaves, EllipsePhantoms, MagnitudePhantoms, Measurements, Pairs, image_of
from ei.datasets.batches import spread
from ei.datasets.kspace import check_centred
from ei.datasets.measurements import NAMES_OF_TRUTH
from ei.errors import InputError
from ei.physics import MRI, Inpainting, image_shape_of, parse_noise, select_physics, with_pseudo_inverse
from ei.physics.krylov import filter_of
from ei.physics.noise_adapter import get_noise

Shape = tuple[int, int, int]

GENERATED = {1: EllipsePhantoms, 2: MagnitudePhantoms, 3: DeadLeaves}
# Arguments of operators that follow from the data where the tree does not say them.
SIZES = ("img_width", "img_height", "image_shape", "width", "height")


def sizes_of(shape: Shape) -> dict[str, Any]:
    """What operators call the sizes of images of ``shape`` (C, H, W)."""
    _, height, width = shape
    return {
        "img_width": width,
        "img_height": height,
        "image_shape": [height, width],
        "width": width,
        "height": height,
    }


def with_noise_apart(tree: Mapping[str, Any]) -> Tree:
    """A tree whose noise is a part of its own, also where the part ``physics`` says it.

    Raises:
        InputError: if both say one.
    """
    physics = tree.get("physics")
    if not isinstance(physics, Mapping) or "noise" not in physics:
        return dict(tree)
    if tree.get("noise") is not None and tree["noise"] != physics["noise"]:
        raise InputError("noise and physics.noise contradict each other: give one of them")
    return {**tree, "physics": {key: value for key, value in physics.items() if key != "noise"},
            "noise": physics["noise"]}  # fmt: skip


def needs_sizes(description: Mapping[str, Any]) -> bool:
    """Whether an operator can be built only when the sizes of the images are known."""
    make = find(description.get("name"), CLASSES["physics"], "physics")
    if is_user_code(description.get("name")) and not callable(make):
        return False
    missing = missing_arguments(description, make, NESTED)
    # Inpainting has no required sizes, for the sake of a legacy spelling.
    missing |= {name for name in ("img_height", "img_width") if name in signature_of(make).parameters} - {*description}
    return bool(missing & {*SIZES})


def build_physics(description: Any, device: torch.device, sizes: Mapping[str, Any] | None = None) -> Built:
    """The operator of a tree, without noise. One without ``A_dagger`` gets conjugate gradients, which is printed.

    Raises:
        InputError: if it cannot be built, or is no operator.
    """
    description = normalized(description, "physics")
    context = Context(sizes or {}, {"device": device}, NESTED)
    physics, filled = build(description, CLASSES["physics"], "physics", context)
    name = filled["name"]
    if not callable(getattr(physics, "A", None)):
        raise InputError(f"physics.name: {name} must give an operator with a method A, got {type(physics).__name__}")
    if isinstance(physics, nn.Module):
        physics = physics.to(device)
    for attribute, value in list(vars(physics).items()) if hasattr(physics, "__dict__") else ():
        if isinstance(value, Tensor):  # of a class that is no module, or not registered as a buffer
            object.__setattr__(physics, attribute, value.to(device))
    image_shape_of(physics)  # raises if it is none
    inverted = with_pseudo_inverse(physics)
    if inverted is not physics:
        print(f"note: {name} has no A_dagger: {inverted.steps} steps of conjugate gradients stand in for it")
    return Built(inverted, filled)


def build_noise(description: Any) -> Built:
    """The noise model of a tree, None where there is none; a text as ``gaussian:0.1`` is one, too.

    Raises:
        InputError: if it cannot be built.
    """
    if description is None:
        return Built(None, {})
    if isinstance(description, str) and not is_user_code(description) and description not in CLASSES["noise"]:
        noise = parse_noise(description)
        return Built(noise, describe(noise) or {})
    return build(description, CLASSES["noise"], "noise")


def set_noise(physics: Any, description: Any) -> dict[str, Any]:
    """Give an operator the noise of a tree; a user-defined one keeps its own where the tree says none. Returns the
    description of the noise."""
    noise, filled = build_noise(description)
    if noise is not None or describe(physics) is not None:
        try:
            physics.noise = noise
        except AttributeError as error:
            raise InputError(f"{type(physics).__name__} takes no attribute 'noise', which the noise needs") from error
    return filled


def check_size(physics: Any, shape: tuple[int, ...]) -> None:
    """Raise unless an operator with an ``image_shape`` is for images of ``shape`` (C, H, W)."""
    expected = image_shape_of(physics) or ()
    actual = tuple(shape)[-len(expected) :]
    if expected and expected != actual:
        sides, other = (" x ".join(map(str, sides)) for sides in (expected, actual))
        raise InputError(f"the operator is for images of {sides}, but the data has {other}")


def check_count(physics: Any, count: int, what: str) -> None:
    """Raise unless an operator that differs by image is for so many images."""
    masks = getattr(physics, "count", 1) if isinstance(physics, Inpainting) else 1
    if masks not in (1, count):
        raise InputError(f"there is a mask for each of {masks} images, and there are {count} {what}")


# ---- images ---------------------------------------------------------------------------------------------------------


def load_images(data: Mapping[str, Any], mode: str, physics: Any = None) -> Built:
    """The training or test images of a tree.

    Args:
        data: that part of the tree; where it says no test images, they are those of the training's data set with mode
            "test".
        mode: "train" or "test".
        physics: the operator, if it is there already; generated images get its size.

    Raises:
        InputError: for data that cannot be used.
    """
    described = data.get(mode)
    if described is None and mode == "test":
        described = data.get("train")
        if isinstance(described, Mapping):
            described = {key: value for key, value in described.items() if key != "mode"}
    if described is None:
        raise InputError(f"data.{mode} is missing: give images with --data, or measurements with --measurements")
    image_shape = None if physics is None else image_shape_of(physics)
    if described == SYNTHETIC:
        channels = image_shape[0] if image_shape and len(image_shape) == 3 else getattr(physics, "channels", 1)
        described = {"name": generated_class(channels).__name__}
    elif isinstance(described, str) and not is_user_code(described):
        described = ei.datasets.dataset_for(described)
    sizes: dict[str, Any] = {"mode": mode}
    if image_shape is not None:
        sizes["img_size"] = lambda: square_side(image_shape)
    images, filled = build(described, DATASETS, f"data.{mode}", Context(sizes, {}, NESTED))
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise InputError(f"data.{mode}: {filled['name']} must give a data set with a length and items")
    if len(images) == 0:
        raise InputError(f"data.{mode}: {filled['name']} has no images")
    filled.pop("mode", None)
    return Built(images, filled)


def square_side(image_shape: tuple[int, ...]) -> int:
    height, width = image_shape[-2:]
    if height != width:
        raise InputError(
            f"generated images are square, and the operator is for {height} x {width}; give others with --data"
        )
    return height


def generated_class(channels: int) -> Any:
    """The generated data set of images of so many channels."""
    if channels not in GENERATED:
        raise InputError(f"generated images have 1, 2 or 3 channels, and the operator is for {channels}")
    return GENERATED[channels]


def image_shape(images: Any) -> Shape:
    """(C, H, W) of a data set's images."""
    channels, height, width = image_of(images[0]).shape[1:]
    return channels, height, width


# ---- measurements ---------------------------------------------------------------------------------------------------


def load_measurements(described: Any, physics: Any, path: str = "data.measurements") -> tuple[Any, Shape]:
    """Measurements, and the shape (C, H, W) of the images they are of, that of ``A_dagger y``.

    Raises:
        InputError: for measurements that the operator does not have.
    """
    physics = select_physics(physics, [0])
    measurements = _open(described, path, shape=_measurement_shape(physics), parts=isinstance(physics, MRI))
    y = measurements[0]
    if isinstance(physics, MRI):
        check_kspace(physics, y, path)
    shape = tuple(call(physics, "A_dagger", y[None]).shape[1:])
    if len(shape) != 3:
        raise InputError(f"A_dagger of a measurement must have shape [1, C, H, W], got {[1, *shape]}")
    check_size(physics, shape)
    again = call(physics, "A", torch.zeros(1, *shape))
    if again.shape[1:] != y.shape or again.is_complex() != y.is_complex():
        kinds = ["complex" if values.is_complex() else "real" for values in (again, y)]
        raise InputError(
            f"{path} holds measurements {list(y.shape)} ({kinds[1]}), but A of images {list(shape)} gives "
            f"{list(again.shape[1:])} ({kinds[0]})"
        )
    return measurements, shape


def sizes_from_measurements(described: Any, description: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that an operator needs, from the measurements of the run.

    Raises:
        InputError: if they do not follow from them.
    """
    make = find(description["name"], CLASSES["physics"], "physics")
    sizes_from = getattr(make, "sizes_from_measurement", None)
    if sizes_from is None:
        raise InputError(f"the size of the images does not follow from measurements of {description['name']}: give "
                         "its arguments")  # fmt: skip
    measurements = _open(described, "data.measurements", shape=None, parts=make is MRI)
    y = measurements[0]
    if y.is_complex():
        raise InputError(f"data.measurements are complex, and those of {description['name']} are real")
    arguments = {key: value for key, value in description.items() if key != "name"}
    return sizes_from(tuple(y.shape), **arguments)


def load_pairs(measurements: Any, described: Any, shape: Shape) -> Pairs:
    """Measurements beside their ground truth of ``shape`` (C, H, W)."""
    if isinstance(described, str) and not is_user_code(described):
        return Pairs(measurements, Measurements(described, shape, NAMES_OF_TRUTH))
    return Pairs(measurements, _open(described, "data.truth"))


def _open(described: Any, path: str, **arguments: Any) -> Any:
    if isinstance(described, str) and not is_user_code(described):
        return Measurements(described, **arguments)
    return build(described, DATASETS, path, Context(arguments, {}, NESTED)).object


def _measurement_shape(physics: Any) -> tuple[int, ...] | None:
    """The shape of one measurement where the operator has an image shape and the two differ in axes."""
    image = image_shape_of(physics)
    if image is None:
        return None
    y = call(physics, "A", torch.zeros(1, *(image if len(image) == 3 else (1, *image))))
    return tuple(y.shape[1:]) if y.dim() != 4 or len(image) == 3 else None


def measurement(measurements: Any, index: int) -> Tensor:
    """A measurement of a data set of measurements, or of pairs."""
    item = measurements[index]
    return item[0] if isinstance(item, tuple) else item


def print_fit_of_truth(pairs: Pairs, physics: Any) -> None:
    """Print how well ``A x`` fits y over a few pairs, and warn where another image's ``A x`` fits as well: files in
    another order or in other units would train in silence."""
    rows = spread(pairs)
    ys = [pairs[index][0] for index in rows]
    predicted = [call(select_physics(physics, [n]), "A", pairs[n][1][None])[0].cpu() for n in rows]

    def misfit(shift: int) -> float:
        return statistics.median(float((predicted[k - shift] - y).norm() / y.norm()) for k, y in enumerate(ys))

    print(f"A x of the ground truth fits y to {misfit(0):.1%} of its norm")
    if len(rows) > 1 and misfit(0) >= 0.9 * misfit(1):
        print(
            f"warning: that of another image fits it to {misfit(1):.1%}: are measurements and ground truth in the same "
            "order, orientation, and in the units of the operator?"
        )


def check_kspace(physics: MRI, y: Tensor, path: str) -> None:
    """Raise if k-space has values where the mask measures nothing, or none at all where it does: it is another's."""
    if y.shape[-physics.mask.dim() :] != physics.mask.shape:
        return  # the operator raises
    check_centred(torch.complex(y[0], y[1]) if not y.is_complex() else y)
    mask = physics.mask.cpu() != 0
    filled = y != 0
    outside = int((filled & ~mask).sum())
    inside = float((filled & mask).sum() / mask.expand_as(y).sum())
    if outside:
        raise InputError(
            f"{path} has {outside} values that are not zero where the mask measures nothing: is it the mask of this "
            "k-space? If it is to leave a part of it out, set that to zero first"
        )
    if inside < 0.5:
        raise InputError(
            f"{path} is zero at {1 - inside:.0%} of what the mask measures: is it the mask of this k-space, and are "
            "its axes [n, (coil,) row, column]?"
        )


# ---- user-defined operators -----------------------------------------------------------------------------------------


def call(physics: Any, name: str, tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """``physics.<name>(tensor)``; what goes wrong in user-defined code is an error of one line. On ``device``, by
    default where the operator's tensors are, or the CPU.

    Raises:
        InputError: if it fails, or gives no tensor.
    """
    if device is None:
        device = device_of_tensors(physics) or torch.device("cpu")
    try:
        with torch.no_grad():
            result = getattr(physics, name)(tensor.to(device))
    except InputError:
        raise
    except Exception as error:  # whatever the code raises
        where = "" if device.type == "cpu" else f" on {device} (--device cpu computes on the CPU)"
        raise InputError(
            f"{name} of the operator cannot take a tensor of shape {list(tensor.shape)}{where}: "
            f"{error_in_a_line(error)}"
        ) from error
    if not isinstance(result, Tensor):
        raise InputError(f"{name} of the operator must give a tensor, got a {type(result).__name__}")
    return result


def check_operator(physics: Any, shape: Shape, device: torch.device, needs_steps: bool, needs_filter: bool) -> None:
    """Try a user-defined operator on an image of ``shape`` (C, H, W), its noise, and what data-consistency steps use.

    Raises:
        InputError: in one line.
    """
    y = call(physics, "A", torch.zeros(1, *shape), device)
    if _call_back(physics, "A_dagger", y, shape, device).is_complex():
        raise InputError("A_dagger gives complex images: let it give real and imaginary part as two channels")
    try:
        noise = get_noise(physics)
        if noise is not None:
            noise(y, generator=torch.Generator())
    except Exception as error:  # whatever the code raises
        raise InputError(
            "noise of the operator must be None, or a function noise(y, generator=None) of measurements: "
            f"{error_in_a_line(error)}"
        ) from error
    if needs_steps and callable(getattr(physics, "A_adjoint", None)):
        _call_back(physics, "A_adjoint", y, shape, device)
    if needs_filter:
        _check_filter(physics, y, device)


def _call_back(physics: Any, name: str, y: Tensor, shape: Shape, device: torch.device) -> Tensor:
    """`call` of what takes measurements ``y`` to an image, whose shape must be ``shape``."""
    back = call(physics, name, y, device)
    if back.shape[1:] != shape:
        raise InputError(f"{name} of A x must have the shape of x, {[1, *shape]}, got {list(back.shape)}")
    return back


def _check_filter(physics: Any, y: Tensor, device: torch.device) -> None:
    """Raise unless ``physics.filter`` keeps shape and dtype, and is symmetric and positive."""
    filter_of(physics)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device) for _ in range(2))
    Wu, Wv = (call(physics, "filter", random, device) for random in (u, v))
    if (Wu.shape, Wu.dtype) != (u.shape, u.dtype):
        raise InputError(
            f"filter of the operator must give measurements as it takes them, {list(u.shape)} of {u.dtype}, got "
            f"{list(Wu.shape)} of {Wu.dtype}"
        )

    def product(a: Tensor, b: Tensor) -> complex:
        return complex((a.conj() * b).sum())

    if not abs(product(u, Wv) - product(Wu, v)) <= 1e-3 * float(u.norm()) * float(Wv.norm()):
        raise InputError("filter of the operator is not symmetric: <u, filter(v)> and <filter(u), v> differ")
    if not (product(u, Wu).real > 0 and product(v, Wv).real > 0):
        raise InputError("filter of the operator is not positive definite: <u, filter(u)> is not above 0")


def split_beside(checkpoint: Path | str) -> str | None:
    """The list of test images that a run wrote beside its checkpoints: images that came into the folder since must not
    change what is tested."""
    beside = Path(checkpoint).with_name(SPLIT)
    return str(beside.resolve()) if beside.exists() else None


# In the run folder: which images of a folder were left for testing.
SPLIT = "split.txt"
