"""User-defined operators and groups are tried before a run begins: what goes wrong in them is an error of one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ei.common.devices import device_of_tensors
from ei.common.user_code import error_in_a_line
from ei.errors import InputError
from ei.physics.krylov import filter_of
from ei.physics.noise_adapter import get_noise

Shape = tuple[int, int, int]


@contextlib.contextmanager
def _in_a_line(what: str) -> Iterator[None]:
    """Without gradients; whatever user-defined code raises is an `InputError` that begins with ``what``."""
    try:
        with torch.no_grad():
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
    with _in_a_line(f"{name} of the operator cannot take a tensor of shape {list(tensor.shape)}{where}"):
        result = getattr(physics, name)(tensor.to(device))
    if not isinstance(result, Tensor):
        raise InputError(f"{name} of the operator must give a tensor, got a {type(result).__name__}")
    return result


def check_operator(physics: Any, shape: Shape, device: torch.device, needs_steps: bool, needs_filter: bool) -> None:
    """Try a user-defined operator on an image of ``shape`` (C, H, W), its noise, and what data consistency uses."""
    y = call(physics, "A", torch.zeros(1, *shape), device)
    if _call_back(physics, "A_dagger", y, shape, device).is_complex():
        raise InputError("A_dagger gives complex images: let it give real and imaginary part as two channels")
    with _in_a_line("noise of the operator must be None, or a function noise(y, generator=None) of measurements"):
        noise = get_noise(physics)
        if noise is not None:
            noise(y, generator=torch.Generator())
    if needs_steps and callable(getattr(physics, "A_adjoint", None)):
        _call_back(physics, "A_adjoint", y, shape, device)
    if needs_filter:
        _check_filter(physics, y, device)


def _call_back(physics: Any, name: str, y: Tensor, shape: Shape, device: torch.device) -> Tensor:
    """`call` of what takes measurements ``y`` to an image, whose shape must be ``shape``."""
    back = call(physics, name, y, device)
    if back.shape[1:] != shape:
        raise InputError(f"{name} of A x must have the shape of x, {[1, *shape]}, got {list(back.shape)}")
    return back


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
    try:
        with _in_a_line(f"apply of {name} cannot take images of shape {[1, *shape]}"):
            transformed = group.apply(torch.zeros(1, *shape))
    except InputError as error:
        raise InputError(f"transform: {error}") from error
    is_images = isinstance(transformed, Tensor) and transformed.dim() == 4
    if not is_images or transformed.shape[1:] != shape or not len(transformed):
        got = list(transformed.shape) if isinstance(transformed, Tensor) else type(transformed).__name__
        raise InputError(f"apply of {name} must give images [n, {', '.join(map(str, shape))}], got {got}")
