"""CT100: the paper's CT images, from a Matlab file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.datasets.pictures import check_range, scaled, tell_outside
from ei.errors import InputError, MissingExtraError, MissingFileError

KEY = "DATA"


class CTData(Dataset):
    """CT100; items are images ``[128, 128]`` float32 in [0, 1].

    Args:
        mode: "train" (the first nine tenths of the slices: 0-89) or "test" (the rest: 90-99).
        root_dir: a Matlab file with the images under the key ``DATA``, ``[n, H, W]``. Files of version 7.3 need the
            extra ``h5``.
        value_range: which values (low, high) become 0 and 1; those outside are clipped, and a warning counts them. By
            default values stay as they are.

    Raises:
        MissingFileError: if the file is not there.
        InputError: if it cannot be read, or ``DATA`` is missing or no finite ``[n, H, W]`` array.
    """

    def __init__(
        self,
        mode: str = "train",
        root_dir: str | os.PathLike = "./dataset/CT/CT100_128x128.mat",
        *,
        value_range: Sequence[float] | None = None,
    ) -> None:
        limits = check_range(value_range)
        images = read_mat(root_dir, in_units=limits is not None)
        self.images = split(images, mode, f"the images of {root_dir}")
        if limits is not None:
            tell_outside(self.images.numpy(), limits, f"the images of {root_dir}")
            self.images = torch.from_numpy(scaled(self.images.numpy(), limits))

    @property
    def data_range(self) -> float | None:
        """1 for images in about [0, 1] (CT100's are), None for others."""
        return 1.0 if self.images.min() >= -1 and 0.5 <= self.images.max() <= 2 else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def split(images: Any, mode: str, what: str) -> Any:
    """The first nine tenths of ``images`` for mode "train", the rest for "test"."""
    n_train = len(images) * 9 // 10
    if n_train == 0:
        raise InputError(f"{what} are {len(images)}; at least 2 are needed for a training and a test set")
    if mode == "train":
        return images[:n_train]
    if mode == "test":
        return images[n_train:]
    raise InputError(f"mode must be 'train' or 'test', not {mode!r}")


def read_mat(path: str | os.PathLike, in_units: bool = False) -> Tensor:
    """The array ``DATA`` of a Matlab file as a float32 tensor ``[n, H, W]``; unless it is known to be ``in_units`` of
    its own, values far from [0, 1] are told."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of the .mat file in it")
    if not path.exists():
        raise MissingFileError(
            f"there is no CT data at {path}: put CT100_128x128.mat there, or give its path with --data, or use "
            "--data synthetic (the README says where CT100 comes from)"
        )
    array = np.asarray(_read_key(path))
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"{KEY} in {path} must be an array [n, H, W], not {list(array.shape)}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{KEY} in {path} must hold real numbers, not {array.dtype}")
    images = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    finite = images.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        raise InputError(
            f"image {int((~finite).nonzero()[0])} of {KEY} in {path} has values that are not finite; mend or remove it"
        )
    low, high = float(images.min()), float(images.max())
    if (low < -1 or high > 2) and not in_units:
        warnings.warn(
            f"{KEY} in {path} has values from {low:.4g} to {high:.4g}; the paper's settings (learning rate, loss "
            "weights) and the PSNR are for images in [0, 1]: scale them with --range LOW HIGH",
            stacklevel=3,
        )
    return images


def _read_key(path: Path) -> Any:
    import scipy.io

    try:
        content = scipy.io.loadmat(path, variable_names=[KEY])
    except NotImplementedError:
        return _read_key_v73(path)
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied") from error
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise InputError(f"{path} is damaged or no Matlab file; get it again") from error
    if KEY not in content:
        try:
            names = ", ".join(name for name, *_ in scipy.io.whosmat(path)) or "nothing"
        except Exception:  # the rest of the file is damaged
            names = "nothing that can be read"
        raise InputError(f"{path} has no array named {KEY} (it holds: {names})")
    return content[KEY]


def _read_key_v73(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is a Matlab 7.3 file, which needs h5py: pip install 'equivariant-imaging[h5]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            if KEY not in file or not isinstance(file[KEY], h5py.Dataset):
                raise InputError(f"{path} has no array named {KEY} (it holds: {', '.join(file) or 'nothing'})")
            # Matlab stores columns first, so HDF5 sees the axes in reverse.
            return np.asarray(file[KEY]).T
    except InputError:
        raise
    except Exception as error:  # h5py raises whatever the bytes lead it to
        raise InputError(f"{path} is damaged or no Matlab file; get it again") from error
