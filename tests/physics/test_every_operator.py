"""Every operator: adjointness, autograd, dtypes, devices, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import relative
from makers import GEOMETRIES

from ei.errors import InputError
from ei.physics import CT, MRI, GaussianNoise, Inpainting, Tomography

PHYSICS = [*(CT(*geometry) for geometry in GEOMETRIES), Inpainting(5, 8, mask_rate=0.4), Inpainting(1, 3, mask_rate=0)]


@pytest.mark.parametrize("physics", PHYSICS, ids=str)
def test_adjoint_and_autograd(physics: CT | Inpainting) -> None:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *physics.image_shape, dtype=torch.float64, generator=rng, requires_grad=True)
    y = torch.randn(physics.A(x).shape, dtype=torch.float64, generator=rng, requires_grad=True)
    ax, aty = physics.A(x), physics.A_adjoint(y)
    gap = abs(float(((ax * y).sum() - (x * aty).sum()).detach()))
    assert gap <= 1e-10 * float((ax.norm() * y.norm()).detach())

    (gradient,) = torch.autograd.grad((ax * y).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, aty, rtol=1e-12, atol=1e-12)
    (back,) = torch.autograd.grad(physics.A_adjoint(y), y, grad_outputs=x.detach())
    torch.testing.assert_close(back, ax, rtol=1e-12, atol=1e-12)
    # The gradient is differentiable again.
    (second,) = torch.autograd.grad(gradient, y, grad_outputs=x.detach())
    torch.testing.assert_close(second, ax, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("physics", [CT(5, 3), CT(6, 4, circle=True), Inpainting(3, 4)], ids=str)
def test_gradients_numerically(physics: CT | Inpainting) -> None:
    x = torch.randn(1, 1, *physics.image_shape, dtype=torch.float64, requires_grad=True)
    y = physics.A(x).detach().requires_grad_()
    for function, at in ((physics.A, x), (physics.A_dagger, y), (physics.A_adjoint, y)):
        assert torch.autograd.gradcheck(function, (at,))
        assert torch.autograd.gradgradcheck(lambda v, function=function: function(v).square(), (at,))


@pytest.mark.parametrize("name", ["A", "A_adjoint", "A_dagger"])
@pytest.mark.parametrize(
    "physics", [CT(5, 3), Tomography((4, 6), [0, 50, 110], n_detectors=9), Inpainting(3, 4)], ids=str
)
def test_torch_func(physics: Any, name: str) -> None:
    function = getattr(physics, name)
    shape = physics.image_shape if name == "A" else getattr(physics, "measurement_shape", physics.image_shape)
    x = torch.rand(3, 2, 1, *shape, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(function)(x), torch.stack([function(each) for each in x]))
    torch.testing.assert_close(
        torch.func.vmap(function, in_dims=1)(x), torch.stack([function(x[:, k]) for k in range(2)])
    )
    columns = torch.eye(shape[0] * shape[1], dtype=torch.float64).view(-1, 1, *shape)
    matrix = function(columns).flatten(1).T
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        found = jacobian(lambda flat: function(flat.view(1, 1, *shape)).flatten())(x[0, 0].flatten())
        torch.testing.assert_close(found, matrix)
    torch.testing.assert_close(
        torch.func.hessian(lambda flat: function(flat.view(1, 1, *shape)).square().sum() / 2)(x[0, 0].flatten()),
        matrix.T @ matrix,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("physics", [CT(16, 6), Inpainting(16, 16)], ids=str)
def test_dtype_is_kept(physics: CT | Inpainting, dtype: torch.dtype) -> None:
    x = torch.rand(1, 1, 16, 16).to(dtype)
    y = physics.A(x)
    assert y.dtype == physics.A_dagger(y).dtype == physics.A_adjoint(y).dtype == dtype
    exact = physics.A(x.double())
    assert relative(y.double(), exact) < {8: 1e-12, 4: 1e-6, 2: 4e-3}[dtype.itemsize]


def test_instances_do_not_touch_each_other() -> None:
    first, second = CT(16, 6), CT(16, 6)
    x = torch.rand(1, 1, 16, 16)
    before = second.A(x)
    first.double()
    third = copy.deepcopy(second).double()
    assert third.A(x).dtype == torch.float32  # the input's dtype decides
    assert torch.equal(second.A(x), before) and torch.equal(copy.deepcopy(second).A(x), before)
    assert second.state_dict() == {}
    first_mask, second_mask = Inpainting(4, 4), Inpainting(4, 4)
    first_mask.to(torch.float16)
    assert second_mask.A(torch.ones(1, 1, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: CT(16, 6).A(torch.zeros(1, 1, 16, 15)), ["[B, C, 16, 16]", "[1, 1, 16, 15]"]),
        (lambda: CT(16, 6).A(torch.zeros(16, 16)), ["[B, C, 16, 16]", "[16, 16]"]),
        (lambda: CT(16, 6).A_dagger(torch.zeros(1, 1, 6, 23)), ["[B, C, 23, 6]", "[1, 1, 6, 23]"]),
        (lambda: CT(16, 6).A_adjoint(torch.zeros(1, 1, 16, 16)), ["[B, C, 23, 6]", "[1, 1, 16, 16]"]),
        (lambda: CT(0, 6), ["img_width", "0"]),
        (lambda: CT(16, 0), ["radon_view", "0"]),
        (lambda: Inpainting(4, 5).A(torch.zeros(1, 3, 5, 4)), ["[B, C, 4, 5]", "[1, 3, 5, 4]"]),
        (lambda: Inpainting(4, 5, mask=torch.ones(5, 4)), ["[4, 5]", "[5, 4]"]),
        (lambda: Inpainting(4, 5, mask=torch.full((4, 5), 0.5)), ["zeros", "ones"]),
        (lambda: Inpainting(4, 5, mask=torch.zeros(4, 5)), ["no pixel"]),
        (lambda: Inpainting(4, 5, mask_rate=1.0), ["mask_rate", "1.0"]),
        (lambda: Inpainting(4, 5, mask_rate=-0.1), ["mask_rate", "-0.1"]),
        (lambda: Inpainting(4, 5, mask_rate=float("nan")), ["mask_rate", "nan"]),
        (lambda: Inpainting(4, 5, mask="missing.pt"), ["missing.pt"]),
        (lambda: GaussianNoise(-1), ["sigma", "-1"]),
    ],
)
def test_errors_name_what_was_expected_and_found(call, names: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(name in str(error.value) for name in names)


def test_noise() -> None:
    physics = Inpainting(32, 32, mask_rate=0, noise=GaussianNoise(0.1))
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(physics.A(x), x)
    noise = physics(x) - x
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert not torch.equal(physics(x), physics(x))
    assert torch.equal(CT(8, 3)(x[..., :8, :8]), CT(8, 3).A(x[..., :8, :8]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_agree() -> None:
    physics = CT(128, 50)
    x = torch.rand(2, 1, 128, 128)
    y = physics.A(x)
    assert relative(physics.A(x.cuda()).cpu(), y) < 1e-5
    assert relative(physics.A_dagger(y.cuda()).cpu(), physics.A_dagger(y)) < 1e-5
    assert relative(Inpainting(128, 128).cuda().A(x.cuda()).cpu(), Inpainting(128, 128).A(x)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("physics", [CT(8, 3), Tomography((8, 8), [0, 50, 110], n_detectors=12)], ids=["CT", "any"])
def test_projections_of_integers_and_complex_numbers_raise(physics: CT | Tomography, dtype: torch.dtype) -> None:
    """Sums of 8-bit values wrapped around in 8 bits, and of complex ones the imaginary part was dropped."""
    x, y = torch.ones(1, 1, 8, 8).to(dtype), torch.ones(1, 1, 12, 3).to(dtype)
    for function, tensor in ((physics.A, x), (physics.A_adjoint, y), (physics.A_dagger, y)):
        with pytest.raises(InputError, match=rf"real floating-point values, got {dtype}"):
            function(tensor)


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
@pytest.mark.parametrize(
    "operator",
    [
        lambda device: CT(8, 4, device=device),
        lambda device: Tomography((8, 8), [0.0, 45.0, 90.0], 12, device=device),
        lambda device: Inpainting(8, 8, device=device),
        lambda device: MRI(torch.ones(8), device=device),
    ],
)
def test_an_unavailable_device_raises(operator: Callable[[str], Any], device: str) -> None:
    with pytest.raises(InputError, match=f"torch cannot use the device '{device}' here"):
        operator(device)


@pytest.mark.parametrize(
    "make",
    [
        lambda mask: Inpainting(8, 8, mask=mask),
        lambda mask: Inpainting(8, 8),
        lambda mask: MRI(mask, mask.expand(2, 8, 8) * (1 + 1j), cg_steps=2),
        lambda mask: CT(8, 5),
        lambda mask: Tomography((8, 8), range(0, 360, 30), 12, source_origin=30, origin_detector=5),
    ],
    ids=["mask", "random mask", "MRI", "CT", "fan"],
)
def test_operators_made_and_used_in_inference_mode_train(make: Callable[[torch.Tensor], Any]) -> None:
    """Autograd cannot save tensors of that mode: "Inference tensors cannot be saved for backward"."""
    with torch.inference_mode():
        mask = torch.ones(8, 8)
        mask[2:5, 3] = 0
        physics = make(mask)
        physics.A_dagger(physics.A(torch.rand(1, 2, 8, 8)))
    x = torch.rand(1, 2, 8, 8, requires_grad=True)
    physics.A_dagger(physics.A(x)).square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())
