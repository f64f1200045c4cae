"""Any folder tree of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.datasets.folder import IMG_EXTENSIONS

from ei.common.seeds import generator
from ei.datasets.cvdb import read_image
from ei.errors import InputError, MissingFileError


def find_images(folder: str | os.PathLike) -> list[str]:
    """The image files in a folder and the folders in it, as sorted paths relative to it.

    Raises:
        MissingFileError: if there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder of images {folder}; check the path")
    found = list(_images_in(folder))
    if not found:
        raise MissingFileError(f"there are no images in {folder}: no file in it ends in {', '.join(IMG_EXTENSIONS)}")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def holds_images(folder: str | os.PathLike) -> bool:
    """Whether there is an image file in a folder, or in a folder in it."""
    return next(_images_in(Path(folder)), None) is not None


def _images_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())


def split_images(folder: str | os.PathLike, test: float | str | os.PathLike = 0.1) -> dict[str, list[str]]:
    """Which images of a folder train and which test.

    Args:
        folder: the root of the tree.
        test: the fraction of test images, drawn by a fixed seed; or a text file that names them, one relative path a
            line.

    Raises:
        MissingFileError: for a folder without images or a list that is not there.
        InputError: for a list with names that are not in the folder, or a set that would be empty.
    """
    names = find_images(folder)
    if isinstance(test, float | int):
        order = torch.randperm(len(names), generator=generator(0, "split")).tolist()
        chosen = {names[i] for i in order[: max(1, round(test * len(names)))]}
    else:
        if not Path(test).is_file():
            raise MissingFileError(f"there is no list of test images {test}; check the path")
        lines = Path(test).read_text(encoding="utf-8").splitlines()
        chosen = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
        unknown = sorted(chosen - set(names))
        if unknown:
            raise InputError(f"{test} names {unknown[0]!r}, which is no image in {folder}")
    parts = {"train": [n for n in names if n not in chosen], "test": [n for n in names if n in chosen]}
    for part, members in parts.items():
        if not members:
            raise InputError(f"of the {len(names)} images in {folder} none is left to {part} with")
    return parts


class ImageTree(Dataset):
    """Images of a folder tree; items are ``[C, H, W]`` float32 in [0, 1], all of one size. C is 1 where all files are
    gray (or ``gray``), else 3. Files are decoded when an item is taken.

    Args:
        folder: the root of the tree.
        names: paths relative to it; all images in it if None.
        crop: the side of a square crop about the centre, or None.
        resize: the shorter side after that, or None (torchvision's antialiased bilinear on the PIL image).
        gray: make colour images gray.

    Raises:
        MissingFileError: for a folder without images.
        InputError: for a file that cannot be read or is smaller than the crop, or images that come out in different
            sizes.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        names: Sequence[str] | None = None,
        *,
        crop: int | None = None,
        resize: int | None = None,
        gray: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.names = find_images(folder) if names is None else list(names)
        steps: list = [transforms.CenterCrop(crop)] if crop else []
        self.prepare = transforms.Compose([*steps, transforms.Resize(resize)] if resize else steps)
        sizes: dict[tuple[int, int], str] = {}
        all_gray = True
        for name in self.names:
            try:
                with Image.open(self.folder / name) as image:  # the header; pixels are decoded later
                    (width, height), mode = image.size, image.mode
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise InputError(
                    f"the image {self.folder / name} cannot be read ({error}); replace or remove it"
                ) from error
            all_gray = all_gray and (mode in ("1", "L", "LA") or mode.startswith("I"))
            if crop and min(width, height) < crop:
                raise InputError(
                    f"{self.folder / name} is {height} x {width} pixels, smaller than the crop of {crop}; remove it or "
                    "choose a smaller --crop"
                )
            sizes.setdefault((crop, crop) if crop else (height, width), name)
        if len(sizes) > 1 and not (resize and all(height == width for height, width in sizes)):
            (first, one), (second, other) = list(sizes.items())[:2]
            raise InputError(
                f"images must have one size: {one} is {first[0]} x {first[1]} and {other} {second[0]} x {second[1]} "
                "pixels; give --crop (a square about the centre), and --resize if you like"
            )
        self.gray = gray or all_gray

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """The path of an image, relative to the folder."""
        return self.names[index]

    def __getitem__(self, index: int) -> Tensor:
        image = read_image(self.folder / self.names[index])
        array = np.asarray(self.prepare(image.convert("L") if self.gray else image))
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        return torch.from_numpy(array.copy()).float() / 255
