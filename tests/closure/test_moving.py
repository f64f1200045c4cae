"""Closures that move the operator, and closures that draw operators: what they compute, and what they reject."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import SmallNet, fill
from torch.nn import functional

from ei.closure import (
    AdversarialEIClosure,
    EIClosure,
    MOIClosure,
    RobustEIClosure,
    SplittingEIClosure,
    SupervisedEIClosure,
    UNSUREClosure,
)
from ei.errors import InputError
from ei.models import Discriminator, Reconstructor
from ei.physics import CT, GaussianNoise, Inpainting, Tomography
from ei.transforms import Rotate90, Shift, Turn


def problem(noise: Any = None) -> tuple[Reconstructor, CT, torch.Tensor, torch.Tensor]:
    physics = CT(8, 6, noise=noise)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return Reconstructor(fill(SmallNet(1)), physics), physics, physics.A(x), x


def test_the_moved_operator_takes_the_place_of_the_moved_image() -> None:
    f, physics, y, _ = problem()
    transform = Turn(2, step=30)
    elements = transform.sample(y)
    transform.sample = lambda x: elements  # type: ignore[method-assign]
    losses = EIClosure(alpha=3, move="operator")(f, physics, transform, y)
    x1 = f(y)
    expected = sum(
        functional.mse_loss(f.of(physics.moved(g))(physics.moved(g).A(x1)), x1) / len(elements) for g in elements
    )
    torch.testing.assert_close(losses["ei"], expected)
    torch.testing.assert_close(losses["total"], losses["mc"] + 3 * expected)
    weights = list(f.net.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(losses["ei"], weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    frozen = EIClosure(alpha=3, move="operator", stop_gradient=True)(f, physics, transform, y)
    x1 = f(y)
    detached = sum(
        functional.mse_loss(f.of(physics.moved(g))(physics.moved(g).A(x1.detach())), x1.detach()) / 2 for g in elements
    )
    for mine, theirs in zip(
        torch.autograd.grad(frozen["ei"], weights), torch.autograd.grad(detached, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_for_an_equivariant_f_moving_the_operator_is_moving_the_image() -> None:
    # FBP alone commutes with quarter turns; a network that weighs each pixel by itself does, too.
    f, physics, y, _ = problem()
    f.net = torch.nn.Conv2d(1, 1, 1)
    transform = Rotate90(3)
    image, operator = (EIClosure(alpha=1, move=move)(f, physics, transform, y)["ei"] for move in ("image", "operator"))
    torch.testing.assert_close(image, operator)
    assert float(image.detach()) > 0


def test_a_moved_mask_in_the_loss() -> None:
    physics = Inpainting(8, 8, mask_rate=0.5)
    f = Reconstructor(torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), physics)
    y = physics.A(torch.rand(2, 1, 8, 8))
    elements = Shift(2).sample(y)
    # A.moved(g) is A T_g^-1, so the image moves the other way.
    image = EIClosure(alpha=1)(f, physics, _fixed(Shift(2), -elements), y)["ei"]
    operator = EIClosure(alpha=1, move="operator")(f, physics, _fixed(Shift(2), elements), y)["ei"]
    torch.testing.assert_close(image, operator)  # a circular convolution commutes with shifts


def _fixed(transform: Any, elements: torch.Tensor) -> Any:
    transform.sample = lambda x, generator=None: elements
    return transform


@pytest.mark.parametrize("name", ["rei", "unknown noise", "ei_sup", "ei_adv", "split_ei"])
def test_every_equivariant_closure_moves_the_operator(name: str) -> None:
    f, physics, y, x = problem(GaussianNoise(0.1))
    closure: Any = {
        "rei": RobustEIClosure(1, move="operator"),
        "unknown noise": UNSUREClosure(0.1, 1, move="operator"),
        "ei_sup": SupervisedEIClosure(1, move="operator"),
        "ei_adv": AdversarialEIClosure(Discriminator((1, 8, 8)), 1, 1e-8, move="operator"),
        "split_ei": SplittingEIClosure(1, move="operator"),
    }[name]
    seen = []
    moved = physics.moved
    physics.moved = lambda *arguments: seen.append(arguments[0]) or moved(*arguments)  # type: ignore[method-assign]
    losses = closure(f, physics, Turn(2), y, x)
    assert len(seen) == 2
    assert torch.isfinite(losses["total"])
    losses["total"].backward()


def scans() -> tuple[Reconstructor, Tomography]:
    physics = Tomography((8, 8), [[0, 60, 120], [20, 80, 140], [40, 100, 160, 170]], 12)
    return Reconstructor(fill(SmallNet(1)), physics), physics


def test_operators_are_drawn_from_those_of_the_run() -> None:
    f, physics = scans()
    x = torch.rand(1, 1, 8, 8)
    mine = physics.of([2])
    y = mine.A(x)
    x1 = f.of(mine)(y)
    each = [functional.mse_loss(f.of(physics.of([n]))(physics.of([n]).A(x1)), x1) for n in range(3)]
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        losses = MOIClosure(alpha=2)(f.of(mine), mine, None, y)
        (number,) = [n for n in range(3) if torch.allclose(losses["moi"], each[n])]
        torch.testing.assert_close(losses["total"], losses["mc"] + 2 * losses["moi"])
        found.add(number)
    assert found == {0, 1, 2}
    torch.manual_seed(0)
    many = MOIClosure(alpha=1, n_operators=200)(f.of(mine), mine, None, y)["moi"]
    assert float(many.detach()) == pytest.approx(float(torch.stack(each).mean().detach()), rel=0.1)


def test_images_are_moved_and_measured_by_any_operator() -> None:
    f, physics = scans()
    mine = physics.of([0, 1])
    y = mine.A(torch.rand(2, 1, 8, 8))
    transform = Rotate90(3)
    elements = torch.tensor([2, 1, 3])
    transform.sample = lambda x: elements  # type: ignore[method-assign]
    torch.manual_seed(1)
    losses = EIClosure(1, operators="any")(f.of(mine), mine, transform, y)
    torch.manual_seed(1)
    numbers = (torch.rand(6) * 3).long().tolist()
    assert len(set(numbers)) == 3
    x2 = transform.apply(f.of(mine)(y), elements)
    x3 = torch.cat(
        [f.of(physics.of([n]))(physics.of([n]).A(image[None])) for n, image in zip(numbers, x2, strict=True)]
    )
    torch.testing.assert_close(losses["ei"], functional.mse_loss(x3, x2))
    torch.manual_seed(1)
    moved = EIClosure(1, operators="any", move="operator")(f.of(mine), mine, transform, y)
    x2 = f.of(mine)(y).repeat(3, 1, 1, 1)
    operators = [physics.of([n]).moved(90.0 * int(elements[k // 2])) for k, n in enumerate(numbers)]
    x3 = torch.cat([f.of(one)(one.A(image[None])) for one, image in zip(operators, x2, strict=True)])
    torch.testing.assert_close(moved["ei"], functional.mse_loss(x3, x2))


class Unmoved:
    def A(self, x: torch.Tensor) -> torch.Tensor:
        return x

    A_dagger = A


@pytest.mark.parametrize(
    ("closure", "physics", "transform", "message"),
    [
        (EIClosure(1, move="operator"), Unmoved(), Rotate90(1), "Unmoved has no method moved"),
        (EIClosure(1, move="operator"), CT(8, 6), Rotate90(1, per_image=True), "drawn for the whole batch"),
        (EIClosure(1, move="operator"), CT(8, 6), Shift(1), "CT is moved by rotations"),
        (EIClosure(1, operators="any"), CT(8, 6), Rotate90(1), "one operator serves all images"),
        (UNSUREClosure(0.1, 1, operators="any"), CT(8, 6), Rotate90(1), "one operator serves all images"),
        (MOIClosure(1), CT(8, 6), None, "one operator serves all images"),
    ],
)
def test_what_cannot_be_moved_or_drawn(closure: Any, physics: Any, transform: Any, message: str) -> None:
    f = Reconstructor(fill(SmallNet(1)), physics)
    with pytest.raises(InputError, match=message):
        closure(f, physics, transform, physics.A(torch.rand(2, 1, 8, 8)))


def test_an_f_without_of_is_rejected() -> None:
    physics = CT(8, 6)
    with pytest.raises(InputError, match=r"need a reconstruction function with of\(physics\)"):
        EIClosure(1, move="operator").check(lambda y: y, physics)
    for arguments in ({"move": "scanner"}, {"operators": "all"}):
        with pytest.raises(InputError):
            EIClosure(1, **arguments)


class Positions:
    """An instrument with a matrix for each position."""

    def __init__(self, matrices: torch.Tensor, position: int = 0) -> None:
        self.matrices, self.position = matrices, position

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.matrices[self.position].T)[:, None, None]

    def moved(self, element: torch.Tensor) -> Positions:
        return Positions(self.matrices, int(element))


class KnowsItsOperator:
    """A linear f with weights of its own for each position: the image in the row space of the first matrix that fits
    the measurements."""

    def __init__(self, physics: Positions) -> None:
        self.physics = physics

    def of(self, physics: Positions) -> KnowsItsOperator:
        return KnowsItsOperator(physics)

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        rows = self.physics.matrices[0]
        inverse = rows.T @ torch.linalg.inv(self.physics.matrices[self.physics.position] @ rows.T)
        return (y.flatten(1) @ inverse.T).view(-1, 1, 2, 2)


def test_an_f_that_knows_its_operator_may_leave_the_null_space_empty() -> None:
    """The failure of ``move=operator``: both losses vanish, and images lack what the first operator does not see. A
    group that moves the images rules it out, and so does an f that commutes with the group (docs/guides/scans.md)."""
    matrices = torch.randn(4, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    physics = Positions(matrices)
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    f = KnowsItsOperator(physics)
    losses = EIClosure(1, move="operator")(f, physics, Rotate90(3), physics.A(x))
    assert float(losses["total"]) < 1e-20
    assert float((f(physics.A(x)) - x).norm() / x.norm()) > 0.3
    assert float(EIClosure(1)(f, physics, Rotate90(3), physics.A(x))["ei"]) > 0.1
