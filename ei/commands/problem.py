"""The problem of a run: its operator and its data, which need each other's sizes. Every command builds it here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ei.commands.tree import CLASSES, NESTED, SYNTHETIC, Tree, build_part
from ei.common.checks import check_number
from ei.common.parts import Built, describe, find, missing_arguments, normalized, signature_of
from ei.common.user_code import is_user_code
from ei.datasets import DeadLeaves, EllipsePhantoms, MagnitudePhantoms, Measurements, Pairs, dataset_for, image_of
from ei.datasets.batches import index_in_whole
from ei.datasets.measurements import NAMES_OF_TRUTH
from ei.datasets.scans import binned_geometry
from ei.diagnosis.before_training import check_kspace, measurement
from ei.diagnosis.user_defined import Shape, call, in_a_line
from ei.errors import InputError
from ei.physics import MRI, image_shape_of, parse_noise, select_physics, with_pseudo_inverse

GENERATED: dict[int, Any] = {1: EllipsePhantoms, 2: MagnitudePhantoms, 3: DeadLeaves}
# Arguments of operators that follow from the data where the tree lacks them.
SIZES = ("img_width", "img_height", "image_shape", "width", "height")
# Keys of data that select measurements of the files, and how they are read.
SELECTION = ("slices", "bin")


class Problem:
    """The operator of a tree, with its noise, and its data.

    Args:
        tree, device: of the run.
        mode: "train" or "test": which images, where the tree has no measurements.
        carried: the operator that a checkpoint carries, instead of the tree's.

    Attributes:
        tree: the tree with the sizes that the data determine.
        physics: the operator.
        data: a data set of images, of measurements (where ``has_measurements``), or of pairs of both.
        shape: (C, H, W) of the images.
    """

    def __init__(self, tree: Mapping[str, Any], device: torch.device, mode: str = "train", carried: Any = None) -> None:
        self.tree = with_noise_apart(tree)
        self.device = device
        if carried is None and not self.tree.get("physics"):
            raise InputError("physics is missing: give --task, --physics, or physics: {name: ..} in a tree")
        data: Tree = dict(self.tree.get("data") or {})
        self.tree["data"] = data
        self.has_measurements = data.get("measurements") is not None
        self._check_data_keys(data, mode)
        self.physics = carried
        if carried is None and not needs_sizes(normalized(self.tree["physics"], "physics")):
            self._build_physics({})
        (self._load_measurements if self.has_measurements else self._load_images)(data, mode)
        check_size(self.physics, self.shape)
        noise = set_noise(self.physics, self.tree.pop("noise", None))
        self.tree |= {"noise": noise} if noise else {}

    def _check_data_keys(self, data: Tree, mode: str) -> None:
        if self.has_measurements and data.get(mode) is not None:
            raise InputError(f"data.{mode} and data.measurements exclude each other: give one of them")
        for key in ("truth", *(SELECTION if mode == "train" else ())):
            if data.get(key) is not None and not self.has_measurements:
                raise InputError(f"data.{key} is for data.measurements: give those, too")

    def _build_physics(self, sizes: Mapping[str, Any]) -> None:
        if self.physics is not None:
            return
        bins = check_number("data.bin", self.tree["data"].get("bin") or 1, integer=True, least=1)
        if self.has_measurements and bins > 1:  # the tree keeps the geometry of the files
            self.physics = build_physics(binned(self.tree["physics"], bins), self.device, sizes).object
        else:
            self.physics, self.tree["physics"] = build_physics(self.tree["physics"], self.device, sizes)

    def _load_images(self, data: Tree, mode: str) -> None:
        self.data, described = load_images(data, mode, self.physics)
        if mode == "train" or mode in data:
            data[mode] = described
        with in_a_line(f"the first item of data.{mode}"):
            image = image_of(self.data[0])
        if image.is_complex():
            raise InputError(f"data.{mode} has complex images: give real and imaginary part as two channels")
        channels, height, width = image.shape[1:]
        self.shape: Shape = (channels, height, width)
        self._build_physics(sizes_of(self.shape))
        check_count(self.physics, self.data, f"{mode} images")

    def _load_measurements(self, data: Tree, mode: str) -> None:
        described = data["measurements"]
        if self.physics is None:
            self._build_physics(sizes_from_measurements(described, normalized(self.tree["physics"], "physics")))
        selection = {key: data[key] for key in SELECTION if data.get(key) is not None}
        self.data, self.shape = load_measurements(described, self.physics, selection)
        if data.get("truth") is not None:
            arguments = {"shape": self.shape, "names": NAMES_OF_TRUTH, "slices": data.get("slices")}
            self.data = Pairs(self.data, _open(data["truth"], "data.truth", {}, **arguments))


# ---- operators and noise --------------------------------------------------------------------------------------------


def sizes_of(shape: Shape) -> dict[str, Any]:
    """What operators call the sizes of images of ``shape`` (C, H, W)."""
    _, height, width = shape
    return dict(zip(SIZES, (width, height, [height, width], width, height), strict=True))


def with_noise_apart(tree: Mapping[str, Any]) -> Tree:
    """A tree whose noise is its own part, also where it is in the part ``physics``."""
    physics = tree.get("physics")
    if not isinstance(physics, Mapping) or "noise" not in physics:
        return dict(tree)
    if tree.get("noise") not in (None, physics["noise"]):
        raise InputError("noise and physics.noise contradict each other: give one of them")
    rest = {key: value for key, value in physics.items() if key != "noise"}
    return {**tree, "physics": rest, "noise": physics["noise"]}


def needs_sizes(description: Mapping[str, Any]) -> bool:
    """Whether an operator can be built only when the sizes of the images are known."""
    make = find(description.get("name"), CLASSES["physics"], "physics")
    if not callable(make):
        return False
    missing = missing_arguments(description, make, NESTED)
    # Inpainting has no required sizes, for the sake of a legacy spelling.
    missing |= {name for name in ("img_height", "img_width") if name in signature_of(make).parameters} - {*description}
    return bool(missing & {*SIZES})


def build_physics(description: Any, device: torch.device, sizes: Mapping[str, Any]) -> Built:
    """The operator of a tree, without noise. One without ``A_dagger`` gets conjugate gradients, which is printed."""
    physics, filled = build_part(description, "physics", sizes, {"device": device})
    name = filled["name"]
    if not callable(getattr(physics, "A", None)):
        raise InputError(f"physics.name: {name} must give an operator with a method A, got {type(physics).__name__}")
    if isinstance(physics, nn.Module):
        physics = physics.to(device)
    for attribute, value in list(getattr(physics, "__dict__", {}).items()):
        if isinstance(value, Tensor):  # of a class that is no module, or not registered as a buffer
            object.__setattr__(physics, attribute, value.to(device))
    image_shape_of(physics)  # raises if it is none
    inverted = with_pseudo_inverse(physics)
    if inverted is not physics:
        print(f"note: {name} has no A_dagger: {inverted.steps} steps of conjugate gradients stand in for it")
    return Built(inverted, filled)


def binned(description: Any, bins: int) -> dict[str, Any]:
    """The description of an operator whose measurements are means of so many neighbouring detectors."""
    described = normalized(description, "physics")
    if described.get("name") != "Tomography":
        raise InputError(f"data.bin averages the detectors of Tomography, got {described.get('name')}; leave it out")
    try:
        return binned_geometry(described, bins)
    except InputError as error:
        raise InputError(f"physics.{error} (data.bin is {bins})") from error


def set_noise(physics: Any, description: Any) -> dict[str, Any]:
    """Give an operator the noise of a tree (a text as ``gaussian:0.1`` is one, too); a user-defined one keeps its own
    where the tree has none. Returns the description of the noise."""
    if description is None:
        noise, filled = Built(None, {})
    elif isinstance(description, str) and not is_user_code(description) and description not in CLASSES["noise"]:
        noise = parse_noise(description)
        filled = describe(noise) or {}
    else:
        noise, filled = build_part(description, "noise")
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


def check_count(physics: Any, data: Any, what: str) -> None:
    """Raise unless an operator serves all items of a data set, or is one for each of them (of the whole stack, where
    the data set has slices of it); ``what`` names the items."""
    count, there = getattr(physics, "count", 1), getattr(data, "stack_size", len(data))
    if count in (1, there):
        return
    argument = getattr(physics, "own_argument", None)
    each, advice = {
        "angles": ("a scan", "; give theirs with physics.angles"),
        "mask": ("a mask", "; give theirs with physics.mask (--mask)"),
    }.get(argument or "", ("an operator", ""))
    raise InputError(f"there is {each} for each of {count} images, and there are {there} {what}{advice}")


# ---- images and measurements ----------------------------------------------------------------------------------------


def load_images(data: Mapping[str, Any], mode: str, physics: Any = None) -> Built:
    """The training or test images of a tree. Without test images in it, they are those of the training's data set
    with mode "test"; generated images get the size of an operator that is there already.
    """
    described = data.get(mode)
    if described is None and mode == "test":
        described = data.get("train")
        if isinstance(described, Mapping):
            described = {key: value for key, value in described.items() if key != "mode"}
    if described is None:
        raise InputError(f"data.{mode} is missing: give images with --data, or measurements with --measurements")
    image_shape = None if physics is None else image_shape_of(physics)
    described = _dataset_part(described, image_shape, physics)
    sizes = {"mode": mode, **({"img_size": lambda: square_side(image_shape)} if image_shape else {})}
    images, filled = build_part(described, f"data.{mode}", sizes)
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__") or len(images) == 0:
        raise InputError(f"data.{mode}: {filled['name']} must give a data set with a length and items, got {images!r}")
    if isinstance(images, EllipsePhantoms | MagnitudePhantoms | DeadLeaves):
        filled.setdefault("img_size", images.img_size)  # so that the tree alone repeats the run
    return Built(images, {key: value for key, value in filled.items() if key != "mode"})


def _dataset_part(described: Any, image_shape: tuple[int, ...] | None, physics: Any) -> Any:
    """The part that a text stands for: generated images for the operator, or what a path holds."""
    if described == SYNTHETIC:
        channels = image_shape[0] if image_shape and len(image_shape) == 3 else getattr(physics, "channels", 1)
        return {"name": generated_class(channels).__name__}
    is_path = isinstance(described, str) and not is_user_code(described)
    return dataset_for(described) if is_path else described


def square_side(image_shape: tuple[int, ...]) -> int:
    height, width = image_shape[-2:]
    if height != width:
        raise InputError(f"generated images are square, and the operator is for {height} x {width}; give --data")
    return height


def generated_class(channels: int) -> Any:
    """The generated data set of images of so many channels."""
    if channels not in GENERATED:
        raise InputError(f"generated images have 1, 2 or 3 channels, and the operator is for {channels}")
    return GENERATED[channels]


def load_measurements(described: Any, physics: Any, chosen: Mapping[str, Any]) -> tuple[Any, Shape]:
    """Measurements, those that are ``chosen`` (`SELECTION`), and the shape (C, H, W) of the images they are of, that of
    ``A_dagger y``."""
    where = described if isinstance(described, str) else "data.measurements"
    measurements = _open(
        described,
        "data.measurements",
        chosen,
        shape=_shape_of_y(select_physics(physics, [0])),
        parts=isinstance(physics, MRI),
        ragged=getattr(physics, "measurement_shapes", None) is not None,
    )
    check_count(physics, measurements, "measurements")
    _check_shapes(physics, measurements)
    _check_kspaces(physics, measurements, where)
    y = measurements[0]
    physics = select_physics(physics, [index_in_whole(measurements, 0)])
    shape = tuple(call(physics, "A_dagger", y[None]).shape[1:])
    if len(shape) != 3:
        raise InputError(f"A_dagger of a measurement must have shape [1, C, H, W], got {[1, *shape]}")
    check_size(physics, shape)
    again = call(physics, "A", torch.zeros(1, *shape))
    if again.shape[1:] != y.shape or again.is_complex() != y.is_complex():
        expected, actual = (f"{list(v.shape)} ({'complex' if v.is_complex() else 'real'})" for v in (again[0], y))
        raise InputError(f"{where} holds measurements {actual}, but A of images {list(shape)} gives {expected}")
    return measurements, shape


def _check_kspaces(physics: Any, measurements: Any, where: str) -> None:
    """Raise unless k-space fits the mask of MRI: the first one, or each where each has a mask of its own."""
    if not isinstance(physics, MRI):
        return
    for index in range(len(measurements) if physics.count > 1 else 1):
        of_one = select_physics(physics, [index_in_whole(measurements, index)])
        check_kspace(of_one, measurements[index], f"{where}, measurement {index}," if index else where)


def _check_shapes(physics: Any, measurements: Any) -> None:
    """Raise unless measurements of scans that differ have the shapes of their operators."""
    shapes = getattr(physics, "measurement_shapes", None)
    if shapes is None:
        return
    for index in range(len(measurements)):
        place = index_in_whole(measurements, index)
        actual = tuple(measurement(measurements, index).shape[-len(shapes[place]) :])
        if actual != shapes[place]:
            expected = f"{list(shapes[place])} (detectors, and the views of its scan)"
            raise InputError(f"measurement {place} must have shape {expected}, got {list(actual)}; check their order")


def sizes_from_measurements(described: Any, description: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that an operator needs, from the measurements of the run."""
    make = find(description["name"], CLASSES["physics"], "physics")
    if not hasattr(make, "sizes_from_measurement"):
        raise InputError(f"measurements of {description['name']} do not give the size of images: give its arguments")
    y = _open(described, "data.measurements", {}, shape=None, parts=make is MRI)[0]
    if y.is_complex():
        raise InputError(f"data.measurements are complex, and those of {description['name']} are real")
    arguments = {key: value for key, value in description.items() if key != "name"}
    try:
        return make.sizes_from_measurement(tuple(y.shape), **arguments)
    except InputError as error:
        raise InputError(f"physics: {error}") from error


def _open(described: Any, path: str, chosen: Mapping[str, Any], **arguments: Any) -> Any:
    if isinstance(described, list) or (isinstance(described, str) and not is_user_code(described)):
        return Measurements(described, **arguments, **chosen)
    measurements, filled = build_part(described, path, {**arguments, **chosen})
    for key in chosen:
        if key not in filled:
            raise InputError(f"data.{key} is for measurements in files, {filled['name']} takes none; leave it out")
    return measurements


def _shape_of_y(physics: Any) -> tuple[int, ...] | None:
    """The shape of one measurement where the operator has an image shape and the two differ in axes."""
    image = image_shape_of(physics)
    if image is None:
        return None
    y = call(physics, "A", torch.zeros(1, *(image if len(image) == 3 else (1, *image))))
    return tuple(y.shape[1:]) if y.dim() != 4 or len(image) == 3 else None
