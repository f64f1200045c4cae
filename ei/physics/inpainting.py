"""Inpainting: some pixels are not measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ei.common.checks import check_number
from ei.common.devices import device_of
from ei.errors import InputError
from ei.physics.base import NoiseModel, Physics, check_indices, check_shape, for_each_image
from ei.physics.moved import move_pixels
from ei.physics.saved import Source, read_array, zeros_and_ones


class Inpainting(Physics):
    """A pixel mask (paper, section 4.2), the same for all images and channels; images ``[B, C, H, W]``.

    `A`, `A_dagger` and `A_adjoint` all multiply by the mask, which is its own pseudo-inverse and transpose. With
    ``mask`` ``[n, 1 or C, H, W]`` each of n images has a mask: `of` gives the operator of some of them.

    Args:
        img_height, img_width: H and W in pixels.
        mask_rate: the fraction of pixels that is REMOVED, in [0, 1); used without ``mask``.
        mask: a tensor of zeros and ones ``[H, W]`` (leading axes of length one are dropped), ``[n, 1, H, W]`` for n
            images or ``[n, C, H, W]`` for their channels, too (n = 1: for all images), or an array, or the path of a
            file: of ``torch.save``, as the authors' ``mask_random0.3.pt`` (or a dict with the key "mask", as Robust
            EI's), ``.npy``, ``.npz``, ``.mat``, or a picture (``.png``). Ones may be 255.
        seed: seed of the random mask.
        device: where the mask is kept; move it with ``.to(device)``.
        noise: None or a noise model (see `Physics`).

    The legacy ``img_heigth`` is accepted for ``img_height``; the legacy ``mode`` and ``resize`` are ignored.

    Raises:
        InputError: for an argument out of its range, an unavailable device, or (when called) another shape.

    >>> physics = Inpainting(8, 8, mask_rate=0.5)
    >>> float(physics.A(torch.ones(1, 3, 8, 8)).mean())
    0.5
    """

    own_argument = "mask"
    mask: Tensor

    def __init__(
        self,
        img_height: int | None = None,
        img_width: int | None = None,
        *,
        mask_rate: float = 0.3,
        mask: Source | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        noise: NoiseModel | None = None,
        **legacy: Any,
    ) -> None:
        super().__init__(noise)
        if "img_heigth" in legacy:
            if img_height is not None:
                raise InputError("img_heigth is the legacy spelling of img_height; pass one of them")
            img_height = legacy.pop("img_heigth")
        unknown = sorted(set(legacy) - {"mode", "resize"})
        if unknown:
            raise TypeError(f"Inpainting() got an unexpected keyword argument {unknown[0]!r}")
        self.img_height = check_number("img_height", img_height, integer=True, least=1)
        self.img_width = check_number("img_width", img_width, integer=True, least=1)
        self.mask_rate = check_number("mask_rate (the fraction of pixels removed)", mask_rate, least=0, below=1)
        if mask is None:
            values = random_mask(self.img_height, self.img_width, self.mask_rate, seed)
        else:
            values = _read_mask(mask, self.img_height, self.img_width)
        self.register_constant("mask", values, device_of(device))

    @classmethod
    def sizes_from_measurement(cls, shape: Sequence[int], **arguments: Any) -> dict[str, int]:
        """The size arguments for measurements of ``shape`` (C, H, W): ``img_height`` and ``img_width``.

        Raises:
            InputError: for another shape, or if ``arguments`` has no ``mask``: no random one is that of the data.
        """
        if arguments.get("mask") is None:
            raise InputError("measurements of Inpainting need the mask they were made with; set mask to its file")
        if len(shape) != 3:
            raise InputError(f"measurements of Inpainting must have shape [C, H, W], got {list(shape)}")
        return {"img_height": shape[-2], "img_width": shape[-1]}

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to build it again, with ``mask`` beside them."""
        return {"img_height": self.img_height, "img_width": self.img_width, "mask_rate": self.mask_rate}

    @property
    def image_shape(self) -> tuple[int, int]:
        return (self.img_height, self.img_width)

    @property
    def sampling_mask(self) -> Tensor:
        """The mask, with four axes."""
        return self.mask if self.mask.dim() == 4 else self.mask[None, None]

    @property
    def pixel_mask(self) -> Tensor:
        return self.sampling_mask

    @property
    def count(self) -> int:
        """The number of masks, one for each image; 1 where one mask serves all."""
        return len(self.sampling_mask)

    def of(self, indices: Sequence[int] | Tensor | None) -> Inpainting:
        """The operator of the images with these indices: with their masks, in this order."""
        if self.count == 1:
            return self
        rows = check_indices(indices, self.count, "a mask")
        return self.copied(self, mask=self.mask[torch.tensor(rows, device=self.mask.device)])

    def moved(self, element: Any, transform: Any = None) -> Inpainting:
        """The operator with its masks moved as images are: by a shift (rows, columns), by quarter turns (their number),
        or by an element of a ``transform`` that permutes pixels. Exact: ``A.moved(g) x = T_g A T_g^-1 x``."""
        return self.copied(self.selected_from, mask=self.moved_entries(self.mask, element, transform))

    def moved_entries(self, entries: Tensor, element: Any, transform: Any = None) -> Tensor:
        return move_pixels(entries, element, transform)

    def _multiply(self, tensor: Tensor, what: str) -> Tensor:
        check_shape(tensor, self.image_shape, what)
        if self.mask.dim() == 4 and self.mask.shape[1] not in (1, tensor.shape[1]):
            raise InputError(f"{what} must have the mask's {self.mask.shape[1]} channels, got {tensor.shape[1]}")
        mask = self.mask if self.mask.dim() == 2 else for_each_image(self.mask, tensor)
        return tensor * mask.to(tensor.device, tensor.dtype)

    def A(self, x: Tensor) -> Tensor:
        """The images with the missing pixels set to zero."""
        return self._multiply(x, "images for Inpainting")

    def A_dagger(self, y: Tensor) -> Tensor:
        """The pseudo-inverse and the transpose (`A_adjoint`), which equal `A`."""
        return self._multiply(y, "measurements for Inpainting")

    A_adjoint = A_dagger

    def extra_repr(self) -> str:
        masks = "" if self.count == 1 else f", {self.count} masks"
        return f"{self.img_height}, {self.img_width}, {int(self.mask.sum())} of {self.mask.numel()} pixels kept{masks}"


def random_mask(height: int, width: int, mask_rate: float, seed: int) -> Tensor:
    """A float32 ``[H, W]`` mask with ``round(mask_rate * H * W)`` zeros (never all), their places drawn by ``seed``."""
    n_removed = min(round(mask_rate * height * width), height * width - 1)
    mask = torch.ones(height * width)
    rng = torch.Generator().manual_seed(check_number("seed", seed, integer=True, least=0, below=2**63))
    mask[torch.randperm(height * width, generator=rng)[:n_removed]] = 0
    return mask.view(height, width)


def _read_mask(source: Source, height: int, width: int) -> Tensor:
    mask, where = read_array(source, "mask")
    shape = list(mask.shape)
    while mask.dim() > 2 and mask.shape[0] == 1 and (mask.dim() != 4 or mask.shape[1] == 1):
        mask = mask[0]
    if mask.dim() not in (2, 4) or tuple(mask.shape[-2:]) != (height, width):
        raise InputError(
            f"{where} must have shape [{height}, {width}] of the images, or [n, 1 or C, {height}, {width}] for n "
            f"images, got {shape}"
        )
    mask = zeros_and_ones(mask, where)
    if not bool((mask[None] if mask.dim() == 2 else mask).flatten(1).any(1).all()):
        raise InputError(f"{where} keeps no pixel at all")
    return mask
