"""Conjugate gradients for operators without a pseudo-inverse, and adjoints for operators without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ei.common.checks import check_number
from ei.errors import InputError
from ei.physics.base import image_shape_of

HALF = (torch.float16, torch.bfloat16)


def adjoint_of(physics: Any, image_shape: Sequence[int] | None = None) -> Callable[[Tensor], Tensor]:
    """The adjoint of ``physics.A``: its ``A_adjoint``, else by autograd the derivative of ``A`` (`transposed`), which
    for a linear operator is the same. Differentiable.

    Args:
        physics: has ``A``; perhaps ``A_adjoint``.
        image_shape: (C, H, W), or (H, W) with the channels of the measurements; by default ``physics.image_shape``, or
            the shape of ``physics.A_dagger(y)``. Used only without ``A_adjoint``.

    Raises:
        InputError: if there is neither ``A_adjoint`` nor an image shape, or A is not differentiable.
    """
    if callable(getattr(physics, "A_adjoint", None)):
        return physics.A_adjoint
    shape = tuple(image_shape or image_shape_of(physics) or ())
    has_pseudo_inverse = callable(getattr(physics, "A_dagger", None))
    if len(shape) not in (2, 3) and (shape or not has_pseudo_inverse):
        raise InputError(
            f"{type(physics).__name__} has neither A_adjoint nor a shape of its images; add an attribute image_shape = "
            "(C, H, W), or write A_adjoint"
        )

    def adjoint(y: Tensor) -> Tensor:
        if len(shape) == 3:
            return transposed(physics.A, y, (len(y), *shape))
        if shape:
            return transposed(physics.A, y, (len(y), y.shape[1], *shape))
        with torch.no_grad():
            images = physics.A_dagger(y).shape
        return transposed(physics.A, y, images)

    return adjoint


def filter_of(physics: Any) -> Callable[[Tensor], Tensor]:
    """``physics.filter``, the weight of its data-consistency steps (see `pinv_cg`); raises `InputError` if there is
    none."""
    while isinstance(physics, WithPseudoInverse):
        physics = physics.physics
    if not callable(getattr(physics, "filter", None)):
        raise InputError(
            "filtered steps need an operator with a method filter(y), as CT and Tomography of ei.physics have; "
            f"{type(physics).__name__} has none"
        )
    return physics.filter


def transposed(A: Callable[[Tensor], Tensor], y: Tensor, shape: Sequence[int]) -> Tensor:
    """``A^T y`` for any linear ``A`` of real tensors of this shape, from its derivative; differentiable in ``y``.

    Raises:
        InputError: if A is not made of differentiable torch operations.
    """
    return _Adjoint.apply(y, A, tuple(shape))


class _Adjoint(torch.autograd.Function):
    """``A^T y`` as the derivative of ``<A x, y>`` by x. Its derivative is A."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, A: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
        ctx.A = A
        # No hooks on this small graph: those of a checkpoint around it would recompute it.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            x = torch.zeros(shape, dtype=y.real.dtype, device=y.device, requires_grad=True)
            projected = A(x)
            if not projected.requires_grad:
                raise InputError("the adjoint by autograd needs A of differentiable torch operations; write A_adjoint")
            return torch.autograd.grad(projected, x, y)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.A(gradient), None, None


def pinv_cg(
    physics: Any,
    y: Tensor,
    steps: int = 20,
    tol: float = 1e-6,
    image_shape: Sequence[int] | None = None,
    *,
    orthogonal: bool = False,
    weight: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """An approximate pseudo-inverse for any linear physics: conjugate gradients on ``A^T A x = A^T y`` from x = 0
    (CGLS; Hestenes & Stiefel 1952), stopped early, for every image of the batch separately. Differentiable with respect
    to ``y`` (through the steps); where y = 0 the derivative is zero.

    Args:
        physics: has ``A``, and ``A_adjoint`` or an ``image_shape`` (see `adjoint_of`).
        y: measurements ``[B, ...]``, real or complex, of any size. Half precision is computed in float32.
        steps: at most so many iterations, of one ``A`` and one adjoint each.
        tol: an image is finished when ``||A^T (y - A x)|| <= tol * ||A^T y||`` (with a weight, of ``A^T W``). 0, for
            training: a fixed number of steps, nothing waits for the device, and images are finished at rounding level.
        image_shape: see `adjoint_of`.
        orthogonal: make each gradient orthogonal to all before, as in exact arithmetic they are. Rounding spoils that
            where one singular value is far above the others: after 10 steps on CT(128, 50) in float32 the result is
            1e-2 off without and 1e-6 with it. Takes memory for an image a step, and about 5 % more time for 10 steps.
        weight: W, linear, symmetric (Hermitian) and positive definite, which is not checked: steps on
            ``A^T W A x = A^T W y``. Few suffice where ``A^T W A`` is close to a multiple of the identity, as for CT of
            many views with the ramp filter (``physics.filter``).

    Returns:
        Images ``[B, C, H, W]`` in the precision of ``y``, in the range of ``A^T``: nothing is invented in the null
        space.

    >>> physics = ei.physics.CT(img_width=32, radon_view=20)
    >>> pinv_cg(physics, torch.rand(1, 1, 46, 20), steps=10).shape
    torch.Size([1, 1, 32, 32])
    """
    steps = check_number("steps of pinv_cg", steps, integer=True, least=1)
    tol = check_number("tol of pinv_cg", tol, least=0)
    adjoint = adjoint_of(physics, image_shape)
    dtype, y = y.dtype, _at_least_single(y)
    weighted = y if weight is None else weight(y)
    gradient = adjoint(weighted)
    unit = _power_of_two(gradient)
    residual, weighted, gradient = (_times(1 / unit, tensor) for tensor in (y, weighted, gradient))
    direction, x = gradient, torch.zeros_like(gradient)
    squared = _squared_norm(gradient)
    # A gradient is rounding noise below a part of the first one, and below eps ||A|| ||residual|| (inconsistent data),
    # norms being those of W^(1/2) A and W^(1/2) residual where there is a weight. Steps by quotients of noise blow up.
    eps = torch.finfo(squared.dtype).eps
    enough = max(tol, 8 * eps) ** 2 * squared.detach()
    basis: list[Tensor] = []
    noise: Tensor | None = None  # (eps ||A||)^2, with the Rayleigh quotient of the first step for ||A||^2
    for step in range(1, steps + 1):
        open_ = squared.detach() > enough  # finished images (and those with y = 0) take steps of length zero
        if tol > 0 and not bool(open_.any()):
            break
        projected = physics.A(direction)
        projected_weighted = projected if weight is None else weight(projected)
        curvature = _squared_norm(projected) if weight is None else _product(projected, projected_weighted)
        open_ = open_ & (curvature.detach() > 0)
        length = torch.where(open_, squared, 0) / torch.where(open_, curvature, 1)
        x = x + _times(length, direction)
        if step == steps:
            break
        if weight is None:
            residual = weighted = residual - _times(length, projected)
        else:  # the residual itself only bounds the rounding noise
            residual = residual.detach() - _times(length.detach(), projected.detach())
            weighted = weighted - _times(length, projected_weighted)
        if orthogonal:
            size = torch.where(open_, squared, 1).detach().rsqrt()
            basis.append(_times(torch.where(open_, size, 0), gradient))
        gradient = _orthogonal_to(basis, adjoint(weighted))
        if noise is None:
            noise = eps**2 * torch.where(open_, curvature, 0).detach() / torch.where(open_, squared, 1).detach()
        unexplained = _product(residual.detach(), weighted.detach())
        enough = torch.maximum(enough, noise * unexplained)
        before, squared = squared, torch.where(open_, _squared_norm(gradient), squared)
        direction = gradient + _times(squared / torch.where(before > 0, before, 1), direction)
    x = _times(unit, x)
    return x.to(dtype) if dtype in HALF else x  # of complex measurements images may be real


def _at_least_single(tensor: Tensor) -> Tensor:
    """Half precision as float32: norms of many entries are beyond it. Integers are left for the operator to reject."""
    return tensor.float() if tensor.dtype in HALF else tensor


def _power_of_two(tensor: Tensor) -> Tensor:
    """The size of every entry along the first axis, ``[B]``. In these units, which change no digit, squares of numbers
    as of lengths in nanometres do not leave float32's range."""
    rows = _rows(tensor).detach()
    largest = rows.abs().amax(1) if rows.shape[1] else rows.new_ones(len(rows))
    limits = torch.finfo(largest.dtype)
    size = torch.where((largest >= limits.tiny) & (largest <= limits.max / 2), largest, 1)
    return size / torch.frexp(size).mantissa


def _orthogonal_to(basis: list[Tensor], images: Tensor) -> Tensor:
    """The ``images`` ``[B, ...]`` without their part along the orthonormal vectors ``[B, ...]`` of ``basis``. That part
    is nothing but rounding, so autograd differentiates its coefficients, not the basis."""
    if not basis:
        return images
    rows = torch.stack([vector.flatten(1) for vector in basis], dim=1)
    image = images.flatten(1)[:, None]
    with torch.autocast(images.device.type, enabled=False):
        image = torch.baddbmm(image, image @ rows.mH, rows.detach(), alpha=-1)
    return image.view_as(images)


def _rows(tensor: Tensor) -> Tensor:
    """``[B, n]``, real: the values of every entry along the first axis."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).flatten(1)


def _squared_norm(tensor: Tensor) -> Tensor:
    """The squared norm of every entry along the first axis, ``[B]``."""
    return _rows(tensor).square().sum(1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The (real) inner product of every entry along the first axis, ``[B]``."""
    return (_rows(a) * _rows(b)).sum(1)


def _times(factor: Tensor, tensor: Tensor) -> Tensor:
    """Every entry along the first axis times its own factor."""
    return factor.view(-1, *[1] * (tensor.dim() - 1)).to(tensor.real.dtype) * tensor


def with_pseudo_inverse(physics: Any) -> Any:
    """``physics``, if it has an ``A_dagger``; else with conjugate gradients in its place (`WithPseudoInverse`).

    >>> physics = CT(img_width=16, radon_view=5)
    >>> with_pseudo_inverse(physics) is physics
    True
    """
    return physics if callable(getattr(physics, "A_dagger", None)) else WithPseudoInverse(physics)


class WithPseudoInverse:
    """An operator without ``A_dagger``, and `pinv_cg` of so many ``steps`` in its place; all else is the operator's.

    >>> class Rows:
    ...     image_shape = (1, 8, 8)
    ...     A = staticmethod(lambda x: x[..., ::2, :])
    >>> WithPseudoInverse(Rows(), steps=5).A_dagger(torch.ones(1, 1, 4, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    config = None  # a checkpoint cannot build it

    def __init__(self, physics: Any, steps: int = 20) -> None:
        adjoint_of(physics)  # raises here if there is none
        self.physics = physics
        self.steps = steps

    def A(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def A_dagger(self, y: Tensor) -> Tensor:
        return pinv_cg(self.physics, y, self.steps)

    def __getattr__(self, name: str) -> Any:
        if name == "physics":  # a copy in the making has no attributes yet
            raise AttributeError(name)
        return getattr(self.physics, name)
