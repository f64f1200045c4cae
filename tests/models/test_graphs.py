"""A reconstruction by CUDA graphs: on a GPU, and everywhere with an imitation of what they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import relative, small_unet
from torch import Tensor, nn

from ei.closure import EIClosure, MCClosure
from ei.common.seeds import generator
from ei.errors import InputError
from ei.models import UNet, Unrolled, graphs
from ei.models.base import computing, evaluating
from ei.physics import CT, MRI, Inpainting
from ei.transforms import FourierRotate, Shift
from ei.transforms.seeded import SeededGroup


def imitated(module: nn.Module, arguments: tuple[Tensor], allow_unused_input: bool) -> None:
    """What `torch.cuda.make_graphed_callables` makes of a module's forward: a result, and gradients, in memory that the
    next call overwrites, and a backward pass of the latest forward pass, whichever it is asked for."""
    call, parameters = module.forward, [p for p in module.parameters() if p.requires_grad]
    needs_y = arguments[0].requires_grad
    memory: dict[Any, Tensor] = {}
    latest: list[Any] = []

    def kept(name: Any, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        memory.setdefault(name, torch.empty_like(value)).copy_(value.detach())
        return memory[name].detach()

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor, *_: Tensor) -> Any:
            with torch.enable_grad():
                inputs = [y.detach().requires_grad_()] if needs_y else [y.detach()]
                latest[:] = [inputs, call(*inputs)]
            return kept("out", latest[1])

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:
            inputs, out = latest
            wanted = [*(inputs if needs_y else []), *parameters]
            found = torch.autograd.grad(out, wanted, gradient, allow_unused=allow_unused_input)
            found = tuple(kept(k, g) for k, g in enumerate(found))
            return found if needs_y else (None, *found)

    for _ in range(4):  # what warms up, and is recorded
        call(arguments[0])
    module.forward = lambda y: Graphed.apply(y, *parameters)  # type: ignore[assignment]


def imitated_forward(call: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    memory = call(like)
    return lambda y: memory.copy_(call(y))


@pytest.fixture(
    params=[
        "imitated",
        pytest.param("cuda", marks=[
            pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ]),
    ]
)  # fmt: skip
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cuda":
        return torch.device("cuda")
    monkeypatch.setattr(graphs.RecordedCalls, "device_type", "cpu")
    monkeypatch.setattr(graphs, "_forward_only", imitated_forward)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", imitated)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    return torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("n_trans", [1, 2])
@pytest.mark.parametrize(("norm", "filtered"), [("none", False), ("batch", False), ("none", True)])
def test_cuda_graphs_give_the_same_training(n_trans: int, norm: str, filtered: bool, device: torch.device) -> None:
    """With one rotation both reconstructions of a step have one shape: the second may not overwrite the first. (With
    BatchNorm one step: a millionth more or less of y moves the first gradient by a third.)"""
    trained = []
    for recorded in (False, True):
        f = Unrolled(small_unet(norm), CT(32, 12), iterations=2, cg_steps=3, filtered=filtered).to(device)
        if recorded:
            f.use_cuda_graphs()
        optimizer = torch.optim.SGD(f.net.parameters(), lr=0.1 if norm == "none" else 1e-6)
        group, losses = SeededGroup(FourierRotate(n_trans), 0), []
        for step in range(4 if norm == "none" else 1):
            y = f.physics.A(torch.rand(2, 1, 32, 32, generator=generator(step)).to(device))
            optimizer.zero_grad()
            with computing(f):
                loss = EIClosure(1.0)(f, f.physics, group, y)["total"]
                loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        state = {name: value.clone() for name, value in f.net.state_dict().items()}
        with evaluating(f), torch.no_grad():
            trained.append((losses, state, f(y)))
    (plain, before, image), (replayed, after, again) = trained
    assert replayed == pytest.approx(plain, rel=1e-5)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert relative(again, image) < 1e-4


@pytest.mark.slow
def test_cuda_graphs_reject_what_they_cannot_do(device: torch.device) -> None:
    f = Unrolled(small_unet(), CT(32, 12), iterations=1, cg_steps=2).to(device)
    y = f.physics.A(torch.rand(1, 1, 32, 32).to(device))
    f.use_cuda_graphs()
    with pytest.raises(InputError, match="operator"):
        f.of(CT(32, 12, uniform=False).to(device))
    held = [f(y) for _ in range(8)]
    assert all(torch.equal(one, held[0]) for one in held)
    with pytest.raises(InputError, match="in use"):
        f(y)
    del held
    x = f(y)
    x.sum().backward(retain_graph=True)
    with pytest.raises(InputError, match="second backward"):
        x.sum().backward()


@pytest.mark.parametrize("make", [lambda: Inpainting(32, 32), lambda: MRI((torch.arange(32) % 3 == 0).float())],
                         ids=["inpainting", "MRI"])  # fmt: skip
@pytest.mark.parametrize("n_trans", [1, 2])
def test_cuda_graphs_of_operators_with_buffers(make: Callable[[], Any], n_trans: int, device: torch.device) -> None:
    """A mask that autograd holds between a step's two reconstructions stays as it is while the second is recorded."""
    torch.manual_seed(0)
    f = Unrolled(UNet(2, 2, base_channels=4, norm="none"), make(), iterations=1, cg_steps=1).to(device)
    y = f.physics.A(torch.rand(2, 2, 32, 32).to(device))
    gradients = []
    for recorded in (False, True):
        if recorded:
            f.use_cuda_graphs()
        for _ in range(2):
            f.zero_grad()
            EIClosure(1.0)(f, f.physics, SeededGroup(Shift(n_trans), 0), y)["total"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in f.net.parameters()]))
    assert relative(gradients[1], gradients[0]) < 1e-4


def test_cuda_graphs_give_gradients_of_their_own(device: torch.device) -> None:
    """Accumulated, zeroed in place, kept: none is overwritten by the next one."""
    f = Unrolled(small_unet(), CT(32, 12), iterations=1, cg_steps=2).to(device)
    ys = [f.physics.A(torch.rand(1, 1, 32, 32).to(device)) for _ in range(2)]
    parameters = list(f.net.parameters())
    plain = [torch.autograd.grad(f(y).square().sum(), parameters) for y in ys]
    f.use_cuda_graphs()
    for _ in range(2):
        f.zero_grad(set_to_none=True)
        for y in ys:
            f(y).square().sum().backward()
        for p, a, b in zip(parameters, *plain, strict=True):
            torch.testing.assert_close(p.grad, a + b, rtol=1e-4, atol=1e-5)
    kept = [torch.autograd.grad(f(y).square().sum(), parameters) for y in ys]
    for one, expected in zip(kept, plain, strict=True):
        for a, b in zip(one, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_cuda_graphs_follow_what_is_frozen_and_copied(device: torch.device) -> None:
    f = Unrolled(small_unet("batch"), CT(32, 12), iterations=1, cg_steps=2).to(device)
    y = f.physics.A(torch.rand(2, 1, 32, 32).to(device))
    f.use_cuda_graphs()
    first = next(f.net.parameters()).requires_grad_(False)
    f(y).sum().backward()
    assert first.grad is None
    first.requires_grad_(True)
    f(y).sum().backward()
    assert first.grad is not None
    f.net.eval()
    f(y)
    assert not any(part.training for part in f.net.modules())
    twin = copy.deepcopy(f)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
        assert relative(twin(y), f(y)) > 1e-3


@pytest.mark.parametrize(
    "method", ["ei", pytest.param("mc", marks=pytest.mark.slow), pytest.param("ei_frozen", marks=pytest.mark.slow)]
)
def test_cuda_graphs_in_a_closure(method: str, device: torch.device) -> None:
    closure = {
        "mc": MCClosure(),
        "ei": EIClosure(1.0, mc_domain="image", stop_gradient=True),
        "ei_frozen": EIClosure(1.0, mc_domain="image", stop_gradient=True, frozen_targets=True),
    }[method]
    f = Unrolled(small_unet(), CT(32, 12), iterations=1, cg_steps=2).to(device)
    ys = [f.physics.A(torch.rand(n, 1, 32, 32).to(device)) for n in (2, 2, 1, 2)]
    found = []
    for recorded in (False, True):
        if recorded:
            f.use_cuda_graphs()
        for step, y in enumerate(ys):
            f.zero_grad()
            losses = closure(f, f.physics, SeededGroup(Shift(1), step), y)
            losses["total"].backward()
            found.append([losses["total"].detach(), *(p.grad.clone() for p in f.net.parameters())])
    for plain, recorded_ in zip(found[: len(ys)], found[len(ys) :], strict=True):
        for a, b in zip(plain, recorded_, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
