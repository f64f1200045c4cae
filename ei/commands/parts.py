"""The group and the data of a run from options: by name, or out of people's own files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.commands.operators import check_size, probe
from ei.commands.options import Options
from ei.commands.presets import TASKS, Shape, task_of
from ei.common.user_code import import_user_code, is_user_code, made, takes
from ei.datasets import (
    CTData,
    DeadLeaves,
    EllipsePhantoms,
    ImageStack,
    ImageTree,
    MagnitudePhantoms,
    Measurements,
    Pairs,
    image_of,
)
from ei.datasets.batches import evenly_spaced as spread
from ei.datasets.kspace import check_centred
from ei.datasets.measurements import NAMES_OF_TRUTH
from ei.datasets.tree import holds_images
from ei.errors import InputError, MissingFileError
from ei.physics import MRI, image_shape_of, select_physics
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Scale, Shift, Transform

GROUPS: dict[str, type[Transform]] = {
    "shift": Shift,
    "rotate": Rotate,
    "rotate_fourier": FourierRotate,
    "reflect": Reflect,
    "rotate90": Rotate90,
    "scale": Scale,
}

# In the run folder: which of one's own images were left for testing.
SPLIT = "split.txt"


def named_group(text: str, n_trans: int, said: bool = False) -> Any:
    """The group of ``--group``: names with commas (composed from left to right), or ``FILE.py:NAME`` of one's own,
    which is given ``n_trans`` if it takes it; where that was ``said``, it is told if it does not.

    Raises:
        InputError: for an unknown name, or code that gives no group.
    """
    if is_user_code(text):
        thing = import_user_code(text)
        group = made(thing, text, "apply", n_trans=n_trans)
        if said and not takes(thing, "n_trans"):
            print(f"note: --ei-trans has no effect on {text}, which does not take n_trans")
        return group
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in GROUPS:
            raise InputError(
                f"--group {text}: there is no group {name!r}; it is one of {', '.join(GROUPS)}, several with commas, "
                "or FILE.py:NAME"
            )
    groups = [GROUPS[name](n_trans) for name in names]
    return groups[0] if len(groups) == 1 else Compose(*groups)


def probe_group(group: Any, shape: Shape, text: str) -> None:
    """Try a group of one's own on an image.

    Raises:
        InputError: telling in a line what goes wrong.
    """
    try:
        with torch.no_grad():
            turned = group.apply(torch.zeros(1, *shape))
    except InputError:
        raise
    except Exception as error:  # whatever the code raises
        raise InputError(
            f"apply of {text} cannot take images {[1, *shape]}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(turned, Tensor) or turned.dim() != 4 or turned.shape[1:] != shape or not len(turned):
        told = list(turned.shape) if isinstance(turned, Tensor) else type(turned).__name__
        raise InputError(f"apply of {text} must give images [n, {', '.join(map(str, shape))}], not {told}")


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
    return images


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
    if task is not None and task.channels == 2:  # real and imaginary parts, in the units of their file
        if options.range is not None:
            raise InputError(
                f"--range is for real images, and those of --task {options.task} are complex: leave it out"
            )
        return task.images(data, mode)
    if Path(data).suffix.lower() in (".npy", ".npz"):
        return ImageStack(data, mode, value_range=options.range)
    if options.range is not None and Path(data).is_file():
        return CTData(mode, data, value_range=options.range)
    if task is not None:
        return task.images(data, mode)
    if Path(data).is_dir():
        return ImageTree(data, mode)
    if not Path(data).exists():
        raise MissingFileError(
            f"there are no images at {data}: give a folder of them, or a .mat or .npy file, with --data"
        )
    return CTData(mode, data)


def _side_of(told: tuple[int, ...]) -> int:
    height, width = told[-2:]
    if height != width:
        raise InputError(
            f"--data synthetic makes square images, and the operator is for {height} x {width}; give others"
        )
    return height


def _generated(channels: int) -> Any:
    if channels not in (1, 2, 3):
        raise InputError(f"--data synthetic makes images of 1, 2 or 3 channels, and the operator is for {channels}")
    return {1: EllipsePhantoms, 2: MagnitudePhantoms, 3: DeadLeaves}[channels]


def generated_images(shape: Shape) -> Any:
    """Generated images of ``shape`` (C, H, W).

    Raises:
        InputError: for sides that differ, or channels that there are no images of.
    """
    return _generated(shape[0])("train", img_size=_side_of(shape))


def _own_images(options: Options, data: str, mode: str) -> ImageTree | None:
    """A folder of people's own: one that holds train/ and test/ or, divided by --split or --test-fraction, one that
    does not. None where neither the folder nor the options say that it is of one's own."""
    sizes: dict[str, Any] = {"crop": options.crop, "resize": options.resize, "gray": bool(options.gray),
                             "value_range": options.range}  # fmt: skip
    if not Path(data).is_dir() or not holds_images(data):
        return None
    if all((Path(data) / part).is_dir() for part in ("train", "test")):
        as_own = any(sizes.values())
        return ImageTree(data, mode, **sizes) if as_own else None
    if (Path(data) / "train").is_dir() or (Path(data) / "test").is_dir():
        return None  # half of the layout: whoever reads it will say what is missing
    return ImageTree(data, mode, test_fraction=options.test_fraction, split=options.split, **sizes)


def ignored_by(data: str, name: str, chosen: Mapping[str, Any]) -> str:
    """What an option of images means nothing to, in words, where it means nothing to ``data``; empty where it does.

    Args:
        data: of the run.
        name: the option.
        chosen: what else was chosen.
    """
    if name == "patches":
        return "" if chosen.get("patch") else "images without --patch"
    if name == "patch":
        return ""
    if data == "synthetic" or (Path(data).is_file() and name != "range"):
        return f"--data {data}, which is no folder of images"
    divided = [(Path(data) / part).is_dir() for part in ("train", "test")]
    if name in ("split", "test_fraction") and all(divided):
        return f"--data {data}, which is divided into train/ and test/"
    return "--split" if name == "test_fraction" and chosen.get("split") else ""


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
        task = TASKS[options.task]
        found = Measurements(path, parts=task.channels == 2)
        if found[0].is_complex():
            raise InputError(f"{path} holds complex measurements, and those of --task {options.task} are real")
        if task.measured_shape is not None:
            return found, task.measured_shape(found.item_shape, options)
        raise InputError(f"--task {options.task} does not tell what images its measurements are of: give --data")
    physics = select_physics(physics, [0])
    found = Measurements(path, _shape_measured(physics), parts=isinstance(physics, MRI))
    if isinstance(physics, MRI):
        check_kspace(physics, found[0], path)
    shape = tuple(probe(physics, "A_dagger", found[0][None]).shape[1:])
    if len(shape) != 3:
        raise InputError(f"A_dagger of a measurement must be images [1, C, H, W], not {[1, *shape]}")
    check_size(physics, shape)
    again = probe(physics, "A", torch.zeros(1, *shape))
    if again.shape[1:] != found[0].shape or again.is_complex() != found[0].is_complex():
        kinds = ["complex" if y.is_complex() else "real" for y in (again, found[0])]
        raise InputError(
            f"{path} holds measurements {list(found[0].shape)} ({kinds[1]}), but A of images {list(shape)} gives "
            f"{list(again.shape[1:])} ({kinds[0]})"
        )
    return found, shape


def pairs_for(measurements: Measurements, truth: str, shape: Shape) -> Pairs:
    """Measurements beside their true images of ``shape`` (C, H, W), those of ``--truth``."""
    return Pairs(measurements, Measurements(truth, shape, NAMES_OF_TRUTH))


# How true images may lie in a file that another program has written. Some of it only square images can.
LAID_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "with rows and columns exchanged": lambda x: x.mT,
    "with rows in reverse": lambda x: x.flip(-2),
    "with columns in reverse": lambda x: x.flip(-1),
    "turned by 180 degrees": lambda x: x.flip(-2, -1),
    "turned by 90 degrees clockwise": lambda x: x.rot90(-1, (-2, -1)),
    "turned by 90 degrees counter-clockwise": lambda x: x.rot90(1, (-2, -1)),
}


def say_how_truth_fits(pairs: Pairs, physics: Any) -> None:
    """Say how well ``A x`` fits y over a few pairs, and warn where it fits another one's y as well, or x would fit
    better if it were turned or mirrored: files in another order, layout or units would train and judge without a
    word."""
    rows = spread(pairs)
    ys = [pairs[index][0] for index in rows]

    def measured(laid: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
        return [probe(select_physics(physics, [n]), "A", laid(pairs[n][1])[None])[0].cpu() for n in rows]

    def misfit(of: list[Tensor], shift: int = 0) -> float:
        return statistics.median(float((of[k - shift] - y).norm() / y.norm()) for k, y in enumerate(ys))

    as_given = measured()
    own, others = misfit(as_given), misfit(as_given, 1)
    print(f"A x of --truth fits y to {own:.1%} of its norm")
    shape = pairs[0][1].shape
    laid_out = {name: misfit(measured(laid)) for name, laid in LAID_OUT.items() if laid(pairs[0][1]).shape == shape}
    best = min(laid_out, key=lambda name: laid_out[name])
    if laid_out[best] < 0.8 * own:
        print(f"warning: {best}, these images fit to {laid_out[best]:.1%}: turn them as the operator has them")
    if len(rows) > 1 and own >= 0.9 * others:
        print(
            f"warning: that of another image fits it to {others:.1%}: are --measurements and --truth in the same "
            "order, and in the units of the operator?"
        )


def check_kspace(physics: MRI, y: Tensor, path: str) -> None:
    """Raise if k-space has values where the mask measures nothing, or none at all where it does: it is another's."""
    if y.shape[-physics.mask.dim() :] != physics.mask.shape:
        return  # the operator says so
    check_centred(torch.complex(y[0], y[1]) if not y.is_complex() else y)
    mask, filled = physics.mask.cpu() != 0, y != 0
    outside, inside = int((filled & ~mask).sum()), float((filled & mask).sum() / mask.expand_as(y).sum())
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


def _shape_measured(physics: Any) -> tuple[int, ...] | None:
    """The shape of one measurement where the operator tells that of its images and the two differ in axes."""
    image = image_shape_of(physics)
    if image is None:
        return None
    y = probe(physics, "A", torch.zeros(1, *(image if len(image) == 3 else (1, *image))))
    return tuple(y.shape[1:]) if y.dim() != 4 or len(image) == 3 else None
