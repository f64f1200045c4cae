"""Magnetic resonance imaging: a part of the Fourier transform is measured, by one coil or by several."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ei.common.checks import check_number, check_tensor
from ei.common.devices import device_of
from ei.common.seeds import generator
from ei.errors import InputError
from ei.physics.base import STAY, NoiseModel, Physics, check_indices, for_each_image
from ei.physics.krylov import pinv_cg
from ei.physics.saved import Source, read_array, zeros_and_ones
from ei.physics.split import Split


class MRI(Physics):
    """Cartesian MRI, with one coil or several (Pruessmann et al., "SENSE: Sensitivity encoding for fast MRI", 1999).

    The operator is

        A x = mask * F (S_k x)    for every coil k,

    with ``F = fftshift(fft2(ifftshift(.)))``, orthonormal, over the last two axes: the middle of image and k-space is
    at ``[H // 2, W // 2]``. Without maps there is one coil, and S is one.

    Images are ``[B, 2, H, W]``, real and imaginary part. K-space is ``[B, 2, H, W]``, or with maps ``[B, 2, K, H, W]``
    (deepinv's layout): zero where nothing is measured.

    Args:
        mask: zeros and ones ``[H, W]``, or ``[W]`` for whole columns (`random_columns`, `mask_for`); leading axes of
            length one are dropped. ``[n, H, W]`` or ``[n, 1, W]``: of each of n images; `of` gives the operator of
            some of them. A tensor, an array or a list, or the path of one (`ei.physics.saved.read_array`).
        coil_maps: the sensitivities S, complex ``[K, H, W]``; a tensor, an array or a path (key "coil_maps").
        height: H, for a mask of columns without maps. None: images may then have any H, and `image_shape` is None.
        cg_steps: steps of conjugate gradients in `A_dagger`, used with maps. More put more of the noise into the image.
        device: where mask and maps are kept; move them with ``.to(device)``.
        noise: None or a noise model (see `Physics`).

    Raises:
        InputError: for a mask of other values or that measures nothing, maps that do not fit it or are not complex and
            finite, a height that contradicts them, an unavailable device, or (when called) another shape.

    >>> physics = MRI(random_columns(64, acceleration=4), height=64)
    >>> y = physics.A(torch.rand(1, 2, 64, 64))
    >>> y.shape, physics.A_dagger(y).shape
    (torch.Size([1, 2, 64, 64]), torch.Size([1, 2, 64, 64]))
    """

    own_argument = "mask"
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
        self.cg_steps = check_number("cg_steps", cg_steps, integer=True, least=1)
        checked_mask = _check_mask(read_array(mask, "mask"))
        maps = None if coil_maps is None else _check_maps(read_array(coil_maps, "coil_maps"), checked_mask)
        self._height = _check_height(height, checked_mask, maps)
        device = device_of(device)
        self.register_constant("mask", checked_mask, device)
        self.register_constant("coil_maps", maps, device)

    @classmethod
    def sizes_from_measurement(cls, shape: Sequence[int], **arguments: Any) -> dict[str, int]:
        """The size arguments for k-space of ``shape`` (2, H, W), or with ``coil_maps`` (2, K, H, W): ``height``, and
        ``width`` of a mask (`random_columns`, `mask_for`).

        Raises:
            InputError: for another shape, or if ``arguments`` has no ``mask`` or a random one.
        """
        mask = arguments.get("mask")
        if mask is None or (isinstance(mask, Mapping) and mask.get("name") == "random_columns"):
            raise InputError("measurements of MRI need the mask they were made with; set mask to its file")
        has_maps = arguments.get("coil_maps") is not None
        if len(shape) != (4 if has_maps else 3) or shape[0] != cls.channels:
            raise InputError(
                "k-space of one coil must be complex [n, H, W] or real [n, 2, H, W], that of several coils needs "
                f"coil_maps; got measurements of shape {list(shape)}"
            )
        return {"height": shape[-2], "width": shape[-1]}

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
        columns = _rows_of(self.mask) is None and self.coil_maps is None and self._height is not None
        return {"cg_steps": self.cg_steps, **({"height": self._height} if columns else {})}

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(2, H, W); None where columns are measured of images of any height."""
        return None if self._height is None else (2, self._height, self.mask.shape[-1])

    @property
    def count(self) -> int:
        """The number of masks, one for each image; 1 where one mask serves all."""
        return len(self.mask) if self.mask.dim() == 3 else 1

    def of(self, indices: Sequence[int] | Tensor | None) -> MRI:
        """The operator of the images with these indices: with their masks, in this order."""
        if self.count == 1:
            return self
        rows = check_indices(indices, self.count, "a mask")
        return self.copied(self, mask=self.mask[torch.tensor(rows, device=self.mask.device)])

    def moved(self, element: Any, transform: Any = None) -> MRI:
        """The operator whose mask is shifted along the columns of k-space: that of images multiplied by a ramp of
        phases. It makes sense where the columns are spread evenly; a middle that is sampled densely leaves the middle.

        Args:
            element: a whole number of columns, or (rows, columns).
            transform: a group of shifts (`ei.transforms.Shift1D`, `Shift`), or None.

        Raises:
            InputError: for another element.
        """
        moved = self.moved_entries(self.mask, element, transform)
        return self.copied(self.selected_from, mask=moved)

    def moved_entries(self, entries: Tensor, element: Any, transform: Any = None) -> Tensor:
        steps = torch.as_tensor(element).reshape(-1)
        is_shift = transform is None or type(transform).__name__ in ("Shift", "Shift1D")
        if not is_shift or len(steps) not in (1, 2) or bool((steps != steps.round()).any()):
            group = "" if transform is None else f" of {type(transform).__name__}"
            raise InputError(f"MRI is moved by whole columns of its mask (Shift1D), got {element}{group}: {STAY}")
        row, column = [0, *steps.tolist()][-2:]
        shifted = torch.roll(entries, int(column), -1)
        return shifted if _rows_of(self.mask) is None else torch.roll(shifted, int(row), -2)

    def A(self, x: Tensor) -> Tensor:
        """The measured part of k-space, of every coil: ``[B, 2, H, W]`` to ``[B, 2, (K,) H, W]``."""
        self._check(x, "images for MRI", coils=False)
        image = _to_complex(x)
        coils = image if self.coil_maps is None else image.unsqueeze(1) * self._maps(image)
        return _to_channels(fourier(coils), x.dtype) * self._mask(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The exact adjoint: ``sum_k conj(S_k) F^-1 mask y_k``, ``[B, 2, (K,) H, W]`` to ``[B, 2, H, W]``."""
        self._check(y, "k-space for MRI", coils=True)
        coils = inverse_fourier(_to_complex(y * self._mask(y)))
        image = coils if self.coil_maps is None else (coils * self._maps(coils).conj()).sum(1)
        return _to_channels(image, y.dtype)

    def A_dagger(self, y: Tensor) -> Tensor:
        """The zero-filled image; with maps, ``cg_steps`` conjugate gradients (CG-SENSE, Pruessmann et al. 2001)."""
        if self.coil_maps is None:
            return self.A_adjoint(y)
        self._check(y, "k-space for MRI", coils=True)
        return pinv_cg(self, y, self.cg_steps, tol=0)  # exactly so many steps, so that nothing waits for a device

    def A_dagger_of(self, y: Tensor, kept: Tensor) -> Tensor:
        """The pseudo-inverse of the entries that are kept: with maps, by conjugate gradients on these alone."""
        if self.coil_maps is None:
            return self.A_dagger(kept * y)
        return pinv_cg(Split(self, kept), kept * y, self.cg_steps, tol=0)

    @property
    def sampling_mask(self) -> Tensor:
        """The mask with the axes of k-space: both parts and all coils measure the same points."""
        axes = 4 if self.coil_maps is None else 5
        images, sides = ((len(self.mask),), self.mask.shape[1:]) if self.mask.dim() == 3 else ((), self.mask.shape)
        return self.mask.view(*images, *[1] * (axes - len(images) - len(sides)), *sides)

    def _mask(self, like: Tensor) -> Tensor:
        return for_each_image(self.sampling_mask, like).to(like.device, like.dtype)

    def _maps(self, like: Tensor) -> Tensor:
        assert self.coil_maps is not None
        return self.coil_maps.to(like.device, like.dtype)

    def _check(self, tensor: Tensor, what: str, coils: bool) -> None:
        check_tensor(tensor, what)
        coil = [len(self.coil_maps)] if coils and self.coil_maps is not None else []
        height = tensor.shape[-2:-1] if self._height is None else [self._height]
        expected = [2, *coil, *height, self.mask.shape[-1]]
        if list(tensor.shape[1:]) == expected and tensor.is_floating_point():  # integers would round k-space
            return
        sides = ", ".join(map(str, [2, *coil, "H" if self._height is None else self._height, self.mask.shape[-1]]))
        kind = "" if tensor.dtype.is_floating_point else f"{tensor.dtype} "
        raise InputError(
            f"{what} must be real and have shape [B, {sides}] ([B, (real, imaginary){', coil' if coil else ''}, row, "
            f"column]), got {kind}{list(tensor.shape)}"
        )

    def extra_repr(self) -> str:
        coils = 1 if self.coil_maps is None else len(self.coil_maps)
        kept = f"{int(self.mask.sum())} of {self.mask.numel()} {'columns' if _rows_of(self.mask) is None else 'points'}"
        masks = "" if self.count == 1 else f" by {self.count} masks"
        return f"{kept} measured{masks}, {coils} coil{'s' if coils > 1 else ''}, cg_steps={self.cg_steps}"


def fourier(image: Tensor, inverse: bool = False) -> Tensor:
    """F (see `MRI`), or its inverse, over the last two axes of complex images."""
    if image.numel() == 0:  # MKL cannot transform empty tensors
        return image
    transform = torch.fft.ifft2 if inverse else torch.fft.fft2
    return torch.fft.fftshift(transform(torch.fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))


def inverse_fourier(kspace: Tensor) -> Tensor:
    return fourier(kspace, inverse=True)


def _to_complex(tensor: Tensor) -> Tensor:
    """``[B, 2, ...]`` to complex ``[B, ...]``, at least complex64: torch transforms nothing less on a CPU."""
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return torch.complex(tensor[:, 0], tensor[:, 1])


def _to_channels(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.stack([tensor.real, tensor.imag], dim=1).to(dtype)


def _check_mask(source: tuple[Tensor, str]) -> Tensor:
    """``[H, W]`` or ``[W]``, or those of n images ``[n, H or 1, W]``, float32."""
    mask, where = source
    shape = list(mask.shape)
    if mask.dim() == 2 and shape[0] > shape[1] == 1:
        raise InputError(
            f"{where} {shape} may be of rows or of columns: give columns as [{shape[0]}], and rows as [H, W], repeated "
            "for all columns"
        )
    while mask.dim() > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.dim() == 2 and 1 in mask.shape:  # columns, as Robust EI's [1, 320, 1]
        mask = mask.flatten()
    if mask.dim() not in (1, 2, 3) or mask.numel() == 0:
        raise InputError(
            f"{where} must have shape [H, W], or [W] for columns, or [n, H, W] or [n, 1, W] for n images, got {shape}"
        )
    mask = zeros_and_ones(mask, where)
    if not bool((mask if mask.dim() == 3 else mask[None]).flatten(1).any(1).all()):
        raise InputError(f"{where} measures nothing at all")
    return mask


def _rows_of(mask: Tensor) -> int | None:
    """H of a mask; None where it is of columns."""
    return mask.shape[-2] if mask.dim() == 2 or (mask.dim() == 3 and mask.shape[1] > 1) else None


def _check_height(height: int | None, mask: Tensor, maps: Tensor | None) -> int | None:
    """H of the images: of the mask, the maps or the argument; None where none has it."""
    of_mask = _rows_of(mask)
    rows = of_mask if of_mask is not None or maps is None else maps.shape[1]
    if height is None:
        return rows
    height = check_number("height", height, integer=True, least=1)
    if rows not in (None, height):
        raise InputError(
            f"height must be {rows}, that of the {'coil maps' if of_mask is None else 'mask'}, got {height}"
        )
    return height


def _check_maps(source: tuple[Tensor, str], mask: Tensor) -> Tensor:
    """``[K, H, W]``, complex."""
    maps, where = source
    shape = list(maps.shape)
    while maps.dim() > 3 and maps.shape[0] == 1:
        maps = maps[0]
    if maps.dim() != 3 or maps.numel() == 0 or not maps.is_complex():
        raise InputError(f"{where} must be complex and have shape [K, H, W], got {maps.dtype} {shape}")
    sides = (*([] if _rows_of(mask) is None else [_rows_of(mask)]), mask.shape[-1])
    if tuple(maps.shape[-len(sides) :]) != sides:
        raise InputError(f"{where} must have the mask's shape {list(sides)} in the last axes, got {shape}")
    if not bool(torch.isfinite(torch.view_as_real(maps.resolve_conj())).all()) or not bool((maps != 0).any()):
        raise InputError(f"{where} must be finite and not all zero")
    return maps.to(torch.promote_types(maps.dtype, torch.complex64)).resolve_conj().clone()


def random_columns(width: int, acceleration: float = 4.0, seed: int = 0) -> Tensor:
    """A mask of columns ``[W]`` that measures ``W / acceleration`` of them: a sixth of these in the middle, where most
    of an image's energy is, the others drawn from the rest with equal chances (at least one column in all).

    >>> int(random_columns(64, acceleration=4).sum())
    16
    """
    width = check_number("width", width, integer=True, least=1)
    seed = check_number("seed", seed, integer=True)
    count = max(1, round(width / check_number("acceleration", acceleration, least=1)))
    middle = max(1, round(count / 6))
    first = width // 2 - middle // 2
    mask = torch.zeros(width)
    mask[first : first + middle] = 1
    others = (mask == 0).nonzero().flatten()
    order = torch.randperm(len(others), generator=generator(seed, "columns", width))
    mask[others[order[: count - middle]]] = 1
    return mask


def mask_for(source: Source, width: int) -> Tensor:
    """A mask for images of ``width``: the one of ``source`` (see `MRI`), or its middle columns where it has more, which
    measure the same field of view in larger pixels; it warns then.

    >>> mask_for(random_columns(64), width=64).shape
    torch.Size([64])
    """
    width = check_number("width", width, integer=True, least=1)
    mask, where = read_array(source, "mask")
    mask = _check_mask((mask, where))
    columns = mask.shape[-1]
    if mask.dim() == 1 and columns > width:
        first = columns // 2 - width // 2
        mask = _check_mask((mask[first : first + width], f"the middle {width} columns of {where}"))
        warnings.warn(
            f"{where} has {columns} columns, images have {width}: its middle {width} are used, of which "
            f"{int(mask.sum())} are measured",
            stacklevel=2,
        )
    if mask.shape[-1] != width:
        raise InputError(f"{where} must have the {width} columns of the images, got {columns}")
    return mask
