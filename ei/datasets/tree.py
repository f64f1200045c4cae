"""Any folder tree of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from ei.common.seeds import generator
from ei.datasets.pictures import (
    ARRAYS,
    DICOM,
    PICTURES,
    Limits,
    check_range,
    header_of,
    needs_range,
    read_exactly,
    read_image,
    read_values,
    tell_outside,
)
from ei.errors import InputError, MissingFileError

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow weighs them


def find_images(folder: str | os.PathLike) -> list[str]:
    """The image files in a folder and the folders in it, linked ones, too, as sorted paths relative to it: pictures;
    or, where there are none, arrays of NumPy (a warning says if both are there), or DICOM.

    Raises:
        MissingFileError: if there is no such folder, no image in it, or a link to a file that is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder of images {folder}; check the path")
    found = {kinds: [path for path in _files_in(folder, kinds)] for kinds in (PICTURES, ARRAYS, DICOM)}
    taken = next((kinds for kinds, paths in found.items() if paths), None)
    if taken is None:
        endings = ", ".join((*PICTURES, *ARRAYS, *DICOM))
        raise MissingFileError(f"there are no images in {folder}: no file in it ends in {endings}")
    for kinds, paths in found.items():
        if paths and kinds is not taken:
            warnings.warn(
                f"{len(paths)} files of {folder} that end in {' or '.join(kinds)} are left out: it holds "
                f"{len(found[taken])} that end in {' or '.join(sorted({path.suffix for path in found[taken]}))}",
                stacklevel=2,
            )
    for path in found[taken]:
        if not path.exists():
            raise MissingFileError(f"{path} is a link to a file that is not there; mend or remove it")
    return sorted(path.relative_to(folder).as_posix() for path in found[taken])


def holds_images(folder: str | os.PathLike, kinds: tuple[str, ...] = (*PICTURES, *ARRAYS, *DICOM)) -> bool:
    """Whether there is an image file in a folder, or in a folder in it; of some ``kinds``, by their endings."""
    return next(_files_in(Path(folder), kinds), None) is not None


def _files_in(folder: Path, kinds: tuple[str, ...]) -> Iterator[Path]:
    """The files of a tree with one of the endings. Links to folders are followed, each folder is looked at once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder around or beside it
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in files:
            path = Path(place) / name
            if path.suffix.lower() in kinds and (path.is_file() or path.is_symlink()):
                yield path


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
    gray (or ``gray``), else 3 (of arrays, what they have). Files are decoded when an item is taken.

    Unsigned values of 8 and 16 bit have the range of their type, at full precision; others need a ``value_range``.

    Args:
        folder: the root of the tree.
        names: paths relative to it; all images in it if None.
        crop: the side of a square crop about the centre, or None.
        resize: the shorter side after that, or None (torchvision's antialiased bilinear on the PIL image).
        gray: make colour images gray.
        value_range: which values (low, high) of the files become 0 and 1. All files are read once; a warning says how
            many values lie outside, which are clipped.

    Raises:
        MissingFileError: for a folder without images.
        MissingExtraError: for DICOM without pydicom.
        InputError: for a file that cannot be read or is smaller than the crop, images that come out in different
            sizes or channels, or values whose range must be told.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        names: Sequence[str] | None = None,
        *,
        crop: int | None = None,
        resize: int | None = None,
        gray: bool = False,
        value_range: Limits | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.names = find_images(folder) if names is None else list(names)
        steps: list = [transforms.CenterCrop(crop)] if crop else []
        self.prepare = transforms.Compose([*steps, transforms.Resize(resize)] if resize else steps)
        self.headers = [header_of(self.folder / name) for name in self.names]  # pixels are decoded later
        sizes: dict[tuple[int, int], str] = {}
        for name, header in zip(self.names, self.headers, strict=True):
            height, width = header.height, header.width
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
        channels = sorted({header.channels for header in self.headers})
        if (len(channels) > 1 and channels != [1, 3]) or (gray and channels[-1] not in (1, 3)):
            raise InputError(f"the images in {folder} have {' or '.join(map(str, channels))} channels; those of one "
                             "set must have as many" + (", and 1 or 3 for --gray" if gray else ""))  # fmt: skip
        self.channels = 1 if gray else channels[-1]
        self.gray = self.channels == 1
        self.value_range = check_range(value_range)
        if self.value_range is None:
            self._check_types()
        else:
            tell_outside(
                (read_values(self.folder / name) for name in self.names), self.value_range, f"the images in {folder}"
            )

    def _check_types(self) -> None:
        """Raise for types whose range must be told; tell where the values of 16 bits seem to be fewer."""
        untold = [k for k, header in enumerate(self.headers) if header.largest is None]
        if untold:
            images = (read_values(self.folder / self.names[k]) for k in untold)
            lows, highs = zip(*((float(image.min()), float(image.max())) for image in images), strict=True)
            kinds = ", ".join(sorted({self.headers[k].kind for k in untold}))
            raise InputError(needs_range(f"the images in {self.folder}", kinds, min(lows), max(highs)))
        wide = [k for k, header in enumerate(self.headers) if header.largest == 65535]
        some = wide[:: max(1, len(wide) // 8)]
        largest = max((int(read_values(self.folder / self.names[k]).max()) for k in some), default=65535)
        if largest < 65535 / 8:
            warnings.warn(
                f"the images in {self.folder} have 16 bits, and values of up to {largest} of 65535, which is "
                f"{largest / 65535:.3g} in [0, 1]: if the detector has fewer bits, give --range 0 "
                f"{2 ** largest.bit_length() - 1}",
                stacklevel=3,
            )

    data_range = 1.0  # of the images, whatever values they happen to have

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """The path of an image, relative to the folder."""
        return self.names[index]

    def __getitem__(self, index: int) -> Tensor:
        header, path = self.headers[index], self.folder / self.names[index]
        if header.common and self.value_range is None:
            image = read_image(path, header)
            array = np.asarray(self.prepare(image.convert("L") if self.gray else image))
            array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
            return torch.from_numpy(array.copy()).float() / 255
        exact = read_exactly(path, header, self.value_range, self.prepare)
        if self.gray and len(exact) == 3:
            return (exact * torch.tensor(LUMA)[:, None, None]).sum(dim=0, keepdim=True)
        return exact.expand(self.channels, -1, -1)
