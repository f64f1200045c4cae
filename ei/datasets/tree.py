"""Any folder tree of images, and which data set reads a path."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.arrays import SUFFIXES, split_name
from ei.common.checks import check_choice, check_flag, check_number, check_optional
from ei.common.files import check_path
from ei.common.seeds import generator
from ei.datasets.pictures import (
    ARRAYS,
    DICOM,
    PICTURES,
    Header,
    Limits,
    check_range,
    header_of,
    needs_range,
    read_exactly,
    read_image,
    read_values,
    warn_of_clipping,
)
from ei.errors import InputError, MissingFileError

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow weighs them
PARTS = ("train", "test")


def find_images(folder: str | os.PathLike) -> list[str]:
    """The image files in a folder and the folders in it, linked ones, too, as sorted paths relative to it: pictures;
    or, where there are none, arrays of NumPy, or DICOM. A warning counts the files of another kind.

    Raises:
        MissingFileError: if there is no such folder, no image in it, or a link to a file that is not there.
    """
    folder = check_path("folder", folder)
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder of images {folder}; check the path")
    by_kind = {kind: list(_files_in(folder, kind)) for kind in (PICTURES, ARRAYS, DICOM)}
    kind = next((kind for kind, paths in by_kind.items() if paths), None)
    if kind is None:
        endings = ", ".join((*PICTURES, *ARRAYS, *DICOM))
        raise MissingFileError(f"there are no images in {folder}: no file in it ends in {endings}")
    images = by_kind.pop(kind)
    for other, paths in by_kind.items():
        if paths:
            warnings.warn(
                f"{len(paths)} files of {folder} that end in {' or '.join(other)} are left out: it holds {len(images)} "
                f"that end in {' or '.join(sorted({path.suffix for path in images}))}",
                stacklevel=2,
            )
    for path in images:
        if not path.exists():
            raise MissingFileError(f"{path} is a link to a file that is not there; correct or remove it")
    return sorted(path.relative_to(folder).as_posix() for path in images)


def _files_in(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """The files of a tree with one of the endings. Links to folders are followed, each folder is visited once."""
    visited = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link to a folder around or beside it
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        for name in files:
            path = Path(place) / name
            if path.suffix.lower() in endings and (path.is_file() or path.is_symlink()):
                yield path


def split_images(folder: str | os.PathLike, test: float | str | os.PathLike = 0.1) -> dict[str, list[str]]:
    """The names of the training and the test images of a folder, under "train" and "test".

    Args:
        folder: the root of the tree.
        test: the fraction of test images, in (0, 1), drawn with a fixed seed; or the path of a text file with their
            names, one relative path a line.

    Raises:
        MissingFileError: for a folder without images or a list that is not there.
        InputError: for a list with names that are not in the folder, or a set that would be empty.

    >>> for k in range(10):
    ...     np.save(f"{k}.npy", np.zeros((8, 8), np.uint8))
    >>> {part: len(names) for part, names in split_images(".", 0.2).items()}
    {'train': 8, 'test': 2}
    """
    names = find_images(folder)
    if isinstance(test, str | os.PathLike):
        in_test = _names_in(test, names, folder)
    else:
        check_number("test_fraction", test, above=0, below=1)
        order = torch.randperm(len(names), generator=generator(0, "split")).tolist()
        in_test = {names[i] for i in order[: max(1, round(test * len(names)))]}
    parts = {"train": [n for n in names if n not in in_test], "test": [n for n in names if n in in_test]}
    for part, members in parts.items():
        if not members:
            raise InputError(f"of the {len(names)} images in {folder} none is left to {part} with")
    return parts


def _names_in(path: str | os.PathLike, names: Sequence[str], folder: str | os.PathLike) -> set[str]:
    """The names in a list of test images."""
    if not Path(path).is_file():
        raise MissingFileError(f"there is no list of test images {path}; check the path")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    listed = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    unknown = sorted(listed - set(names))
    if unknown:
        raise InputError(f"{path} names {unknown[0]!r}, which is no image in {folder}")
    return listed


class ImageTree(Dataset):
    """Images of a folder tree; items are ``[C, H, W]`` float32 in [0, 1], all of one size. C is 1 where all files are
    gray (or ``gray``), else 3 (of arrays, what they have). Files are decoded when an item is taken.

    Unsigned values of 8 and 16 bit have the range of their type, at full precision; others need a ``value_range``.

    Args:
        folder: the root of the tree. If it holds ``train/`` or ``test/``, the images are in there; else it is divided
            by ``split`` or ``test_fraction`` (a single image is the training set).
        mode: "train", "test", or "all" images of the folder.
        crop: the side of a square crop about the centre, its (height, width), or None.
        resize: the shorter side after that, or None (torchvision's antialiased bilinear on the PIL image).
        gray: make colour images gray.
        value_range: which values (low, high) of the files become 0 and 1. All files are read once; a warning counts
            the values outside, which are clipped.
        test_fraction: of the images, drawn with a fixed seed; 0.1 if None.
        split: a text file with the names of the test images, one relative path a line; ``test_fraction`` is then not
            used.

    Attributes:
        names: paths of the images, relative to their folder.
        headers: of their files (`ei.datasets.pictures.Header`).

    Raises:
        MissingFileError: for a folder without images.
        MissingExtraError: for DICOM without pydicom.
        InputError: for an argument of another type, a file that cannot be read or is smaller than the crop, images that
            come out in different sizes or channels, or values whose range must be set.

    >>> np.save("image.npy", np.zeros((16, 16), np.uint8))
    >>> ImageTree(".")[0].shape
    torch.Size([1, 16, 16])
    """

    data_range = 1.0  # of the images, whatever values they happen to have

    def __init__(
        self,
        folder: str | os.PathLike,
        mode: str = "train",
        *,
        crop: int | Sequence[int] | None = None,
        resize: int | None = None,
        gray: bool = False,
        value_range: Limits | None = None,
        test_fraction: float | None = None,
        split: str | os.PathLike | None = None,
    ) -> None:
        self.folder, self.names = _select(check_path("folder", folder), mode, test_fraction, split)
        self.crop = _check_crop(crop)
        self.resize = check_optional("resize", resize, integer=True, least=1)
        self.prepare = _crop_and_resize(self.crop, self.resize)
        self.headers = [header_of(self.folder / name) for name in self.names]  # pixels are decoded later
        self._check_sizes()
        self.channels = _channels_of(self.headers, check_flag("gray", gray), self.folder)
        self.gray = self.channels == 1
        self.value_range = check_range(value_range)
        if self.value_range is None:
            self._check_types()
        else:
            images = (read_values(self.folder / name) for name in self.names)
            warn_of_clipping(images, self.value_range, f"the images in {self.folder}")

    def _check_sizes(self) -> None:
        """Raise for images smaller than the crop, or of different sizes after it."""
        sizes: dict[tuple[int, int], str] = {}
        for name, header in zip(self.names, self.headers, strict=True):
            size = header.height, header.width
            crop = self.crop or size
            if size[0] < crop[0] or size[1] < crop[1]:
                raise InputError(
                    f"{self.folder / name} is {size[0]} x {size[1]} pixels, smaller than the crop of {crop[0]} x "
                    f"{crop[1]}; remove it or choose a smaller crop"
                )
            sizes.setdefault(crop, name)
        if len(sizes) > 1 and not (self.resize and all(height == width for height, width in sizes)):
            (first, one), (second, other) = list(sizes.items())[:2]
            raise InputError(
                f"images must have one size: {one} is {first[0]} x {first[1]} and {other} {second[0]} x {second[1]} "
                "pixels; set crop (the side of a square about the centre), and resize if needed"
            )

    def _check_types(self) -> None:
        """Raise for types whose range must be set; warn where the values of 16 bits seem to be fewer."""
        others = [k for k, header in enumerate(self.headers) if header.largest is None]
        if others:
            kinds = ", ".join(sorted({self.headers[k].kind for k in others}))
            images = (read_values(self.folder / self.names[k]) for k in others)
            lows, highs = zip(*((float(image.min()), float(image.max())) for image in images), strict=True)
            raise InputError(needs_range(f"the images in {self.folder}", kinds, min(lows), max(highs)))
        wide = [k for k, header in enumerate(self.headers) if header.largest == 65535]
        some = wide[:: max(1, len(wide) // 8)]
        largest = max((int(read_values(self.folder / self.names[k]).max()) for k in some), default=65535)
        if largest < 65535 / 8:
            warnings.warn(
                f"the images in {self.folder} have 16 bits, and values of up to {largest} of 65535, which is "
                f"{largest / 65535:.3g} in [0, 1]: if the detector has fewer bits, set value_range to "
                f"[0, {2 ** largest.bit_length() - 1}]",
                stacklevel=3,
            )

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """The path of an image, relative to the folder."""
        return self.names[index]

    def __getitem__(self, index: int) -> Tensor:
        image = self.read(index)
        return image.float() / 255 if image.dtype == torch.uint8 else image

    def read(self, index: int) -> Tensor:
        """An image as it is decoded: bytes of an ordinary picture of 8 bits, else float32 in [0, 1]."""
        header = self.headers[index]
        path = self.folder / self.names[index]
        if header.common and self.value_range is None:
            image = read_image(path)
            values = np.array(self.prepare(image.convert("L") if self.gray else image))
            return torch.from_numpy(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0).copy())
        exact = read_exactly(path, header, self.value_range, self.prepare)
        if self.gray and len(exact) == 3:
            return (exact * torch.tensor(LUMA)[:, None, None]).sum(dim=0, keepdim=True)
        return exact.expand(self.channels, -1, -1)


def _crop_and_resize(crop: tuple[int, int] | None, resize: int | None) -> Callable[[Image.Image], Image.Image]:
    from torchvision import transforms  # takes seconds to import

    steps: list = [transforms.CenterCrop(crop)] if crop else []
    return transforms.Compose([*steps, transforms.Resize(resize)] if resize else steps)


def _check_crop(crop: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of a crop."""
    if crop is None:
        return None
    sides = crop if isinstance(crop, list | tuple) else (crop, crop)
    if len(sides) != 2:
        raise InputError(f"crop must be a side or [height, width], got {crop!r}")
    height, width = (check_number("crop", side, integer=True, least=1) for side in sides)
    return height, width


def _select(
    folder: Path, mode: str, test_fraction: float | None, split: str | os.PathLike | None
) -> tuple[Path, list[str]]:
    """The folder that holds the images of a mode, and their names in it."""
    check_choice("mode", mode, (*PARTS, "all"))
    if mode == "all":
        return folder, find_images(folder)
    if not any((folder / part).is_dir() for part in PARTS):
        if test_fraction is None and split is None and mode == "train" and len(find_images(folder)) == 1:
            return folder, find_images(folder)
        fraction = 0.1 if test_fraction is None else test_fraction
        return folder, split_images(folder, fraction if split is None else check_path("split", split))[mode]
    if test_fraction is not None or split is not None:
        warnings.warn(f"{folder} holds train/ or test/: split and test_fraction have no effect", stacklevel=3)
    return folder / mode, find_images(folder / mode)


def _channels_of(headers: Sequence[Header], gray: bool, folder: Path) -> int:
    """How many channels the images come out with."""
    channels = sorted({header.channels for header in headers})
    if (len(channels) > 1 and channels != [1, 3]) or (gray and channels[-1] not in (1, 3)):
        wanted = "the same number of channels" if not gray else "1 or 3 channels to become gray"
        raise InputError(f"the images in {folder} must have {wanted}, got {' and '.join(map(str, channels))}")
    return 1 if gray else channels[-1]


def dataset_for(path: str) -> dict[str, str]:
    """The part of a configuration that reads the images at a path: ``{"name": class, argument: path}``, of
    `ImageTree` for a folder, of `CTData` for a Matlab file, of `ImageStack` for another file of an array.

    Raises:
        MissingFileError: if nothing is there, or a folder holds no images.
        InputError: for a file of another kind.

    >>> np.save("images.npy", np.zeros((10, 16, 16), np.uint8))
    >>> dataset_for("images.npy")["name"]
    'ImageStack'
    """
    file, _ = split_name(path)
    accepted = f"give a folder of images, or one array in a file ({', '.join(SUFFIXES)})"
    if not file.exists():
        raise MissingFileError(f"there are no images at {path}; {accepted}")
    if file.is_dir():
        if next(_files_in(file, (*PICTURES, *ARRAYS, *DICOM)), None) is None:
            raise MissingFileError(f"there are no images in the folder {path}; {accepted}")
        return {"name": "ImageTree", "folder": str(path)}
    if file.suffix.lower() == ".mat":
        return {"name": "CTData", "root_dir": str(path)}
    if file.suffix.lower() in SUFFIXES:
        return {"name": "ImageStack", "path": str(path)}
    one = " (a single picture: give its folder)" if file.suffix.lower() in PICTURES else ""
    raise InputError(f"{path} is no data set of images{one}; {accepted}")
