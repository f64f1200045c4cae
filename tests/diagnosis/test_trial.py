"""The step that is tried before a run: every mistake of user-defined parts is one line, and the run is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ei.closure import Closure, MCClosure
from ei.datasets import make_loader
from ei.diagnosis.trial import try_step
from ei.errors import InputError
from ei.models import Reconstructor, UNet
from ei.physics import Inpainting
from ei.training import Trainer

SHAPE = (1, 16, 16)


def trial(closure: Any, net: nn.Module | None = None, images: Any = None, schedule: Any = None) -> Trainer:
    net = UNet(1, 1, base_channels=2) if net is None else net
    f = Reconstructor(net, Inpainting(16, 16))
    optimizers = {"total": torch.optim.SGD(net.parameters(), lr=1.0)}
    trainer = Trainer(f, f.physics, None, closure, optimizers, epochs=1, out=False, schedule=schedule, progress=False)
    images = [torch.rand(SHAPE)] * 4 if images is None else images
    try_step(trainer, make_loader(images, batch_size=2), SHAPE)
    return trainer


class Returning(Closure):
    """Returns what a function makes of x1, and counts its calls."""

    columns = {"loss": "total"}
    calls = 0

    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.result = result

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> Any:
        self.calls += 1
        return self.result(f(y))


class List(Returning):
    columns = ["total"]  # type: ignore[assignment]


def test_a_good_run_is_left_as_it_was() -> None:
    net = UNet(1, 1, base_channels=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    closure = Returning(lambda x1: {"total": x1.square().mean(), "x1": x1.detach()})
    images = [torch.rand(SHAPE)] * 4
    random = torch.get_rng_state()
    trainer = trial(closure, net, images)
    assert torch.equal(torch.get_rng_state(), random) and (trainer.step, closure.calls) == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())  # BatchNorm's, too
    assert all(parameter.grad is None for parameter in net.parameters())


LOSSES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tensor": (lambda x1: x1.mean(), "must return a dict"),
    "no total": (lambda x1: {"loss": x1.mean(), "x1": x1}, "must return 'total' in its dict, which has loss, x1"),
    "no x1": (lambda x1: {"total": x1.mean()}, "must return 'x1'"),
    "vector": (lambda x1: {"total": x1.mean((1, 2, 3)), "x1": x1}, r"must be a scalar tensor, got shape \[2\]"),
    "number": (lambda x1: {"total": 1.0, "x1": x1}, "must be a scalar tensor, got float"),
    "detached": (lambda x1: {"total": x1.detach().mean(), "x1": x1}, "does not depend on the network"),
    "other": (lambda x1: {"total": torch.ones((), requires_grad=True), "x1": x1}, "does not depend on the network"),
    "shape": (lambda x1: {"total": x1.mean(), "x1": x1[..., 1:]}, r"as x1, must give images \[2, 1, 16, 16\], got"),
    "fails": (lambda x1: x1 @ x1[:, :, :3], "closure Returning, tried on a batch: RuntimeError"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_closure_that_returns_the_wrong_thing(case: str) -> None:
    result, message = LOSSES[case]
    with pytest.raises(InputError, match=message):
        trial(Returning(result))


def test_columns_that_are_no_dict() -> None:
    with pytest.raises(InputError, match="columns of closure List must be a dict"):
        trial(List(lambda x1: {"total": x1.mean(), "x1": x1}))


class Cropping(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., 1:]


def test_networks_data_and_schedules() -> None:
    with pytest.raises(InputError, match=r"must give images .2, 1, 16, 16., got .2, 1, 16, 15."):
        trial(MCClosure(), Cropping(1, 1, 3, padding=1))
    with pytest.raises(InputError, match=r"cannot take measurements of shape .2, 1, 16, 16.: RuntimeError"):
        trial(MCClosure(), nn.Conv2d(3, 3, 3))
    with pytest.raises(InputError, match=r"images of a batch must have one shape, got .1, 16, 16. and .1, 16, 18."):
        trial(MCClosure(), images=[torch.rand(1, 16, 16), torch.rand(1, 16, 18)])
    with pytest.raises(InputError, match="learning rate's factor of an epoch: ValueError"):
        trial(MCClosure(), schedule=lambda epoch: "a")
