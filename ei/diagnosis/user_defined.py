"""User-defined operators and groups are tried before a run begins: what goes wrong in them is an error of one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ei.common.checks import shape_or_type
from ei.common.devices import device_of_tensors
from ei.common.user_code import error_in_a_line
from ei.errors import InputError
from ei.physics.krylov import WithPseudoInverse, filter_of
from ei.physics.noise_adapter import get_noise

Shape = tuple[int, int, int]


@contextlib.contextmanager
def in_a_line(what: str, with_gradients: bool = False) -> Iterator[None]:
    """Without gradients, if not ``with_gradients``; whatever user-defined code raises is an `InputError` that begins
    with ``what``."""
    try:
        with torch.set_grad_enabled(with_gradients):
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {error_in_a_line(error)}") from error


def call(physics: Any, name: str, tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """``physics.<name>(tensor)``, on ``device``, by default where the operator's tensors are, or the CPU. Raises
    `InputError`, in one line, if it fails or gives no tensor."""
    if device is None:
        device = device_of_tensors(physics) or torch.device("cpu")
    where = "" if device.type == "cpu" else f" on {device} (--device cpu computes on the CPU)"
    with in_a_line(f"{name} of the operator cannot take a tensor of shape {list(tensor.shape)}{where}"):
        result = getattr(physics, name)(tensor.to(device))
    if not isinstance(result, Tensor):
        raise InputError(f"{name} of the operator must give a tensor, got a {type(result).__name__}")
    return result


def check_operator(physics: Any, shape: Shape, device: torch.device, needs_steps: bool, needs_filter: bool) -> None:
    """Try a user-defined operator on an image of ``shape`` (C, H, W), its noise, and what data consistency uses."""
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    y = _call_purely(physics, "A", x)
    if _call_back(physics, "A_dagger", y, shape).is_complex():
        raise InputError("A_dagger gives complex images: let it give real and imaginary part as two channels")
    check_noise(get_noise(physics), y)
    if callable(getattr(physics, "A_adjoint", None)) and (needs_steps or isinstance(physics, WithPseudoInverse)):
        _check_adjoint(x, y, _call_back(physics, "A_adjoint", y, shape))
    if needs_filter:
        _check_filter(physics, y, device)


def _call_purely(physics: Any, name: str, tensor: Tensor) -> Tensor:
    """`call`, which must leave its argument as it was, give the same result again, and finite values."""
    argument = tensor.clone()
    result, again = (call(physics, name, argument, tensor.device) for _ in range(2))
    if not torch.equal(argument, tensor):
        raise InputError(f"{name} of the operator changes its argument: let it work on a copy, x = x.clone()")
    if not bool(result.isfinite().all()):
        raise InputError(f"{name} of the operator gives values that are not finite")
    if result.shape != again.shape or float((result - again).norm()) > 1e-3 * float(result.norm()):
        raise InputError(
            f"{name} of the operator gives other values at each call: it must be without noise, which is the "
            "attribute noise, and draw nothing at random"
        )
    return result


def _call_back(physics: Any, name: str, y: Tensor, shape: Shape) -> Tensor:
    """`call` of what takes measurements ``y`` to an image, whose shape must be ``shape``."""
    back = _call_purely(physics, name, y)
    if back.shape[1:] != shape:
        raise InputError(f"{name} of A x must have the shape of x, {[1, *shape]}, got {list(back.shape)}")
    return back


def _check_adjoint(x: Tensor, y: Tensor, back: Tensor) -> None:
    """Raise unless ``<A x, A x> = <x, A_adjoint A x>`` for ``y = A x`` and ``back = A_adjoint y``, to a tenth: some
    back-projections are approximate."""
    expected, got = float(y.abs().square().sum()), float((x * back.real).sum())
    if not abs(got - expected) <= 0.1 * expected:
        raise InputError(
            f"A_adjoint of the operator is not the adjoint of A: <A x, A x> = {expected:.4g} and <x, A_adjoint(A x)> = "
            f"{got:.4g}; correct it, or leave it out where A is differentiable, for autograd's"
        )


def check_noise(noise: Any, y: Tensor) -> None:
    """Try a user-defined noise on a measurement ``y``: raises `InputError` for other shapes."""
    if noise is None:
        return
    name = "noise of the operator"
    with in_a_line(f"{name} must be a function noise(y, generator=None) of measurements"):
        noisy = noise(y.clone(), generator=torch.Generator())
    _check_like_measurements(noisy, y, name)
    if callable(getattr(noise, "variance", None)):
        with in_a_line(f"variance(y) of {name}"):
            variance = noise.variance(noisy)
        _check_like_measurements(variance, y, f"variance(y) of {name}")


def _check_like_measurements(result: Any, y: Tensor, who: str) -> None:
    got = shape_or_type(result)
    if got != list(y.shape):
        raise InputError(f"{who} must give a tensor of the shape of y, {list(y.shape)}, got {got}")


def _check_filter(physics: Any, y: Tensor, device: torch.device) -> None:
    """Raise unless ``physics.filter`` keeps shape and dtype, and is symmetric and positive."""
    filter_of(physics)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device) for _ in range(2))
    Wu, Wv = (call(physics, "filter", random, device) for random in (u, v))
    if (Wu.shape, Wu.dtype) != (u.shape, u.dtype):
        raise InputError(
            f"filter of the operator must give measurements as it takes them, {list(u.shape)} of {u.dtype}, got "
            f"{list(Wu.shape)} of {Wu.dtype}"
        )

    def product(a: Tensor, b: Tensor) -> complex:
        return complex((a.conj() * b).sum())

    if not abs(product(u, Wv) - product(Wu, v)) <= 1e-3 * float(u.norm()) * float(Wv.norm()):
        raise InputError("filter of the operator is not symmetric: <u, filter(v)> and <filter(u), v> differ")
    if not (product(u, Wu).real > 0 and product(v, Wv).real > 0):
        raise InputError("filter of the operator is not positive definite: <u, filter(u)> is not above 0")


def check_group(group: Any, shape: Shape, name: str) -> None:
    """Try a group on an image: raises `InputError` now if it has too few elements, or user-defined code fails."""
    if not callable(getattr(group, "apply", None)):
        raise InputError(f"transform.name: {name} must give a group with a method apply, got {type(group).__name__}")
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    images = x.clone()
    try:
        with in_a_line(f"apply of {name} cannot take images of shape {[1, *shape]}"):
            transformed = group.apply(images)
    except InputError as error:
        raise InputError(f"transform: {error}") from error
    if not torch.equal(images, x):
        raise InputError(f"transform: apply of {name} changes its argument: let it work on a copy, x = x.clone()")
    is_images = isinstance(transformed, Tensor) and transformed.dim() == 4
    if not is_images or transformed.shape[1:] != shape or not len(transformed):
        got = shape_or_type(transformed)
        raise InputError(f"apply of {name} must give images [n, {', '.join(map(str, shape))}], got {got}")
