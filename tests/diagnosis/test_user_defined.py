"""Mistakes of user-defined operators, noise and groups, found before a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ei.diagnosis.user_defined import check_group, check_noise, check_operator
from ei.errors import InputError
from ei.physics import GaussianNoise, with_pseudo_inverse

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")


class Rows:
    image_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        return x[..., ::2, :]

    def A_dagger(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, -2)


class InPlace(Rows):
    def A(self, x: Tensor) -> Tensor:
        x[..., 1::2, :] = 0
        return x[..., ::2, :]


class Noisy(Rows):
    def A(self, x: Tensor) -> Tensor:
        return super().A(x) + torch.randn(1)


class Divides(Rows):
    def A(self, x: Tensor) -> Tensor:
        return super().A(x) / 0


class ChangesMeasurements(Rows):
    def A_dagger(self, y: Tensor) -> Tensor:
        return super().A_dagger(y.mul_(2))


class WrongAdjoint:
    image_shape = SHAPE
    A = Rows.A

    def A_adjoint(self, y: Tensor) -> Tensor:
        return 3 * y.repeat_interleave(2, -2)


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        (InPlace(), "A of the operator changes its argument"),
        (Noisy(), "A of the operator gives other values at each call"),
        (Divides(), "A of the operator gives values that are not finite"),
        (ChangesMeasurements(), "A_dagger of the operator changes its argument"),
        (with_pseudo_inverse(WrongAdjoint()), "A_adjoint of the operator is not the adjoint of A"),
    ],
)
def test_operators(physics: Any, message: str) -> None:
    check_operator(Rows(), SHAPE, CPU, needs_steps=False, needs_filter=False)
    with pytest.raises(InputError, match=message):
        check_operator(physics, SHAPE, CPU, needs_steps=False, needs_filter=False)


class Noise:
    def __init__(self, noisy: Any, variance: Any) -> None:
        self.noisy, self._variance = noisy, variance

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Any:
        return self.noisy

    def variance(self, y: Tensor) -> Any:
        return self._variance


def test_noise() -> None:
    y = torch.zeros(1, 1, 4, 8)
    check_noise(None, y)
    check_noise(GaussianNoise(0.1), y)
    check_noise(Noise(y, y), y)
    for noise, message in (
        (Noise(y[..., 1:], y), r"must give a tensor of the shape of y, \[1, 1, 4, 8\], got \[1, 1, 4, 7\]"),
        (Noise(None, y), "got NoneType"),
        (Noise(y, 0.01), "variance.y. of noise of the operator must give a tensor .* got float"),
        (lambda: 0, "must be a function noise"),
    ):
        with pytest.raises(InputError, match=message):
            check_noise(noise, y)


class Zeroes:
    def apply(self, x: Tensor) -> Tensor:
        x[..., 0] = 0
        return x


def test_a_group_that_changes_its_argument() -> None:
    with pytest.raises(InputError, match="apply of Zeroes changes its argument"):
        check_group(Zeroes(), SHAPE, "Zeroes")
