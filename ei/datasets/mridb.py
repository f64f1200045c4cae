"""Magnitude MR images, as data to simulate measurements of."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.datasets.stack import read_stack
from ei.datasets.validation import split_by_mode

KEY = "images"
ADVICE = "put mri_chest_256.npz there, or give another .npz or .npy file with --data, or use --data synthetic"


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
        images = read_stack(root_dir, KEY, ADVICE, kinds="fiubc")
        self.images = split_by_mode(images, mode, f"the images of {root_dir}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        return torch.stack([image.real, image.imag if image.is_complex() else torch.zeros_like(image)])
