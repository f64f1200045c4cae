"""Magnetic resonance imaging: a part of the Fourier transform is measured, by one coil or by many."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ei.common.devices import device_of
from ei.common.seeds import generator
from ei.errors import InputError
from ei.physics.base import NoiseModel, Physics
from ei.physics.krylov import pinv_cg
from ei.physics.saved import Source, read_array, zeros_and_ones
from ei.physics.split import Split


class MRI(Physics):
    """Cartesian MRI (Pruessmann et al., "SENSE: Sensitivity encoding for fast MRI", 1999):

        A x = mask * F (S_k x)    for every coil k,

    with ``F = fftshift(fft2(ifftshift(.)))``, orthonormal, over the last two axes: the middle of image and k-space is
    at ``[H // 2, W // 2]``. Without maps there is one coil, and S is one.

    Images are ``[B, 2, H, W]``, real and imaginary part. K-space is ``[B, 2, H, W]``, or with maps ``[B, 2, K, H, W]``
    (deepinv's layout): zero where nothing is measured.

    Args:
        mask: zeros and ones ``[H, W]``, or ``[W]`` for columns that are measured as wholes; axes of length one are
            dropped. A tensor, an array or a list, or the path of one: ``.npy``, or what `torch.save` wrote, also a dict
            with the key "mask".
        coil_maps: the sensitivities S, complex ``[K, H, W]``; a tensor, an array or a path (key "coil_maps").
        height: H, where neither mask nor maps tell it: for a mask of columns without maps. None: images may then have
            any H, and `image_shape` is None.
        cg_steps: steps of conjugate gradients in `A_dagger`, used with maps. More put more of the noise into the image.
        device: where mask and maps are kept; move them with ``.to(device)``.
        noise: None or a noise model (see `Physics`).

    Raises:
        InputError: for a mask that is not of zeros and ones or measures nothing, for maps that do not fit it or are not
            complex and finite, for a height that contradicts them, a device that is not there, or (when called) a
            tensor of another shape.
    """

    channels = 2  # of its images: real and imaginary part

    mask: Tensor
    coil_maps: Tensor | None

    def __init__(
        self,
        mask: Source,
        coil_maps: Source | None = None,
        *,
        height: int | None = None,
        cg_steps: int = 20,
        device: torch.device | str = "cpu",
        noise: NoiseModel | None = None,
    ) -> None:
        super().__init__(noise)
        if isinstance(cg_steps, bool) or int(cg_steps) != cg_steps or cg_steps < 1:
            raise InputError(f"cg_steps must be a whole number >= 1, not {cg_steps}")
        self.cg_steps = int(cg_steps)
        made = _checked_mask(read_array(mask, "mask"))
        maps = None if coil_maps is None else _checked_maps(read_array(coil_maps, "coil_maps"), made)
        self._height = _checked_height(height, made, maps)
        device = device_of(device)
        # Not persistent: checkpoints carry them with the physics, not with weights.
        self.register_buffer("mask", made.to(device), persistent=False)
        self.register_buffer("coil_maps", None if maps is None else maps.to(device), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> MRI:
        # The dtype of the input decides, and .to(torch.float16) would make complex maps real: only the device moves.
        mask, maps, self.coil_maps = self.mask, self.coil_maps, None
        super()._apply(fn, recurse)
        self.mask = mask.to(self.mask.device)
        self.coil_maps = None if maps is None else maps.to(self.mask.device)
        return self

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to build it again, with ``mask`` and ``coil_maps`` beside them."""
        columns = self.mask.dim() == 1 and self.coil_maps is None and self._height is not None
        return {"cg_steps": self.cg_steps, **({"height": self._height} if columns else {})}

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(2, H, W); None where columns are measured of images of any height."""
        return None if self._height is None else (2, self._height, self.mask.shape[-1])

    def A(self, x: Tensor) -> Tensor:
        """The measured part of k-space, of every coil: ``[B, 2, H, W]`` to ``[B, 2, (K,) H, W]``."""
        self._check(x, "images for MRI", coils=False)
        image = _to_complex(x)
        coils = image if self.coil_maps is None else image.unsqueeze(1) * self._maps(image)
        return _to_channels(_fourier(coils), x.dtype) * self._mask(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The exact adjoint: ``sum_k conj(S_k) F^-1 mask y_k``, ``[B, 2, (K,) H, W]`` to ``[B, 2, H, W]``. Without maps
        it is the zero-filled image."""
        self._check(y, "k-space for MRI", coils=True)
        coils = inverse_fourier(_to_complex(y * self._mask(y)))
        image = coils if self.coil_maps is None else (coils * self._maps(coils).conj()).sum(1)
        return _to_channels(image, y.dtype)

    def A_dagger(self, y: Tensor) -> Tensor:
        """The pseudo-inverse: the zero-filled image; with maps, ``cg_steps`` of conjugate gradients towards the least
        squares (CG-SENSE, Pruessmann et al. 2001)."""
        if self.coil_maps is None:
            return self.A_adjoint(y)
        # Conjugate gradients need more than half precision; exactly so many steps, so that nothing waits for a device.
        exact = y.to(torch.promote_types(y.dtype, torch.float32))
        self._check(exact, "k-space for MRI", coils=True)
        return pinv_cg(self, exact, self.cg_steps, tol=0).to(y.dtype)

    def A_dagger_of(self, y: Tensor, kept: Tensor) -> Tensor:
        """The pseudo-inverse of the entries that are kept: with maps, by conjugate gradients on these alone."""
        if self.coil_maps is None:
            return self.A_dagger(kept * y)
        return pinv_cg(Split(self, kept), kept * y, self.cg_steps, tol=0)

    @property
    def sampling_mask(self) -> Tensor:
        """The mask with the axes of k-space: points are measured in both parts and by all coils at once, and columns as
        wholes where the mask says so."""
        axes = 4 if self.coil_maps is None else 5
        return self.mask.view(*[1] * (axes - self.mask.dim()), *self.mask.shape)

    def _mask(self, like: Tensor) -> Tensor:
        return self.mask.to(like.device, like.dtype)

    def _maps(self, like: Tensor) -> Tensor:
        assert self.coil_maps is not None
        return self.coil_maps.to(like.device, like.dtype)

    def _check(self, tensor: Tensor, what: str, coils: bool) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{what} must be a torch tensor, not {type(tensor).__name__}")
        height, width = self._height, self.mask.shape[-1]
        middle = [] if self.coil_maps is None or not coils else [len(self.coil_maps)]
        given = list(tensor.shape)
        expected = [2, *middle, *(given[-2:-1] if height is None else [height]), width]
        if given[1:] != expected or not tensor.is_floating_point():  # whole numbers would round k-space
            sides = ", ".join(map(str, [2, *middle, "H" if height is None else height, width]))
            kind = "complex " if tensor.is_complex() else "" if tensor.is_floating_point() else f"{tensor.dtype} "
            raise InputError(
                f"{what} must be real and of the shape [B, {sides}] ([B, (real, imaginary)"
                f"{', coil' if middle else ''}, row, column]), not {kind}{given}"
            )

    def extra_repr(self) -> str:
        coils = 1 if self.coil_maps is None else len(self.coil_maps)
        kept = f"{int(self.mask.sum())} of {self.mask.numel()} {'columns' if self.mask.dim() == 1 else 'points'}"
        return f"{kept} measured, {coils} coil{'s' if coils > 1 else ''}, cg_steps={self.cg_steps}"


AXES = (-2, -1)


def _fourier(image: Tensor) -> Tensor:
    if image.numel() == 0:  # MKL has no transform of nothing
        return image
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, AXES), norm="ortho"), AXES)


def inverse_fourier(kspace: Tensor) -> Tensor:
    """The inverse of F (see `MRI`) over the last two axes of complex k-space."""
    if kspace.numel() == 0:
        return kspace
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, AXES), norm="ortho"), AXES)


def _to_complex(tensor: Tensor) -> Tensor:
    """``[B, 2, ...]`` to complex ``[B, ...]``, at least complex64: torch transforms nothing less on a CPU."""
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return torch.complex(tensor[:, 0], tensor[:, 1])


def _to_channels(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.stack([tensor.real, tensor.imag], dim=1).to(dtype)


def _checked_mask(read: tuple[Tensor, str]) -> Tensor:
    """``[H, W]`` or ``[W]``, float32."""
    mask, where = read
    given = list(mask.shape)
    while mask.dim() > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.dim() == 2 and 1 in mask.shape:  # columns, as Robust EI's [1, 320, 1]
        mask = mask.flatten()
    if mask.dim() not in (1, 2) or mask.numel() == 0:
        raise InputError(f"{where} must have the shape [H, W], or [W] for columns, not {given}")
    mask = zeros_and_ones(mask, where)
    if not bool(mask.any()):
        raise InputError(f"{where} measures nothing at all")
    return mask


def _checked_height(height: int | None, mask: Tensor, maps: Tensor | None) -> int | None:
    """H of the images, as the maps, the mask or the argument tell it; None where none does."""
    told = mask.shape[0] if mask.dim() == 2 else None if maps is None else maps.shape[1]
    if height is None:
        return told
    if isinstance(height, bool) or not isinstance(height, int) or height < 1 or told not in (None, height):
        of = "mask" if mask.dim() == 2 else "coil maps"
        wanted = "a whole number >= 1" if told is None else f"{told}, that of the {of}, or be left out"
        raise InputError(f"height, of images for MRI, must be {wanted}, not {height!r}")
    return height


def _checked_maps(read: tuple[Tensor, str], mask: Tensor) -> Tensor:
    """``[K, H, W]``, complex."""
    maps, where = read
    given = list(maps.shape)
    while maps.dim() > 3 and maps.shape[0] == 1:
        maps = maps[0]
    if maps.dim() != 3 or maps.numel() == 0 or not maps.is_complex():
        raise InputError(f"{where} must be complex and of the shape [K, H, W], not {maps.dtype} {given}")
    if maps.shape[-mask.dim() :] != mask.shape:
        raise InputError(f"{where} have the shape {given}, which does not fit the mask's {list(mask.shape)}")
    if not bool(torch.isfinite(torch.view_as_real(maps.resolve_conj())).all()) or not bool((maps != 0).any()):
        raise InputError(f"{where} must be finite and not all zero")
    return maps.to(torch.promote_types(maps.dtype, torch.complex64)).resolve_conj().clone()


def random_columns(width: int, acceleration: float = 4.0, seed: int = 0) -> Tensor:
    """A mask of columns ``[W]`` that measures ``W / acceleration`` of them: a sixth of these in the middle, where most
    of an image's energy is, the others drawn from the rest with equal chances (at least one column in all).

    Raises:
        InputError: for an acceleration below 1.
    """
    if not math.isfinite(acceleration) or acceleration < 1:
        raise InputError(f"acceleration must be a finite number >= 1, not {acceleration}")
    kept = max(1, round(width / acceleration))
    middle = max(1, round(kept / 6))
    first = width // 2 - middle // 2
    mask = torch.zeros(width)
    mask[first : first + middle] = 1
    others = (mask == 0).nonzero().flatten()
    order = torch.randperm(len(others), generator=generator(seed, "columns", width))
    mask[others[order[: kept - middle]]] = 1
    return mask


def mask_for(source: Source, width: int) -> Tensor:
    """A mask for images of ``width``: the one of ``source`` (see `MRI`), or the middle of it where it is of more
    columns ``[W]``, as the same field of view in larger pixels is measured."""
    mask = _checked_mask(read_array(source, "mask"))
    if mask.dim() == 1 and len(mask) > width:
        first = len(mask) // 2 - width // 2
        mask = _checked_mask((mask[first : first + width], f"the middle {width} columns of the mask {source}"))
    return mask
