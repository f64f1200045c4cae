"""Folders of natural images: Urban100 as in the paper."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from ei.datasets.pictures import header_of, read_exactly, read_image
from ei.errors import InputError, MissingFileError


class CVDB(Dataset):
    """Images of ``root/mode/<folder>/*``; items are ``[3, H, W]`` float32 in [0, 1].

    Each image is cropped about its centre, resized and kept in memory (as bytes, if all files have 8 bits), so every
    file is read (and an unreadable one is named) before a training starts.

    Args:
        root: the folder that holds ``train/`` and ``test/``.
        mode: "train" or "test".
        crop_size: (height, width) of the centre crop.
        resize: resize the crop to a shorter side of 256 (torchvision's bilinear on the PIL image).

    Raises:
        MissingFileError: if the folder is not there or holds no images.
        InputError: if an image cannot be read, is smaller than the crop, or of a type whose range must be told.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        mode: str = "train",
        crop_size: tuple[int, int] = (512, 512),
        resize: bool = True,
    ) -> None:
        if mode not in ("train", "test"):
            raise InputError(f"mode must be 'train' or 'test', not {mode!r}")
        crop_height, crop_width = (int(side) for side in crop_size)
        self.folder = folder = Path(root) / mode
        if not folder.is_dir():
            raise MissingFileError(
                f"there are no images at {folder}: put Urban100 there as {folder}/<folder>/*.png, or give a "
                "folder that holds train/ and test/ with --data, or use --data synthetic (the README says where "
                "Urban100 comes from)"
            )
        try:
            files = ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise MissingFileError(
                f"there are no images in {folder}: they are looked for in folders inside it, as {folder}/<folder>/*.png"
            ) from error
        steps: list = [transforms.CenterCrop((crop_height, crop_width))]
        if resize:
            steps.append(transforms.Resize(256))
        prepare = transforms.Compose(steps)
        self.paths = [path for path, _ in files.samples]
        self.labels = [label for _, label in files.samples]
        images = []
        for path in self.paths:
            header = header_of(path)
            if header.height < crop_height or header.width < crop_width:
                raise InputError(
                    f"{path} is {header.height} x {header.width} pixels, smaller than the crop of {crop_height} x "
                    f"{crop_width}; remove it or choose a smaller crop"
                )
            if header.common:
                images.append(transforms.functional.pil_to_tensor(prepare(read_image(path, header))))
            else:
                images.append(read_exactly(path, header, None, prepare).expand(3, -1, -1))
        if any(image.dtype != torch.uint8 for image in images):
            images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
        self.images = torch.stack(images)

    data_range = 1.0  # of the images, whatever values they happen to have

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, index: int) -> str:
        """The path of an image, relative to the folder of the mode."""
        return Path(self.paths[index]).relative_to(self.folder).as_posix()

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        return image.float() / 255 if image.dtype == torch.uint8 else image


class _WithLabels(Dataset):
    """Items ``[image, folder number]``, as 2021's ImageFolder gave them."""

    def __init__(self, dataset: CVDB) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list:
        return [self.dataset[index], self.dataset.labels[index]]


def CVDB_ICCV(
    dataset_name: str = "Urban100",
    mode: str = "train",
    batch_size: int = 1,
    shuffle: bool = True,
    crop_size: tuple[int, int] = (512, 512),
    resize: bool = True,
) -> DataLoader:
    """2021's loader of ``./dataset/<dataset_name>``; batches are lists ``[images [B, 3, H, W], folder numbers [B]]``.

    Arguments and errors are those of `CVDB`.
    """
    dataset = CVDB(Path("dataset") / dataset_name, mode, crop_size, resize)
    return DataLoader(_WithLabels(dataset), batch_size=batch_size, shuffle=shuffle)
