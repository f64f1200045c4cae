"""Folders of natural images: Urban100 as in the paper."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from ei.common.checks import check_flag
from ei.common.files import check_path
from ei.datasets.tree import ImageTree
from ei.errors import MissingFileError


class CVDB(ImageTree):
    """Images of ``root/mode/<folder>/*``; items are ``[3, H, W]`` float32 in [0, 1].

    Each image is cropped about its centre, resized and kept in memory, as bytes if all files have 8 bits. So every
    file is read before a training starts, and an error names a file that cannot be read.

    Args:
        root: the folder that holds ``train/`` and ``test/``.
        mode: "train" or "test".
        crop_size: (height, width) of the centre crop.
        resize: resize the crop to a shorter side of 256 (torchvision's bilinear on the PIL image).

    Attributes:
        labels: the number of each image's folder, as ImageFolder of torchvision counts.

    Raises:
        MissingFileError: if the folder is not there or holds no images.
        InputError: if an image cannot be read, is smaller than the crop, or of a type whose range must be set.

    >>> images = CVDB("dataset/Urban100", "train")  # doctest: +SKIP
    >>> images[0].shape  # doctest: +SKIP
    torch.Size([3, 256, 256])
    """

    def __init__(
        self,
        root: str | os.PathLike,
        mode: str = "train",
        crop_size: Sequence[int] = (512, 512),
        resize: bool = True,
    ) -> None:
        folder = check_path("root", root) / str(mode)
        if not folder.is_dir():
            raise MissingFileError(
                f"there are no images at {folder}: put Urban100 there as {folder}/<folder>/*.png, or give a folder "
                "that holds train/ and test/ with --data, or use --data synthetic (see the README)"
            )
        super().__init__(root, mode, crop=crop_size, resize=256 if check_flag("resize", resize) else None)
        folders = [Path(name).parts[0] for name in self.names]
        self.labels = [sorted(set(folders)).index(name) for name in folders]
        images = [self.read(index).expand(3, -1, -1) for index in range(len(self))]
        if any(image.dtype != torch.uint8 for image in images):
            images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
        self.images = torch.stack(images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        return image.float() / 255 if image.dtype == torch.uint8 else image


def CVDB_ICCV(
    dataset_name: str = "Urban100",
    mode: str = "train",
    batch_size: int = 1,
    shuffle: bool = True,
    crop_size: Sequence[int] = (512, 512),
    resize: bool = True,
) -> DataLoader:
    """2021's loader of ``./dataset/<dataset_name>``; batches are lists ``[images [B, 3, H, W], folder numbers [B]]``.

    Arguments and errors are those of `CVDB`.

    >>> loader = CVDB_ICCV("Urban100", mode="train", batch_size=1)  # doctest: +SKIP
    """
    dataset = CVDB(Path("dataset") / dataset_name, mode, crop_size, resize)
    pairs = StackDataset(dataset, dataset.labels)  # type: ignore[arg-type]  # a list will do
    return DataLoader(pairs, batch_size=batch_size, shuffle=shuffle)
