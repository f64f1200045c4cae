"""CT100: the paper's CT images, from a Matlab file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.datasets.pictures import check_range, scaled, warn_of_clipping
from ei.datasets.stack import read_stack
from ei.datasets.validation import split_by_mode

KEY = "DATA"
ADVICE = "put CT100_128x128.mat there, or give its path with --data, or use --data synthetic"


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
        images = read_stack(root_dir, KEY, ADVICE)
        low, high = float(images.min()), float(images.max())
        if limits is None and (low < -1 or high > 2):
            warnings.warn(
                f"{KEY} in {root_dir} has values from {low:.4g} to {high:.4g}; the paper's settings (learning rate, "
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
