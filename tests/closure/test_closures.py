"""Closures: the reference trainings to the last weight, what they return, what they call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallNet, fill, reference
from torch.nn import functional
from torch.optim import Adam

from ei.closure import (
    AdversarialEIClosure,
    DIPClosure,
    EIClosure,
    MCClosure,
    RobustEIClosure,
    SplittingEIClosure,
    SupervisedClosure,
    SupervisedEIClosure,
    UNSUREClosure,
)
from ei.errors import InputError
from ei.models import Discriminator, Reconstructor, UNet, Unrolled
from ei.physics import CT, GaussianNoise, Inpainting
from ei.training import Trainer, step_schedule
from ei.transforms import Rotate, Shift


class Fixed:
    """A group of which the same elements are taken at every step."""

    def __init__(self, transform: Any, elements: np.ndarray) -> None:
        self.transform, self.elements = transform, torch.from_numpy(elements)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.transform.apply(x, self.elements)


def train_reference(name: str, closure: Any) -> tuple[dict, Trainer]:
    figures = reference(name)
    x = torch.from_numpy(figures["x"])
    channels, side = x.shape[1], x.shape[-1]
    if "mask" in figures:
        physics: Any = Inpainting(side, side, mask=torch.from_numpy(figures["mask"]))
        transform: Any = Fixed(Shift(1), figures["elements"])
    else:
        physics = CT(side, int(figures["radon_view"]))
        transform = Fixed(Rotate(1), figures["elements"])
    net = fill(SmallNet(channels))
    optimizers = {"total": Adam(net.parameters(), lr=float(figures["lr"]), weight_decay=1e-8)}
    if isinstance(closure, AdversarialEIClosure):
        optimizers["D"] = Adam(closure.discriminator.parameters(), lr=float(figures["lr_d"]))
    trainer = Trainer(
        Reconstructor(net, physics),
        physics,
        transform,
        closure,
        optimizers,
        epochs=len(figures["log"]),
        schedule=step_schedule(figures["schedule"].tolist()),
        out=False,
        progress=False,
    )
    trainer.fit(list(x.split(int(figures["batch_size"]))))
    return figures, trainer


def check(figures: dict, trainer: Trainer, tolerance: float) -> None:
    log = np.array([[value for column, value in row.items() if column != "epoch"] for row in trainer.history])
    np.testing.assert_allclose(log, figures["log"], rtol=tolerance)
    for name, value in trainer.f.net.state_dict().items():
        expected = figures[f"param_{name}"]
        assert np.linalg.norm(value.numpy() - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "closure"),
    [
        ("train_mc_inpainting", MCClosure()),
        ("train_ei_inpainting", EIClosure(1.0)),
        ("train_ei_ct", EIClosure(100.0)),
        ("train_sup_ct", SupervisedClosure()),
        ("train_sup_ei_ct", SupervisedEIClosure(10.0)),
    ],
)
def test_reference_training(name: str, closure: Any) -> None:
    figures, trainer = train_reference(name, closure)
    check(figures, trainer, 1e-4)


def test_reference_adversarial_training() -> None:
    figures = reference("train_adv_inpainting")
    discriminator = fill(Discriminator((3, 32, 32)))
    closure = AdversarialEIClosure(discriminator, float(figures["alpha"]), float(figures["beta"]))
    figures, trainer = train_reference("train_adv_inpainting", closure)
    check(figures, trainer, 1e-3)
    first = next(discriminator.parameters()).detach().numpy()
    expected = figures["discriminator_first_weight"]
    assert np.linalg.norm(first - expected) < 1e-3 * np.linalg.norm(expected)
    sums = [float(p.detach().double().sum()) for p in discriminator.parameters()]
    np.testing.assert_allclose(sums, figures["discriminator_sums"], rtol=1e-3, atol=1e-3)


def setting() -> tuple[Any, ...]:
    torch.manual_seed(0)
    physics = Inpainting(16, 16)
    f = Reconstructor(fill(SmallNet(3)), physics)
    x = torch.rand(2, 3, 16, 16)
    return f, physics, Shift(2), physics.A(x), x


@pytest.mark.parametrize(
    ("closure", "keys"),
    [
        (MCClosure(), {"mc", "total"}),
        (EIClosure(2.0), {"mc", "ei", "total"}),
        (SupervisedClosure(), {"sup", "total"}),
        (SupervisedEIClosure(2.0), {"sup", "ei", "total"}),
        (AdversarialEIClosure(Discriminator((3, 16, 16)), 2.0, 0.5), {"mc", "ei", "g", "total", "D"}),
        (DIPClosure(), {"mc", "total"}),
    ],
)
def test_what_a_closure_returns(closure: Any, keys: set[str]) -> None:
    f, physics, transform, y, x = setting()
    losses = closure(f, physics, transform, y, x)
    assert set(losses) == keys | {"x1"}
    assert all(losses[key].dim() == 0 for key in keys)
    assert not losses["x1"].requires_grad and losses["x1"].shape == x.shape
    assert set(closure.columns.values()) <= keys


def test_ei_is_the_equation() -> None:
    f, physics, transform, y, _ = setting()
    torch.manual_seed(5)
    losses = EIClosure(3.0)(f, physics, transform, y)
    torch.manual_seed(5)
    x1 = f(y)
    x2 = transform.apply(x1)
    x3 = f(physics.A(x2))
    expected = functional.mse_loss(physics.A(x1), y) + 3 * functional.mse_loss(x3, x2)
    torch.testing.assert_close(losses["total"], expected)
    weights = list(f.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(losses["total"], weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def equivariant(**options: Any) -> list[Any]:
    """Every closure with an equivariance loss."""
    return [
        EIClosure(2.0, **options),
        SupervisedEIClosure(2.0, **options),
        AdversarialEIClosure(Discriminator((3, 16, 16)), 2.0, 0.5, **options),
        SplittingEIClosure(2.0, **options),
        RobustEIClosure(2.0, **options),
        UNSUREClosure(0.1, 2.0, **options),
    ]


@pytest.mark.parametrize("stop_gradient", [False, True])
def test_a_stopped_gradient_is_of_images_that_are_data(stop_gradient: bool) -> None:
    """In every closure: the gradient of its equivariance loss is that with x2 held fixed, or not; the value is the
    same."""
    for closure in equivariant(stop_gradient=stop_gradient):
        f, physics, _, y, x = setting()
        physics.noise = GaussianNoise(0.1) if isinstance(closure, RobustEIClosure) else None
        elements = torch.tensor([[3, 5], [-2, 1]])
        torch.manual_seed(4)
        losses = closure(f, physics, Fixed(Shift(2), elements.numpy()), y, x)
        torch.manual_seed(4)

        class Data:
            def apply(self, x1: torch.Tensor, elements: torch.Tensor = elements) -> torch.Tensor:
                return Shift(2).apply(x1, elements).detach()

        expected = closure(f, physics, Data(), y, x)["ei"]
        torch.testing.assert_close(losses["ei"], expected)
        weights = list(f.net.parameters())
        ours, theirs = (
            torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, weights, retain_graph=True)])
            for loss in (losses["ei"], expected)
        )
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-7) == stop_gradient, type(closure).__name__


def test_frozen_targets_leave_x3_alone_to_teach() -> None:
    _, physics, transform, y, _ = setting()
    f = Unrolled(fill(SmallNet(3)), physics, iterations=1)
    torch.manual_seed(5)
    losses = EIClosure(3.0, frozen_targets=True)(f, physics, transform, y)
    torch.manual_seed(5)
    as_ever = EIClosure(3.0, stop_gradient=True)(f, physics, transform, y)
    for name, loss in as_ever.items():
        torch.testing.assert_close(losses[name], loss)
    assert not losses["mc"].requires_grad
    weights = list(f.net.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(losses["total"], weights), torch.autograd.grad(3 * as_ever["ei"], weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("ends", ["after A_dagger", "with the network"])
def test_frozen_targets_need_a_reconstruction_with_data_consistency_last(ends: str) -> None:
    f, physics, transform, y, _ = setting()
    if ends == "with the network":
        f = Unrolled(f.net, physics, last="net")
    with pytest.raises(InputError, match="last step is data consistency"):
        EIClosure(1.0, frozen_targets=True)(f, physics, transform, y)


def test_the_adversarial_loss_trains_the_network_whether_or_not_the_gradient_is_stopped() -> None:
    f, physics, transform, y, _ = setting()
    closure = AdversarialEIClosure(Discriminator((3, 16, 16)), 0.0, 0.5, stop_gradient=True)
    gradients = torch.autograd.grad(closure(f, physics, transform, y)["g"], list(f.net.parameters()))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_the_domain_of_consistency_is_the_adversarial_closures_too() -> None:
    torch.manual_seed(0)
    physics = CT(16, 5)
    f, x = Reconstructor(fill(SmallNet(1)), physics), torch.rand(2, 1, 16, 16)
    y = physics.A(x)
    ours = AdversarialEIClosure(Discriminator((1, 16, 16)), 1.0, 0.5, mc_domain="image")(f, physics, Rotate(1), y)
    expected = functional.mse_loss(physics.A_dagger(physics.A(f(y))), physics.A_dagger(y))
    torch.testing.assert_close(ours["mc"], expected)
    # The gradient, too, goes through A_dagger A.
    loss, weights = MCClosure(mc_domain="image")(f, physics, None, y)["mc"], list(f.parameters())
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(one, other)


def test_l1_and_other_criteria() -> None:
    f, physics, transform, y, _ = setting()
    expected = functional.l1_loss(physics.A(f(y)), y)
    for criterion in ("l1", torch.nn.L1Loss(), functional.l1_loss):
        torch.testing.assert_close(MCClosure(criterion=criterion)(f, physics, transform, y)["mc"], expected)


def test_closures_call_nothing_but_the_contract() -> None:
    """A user's operator and group are plain classes; BatchNorm sees f(y) and f(A x2), nothing more."""

    class Operator:
        calls = 0

        def A(self, x):
            return x.flatten(1)[:, ::2]

        def A_dagger(self, y):
            self.calls += 1
            return y.repeat_interleave(2, dim=1).view(-1, 1, 8, 8)

    class Flips:
        def apply(self, x):
            return torch.cat([x.flip(-1), x.flip(-2)])

    operator = Operator()
    f = Reconstructor(SmallNet(1), operator)
    y = operator.A(torch.rand(2, 1, 8, 8))
    for closure, passes in ((EIClosure(1.0), 2), (MCClosure(), 1)):
        operator.calls = 0
        closure(f, operator, Flips(), y)["total"].backward()
        assert operator.calls == passes


@pytest.mark.parametrize("closure", [SupervisedClosure(), SupervisedEIClosure(1.0)])
def test_supervised_needs_truth(closure: Any) -> None:
    f, physics, transform, y, _ = setting()
    with pytest.raises(ValueError, match="ground-truth"):
        closure(f, physics, transform, y)


@pytest.mark.parametrize(
    "call",
    [
        lambda: EIClosure(-1),
        lambda: EIClosure(float("nan")),
        lambda: SupervisedEIClosure(float("inf")),
        lambda: AdversarialEIClosure(Discriminator((1, 16, 16)), 1.0, -1.0),
        lambda: MCClosure(criterion="l3"),
    ],
)
def test_impossible_weights(call) -> None:
    with pytest.raises(ValueError):
        call()


def test_re_measuring_draws_noise_anew() -> None:
    f, physics, transform, y, _ = setting()
    torch.manual_seed(1)
    clean = EIClosure(1.0)(f, physics, transform, y)["ei"]
    physics.noise = GaussianNoise(0.5)
    torch.manual_seed(1)
    noisy = EIClosure(1.0)(f, physics, transform, y)
    again = EIClosure(1.0)(f, physics, transform, y)
    assert float((noisy["ei"] - clean).detach().abs()) > 1e-4
    assert not torch.equal(noisy["ei"], again["ei"])
    torch.testing.assert_close(noisy["mc"], MCClosure()(f, physics, transform, y)["mc"])


def test_deep_image_prior() -> None:
    f, physics, _, y, _ = setting()
    closure = DIPClosure(seed=3)
    optimizer = Adam(f.parameters(), lr=1e-2)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        losses = closure(f, physics, None, y)
        losses["total"].backward()
        optimizer.step()
        values.append(float(losses["mc"].detach()))
    assert values[-1] < 0.5 * values[0]
    again = DIPClosure(seed=3)
    again(f, physics, None, y)
    assert torch.equal(again.z, closure.z) and float(closure.z.min()) >= 0 and float(closure.z.max()) <= 1
    other = DIPClosure(seed=4)
    other(f, physics, None, y)
    assert not torch.equal(other.z, closure.z)
    with pytest.raises(ValueError, match="one fixed batch"):
        closure(f, physics, None, y[:1])
    for other in (y.flip(0), y + 1):  # of the same shape: shuffled, or the next image
        with pytest.raises(ValueError, match="shuffle=False"):
            closure(f, physics, None, other)
    assert torch.equal(closure.reconstruct(f), f.net(closure.z)) and f.training
    with pytest.raises(ValueError, match="train first"):
        DIPClosure().reconstruct(f)


def test_the_deep_image_prior_fits_images_of_any_sides_and_units() -> None:
    """It calls the network as f does: padded, and in units of f's scale."""
    physics = Inpainting(12, 18)
    f = Reconstructor(UNet(3, 3, base_channels=2, norm="none"), physics, image_scale=100.0)
    closure, y = DIPClosure(), physics.A(100 * torch.rand(1, 3, 12, 18))
    with pytest.warns(UserWarning, match="padded by reflection to 16 x 24"):
        losses = closure(f, physics, None, y)
    assert losses["x1"].shape == (1, 3, 12, 18) and closure.z is not None and 50 < float(closure.z.max()) <= 100
    with pytest.warns(UserWarning, match="padded"):
        assert torch.equal(closure.reconstruct(f), f.call_net(closure.z))


def test_what_the_deep_image_prior_fitted_is_read_in_evaluation_mode() -> None:
    """BatchNorm takes its statistics from the training, and reading the image does not change them."""
    _, physics, _, y, _ = setting()
    f = Reconstructor(torch.nn.Sequential(fill(SmallNet(3)), torch.nn.BatchNorm2d(3)), physics)
    closure = DIPClosure()
    closure(f, physics, None, y)
    statistics = f.net[1].running_mean.clone()
    found = closure.reconstruct(f)
    assert torch.equal(f.net[1].running_mean, statistics) and f.training
    assert torch.equal(found, f.eval().net(closure.z))


def test_the_discriminator_is_not_trained_by_the_generators_loss() -> None:
    f, physics, transform, y, _ = setting()
    discriminator = Discriminator((3, 16, 16))
    losses = AdversarialEIClosure(discriminator, 1.0, 0.5)(f, physics, transform, y)
    grads = torch.autograd.grad(losses["D"], list(f.parameters()), allow_unused=True)
    assert all(grad is None for grad in grads)
