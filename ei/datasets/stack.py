"""Images that lie in one array of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.datasets.ctdb import split
from ei.datasets.pictures import ARRAYS, check_range, largest_of, needs_range, open_array, scaled, tell_outside
from ei.errors import InputError, MissingFileError


class ImageStack(Dataset):
    """Images of a ``.npy`` or ``.npz`` file ``[n, H, W]`` or ``[n, C, H, W]``; items are ``[C, H, W]`` float32 in
    [0, 1]. Arrays of ``.npy`` files are read image by image.

    Args:
        path: the file. A ``.npz`` of several arrays must name this one "x", "image", "images" or "DATA".
        mode: "train" (the first nine tenths) or "test".
        value_range: which values (low, high) become 0 and 1; those outside are clipped, and a warning counts them. By
            default the range of the type, which must then be unsigned, of 8 or 16 bit.

    Raises:
        MissingFileError: if the file is not there.
        InputError: if it cannot be read, holds an array of another shape or values that are not finite, or values whose
            range must be told.
    """

    def __init__(self, path: str | Path, mode: str = "train", *, value_range: Sequence[float] | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"there are no images at {path}; check the path")
        try:
            array = open_array(path)
        except InputError:
            raise
        except Exception as error:  # NumPy raises whatever the bytes lead it to
            raise InputError(f"{path} is damaged or no {path.suffix} file of numbers ({error})") from error
        if array.ndim not in (3, 4):
            raise InputError(f"{path} holds an array {list(array.shape)}; images are [n, H, W] or [n, C, H, W]")
        limits, largest = check_range(value_range), largest_of(array.dtype)
        for number, image in enumerate(array):
            if not np.isfinite(image).all():
                raise InputError(f"image {number} of {path} has values that are not finite; mend or remove it")
        if limits is None and largest is None:
            low, high = float(array.min()), float(array.max())
            raise InputError(needs_range(f"the images of {path}", array.dtype.name, low, high))
        self.images = split(array, mode, f"the images of {path}")
        self.limits = limits or (0.0, float(largest or 1))
        if limits is not None:
            tell_outside(self.images, limits, f"the images of {path}")

    data_range = 1.0  # of the images, whatever values they happen to have

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image = torch.from_numpy(scaled(self.images[index], self.limits))
        return image if image.dim() == 3 else image.unsqueeze(0)


def is_stack(path: str) -> bool:
    """Whether a path is that of a file which `ImageStack` reads."""
    return Path(path).suffix.lower() in ARRAYS and not Path(path).is_dir()
