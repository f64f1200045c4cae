"""What every forward operator shares. Anything with ``A(x)`` and ``A_dagger(y)`` is a physics; ours inherit from
`Physics`, which gives the measurement with noise, ``physics(x)``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ei.common.checks import check_tensor
from ei.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11

NoiseModel = Callable[..., Tensor]
# What to do where an operator cannot be moved.
STAY = "move the image (closure.move=image), or give the operator a method moved(element)"


class Physics(nn.Module):
    """A linear forward operator ``y = A x (+ noise)``.

    Args:
        noise: None, or a noise model called as ``noise(y, generator=None)`` that returns the noisy measurement.

    Raises:
        InputError: for a noise that cannot be called.

    >>> physics = ei.physics.CT(img_width=64, radon_view=30, noise=ei.physics.GaussianNoise(0.1))
    >>> y = physics(torch.rand(1, 1, 64, 64))
    >>> physics.A_dagger(y).shape
    torch.Size([1, 1, 64, 64])
    """

    own_argument: str | None = None  # what each image may have one of its own of (`of`)

    def __init__(self, noise: NoiseModel | None = None) -> None:
        super().__init__()
        if noise is not None and not callable(noise):
            raise InputError(f"noise must be None or a noise model, as GaussianNoise(0.1), got {noise!r}")
        self.noise = noise

    def register_constant(self, name: str, value: Tensor | None, device: torch.device) -> None:
        """Register a buffer that is not persistent: checkpoints carry it with the physics, not with weights."""
        with torch.inference_mode(False):  # autograd cannot save a tensor made in that mode
            self.register_buffer(name, None if value is None else value.to(device, copy=True), persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """The measurement of images ``x``, without noise."""
        raise NotImplementedError

    def A_dagger(self, y: Tensor) -> Tensor:
        """The (approximate) pseudo-inverse: an image from measurements ``y``."""
        raise NotImplementedError

    @property
    def sampling_mask(self) -> Tensor | None:
        """Ones where something is measured, else zeros; as many axes as measurements, of length one where entries are
        measured together (all channels of a pixel, all detectors of a view). None: every entry is, separately."""
        return None

    @property
    def pixel_mask(self) -> Tensor | None:
        """Of an operator that measures some pixels of an image by themselves, and nothing of the others: ones for
        those, with four axes. None of all others."""
        return None

    @property
    def count(self) -> int:
        """The number of operators, one for each image (`of`); 1 where one serves all images."""
        return 1

    def of(self, indices: Sequence[int] | Tensor | None) -> Physics:
        """The operator of the images with these numbers in their data set: itself, where one serves all of them."""
        return self

    @property
    def measurement_shapes(self) -> list[tuple[int, ...]] | None:
        """Of operators that differ by image the last axes of their measurements, for each image; None where all have
        the same."""
        return None

    @property
    def selected_from(self) -> Physics:
        """The operator of all images, where `of` selected this one from it; else itself."""
        return self.__dict__.get("_selected_from", self)

    def copied(self, selected_from: Physics, **buffers: Tensor) -> Self:
        """A shallow copy with other ``buffers``, whose operator of all images (`selected_from`) is this one."""
        other = copy.copy(self)
        other._buffers = {**self._buffers, **buffers}
        other.__dict__["_selected_from"] = selected_from  # not as a submodule, which the module would list
        return other

    def moved(self, element: Any, transform: Any = None) -> Physics:
        """The same instrument in another position: ``A.moved(g) x`` is ``A T_g^-1 x``, up to a symmetry of the
        measurements, without interpolating an image.

        Args:
            element: g.
            transform: the group T that g is an element of; None: the operator's own reading of g.

        Raises:
            InputError: if the instrument cannot be moved so.
        """
        raise InputError(f"{type(self).__name__} cannot be moved by {element}: {STAY}")

    def moved_entries(self, entries: Tensor, element: Any, transform: Any = None) -> Tensor:
        """Where a part of the measurements goes when the operator is `moved`: the entries of a scan stay, those of a
        mask move with it.

        Args:
            entries: zeros and ones of the shape of `sampling_mask`, or with a mask for every measurement.
            element, transform: see `moved`.
        """
        return entries

    def A_dagger_of(self, y: Tensor, kept: Tensor) -> Tensor:
        """``A_dagger`` as it would be if the entries of ``y`` where ``kept`` is zero had not been measured.

        Args:
            y: measurements.
            kept: zeros and ones of the shape of `sampling_mask`, or with a mask for every measurement.
        """
        return self.A_dagger(kept * y)

    def forward(self, x: Tensor) -> Tensor:
        """The measurement with noise: ``noise(A(x))`` where something is measured."""
        y = self.A(x)
        return y if self.noise is None else where_sampled(self, self.noise(y), y)


def sampling_mask_for(physics: Any, y: Tensor) -> Tensor | None:
    """`Physics.sampling_mask` of any physics, to multiply measurements ``y`` ``[B, ...]`` by (also of images under
    several transforms, see `for_each_image`), in their real dtype and on their device; None where all is measured."""
    mask = getattr(physics, "sampling_mask", None)
    if not isinstance(mask, Tensor):
        return _mask_in_noise(physics, y)
    return for_each_image(mask, y).to(y.device, y.real.dtype)


def _mask_in_noise(physics: Any, y: Tensor) -> Tensor | None:
    """`sampling_mask_for` of a deepinv operator, whose method ``noise`` multiplies noisy measurements by its mask. Of
    length one along the axes of channels and coils where it is the same along them."""
    if not isinstance(getattr(physics, "mask", None), Tensor) or "noise_model" not in getattr(physics, "_modules", {}):
        return None
    noiseless = copy.copy(physics)
    noiseless._modules = {**physics._modules, "noise_model": _Identity()}
    mask = (noiseless.noise(torch.ones_like(y)) != 0).to(y.real.dtype)
    for axis in range(1, mask.dim() - 2):
        first = mask.narrow(axis, 0, 1)
        mask = first if bool((mask == first).all()) else mask
    return None if bool(mask.all()) else mask


class _Identity(nn.Module):
    def forward(self, y: Tensor, **_: Any) -> Tensor:
        return y


def where_sampled(physics: Any, y: Tensor, elsewhere: Tensor) -> Tensor:
    """``y`` where ``physics`` measures something, and ``elsewhere`` (of its shape) where a mask does not."""
    mask = sampling_mask_for(physics, y)
    return y if mask is None else torch.where(mask != 0, y, elsewhere)


def image_shape_of(physics: Any) -> tuple[int, ...] | None:
    """``physics.image_shape``, (H, W) or (C, H, W); None where an operator has none.

    >>> image_shape_of(CT(img_width=16, radon_view=5))
    (16, 16)
    """
    shape = getattr(physics, "image_shape", None)
    if shape is None:
        return None
    try:
        sides = tuple(int(side) for side in shape)
    except (TypeError, ValueError):
        sides = ()
    if isinstance(shape, str) or len(sides) not in (2, 3) or min(sides) < 1:
        raise InputError(f"image_shape of {type(physics).__name__} must be (H, W) or (C, H, W), got {shape!r}")
    return sides


def check_shape(tensor: Tensor, expected: tuple[int, ...], what: str) -> None:
    """Raise unless ``tensor`` is ``[B, C, *expected]``."""
    check_tensor(tensor, what)
    if tensor.dim() != 4 or tuple(tensor.shape[2:]) != expected:
        raise InputError(f"{what} must have shape [B, C, {', '.join(map(str, expected))}], got {list(tensor.shape)}")


def check_measures(physics: Any) -> None:
    """Raise `InputError` unless an operator has ``A(x)``."""
    if isinstance(physics, type) or not callable(getattr(physics, "A", None)):
        got = f"the class {physics.__name__}" if isinstance(physics, type) else f"a {type(physics).__name__}"
        raise InputError(
            f"physics must have a method A(x), got {got}; two functions are one as "
            "types.SimpleNamespace(A=.., A_dagger=..)"
        )


def select_physics(physics: Any, indices: Sequence[int] | Tensor | None) -> Any:
    """``physics.of(indices)``: the operator of the images with these numbers. An operator without ``of`` serves all.

    >>> physics = Inpainting(8, 8)
    >>> select_physics(physics, [3]) is physics
    True
    """
    of = getattr(physics, "of", None)
    return of(indices) if callable(of) else physics


def check_indices(indices: Sequence[int] | Tensor | None, count: int, what: str) -> list[int]:
    """The ``indices`` of images as a list.

    Raises:
        InputError: if there are none, or one is not in 0, ..., ``count`` - 1.
    """
    if indices is None:
        raise InputError(
            f"each of {count} images has {what}, so batches must carry the indices of their images; make them with "
            "ei.datasets.make_loader"
        )
    rows = [int(index) for index in indices]
    wrong = [index for index in rows if not 0 <= index < count]
    if wrong:
        raise InputError(f"there is {what} for each of {count} images, indices 0 to {count - 1}, got index {wrong[0]}")
    return rows


def move_physics(physics: Any, element: Any, transform: Any = None) -> Any:
    """`Physics.moved` of any physics: a user-defined one is moved by its method ``moved(element)``. Raises `InputError`
    for an operator that cannot be moved so."""
    moved = getattr(physics, "moved", None)
    if not callable(moved):
        raise InputError(f"{type(physics).__name__} has no method moved(element): {STAY}")
    return moved(element, transform) if isinstance(physics, Physics) else moved(element)


def for_each_image(mask: Tensor, tensor: Tensor) -> Tensor:
    """``mask`` ``[n, ...]`` of n images, to multiply ``tensor`` ``[k*n, ...]`` by: all images under the first of k
    transforms, then all under the second, and so on. One mask (n = 1) serves all."""
    n = len(mask)
    if n == 1 or n == len(tensor):
        return mask
    if len(tensor) % n:
        raise InputError(
            f"the operator has masks of {n} images, got {len(tensor)}; select theirs by physics.of(indices)"
        )
    return mask.repeat(len(tensor) // n, *[1] * (mask.dim() - 1))
