"""The bootstrap where the answer is known: linear reconstructions, known biases, exact groups."""

from __future__ import annotations

import math
import warnings
from statistics import NormalDist
from typing import Any

import pytest
import torch
from conftest import SmallNet
from torch import Tensor

import ei.evaluation
from ei.errors import InputError
from ei.evaluation.calibration import LEVELS, coverage, gaussian_bound, true_scores
from ei.evaluation.uncertainty import Bootstrap, Resampling, Sums, bootstrap
from ei.models import Reconstructor
from ei.physics import CT, GaussianNoise, Inpainting, PoissonNoise, Tomography
from ei.physics.split import Split
from ei.transforms import Compose, Reflect, Rotate, Rotate90, Scale, Shift, Turn


class Dense:
    """Any matrix as an operator, and its pseudo-inverse as a reconstruction."""

    def __init__(self, matrix: Tensor, side: int, sigma: float) -> None:
        self.matrix, self.side = matrix, side
        self.inverse = torch.linalg.pinv(matrix)
        self.noise = GaussianNoise(sigma)

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y @ self.inverse.T).view(-1, 1, self.side, self.side)


class Direct:
    """All of an image is measured, with noise."""

    def __init__(self, sigma: float = 0.0) -> None:
        self.noise = GaussianNoise(sigma) if sigma else None

    def A(self, x: Tensor) -> Tensor:
        return x

    A_dagger = A


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def images(*shape: int, number: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=seed(number))


def test_the_names_are_where_they_are_looked_for() -> None:
    assert ei.evaluation.bootstrap is bootstrap
    assert ei.evaluation.Bootstrap is Bootstrap


def test_of_a_pseudo_inverse_the_variance_is_the_analytic_one() -> None:
    matrix = torch.randn(24, 16, dtype=torch.float64, generator=seed(1))
    physics = Dense(matrix, 4, sigma=0.3)
    result = bootstrap(physics.A_dagger, physics, Rotate90(1), physics.A(images(1, 1, 4, 4)), 1500, generator=seed())
    of_pixels = 0.09 * (physics.inverse @ physics.inverse.T).diagonal().view(1, 1, 4, 4)
    assert result.move == "image"
    assert float(result.mse) == pytest.approx(float(of_pixels.mean()), rel=0.06)
    turned_back = torch.stack([torch.rot90(of_pixels, -turns, (-2, -1)) for turns in (1, 2, 3)]).mean(0)
    assert float((result.std.square() / turned_back - 1).abs().max()) < 0.2
    # Turned the wrong way the variances would be those of other pixels.
    wrong = torch.stack([of_pixels, torch.rot90(of_pixels, 2, (-2, -1))]).mean(0)
    assert float((result.std.square() / wrong - 1).abs().max()) > 0.4
    assert float(result.bias.abs().max()) < 0.05
    assert float(result.psnr(2.0)) == pytest.approx(10 * math.log10(4 / float(result.mse)))
    norms = result.norms[:, 0].sort().values
    assert float(result.quantile(0.8)) == pytest.approx(float(norms[1199]), rel=1e-2)
    assert float(result.norms.square().mean()) / 16 == pytest.approx(float(result.mse))


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_coverage_falls_by_a_bias_that_no_draw_shows(bias: float) -> None:
    """f sets the mean of an image to a constant: what it does to the truth, it does not do to its own images."""
    sigma, side = 0.2, 8
    spread = sigma * math.sqrt(1 - 1 / side**2)
    physics = Direct(sigma)
    truth = images(120, 1, side, side)
    truth = truth - truth.mean((1, 2, 3), keepdim=True)
    f = lambda y: y - y.mean((1, 2, 3), keepdim=True) + bias * spread  # noqa: E731
    y = physics.noise(truth, generator=seed(2))
    result = bootstrap(f, physics, Reflect(1), y, 150, generator=seed())
    rows = coverage(true_scores(result, truth))
    normal = NormalDist()
    for row in rows:
        z = gaussian_bound(row["level"])
        expected = normal.cdf(z - bias) - normal.cdf(-z - bias)
        assert row["pixels"] == pytest.approx(expected, abs=0.02), row
        # Of the norm of 63 numbers the bias is most of it.
        assert row["norm"] == (0 if bias else pytest.approx(row["level"], abs=0.12)), row
    assert [row["level"] for row in rows] == list(LEVELS)


def small_f(physics: Any) -> Reconstructor:
    """An f with BatchNorm statistics and a dropout that evaluation must not touch."""
    return Reconstructor(torch.nn.Sequential(SmallNet(1), torch.nn.Dropout(0.5)), physics)


CASES = {
    "operator": (Inpainting(8, 8, noise=GaussianNoise(0.1)), Shift(1), "operator"),
    "image": (Inpainting(8, 8, noise=PoissonNoise(0.02)), Rotate(1), "image"),
    "several groups": (Inpainting(8, 8), Compose(Shift(1), Reflect(1)), None),
    "masks of images": (Inpainting(8, 8, mask=(images(3, 1, 8, 8) > 0.4).float()), Shift(1, per_image=True), "image"),
    "scanner": (Tomography((8, 8), range(0, 180, 36), 12, noise=GaussianNoise(0.1)), Turn(1), "operator"),
}  # fmt: skip
cases = pytest.mark.parametrize(("physics", "transform", "move"), CASES.values(), ids=CASES)


@cases
def test_a_batch_is_what_its_images_are(physics: Any, transform: Any, move: str | None) -> None:
    f = small_f(physics)
    y = physics(images(3, 1, 8, 8).float())
    whole = bootstrap(f, physics, transform, y, 10, generator=seed(), move=move)
    assert f.training
    for n in range(3):
        one = physics.of([n]) if physics.count > 1 else physics
        alone = bootstrap(f.of(one), one, transform, y[n : n + 1], 10, generator=seed(), move=move)
        for name in ("x", "mse", "std", "bias", "rmse", "interpolation"):
            torch.testing.assert_close(getattr(whole, name)[n : n + 1], getattr(alone, name), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole.norms[:, n : n + 1], alone.norms, rtol=1e-4, atol=1e-5)
    other = bootstrap(f, physics, transform, y, 10, generator=seed(1), move=move)
    assert not torch.allclose(other.norms, whole.norms)


@cases
def test_the_order_of_draws_changes_nothing(physics: Any, transform: Any, move: str | None) -> None:
    y = physics(images(3, 1, 8, 8).float())
    resampling = Resampling(small_f(physics), physics, transform, y, 12, physics.noise, 3, move)
    sorted_ = Bootstrap(resampling)
    shuffled = Bootstrap(resampling, [resampling.draw(n) for n in (7, 3, 0, 11, 5, 1, 8, 2, 10, 4, 9, 6)])
    for name in ("mse", "std", "bias", "rmse", "norms", "interpolation"):
        torch.testing.assert_close(getattr(shuffled, name), getattr(sorted_, name), rtol=1e-6, atol=1e-9)
    fewer = Resampling(small_f(physics), physics, transform, y, 5, physics.noise, 3, move)
    assert [element.tolist() for element in fewer.elements] == [one.tolist() for one in resampling.elements[:5]]
    draws = sorted_.draws
    assert draws.shape == (12, 3, 1, 8, 8)
    # Each draw weighs as much as it is like A in a pixel: always, but for pixels that are measured by themselves.
    likeness = [torch.as_tensor(resampling.likeness(resampling.draw(n))).expand_as(draws[n]) for n in range(12)]
    weights = torch.stack(likeness).double()
    errors = draws - sorted_.x
    mean = (weights * errors).sum(0) / weights.sum(0).clamp(min=1e-300)
    torch.testing.assert_close(sorted_.bias.double(), mean, rtol=1e-4, atol=1e-6)
    if move != "image" or not isinstance(transform, Rotate):
        squares = (weights * (errors - mean).square()).sum(0) / (weights.sum(0) - 1).clamp(min=1)
        torch.testing.assert_close(sorted_.std.double(), squares.sqrt(), rtol=1e-3, atol=1e-6)


def test_the_operator_moves_where_it_can() -> None:
    scanner, mask = Tomography((8, 8), range(0, 180, 36), 12), Inpainting(8, 8)
    for physics, transform, move in (
        (scanner, Turn(1), "operator"), (scanner, Rotate90(1), "operator"), (scanner, Shift(1), "image"),
        (mask, Shift(1), "operator"), (mask, Rotate(1), "image"), (Direct(), Shift(1), "image"),
    ):  # fmt: skip
        f = small_f(physics) if move == "operator" or physics is not None else None
        assert bootstrap(f, physics, transform, physics.A(images(1, 1, 8, 8).float()), 3).move == move
    # A function without of(physics) has one operator.
    assert bootstrap(mask.A_dagger, mask, Shift(1), images(1, 1, 8, 8), 3).move == "image"


def test_draws_are_reconstructions_by_the_moved_operator() -> None:
    physics = CT(8, 6)
    f, y = small_f(physics).eval(), physics.A(images(1, 1, 8, 8).float())
    result = bootstrap(f, physics, Turn(1, step=30, positions=3), y, 30, generator=seed())
    with torch.no_grad():
        expected = torch.stack([f.of(physics.moved(d))(physics.moved(d).A(f(y))) for d in (5.0, 15.0, 25.0)])
    found = torch.unique((result.draws * 1e4).round(), dim=0) / 1e4
    assert len(found) == 3  # of three positions, drawn with replacement
    assert float(torch.cdist(found.flatten(1), expected.flatten(1)).amin(1).max()) < 1e-2
    assert float(result.interpolation) == 0


def test_interpolating_the_image_is_no_error() -> None:
    x = images(2, 1, 24, 24)
    exact = bootstrap(lambda y: y, Direct(), Rotate(1), x, 10, generator=seed())
    assert float(exact.mse.max()) == 0
    assert float(exact.interpolation.min()) > 1e-3
    noisy = bootstrap(lambda y: y, Direct(0.1), Rotate(1), x, 150, generator=seed())
    assert float(noisy.mse.mean()) == pytest.approx(0.01, rel=0.03)
    # Turning an error back smooths it; the error of pixels is that before.
    middle = noisy.rmse[..., 8:16, 8:16]
    assert float(middle.square().mean()) == pytest.approx(0.01, rel=0.05)
    assert float(noisy.bias.square().mean()) < 1e-3


def test_sums_are_those_of_all_values_together() -> None:
    values = 1e6 + torch.randn(50, 3, dtype=torch.float64, generator=seed())
    weights = (torch.rand(50, 3, generator=seed(1)) > 0.3).double()
    sums = Sums()
    for value, weight in zip(values, weights, strict=True):
        sums.add(value, weight)
    mean = (weights * values).sum(0) / weights.sum(0)
    torch.testing.assert_close(sums.mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(sums.squares, (weights * (values - mean) ** 2).sum(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(sums.weight, weights.sum(0))


def test_few_draws_say_little_of_a_high_quantile() -> None:
    physics = Direct(0.1)
    result = bootstrap(lambda y: y, physics, Reflect(1), images(1, 1, 4, 4), 19)
    with pytest.warns(UserWarning, match="the 95 % quantile of 19 draws .* take at least 20 draws"):
        result.quantile(0.95)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.quantile(0.9)
        bootstrap(lambda y: y, physics, Reflect(1), images(1, 1, 4, 4), 20).quantile(0.95)


class NoInverse:
    def sample(self, x: Tensor) -> Tensor:
        return torch.ones(1)

    def apply(self, x: Tensor, elements: Any = None) -> Tensor:
        return x.flip(-1)


class OnlyApply:
    def apply(self, x: Tensor, elements: Any = None) -> Tensor:
        return x.flip(-1)


MASK = Inpainting(8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, y: bootstrap(f, MASK, Scale(1), y, 5), r"Scale has no inverse: give it a method inverse\(element\)"),
        (lambda f, y: bootstrap(f, MASK, NoInverse(), y, 5, move="image"), "NoInverse has no inverse"),
        (lambda f, y: bootstrap(f, MASK, OnlyApply(), y, 5), "OnlyApply has none"),
        (lambda f, y: bootstrap(f, Inpainting(8, 8, seed=1), Shift(1), y, 5), "another operator, Inpainting"),
        (lambda f, y: bootstrap(f, MASK, Shift(1), y, 5, noise=GaussianNoise(0.1)), "the physics has no noise"),
        (lambda f, y: bootstrap(f, MASK, Shift(1), y, 5, noise=0.1), "noise must be a noise model"),
        (lambda f, y: bootstrap(f, MASK, Shift(1), y, 1), "draws must be a whole number >= 2, got 1"),
        (lambda f, y: bootstrap(f, MASK, Rotate(1), y, 5, move="operator"), "a mask is moved by what permutes pixels"),
        (lambda f, y: bootstrap(MASK.A, MASK, Shift(1), y, 5, move="operator"), "of.physics., the same f with"),
        (lambda f, y: bootstrap(f, MASK, Shift(1), y, 5, move="both"), "move must be one of 'image', 'operator'"),
        (lambda f, y: bootstrap(f, MASK, Shift(1), y, 5).quantile(1.0), "p must be finite and > 0 and < 1"),
        (lambda f, y: bootstrap(lambda y: y.mean(), MASK, Shift(1), y, 5), "f must return images"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(small_f(MASK), MASK.A(images(1, 1, 8, 8).float()))


def test_a_noise_takes_the_place_of_the_physics_own() -> None:
    physics = Direct(0.1)
    assert float(bootstrap(lambda y: y, physics, Reflect(1), images(1, 1, 16, 16), 50).mse) == pytest.approx(
        0.01, rel=0.1
    )
    louder = bootstrap(lambda y: y, physics, Reflect(1), images(1, 1, 16, 16), 50, noise=GaussianNoise(0.3))
    assert float(louder.mse) == pytest.approx(0.09, rel=0.1)


@pytest.mark.parametrize("transform", [Shift(1), Rotate90(1), Reflect(1), Compose(Shift(1), Rotate90(1), Reflect(1))])
def test_undo_is_the_inverse(transform: Any) -> None:
    x = images(1, 1, 8, 8)
    for element in transform.sample(x):
        assert torch.equal(transform.undo(transform.act(x, element), element), x)
    with pytest.raises(InputError, match="Scale has no inverse"):
        Compose(Shift(1), Scale(1)).undo(x, torch.ones(5))


def test_a_part_of_an_operator_moves_with_it() -> None:
    x = images(2, 1, 8, 8)
    scanner, kept = Tomography((8, 8), range(0, 180, 36), 12), torch.tensor([1.0, 0, 1, 1, 0]).double()
    moved = Split(scanner, kept.view(1, 1, 1, 5)).moved(torch.tensor(20.0), Turn(1))
    torch.testing.assert_close(moved.A(x), kept * scanner.moved(20).A(x))
    part = (images(2, 1, 8, 8, number=1) > 0.5).double()
    moved = Split(MASK, part).moved(torch.tensor([1, 2]), Shift(1))
    torch.testing.assert_close(moved.A(x), torch.roll(part * MASK.mask, (1, 2), (-2, -1)) * x)


def test_draws_of_turned_images_are_turned_back() -> None:
    f = small_f(MASK).eval()
    resampling = Resampling(f, MASK, Rotate90(1), MASK.A(images(2, 1, 8, 8).float()), 6, None, 0, "image")
    with torch.no_grad():
        expected = torch.stack([
            torch.rot90(f(MASK.A(torch.rot90(resampling.x, turns, (-2, -1)))), -turns, (-2, -1))
            for turns in map(int, resampling.elements)
        ])  # fmt: skip
    assert {1, 3} <= set(map(int, resampling.elements))
    torch.testing.assert_close(Bootstrap(resampling).draws, expected, rtol=1e-4, atol=1e-5)
