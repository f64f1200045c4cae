"""Plausible mistakes in a script of Python, each an error of one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SmallNet
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import TensorDataset

from ei.closure import EIClosure, MCClosure, SupervisedClosure, SUREClosure
from ei.datasets import make_loader
from ei.errors import InputError
from ei.evaluation import report
from ei.models import Reconstructor, Unrolled
from ei.physics import GaussianNoise, Inpainting
from ei.training import Trainer, cosine_schedule, one_cycle_schedule
from ei.transforms import Shift

IMAGES = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
PHYSICS = Inpainting(16, 16)


def train(loader: Any = None, optimizers: Any = None, **changes: Any) -> None:
    f = Reconstructor(SmallNet(1), changes.get("physics", PHYSICS))
    parts = {"f": f, "physics": PHYSICS, "transform": Shift(1), "closure": EIClosure(1)}
    optimizers = {"total": Adam(f.net.parameters())} if optimizers is None else optimizers
    parts |= {"optimizers": optimizers, "epochs": 1, "out": False, "progress": False, **changes}
    trainer = Trainer(**parts)
    trainer.fit(make_loader(IMAGES, batch_size=2) if loader is None else loader)


def test_right_parts() -> None:
    train()
    train(transform=None, closure=MCClosure())
    train(loader=[IMAGES[:2], IMAGES[2:]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": Shift}, r"transform must be an object, got the class Shift: write Shift\(\.\.\)"),
        ({"transform": 3}, r"transform must have a method apply\(x\), got a int"),
        ({"transform": None}, "transform is missing: EIClosure needs a group"),
        ({"closure": EIClosure}, "closure must be an object, got the class EIClosure"),
        ({"closure": "ei"}, r"closure must be called as closure\(f, physics, transform, y, x\), got a str"),
        ({"f": PHYSICS}, "f must have its network as f.net, as .*, got a Inpainting"),
        ({"f": Reconstructor}, "f must be an object, got the class Reconstructor"),
        ({"physics": Inpainting}, r"physics must have a method A\(x\), got the class Inpainting"),
        ({"optimizers": Adam(SmallNet(1).parameters())}, "optimizers must be a dict of losses .*, got Adam"),
        ({"optimizers": {"total": Adam(SmallNet(1).parameters())}}, "'total' depends on none of the parameters"),
        ({"loader": TensorDataset(IMAGES)}, "fit needs a loader, got a TensorDataset: make_loader"),
        ({"loader": IMAGES}, "fit needs a loader, got a Tensor"),
        ({"loader": 3}, "fit needs a loader, got a int"),
        ({"validation": TensorDataset(IMAGES)}, "validation needs a loader, got a TensorDataset: make_loader"),
        ({"schedule": 0.1}, r"schedule must be a function that is called as schedule\(epoch\), got 0.1"),
        ({"on_epoch_end": "print"}, r"on_epoch_end must be a function that is called as on_epoch_end\(trainer\), got"),
    ],
)
def test_wrong_parts_of_a_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        train(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x1: {"loss": x1.mean(), "x1": x1}, r"must return 'total' in its dict, which has loss, x1"),
        (lambda x1: {"total": x1.mean()}, "must return 'x1' in its dict"),
        (
            lambda x1: {"total": x1.mean((1, 2, 3)), "x1": x1},
            r"must be a scalar tensor, got shape .2.; take its",
        ),
        (lambda x1: {"total": 1.0, "x1": x1}, "must be a scalar tensor, got float"),
        (lambda x1: x1.mean(), r"must return a dict with \"total\" and \"x1\", got a Tensor"),
        (lambda x1: None, "got a NoneType"),
        (
            lambda x1: {"total": x1.mean(), "x1": x1[:1]},
            r"as x1, must give images .2, 1, 16, 16., got .1,",
        ),
        (lambda x1: {"total": x1.detach().mean(), "x1": x1}, "'total' depends on none of the parameters"),
    ],
)
def test_wrong_results_of_a_closure(result: Callable[[Tensor], Any], message: str) -> None:
    def closure(f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> Any:
        return result(f(y))

    with pytest.raises(InputError, match=message):
        train(closure=closure)


def test_an_operator_that_no_gradient_passes() -> None:
    """Measurement consistency trained nothing, in silence."""
    detached = SimpleNamespace(A=lambda x: PHYSICS.A(x).detach(), A_dagger=PHYSICS.A_dagger)
    noisy = SimpleNamespace(**vars(detached), noise=GaussianNoise(0.1))
    for closure, physics in ((EIClosure(1), detached), (MCClosure(), detached), (SUREClosure(), noisy)):
        with pytest.raises(InputError, match="no gradient flows through A of the operator"):
            train(physics=physics, closure=closure)
    train(physics=detached, closure=SupervisedClosure())  # which uses it to measure alone


@pytest.mark.parametrize(
    ("apply", "got"),
    [
        (lambda x: x[:1], r"\[1, 1, 16, 16\]"),  # broadcast, it trained in silence
        (lambda x: x[..., 1:], r"\[2, 1, 16, 15\]"),
        (lambda x: x.detach().numpy(), "ndarray"),
        (lambda x: x[:0], r"\[0, 1, 16, 16\]"),
    ],
)
def test_wrong_images_of_a_transform(apply: Callable[[Tensor], Any], got: str) -> None:
    words = rf"apply of the transform must give images \[n \* 2, 1, 16, 16\] for images \[2, .*, got {got}"
    with pytest.raises(InputError, match=words):
        train(transform=SimpleNamespace(apply=apply))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2"])
def test_batch_sizes(batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch_size must be a whole number >= 1, got"):
        make_loader(IMAGES, batch_size=batch_size)
    with pytest.raises(InputError, match="workers must be a whole number >= 0, got -1"):
        make_loader(IMAGES, batch_size=1, workers=-1)


@pytest.mark.parametrize("schedule", [cosine_schedule, one_cycle_schedule])
@pytest.mark.parametrize("epochs", [0, 2.5, "10"])
def test_epochs_of_a_schedule(schedule: Any, epochs: Any) -> None:
    with pytest.raises(InputError, match="epochs must be a whole number >= 1, got"):
        schedule(epochs)


@pytest.mark.parametrize("noise", [0.1, "gaussian:0.1"])
def test_noise_that_is_no_model(noise: Any) -> None:
    with pytest.raises(InputError, match=r"noise must be None or a noise model, as GaussianNoise\(0.1\), got"):
        Inpainting(16, 16, noise=noise)


@pytest.mark.parametrize("kind", [Reconstructor, Unrolled])
def test_network_and_operator_in_another_order(kind: Any) -> None:
    for net in (PHYSICS, "UNet"):
        with pytest.raises(InputError, match=f"net must be a network, .*, got a {type(net).__name__}; physics comes"):
            kind(net, PHYSICS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PHYSICS, "f", IMAGES), r"physics must have a method A\(x\), got a Reconstructor"),
        (("f", IMAGES, PHYSICS), r"physics must have a method A\(x\), got a Tensor"),
        (("f", PHYSICS, []), "images must be a data set of test images, got an empty one"),
        (("f", PHYSICS, PHYSICS), "images must be a data set of test images, got a Inpainting"),
        ((abs, PHYSICS, IMAGES), "f must be a reconstruction function, .*, got a builtin_function_or_method"),
    ],
)
def test_wrong_arguments_of_a_report(arguments: tuple[Any, ...], message: str, tmp_path: Any) -> None:
    f: nn.Module = Reconstructor(SmallNet(1), PHYSICS)
    with pytest.raises(InputError, match=message):
        report(*(f if isinstance(part, str) else part for part in arguments), tmp_path)
    assert not list(tmp_path.iterdir())
