"""Magnitude MR images, as data to simulate measurements of."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.files import name_among
from ei.datasets.ctdb import split
from ei.errors import InputError, MissingFileError

KEY = "images"


class MRIData(Dataset):
    """MR images; items are ``[2, H, W]`` float32, real and imaginary part. Magnitudes have an imaginary part of zero.

    Args:
        mode: "train" (the first nine tenths of the images) or "test" (the rest).
        root_dir: a ``.npy`` file, or a ``.npz`` file with the images under the key ``images`` (or with one array),
            ``[n, H, W]``, real or complex, of magnitudes in about [0, 1].

    Raises:
        MissingFileError: if the file is not there.
        InputError: if it cannot be read, or holds no finite array ``[n, H, W]``.
    """

    def __init__(self, mode: str = "train", root_dir: str | os.PathLike = "./dataset/MRI/mri_chest_256.npz") -> None:
        self.images = split(_read(Path(root_dir)), mode, f"the images of {root_dir}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        return torch.stack([image.real, image.imag if image.is_complex() else torch.zeros_like(image)])


def _read(path: Path) -> Tensor:
    """``[n, H, W]``, float32 or complex64."""
    if not path.is_file():
        raise MissingFileError(
            f"there are no MR images at {path}: put mri_chest_256.npz there, or give another .npz or .npy file with "
            "--data, or use --data synthetic (the README says more)"
        )
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            array = content
        else:
            array = content[name_among(content.files, (KEY,), path, "images")]
    except InputError:
        raise
    except Exception as error:  # the reader raises whatever the bytes lead it to
        raise InputError(f"{path} is damaged or no .npz or .npy file of numbers ({error})") from error
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "fiubc":
        raise InputError(f"the images in {path} must be numbers [n, H, W], not {array.dtype} {list(array.shape)}")
    finite = np.isfinite(array).all(axis=(1, 2))
    if not finite.all():
        raise InputError(f"image {int(np.argmin(finite))} in {path} has values that are not finite; mend or remove it")
    return torch.from_numpy(array.astype(np.complex64 if array.dtype.kind == "c" else np.float32))
