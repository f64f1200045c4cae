"""Conjugate gradients and adjoints by autograd, against dense matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import SmallNet, fill
from makers import RandomMatrix, images, matrix_of, plain_cg
from torch import Tensor

from ei.errors import InputError
from ei.evaluation.classical import least_squares
from ei.models import Unrolled
from ei.physics import CT, Tomography, pinv_cg
from ei.physics.krylov import _orthogonal_to, adjoint_of


def test_weighted_steps_come_to_the_pseudo_inverse_and_sooner() -> None:
    """Data that an image explains have one limit, which has nothing of the null space; of a few steps the
    weighted ones are closer to it than one more plain one."""
    physics = CT(24, 12)
    disc = (torch.cartesian_prod(*[torch.arange(24.0) - 11.5] * 2).norm(dim=1) < 8).double().view(1, 1, 24, 24)
    y = physics.A(disc)
    matrix = matrix_of(physics, 1, 24, 24)
    exact = (torch.linalg.pinv(matrix, rtol=1e-10) @ y.flatten()).view_as(disc)

    def distance(steps: int, weight: Any = None) -> float:
        return float((pinv_cg(physics, y, steps, tol=0, orthogonal=True, weight=weight) - exact).norm() / exact.norm())

    assert distance(300, physics.filter) < 1e-6 and distance(300) < 1e-6
    for steps in (1, 2):
        assert distance(steps, physics.filter) < distance(steps + 1)


@pytest.mark.slow
def test_weighted_steps_on_data_that_no_image_explains() -> None:
    """The weighted least squares, in value and gradient, and more steps move neither (float32, where most of the data
    is what no image explains)."""
    torch.manual_seed(0)
    seen = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0][:16]
    mixed = torch.randn(40, 16, dtype=torch.float64)
    A = mixed @ seen
    basis = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    W = basis @ torch.diag(torch.logspace(-1, 1, 40, dtype=torch.float64)) @ basis.T
    inverse = seen.T @ torch.linalg.inv(mixed.T @ W @ mixed) @ mixed.T @ W

    class Dense:
        image_shape = (1, 8, 8)

        def A(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ A.T.to(x.dtype)

        def A_adjoint(self, y: Tensor) -> Tensor:
            return (y @ A.to(y.dtype)).view(-1, 1, 8, 8)

        def filter(self, y: Tensor) -> Tensor:
            return y @ W.to(y.dtype)

    unseen = torch.linalg.svd(mixed)[0][:, 16:] @ torch.randn(24, dtype=torch.float64)  # of A^T nothing is left of it
    unexplained = torch.linalg.solve(W, unseen)
    x = images(2, 64, dtype=torch.float64)
    for size in (0.0, 1.0, 1e5):
        y = (x @ A.T + size * unexplained / unexplained.norm()).float().requires_grad_()
        exact = y.detach().double() @ inverse.T
        for steps in (40, 200):
            found = pinv_cg(Dense(), y, steps, tol=0, orthogonal=True, weight=Dense().filter)
            (gradient,) = torch.autograd.grad(found[:, 0, 1, 2].sum(), y)
            assert float((found.detach().flatten(1) - exact).norm()) < 1e-6 * max(size, 100)
            assert float((gradient - inverse[10]).norm() / inverse[10].norm()) < (0.01 if size < 1e5 else 1)


@pytest.mark.parametrize("scale", [1e-28, 1e28])
def test_the_scale_of_a_weight_changes_nothing(scale: float) -> None:
    """Nor when steps end: the bound on rounding noise scales with the weight, too."""
    physics = CT(16, 10)
    x, rest = images(1, 1, 16, 16, dtype=torch.float64), images(1, 1, 23, 10, seed=1, dtype=torch.float64)
    y = physics.A(x) + rest  # no image explains all of it
    found = [
        pinv_cg(physics, y, 40, tol=0, orthogonal=True, weight=lambda v, c=c: c * physics.filter(v))
        for c in (1.0, scale)
    ]
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_nothing_blows_up_where_conjugate_gradients_have_converged(orthogonal: bool) -> None:
    """Residuals of rounding noise, or of data that no image explains: more steps change neither value nor gradient."""
    torch.manual_seed(0)
    rows = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0][:20]

    class Twice:  # every row measured twice, and differently: most of the data is noise
        image_shape = (1, 8, 8)

        def A(self, x: Tensor) -> Tensor:
            return torch.cat([x.flatten(1) @ rows.T.to(x.dtype)] * 2, dim=1)

        def A_adjoint(self, y: Tensor) -> Tensor:
            return ((y[:, :20] + y[:, 20:]) @ rows.to(y.dtype)).view(-1, 1, 8, 8)

    same, noise = torch.randn(2, 3, 20)
    inverse = torch.cat([rows, rows]).T / 2
    for size in (0.0, 1.0, 1e3):
        y = torch.cat([same + size * noise, same - size * noise], dim=1).requires_grad_()
        x = pinv_cg(Twice(), y, steps=40, tol=0, orthogonal=orthogonal)
        torch.testing.assert_close(x.flatten(1), y @ inverse.float().T, rtol=1e-4, atol=1e-5 * max(size, 1))
        weights = torch.randn_like(x)
        (gradient,) = torch.autograd.grad((x * weights).sum(), y)
        exact = weights.flatten(1) @ inverse.float()
        torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=1e-2 if size == 1e3 else 1e-5)
    zero = torch.zeros_like(y).requires_grad_()
    x = pinv_cg(Twice(), zero, steps=5, tol=0, orthogonal=orthogonal)
    assert not x.any() and not torch.autograd.grad(x.sum(), zero)[0].any()


def test_an_operator_of_a_and_a_dagger_alone_has_an_adjoint() -> None:
    """A_dagger tells the shape of the images, autograd the rest: of 8 x 6 images, two measured columns a pixel row."""

    class Pairs:
        def A(self, x: Tensor) -> Tensor:
            return 3 * x[..., ::2] + x[..., 1::2]

        def A_dagger(self, y: Tensor) -> Tensor:
            return y.repeat_interleave(2, dim=-1) / 4

    physics = Pairs()
    y, x = torch.rand(2, 3, 8, 3, dtype=torch.float64), torch.rand(2, 3, 8, 6, dtype=torch.float64)
    adjoint = adjoint_of(physics)(y)
    assert adjoint.shape == x.shape
    assert float((physics.A(x) * y).sum()) == pytest.approx(float((x * adjoint).sum()), rel=1e-12)
    f = Unrolled(fill(SmallNet(3)), physics, iterations=1)
    measurements = torch.rand(2, 3, 8, 3)
    torch.testing.assert_close(physics.A(f(measurements)), measurements, rtol=1e-4, atol=1e-5)


def test_float32_follows_exact_arithmetic() -> None:
    """The mean of an image stands out among the singular values of CT: plain recursions are off within ten steps."""
    physics = CT(32, 16)
    x = torch.nn.functional.avg_pool2d(images(2, 1, 96, 96, dtype=torch.float64), 3)
    y = physics.A(x).requires_grad_()
    weights = images(2, 1, 32, 32, seed=1, dtype=torch.float64) - 0.5
    results = []
    for dtype, orthogonal in ((torch.float64, True), (torch.float32, True), (torch.float32, False)):
        x = pinv_cg(physics, y.to(dtype), steps=10, tol=0, orthogonal=orthogonal)
        results.append((x.detach(), torch.autograd.grad((x * weights).sum(), y)[0]))
    exact, close, plain = ([part.double() for part in result] for result in results)
    for k in (0, 1):  # values, gradients
        error, without = (float((found[k] - exact[k]).norm() / exact[k].norm()) for found in (close, plain))
        assert error < 1e-4 and error < 0.05 * without, (error, without)
    matrix = matrix_of(physics, 1, 32, 32)
    in_double = torch.stack([plain_cg(matrix, one, 10) for one in y.detach().flatten(1)])
    torch.testing.assert_close(exact[0].flatten(1), in_double, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("rows", [8, 30])
def test_adjoint_by_autograd(rows: int, dtype: torch.dtype) -> None:
    physics = RandomMatrix(rows, dtype)
    x, y = torch.randn(3, 1, 4, 5, dtype=torch.float64), torch.randn(3, rows, dtype=dtype)
    back = adjoint_of(physics)(y)
    assert back.shape == x.shape and not back.is_complex()
    left, right = torch.sum(physics.A(x).conj() * y).real, torch.sum(x * back)
    assert abs(float(left - right)) < 1e-10 * float(physics.A(x).norm() * y.norm())


def test_conjugate_gradients_are_differentiable() -> None:
    physics = RandomMatrix(8)
    y = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: pinv_cg(physics, y, steps=3), (y,))
    ct, sinogram = CT(8, 5), torch.rand(2, 1, 12, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: pinv_cg(ct, y, steps=2), (sinogram,))


def test_conjugate_gradients_on_ct_and_wrong_input() -> None:
    physics = CT(16, 40)
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    y = physics.A(x)
    # The two differ in rounding, which ten steps amplify, more or less from processor to processor.
    torch.testing.assert_close(pinv_cg(physics, y, steps=10, tol=0), least_squares(physics, y, 10), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="steps"):
        pinv_cg(physics, physics.A(x), steps=0)

    class Bare:
        def A(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(InputError, match="image_shape"):
        pinv_cg(Bare(), x)


def test_orthogonal_gradients_of_complex_images() -> None:
    """Complex gradients are orthogonal in the complex product; the real one left their imaginary part."""
    torch.manual_seed(0)
    matrix = torch.randn(24, 24, dtype=torch.complex128) @ torch.diag(torch.logspace(0, -3, 24).to(torch.complex128))

    class Complex:
        def A(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ matrix.to(x.dtype).T

        def A_adjoint(self, y: Tensor) -> Tensor:
            return (y @ matrix.to(y.dtype).conj()).view(-1, 1, 4, 6)

    y = Complex().A(torch.randn(2, 1, 4, 6, dtype=torch.complex128))
    exact = pinv_cg(Complex(), y, 12, tol=0, orthogonal=True)
    single = pinv_cg(Complex(), y.to(torch.complex64), 12, tol=0, orthogonal=True)
    assert float((single - exact).norm() / exact.norm()) < 1e-3
    vectors = [torch.randn(2, 1, 4, 6, dtype=torch.complex128) for _ in range(3)]
    basis = [vectors[0] / torch.linalg.vector_norm(vectors[0], dim=(1, 2, 3), keepdim=True)]
    rest = _orthogonal_to(basis, vectors[1])
    assert float(torch.linalg.vecdot(basis[0].flatten(1), rest.flatten(1)).abs().max()) < 1e-12


@pytest.mark.parametrize("physics", [CT(6, 5), Tomography((6, 6), range(0, 180, 36), 9)], ids=["CT", "any"])
@pytest.mark.parametrize("images_at_once", [1, 2])
def test_vectorized_jacobians(physics: Any, images_at_once: int) -> None:
    """Of one image torch had no batched sparse product: RuntimeError."""
    x = torch.rand(images_at_once, 1, 6, 6, dtype=torch.float64)
    for function, point in ((physics.A, x), (physics.A_dagger, physics.A(x))):
        plain = torch.autograd.functional.jacobian(function, point)
        torch.testing.assert_close(torch.autograd.functional.jacobian(function, point, vectorize=True), plain)


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_lengths_may_be_in_any_unit(unit: float) -> None:
    """In metres, pixels of a nanometre: squares of norms left float32's range, and images were 8 times off, or zero."""
    here, there = (
        Tomography((12, 12), range(0, 180, 15), 18, detector_spacing=size, pixel_size=size) for size in (1.0, unit)
    )
    x = images(2, 1, 12, 12)
    expected = pinv_cg(here, here.A(x), 10)
    torch.testing.assert_close(pinv_cg(there, there.A(x), 10), expected, rtol=1e-2, atol=1e-2)


def test_the_unit_of_the_measurements_changes_no_digit() -> None:
    physics = CT(12, 6)
    y = physics.A(images(2, 1, 12, 12))
    for factor in (2.0**-50, 2.0**60):
        for steps in (3, 20):
            assert torch.equal(pinv_cg(physics, factor * y, steps) / factor, pinv_cg(physics, y, steps))
    assert not pinv_cg(physics, torch.zeros_like(y)).any() and not pinv_cg(physics, 1e-42 * y).isnan().any()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, error: float) -> None:
    """Of float16 the norms of a sinogram were infinite, and the image was NaN or zero."""
    physics = CT(32, 20)
    y = physics.A(images(2, 1, 32, 32))
    x = pinv_cg(physics, y, 10, tol=0)
    half = pinv_cg(physics, y.to(dtype), 10, tol=0)
    assert half.dtype == dtype and float((half.float() - x).norm() / x.norm()) < error
    with pytest.raises(InputError, match="int32"):
        pinv_cg(physics, y.int())
