"""Generated data sets: nothing to download, nothing stored; image i is a function of (seed, i)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.checks import check_number
from ei.common.seeds import derive_seed
from ei.datasets.validation import split_by_mode


class _Generated(Dataset):
    """Images made on first use and kept in memory."""

    def __init__(self, mode: str = "train", img_size: int = 128, n_images: int = 100, seed: int = 0) -> None:
        self.img_size = check_number("img_size", img_size, integer=True, least=8)
        self.seed = check_number("seed", seed, integer=True)
        count = check_number("n_images", n_images, integer=True, least=2)
        self.indices = split_by_mode(range(count), mode, "the generated images")
        self._made: dict[int, Tensor] = {}

    data_range = 1.0  # of the images, whatever values they happen to have

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        number = self.indices[index]
        if number not in self._made:
            rng = np.random.default_rng(derive_seed(self.seed, type(self).__name__, number))
            self._made[number] = torch.from_numpy(self.paint(rng).astype(np.float32))
        return self._made[number]

    def paint(self, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError


class DeadLeaves(_Generated):
    """Dead leaves images (Lee, Mumford & Huang, IJCV 2001), the standard synthetic stand-in for natural images:
    discs of random colour, with radii of density ``r^-3``, fall until the ground is covered. Items are
    ``[3, img_size, img_size]`` float32 in [0, 1].

    The discs wrap around the borders, so the set is invariant to circular shifts.

    Args:
        mode: "train" (the first nine tenths) or "test".
        img_size: side in pixels, at least 8.
        n_images: train and test images together, at least 2.
        seed: another seed, another set.

    >>> images = DeadLeaves("train", img_size=16, n_images=10)
    >>> len(images), images[0].shape
    (9, torch.Size([3, 16, 16]))
    """

    def paint(self, rng: np.random.Generator) -> np.ndarray:
        size = self.img_size
        smallest, largest = min(4, size / 6), size / 3
        image = np.zeros((3, size, size))
        uncovered = np.ones((size, size))
        # Painted front to back: what falls later than a pixel is covered no longer shows there.
        while uncovered.max() > 1 / 255:
            u = rng.random()
            radius = (smallest**-2 + u * (largest**-2 - smallest**-2)) ** -0.5
            row, column = rng.random(2) * size
            colour = rng.random(3)
            rows = np.arange(int(np.floor(row - radius)), int(np.ceil(row + radius)) + 1)[:size]
            columns = np.arange(int(np.floor(column - radius)), int(np.ceil(column + radius)) + 1)[:size]
            distance = np.hypot(rows[:, None] - row, columns[None, :] - column)
            leaf = np.clip(radius - distance + 0.5, 0, 1)  # soft over one pixel, as a camera sees an edge
            where = np.ix_(rows % size, columns % size)
            seen = leaf * uncovered[where]
            for channel in range(3):
                image[channel][where] += colour[channel] * seen
            uncovered[where] -= seen
        return np.clip(image, 0, 1)


class EllipsePhantoms(_Generated):
    """Random ellipse phantoms for CT: a body with organs in it, inside the inscribed circle. Items are
    ``[img_size, img_size]`` float32 in [0, 1] with maximum 1.

    The distribution of shapes is invariant to rotations about the centre.

    Args:
        mode: "train" (the first nine tenths) or "test".
        img_size: side in pixels, at least 8.
        n_images: train and test images together, at least 2.
        seed: another seed, another set.

    >>> images = EllipsePhantoms("test", img_size=16, n_images=10)
    >>> len(images), images[0].shape
    (1, torch.Size([16, 16]))
    """

    def paint(self, rng: np.random.Generator) -> np.ndarray:
        size = self.img_size
        axis = (np.arange(size) - (size - 1) / 2) * (2 / size)
        x, y = axis[None, :], axis[:, None]

        def ellipse(radius: float, angle: float, half_axes: np.ndarray, turn: float) -> np.ndarray:
            dx, dy = x - radius * np.cos(angle), y - radius * np.sin(angle)
            along = (dx * np.cos(turn) + dy * np.sin(turn)) / half_axes[0]
            across = (dy * np.cos(turn) - dx * np.sin(turn)) / half_axes[1]
            distance = (np.hypot(along, across) - 1) * half_axes.min() * size / 2  # about pixels from the edge
            return np.clip(0.5 - distance, 0, 1)

        body_axes = rng.uniform(0.65, 0.9, size=2)
        body_turn = rng.uniform(0, np.pi)
        body = ellipse(0, 0, body_axes, body_turn)
        image = rng.uniform(0.3, 0.5) * body
        for _ in range(rng.integers(8, 17)):
            radius, angle = 0.6 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            organ = ellipse(radius, angle, rng.uniform(0.03, 0.25, size=2), rng.uniform(0, np.pi)) * body
            image += rng.uniform(-0.3, 0.5) * organ
        image = np.clip(image, 0, None)
        return image / image.max()


class MagnitudePhantoms(EllipsePhantoms):
    """Ellipse phantoms (`EllipsePhantoms`) as magnitude MR images: ``[2, img_size, img_size]``, the imaginary part is
    zero.

    >>> MagnitudePhantoms("train", img_size=16)[0].shape
    torch.Size([2, 16, 16])
    """

    def paint(self, rng: np.random.Generator) -> np.ndarray:
        image = super().paint(rng)
        return np.stack([image, np.zeros_like(image)])
