"""Images in one array of a file: the paper's CT images, MR images, and any others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.arrays import FileArray, split_name
from ei.datasets.pictures import NAMES, check_range, largest_of, needs_range, scaled, warn_of_clipping
from ei.datasets.validation import split_by_mode
from ei.errors import InputError, MissingFileError

CT_KEY, MRI_KEY = "DATA", "images"
CT_ADVICE = "put CT100_128x128.mat there, or give its path with --data, or use --data synthetic"
MRI_ADVICE = "put mri_chest_256.npz there, or give another .npz or .npy file with --data, or use --data synthetic"


class ImageStack(Dataset):
    """Images of one array ``[n, H, W]`` or ``[n, C, H, W]`` (`ei.common.arrays.FileArray`); items are ``[C, H, W]``
    float32 in [0, 1]. Images are read one by one where the format allows.

    Args:
        path: the file. Of several arrays this one must be named "x", "image", "images" or "DATA".
        mode: "train" (the first nine tenths) or "test".
        value_range: which values (low, high) become 0 and 1; those outside are clipped, and a warning counts them. By
            default the range of the type, which must then be unsigned, of 8 or 16 bit.

    Raises:
        MissingFileError: if the file is not there.
        InputError: if it cannot be read, holds an array of another shape or values that are not finite, or values whose
            range must be set.

    >>> np.save("/tmp/x.npy", np.zeros((10, 8, 8), np.uint8))
    >>> len(ImageStack("/tmp/x.npy", "train")), ImageStack("/tmp/x.npy")[0].shape
    (9, torch.Size([1, 8, 8]))
    """

    data_range = 1.0  # of the images, whatever values they happen to have

    def __init__(
        self, path: str | os.PathLike, mode: str = "train", *, value_range: Sequence[float] | None = None
    ) -> None:
        self.array = FileArray(path, NAMES, "image")
        limits = check_range(value_range)
        largest = largest_of(self.array.dtype)
        low, high = _check_stack(self.array, path, (3, 4), "fiub")
        if limits is None and largest is None:
            raise InputError(needs_range(f"the images of {path}", self.array.dtype.name, low, high))
        self.indices = split_by_mode(range(len(self.array)), mode, f"the images of {path}")
        self.limits = limits or (0.0, float(largest or 1))
        if limits is not None:
            warn_of_clipping((self.array[index] for index in self.indices), limits, f"the images of {path}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        image = torch.from_numpy(scaled(self.array[self.indices[index]], self.limits))
        return image if image.dim() == 3 else image.unsqueeze(0)


class CTData(Dataset):
    """CT100; items are images ``[128, 128]`` float32 in [0, 1].

    Args:
        mode: "train" (the first nine tenths of the slices: 0-89) or "test" (the rest: 90-99).
        root_dir: a file with the images under the key ``DATA``, or with one array, ``[n, H, W]``
            (`ei.common.arrays.FileArray`). Matlab 7.3 needs the extra ``h5``.
        value_range: which values (low, high) become 0 and 1; those outside are clipped, and a warning counts them. By
            default values stay as they are.

    Raises:
        MissingFileError: if the file is not there.
        InputError: if it cannot be read, or ``DATA`` is missing or no finite ``[n, H, W]`` array.

    >>> np.save("slices.npy", np.random.rand(10, 16, 16))
    >>> len(CTData("train", "slices.npy")), CTData("test", "slices.npy")[0].shape
    (9, torch.Size([16, 16]))
    """

    def __init__(
        self,
        mode: str = "train",
        root_dir: str | os.PathLike = "./dataset/CT/CT100_128x128.mat",
        *,
        value_range: Sequence[float] | None = None,
    ) -> None:
        limits = check_range(value_range)
        images = read_stack(root_dir, CT_KEY, CT_ADVICE)
        low, high = float(images.min()), float(images.max())
        if limits is None and (low < -1 or high > 2):
            warnings.warn(
                f"{CT_KEY} in {root_dir} has values from {low:.4g} to {high:.4g}; the paper's settings (learning rate, "
                "loss weights) and the PSNR are for images in [0, 1]: set value_range to [LOW, HIGH]",
                stacklevel=2,
            )
        self.images = split_by_mode(images, mode, f"the images of {root_dir}")
        if limits is not None:
            warn_of_clipping(self.images.numpy(), limits, f"the images of {root_dir}")
            self.images = torch.from_numpy(scaled(self.images.numpy(), limits))

    @property
    def data_range(self) -> float | None:
        """1 for images in about [0, 1] (CT100's are), None for others."""
        return 1.0 if self.images.min() >= -1 and 0.5 <= self.images.max() <= 2 else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class MRIData(Dataset):
    """MR images; items are ``[2, H, W]`` float32, real and imaginary part. Magnitudes have an imaginary part of zero.

    Args:
        mode: "train" (the first nine tenths of the images) or "test" (the rest).
        root_dir: a file with the images under the key ``images``, or with one array (`ei.common.arrays.FileArray`):
            ``[n, H, W]``, real or complex, of magnitudes in about [0, 1].

    Raises:
        MissingFileError: if the file is not there.
        InputError: if it cannot be read, or holds no finite array ``[n, H, W]``.

    >>> np.save("slices.npy", np.ones((10, 16, 16), np.complex64))
    >>> MRIData("train", "slices.npy")[0].shape
    torch.Size([2, 16, 16])
    """

    def __init__(self, mode: str = "train", root_dir: str | os.PathLike = "./dataset/MRI/mri_chest_256.npz") -> None:
        images = read_stack(root_dir, MRI_KEY, MRI_ADVICE, kinds="fiubc")
        self.images = split_by_mode(images, mode, f"the images of {root_dir}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        return torch.stack([image.real, image.imag if image.is_complex() else torch.zeros_like(image)])


def read_stack(path: str | os.PathLike, name: str, advice: str, kinds: str = "fiub") -> Tensor:
    """All images ``[n, H, W]`` of a file, in the array ``name`` where it has several, float32 or complex64.

    Raises:
        MissingFileError: with ``advice``, if there is no such file.
        InputError: if it cannot be read, or holds an array of another shape, or of other than these ``kinds`` of
            numbers (as NumPy names them), or values that are not finite.
    """
    if not split_name(path)[0].exists():
        raise MissingFileError(f"there are no images at {path}: {advice} (see the README)")
    array = FileArray(path, (name,), "image")
    _check_stack(array, path, (3,), kinds)
    dtype = np.complex64 if array.dtype.kind == "c" else np.float32
    return torch.from_numpy(np.array(array[...], dtype=dtype, order="C"))


def _check_stack(array: FileArray, path: str | os.PathLike, axes: tuple[int, ...], kinds: str) -> tuple[float, float]:
    """The least and the largest value of images in an array of so many axes."""
    if array.dtype.kind not in kinds:
        raise InputError(f"the images of {path} must be real numbers, got {array.dtype}")
    if len(array.shape) not in axes or 0 in array.shape:
        wanted = "[n, H, W] or [n, C, H, W]" if 4 in axes else "[n, H, W]"
        raise InputError(f"the images of {path} must have shape {wanted}, got {list(array.shape)}")
    if len(array.shape) == 4 and array.shape[1] > 4 >= array.shape[3]:
        raise InputError(
            f"the images of {path} must have shape [n, C, H, W], got {list(array.shape)}; move the channels behind n"
        )
    low = np.inf
    high = -np.inf
    for index in range(len(array)):
        image = np.abs(array[index]) if array.dtype.kind == "c" else array[index]
        if not np.isfinite(image).all():
            raise InputError(f"image {index} of {path} has values that are not finite; correct or remove it")
        low = min(low, float(image.min()))
        high = max(high, float(image.max()))
    return low, high
