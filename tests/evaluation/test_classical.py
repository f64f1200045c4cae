"""Reconstructions without learning, and the choice of their steps and weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from ei.common.seeds import derive_seed
from ei.datasets import EllipsePhantoms
from ei.datasets.batches import simulate
from ei.evaluation.classical import (
    CGLS_STEPS,
    _divergence,
    _gradient,
    best_of,
    best_steps,
    best_weight,
    classical_for,
    harmonic_fill,
    least_squares,
    total_variation,
)
from ei.metrics import psnr
from ei.physics import CT, MRI, GaussianNoise, Inpainting


def phantoms(n: int, side: int = 32) -> Tensor:
    return torch.stack(
        [torch.nn.functional.avg_pool2d(EllipsePhantoms("test")[k][None], 128 // side) for k in range(n)]
    )


def noisy_ct(sigma: float, side: int = 32) -> CT:
    physics = CT(side, side // 2)
    physics.noise = GaussianNoise(sigma)
    return physics


def lsqr(physics: Any, y: Tensor, iterations: int) -> Tensor:
    """scipy's LSQR, an independent implementation with the iterates of CGLS."""
    shape = physics.A_dagger(y).shape
    operator = scipy.sparse.linalg.LinearOperator(
        (y.numel(), shape.numel()),
        matvec=lambda x: physics.A(torch.from_numpy(x).view(shape)).numpy().ravel(),
        rmatvec=lambda y_: physics.A_adjoint(torch.from_numpy(y_).view(y.shape)).numpy().ravel(),
        dtype=np.float64,
    )
    x = scipy.sparse.linalg.lsqr(operator, y.double().numpy().ravel(), atol=0, btol=0, conlim=0, iter_lim=iterations)[0]
    return torch.from_numpy(x).view(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("iterations", "tolerance"), [(5, 1e-6), (50, 1e-3), (200, 1e-3)])
def test_least_squares_has_the_iterates_of_lsqr(iterations: int, tolerance: float, dtype: torch.dtype) -> None:
    """Rounding spoils the orthogonality of both in other ways, so that late iterates agree less."""
    physics = CT(32, 16)
    y = physics.A(phantoms(1).to(dtype))
    x = least_squares(physics, y, iterations)
    assert x.dtype == dtype
    expected = lsqr(physics, y, iterations)
    assert float((x - expected).norm() / expected.norm()) < tolerance


def test_each_measurement_is_a_problem_of_its_own() -> None:
    physics = CT(16, 8)
    y = physics.A(
        torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9])[:, None, None, None]
    )
    torch.testing.assert_close(least_squares(physics, y, 9)[1:], least_squares(physics, y[1:], 9))


def test_least_squares_solves() -> None:
    """Enough steps give the solution of least norm, as numpy's dense solver does."""
    physics = CT(6, 5)
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solution = least_squares(physics, physics.A(x), iterations=200)
    matrix = physics.A(torch.eye(36, dtype=torch.float64).view(36, 1, 6, 6)).reshape(36, -1).T.numpy()
    expected = np.linalg.lstsq(matrix, physics.A(x).reshape(2, -1).T.numpy())[0].T
    np.testing.assert_allclose(solution.numpy().reshape(2, -1), expected, atol=1e-6)


def test_gradient_and_divergence_are_transposes() -> None:
    x, q = torch.randn(2, 1, 5, 7, dtype=torch.float64), torch.randn(2, 2, 1, 5, 7, dtype=torch.float64)
    assert float((_gradient(x) * q).sum()) == pytest.approx(-float((x * _divergence(q)).sum()), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("positive", [True, False])
def test_total_variation_minimises_its_objective(positive: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    mask = (torch.rand(16, 16, generator=rng) < 0.5).float()
    physics, weight = (CT(16, 8) if positive else MRI(mask)), 0.05
    x = torch.rand(1, 1 if positive else 2, 16, 16, dtype=torch.float64, generator=rng) - (0 if positive else 0.5)
    y = physics.A(x)

    def objective(image: torch.Tensor) -> float:
        tv = _gradient(image).square().sum(dim=0).sqrt().sum()
        return float(0.5 * (physics.A(image) - y).square().sum() + weight * tv)

    solution = total_variation(physics, y, weight, iterations=3000, positive=positive)
    assert (float(solution.min()) >= 0) == positive
    least = 0 if positive else -torch.inf
    rng = torch.Generator().manual_seed(1)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(10):
            other = (solution + size * torch.randn(solution.shape, dtype=torch.float64, generator=rng)).clamp(min=least)
            assert objective(solution) <= objective(other)
    assert objective(solution) <= objective(x)
    # Random steps are too coarse to tell another weight, which the minimisers for it are not.
    for other in (weight / 2, weight * 2):
        assert objective(solution) < objective(total_variation(physics, y, other, iterations=400, positive=positive))


def test_classical_reconstructions_beat_the_fbp_on_phantoms() -> None:
    physics, x = CT(64, 20), torch.nn.functional.avg_pool2d(EllipsePhantoms("test")[0].view(1, 1, 128, 128), 2)
    y = physics.A(x)
    images = (physics.A_dagger(y), least_squares(physics, y), total_variation(physics, y))
    fbp, cgls, tv = (float(psnr(image, x)) for image in images)
    assert fbp + 1 < cgls and cgls + 5 < tv


def test_without_noise_steps_and_weight_are_fixed() -> None:
    assert list(classical_for(CT(16, 8))) == ["CGLS 50", "TV, x >= 0"]
    assert list(classical_for(Inpainting(16, 16))) == ["harmonic fill"]
    assert classical_for(MRI(torch.ones(16, 16))) == {}


def test_with_noise_they_need_training_images() -> None:
    physics = noisy_ct(0.5)
    assert classical_for(physics) == {}
    physics = Inpainting(32, 32)
    physics.noise = GaussianNoise(0.1)
    assert list(classical_for(physics)) == ["harmonic fill"]
    train = phantoms(1)
    assert [name.split(",")[0] for name in classical_for(physics, train)] == ["harmonic fill", "TV"]
    mri = MRI((torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).float())
    mri.noise = GaussianNoise(0.1)
    assert [name.split(",")[0] for name in classical_for(mri, train.expand(1, 2, 32, 32))] == ["TV"]


@pytest.mark.slow
def test_they_suit_the_noise() -> None:
    """On other images than those of the choice they are far better than those without noise."""
    images = phantoms(4)
    physics = noisy_ct(0.5)
    chosen = classical_for(physics, images[:3])
    y = physics.noise(physics.A(images[3:]), generator=torch.Generator().manual_seed(1))
    cgls, tv = (float(psnr(reconstruct(physics, y), images[3:])) for reconstruct in chosen.values())
    assert cgls > float(psnr(least_squares(physics, y), images[3:])) + 3
    assert tv > float(psnr(total_variation(physics, y), images[3:])) + 3


def smooth_and_fine() -> tuple[Tensor, Tensor]:
    """Images in [0, 1] for which few and many steps are best: a blob, and fine grain."""
    axis = torch.linspace(-1, 1, 16)
    blob = torch.exp(-3 * (axis[:, None] ** 2 + axis**2))[None, None]
    grain = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    inside = (axis[:, None] ** 2 + axis**2 < 0.8).float()
    return blob.expand(2, -1, -1, -1) * inside, grain * inside


@pytest.mark.slow
def test_steps_and_weight_are_the_best_for_the_training_images() -> None:
    """The choice is recomputed from the measurements of these images alone, with scipy's LSQR; smooth and fine images
    need other steps and weights."""
    physics = noisy_ct(0.2, side=16)
    choices = []
    for train in smooth_and_fine():
        y = simulate(physics, train, range(2), derive_seed(0, "classical"))
        by_steps = {
            n: float(psnr(torch.cat([lsqr(physics, one[None], n) for one in y]).float(), train).mean())
            for n in CGLS_STEPS
        }
        steps = best_steps(physics, train)
        assert by_steps[steps] == pytest.approx(max(by_steps.values()), abs=1e-3)
        weight = best_weight(physics, train)
        weights = [weight * factor for factor in (0.1, 0.3, 1, 3, 10)]
        by_weight = {w: float(psnr(total_variation(physics, y, w, 200), train).mean()) for w in weights}
        assert by_weight[weight] >= max(by_weight.values()) - 0.3
        assert list(classical_for(physics, train)) == [f"CGLS {steps}", f"TV, x >= 0, weight {weight:.2g}"]
        choices.append((steps, weight))
    (few, strong), (many, weak) = choices
    assert few < many and strong > weak


def test_the_first_of_equal_choices_is_taken() -> None:
    best, qualities = best_of(
        (3, 1, 2), lambda n: torch.tensor(float(n)), lambda image: float(image == 1) + float(image == 2)
    )
    assert best == 1 and qualities == {3: 0, 1: 1, 2: 1}


def test_the_harmonic_fill_solves_the_laplace_equation() -> None:
    """A linear image is harmonic and filled exactly; every missing pixel is the mean of its neighbours."""
    mask = Inpainting(9, 11, mask_rate=0.4, seed=2).mask.clone()
    mask[..., [0, -1], :], mask[..., [0, -1]] = 1, 1
    physics = Inpainting(9, 11, mask=mask)
    ramp = (torch.arange(9.0)[:, None] + 2 * torch.arange(11.0)).expand(1, 3, 9, 11).double()
    torch.testing.assert_close(harmonic_fill(physics, physics.A(ramp)), ramp)
    y = physics.A(torch.rand(1, 3, 9, 11, dtype=torch.float64))
    filled, missing = harmonic_fill(physics, y), (mask == 0).expand(1, 3, 9, 11)
    mean = sum(filled.roll(shift, axis) for shift in (1, -1) for axis in (-1, -2)) / 4
    torch.testing.assert_close(filled[missing], mean[missing])
    assert torch.equal(filled[~missing], y[~missing]) and bool((filled[missing] > 0).all())


def test_missing_pixels_at_the_border_are_the_mean_of_the_neighbours_they_have() -> None:
    mask = torch.ones(4, 4)
    mask[0, 0] = mask[0, 2] = 0
    physics, x = Inpainting(4, 4, mask=mask), torch.rand(1, 1, 4, 4, dtype=torch.float64)
    filled, pixels = harmonic_fill(physics, physics.A(x))[0, 0], x[0, 0]
    torch.testing.assert_close(filled[0, 0], (pixels[0, 1] + pixels[1, 0]) / 2)
    torch.testing.assert_close(filled[0, 2], (pixels[0, 1] + pixels[0, 3] + pixels[1, 2]) / 3)


def test_each_image_is_filled_under_its_mask() -> None:
    masks = torch.stack([Inpainting(8, 8, mask_rate=0.4, seed=seed).mask.view(1, 8, 8) for seed in (1, 2)])
    physics, x = Inpainting(8, 8, mask=masks), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    filled = harmonic_fill(physics, physics.A(x))
    for k in range(2):
        alone = Inpainting(8, 8, mask=masks[k, 0])
        torch.testing.assert_close(filled[k], harmonic_fill(alone, alone.A(x[k][None]))[0])
