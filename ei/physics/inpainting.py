"""Inpainting: some pixels are not measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ei.common.devices import device_of
from ei.errors import InputError
from ei.physics.base import NoiseModel, Physics, check_shape, for_each_image
from ei.physics.saved import Source, read_array, zeros_and_ones


class Inpainting(Physics):
    """A pixel mask (paper, section 4.2), the same for all images and channels; images ``[B, C, H, W]``.

    `A`, `A_dagger` and `A_adjoint` all multiply by the mask, which is its own pseudo-inverse and transpose.

    With ``mask`` ``[n, 1 or C, H, W]`` each of n images has its own: `of` gives the operator of some of them.

    Args:
        img_height, img_width: H and W in pixels.
        mask_rate: the fraction of pixels that is REMOVED, in [0, 1); used when no ``mask`` is given.
        mask: a tensor of zeros and ones ``[H, W]`` (leading axes of length one are dropped), ``[n, 1, H, W]`` for n
            images or ``[n, C, H, W]`` for their channels, too (n = 1: for all images), or an array, or the path of a
            file: of ``torch.save``, as the authors' ``mask_random0.3.pt`` (or a dict with the key "mask", as Robust
            EI's), ``.npy``, ``.npz``, ``.mat``, or a picture (``.png``). Ones may be 255.
        seed: seed of the random mask.
        device: where the mask is kept; move it with ``.to(device)``.
        noise: None or a noise model (see `Physics`).

    2021's misspelt ``img_heigth`` is accepted for ``img_height``; its ``mode`` and ``resize`` are ignored.

    Raises:
        InputError: for a size, rate or mask that does not fit, a device that is not there, or (when called) a tensor of
            another shape.
    """

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
        **of_2021: Any,
    ) -> None:
        super().__init__(noise)
        if "img_heigth" in of_2021:
            if img_height is not None:
                raise InputError("img_heigth is 2021's spelling of img_height: give one of them")
            img_height = of_2021.pop("img_heigth")
        unknown = sorted(set(of_2021) - {"mode", "resize"})
        if unknown:
            raise TypeError(f"Inpainting() got an unexpected keyword argument {unknown[0]!r}")
        for name, value in (("img_height", img_height), ("img_width", img_width)):
            if value is None:
                raise TypeError(f"Inpainting() needs {name}")
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise InputError(f"{name} must be a whole number >= 1, not {value}")
        assert img_height is not None and img_width is not None
        self.img_height, self.img_width, self.mask_rate = int(img_height), int(img_width), float(mask_rate)
        if mask is None:
            made = random_mask(self.img_height, self.img_width, self.mask_rate, seed)
        else:
            made = _read_mask(mask, self.img_height, self.img_width)
        # Not persistent: a mask belongs to the problem; checkpoints carry it with the physics, not with weights.
        self.register_buffer("mask", made.to(device_of(device)), persistent=False)

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
    def count(self) -> int:
        """How many images have a mask of their own; 1 where one mask serves all."""
        return len(self.sampling_mask)

    def of(self, indices: Sequence[int] | Tensor | None) -> Inpainting:
        """The operator of the images with these numbers: with their masks, in this order.

        Raises:
            InputError: if the numbers are not known, or there are not so many masks.
        """
        if self.count == 1:
            return self
        if indices is None:
            raise InputError(
                f"there is a mask for each of {self.count} images, so batches must tell the numbers of their images: "
                "make them with ei.datasets.make_loader"
            )
        chosen = torch.as_tensor(indices, device=self.mask.device)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.count:
            raise InputError(f"there are masks for {self.count} images, numbers 0 to {self.count - 1}, and none for "
                             f"number {int(chosen.max())}")  # fmt: skip
        other = copy.copy(self)
        other._buffers = {**self._buffers, "mask": self.mask[chosen]}
        return other

    def _multiply(self, tensor: Tensor, what: str) -> Tensor:
        check_shape(tensor, self.image_shape, what)
        if self.mask.dim() == 4 and self.mask.shape[1] not in (1, tensor.shape[1]):
            raise InputError(f"the mask has {self.mask.shape[1]} channels, and {what} have {tensor.shape[1]}")
        mask = self.mask if self.mask.dim() == 2 else for_each_image(self.mask, tensor)
        return tensor * mask.to(tensor.device, tensor.dtype)

    def A(self, x: Tensor) -> Tensor:
        """The images with the missing pixels set to zero."""
        return self._multiply(x, "images for Inpainting")

    def A_dagger(self, y: Tensor) -> Tensor:
        """The pseudo-inverse, which equals `A`."""
        return self._multiply(y, "measurements for Inpainting")

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The transpose, which equals `A`."""
        return self._multiply(y, "measurements for Inpainting")

    def extra_repr(self) -> str:
        kept, masks = int(self.mask.sum()), "" if self.count == 1 else f", {self.count} masks"
        return f"{self.img_height}, {self.img_width}, {kept} of {self.mask.numel()} pixels kept{masks}"


def random_mask(height: int, width: int, mask_rate: float, seed: int) -> Tensor:
    """A float32 ``[H, W]`` mask with ``round(mask_rate * H * W)`` zeros (never all), their places drawn by ``seed``."""
    if not math.isfinite(mask_rate) or not 0 <= mask_rate < 1:
        raise InputError(f"mask_rate, the fraction of pixels removed, must be in [0, 1), not {mask_rate}")
    n_removed = min(round(mask_rate * height * width), height * width - 1)
    mask = torch.ones(height * width)
    mask[torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))[:n_removed]] = 0
    return mask.view(height, width)


def _read_mask(source: Source, height: int, width: int) -> Tensor:
    mask, where = read_array(source, "mask")
    given = list(mask.shape)
    while mask.dim() > 2 and mask.shape[0] == 1 and (mask.dim() != 4 or mask.shape[1] == 1):
        mask = mask[0]
    if mask.dim() not in (2, 4) or tuple(mask.shape[-2:]) != (height, width):
        raise InputError(
            f"{where} must have the shape [{height}, {width}] of the images, or [n, 1 or C, {height}, {width}] with "
            f"one for each of n images, not {given}"
        )
    mask = zeros_and_ones(mask, where)
    if not bool((mask[None] if mask.dim() == 2 else mask).flatten(1).any(1).all()):
        raise InputError(f"{where} keeps no pixel at all")
    return mask
