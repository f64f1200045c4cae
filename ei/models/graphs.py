"""A reconstruction function as CUDA graphs: what takes thousands of small kernels is started as one.

Between its network and its conjugate gradients an unrolled reconstruction waits for Python, not for the GPU. The
kernels of a call and of its backward pass are recorded once for each shape of measurements, and replayed.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ei.errors import InputError

MOST = 8  # recordings of one kind of call; a step makes two or three


class RecordedCalls:
    """``call(y)`` of one module by CUDA graphs, in training.

    A recording's tensors are overwritten when it is replayed, so one whose backward pass may still come is not: a
    second call of the same shape in a step takes a recording of its own. Where parameters are replaced or frozen, or
    parts of the module change between training and evaluation, everything is recorded anew. A copy of the module has
    no recordings.

    Args:
        call: a function of measurements that always does the same to them: no branch on values, no random numbers, one
            operator.
        module: whose parameters the result depends on.
        computing: the context to record in.

    Raises:
        InputError: in a call, if ``y`` is not on a CUDA device, or what the call does cannot be recorded; in a second
            backward pass through one result, which needs what the first has overwritten.
    """

    device_type = "cuda"

    def __init__(
        self, call: Callable[[Tensor], Tensor], module: nn.Module, computing: Callable[[], AbstractContextManager]
    ) -> None:
        self._call, self._module, self._computing = call, module, computing
        self._state: tuple[Any, ...] = ()
        self._recordings: dict[tuple[Any, ...], list[_Recording]] = {}
        for parameter in module.parameters():
            if parameter.requires_grad:
                # What a recording gives is its own memory, which an accumulated gradient would share.
                parameter.register_hook(Tensor.clone)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __call__(self, y: Tensor) -> Tensor:
        if y.device.type != self.device_type:
            raise InputError(f"CUDA graphs (trainer.cuda_graphs) need measurements on a CUDA device, not on {y.device}")
        state = (
            *((p.data_ptr(), p.requires_grad) for p in self._module.parameters()),
            *(part.training for part in self._module.modules()),
        )
        if state != self._state:
            self._state, self._recordings = state, {}
        of_kind = self._recordings.setdefault((y.shape, y.dtype, y.requires_grad, torch.is_grad_enabled()), [])
        recording = next((one for one in of_kind if not one.busy), None)
        with torch.cuda.device(y.device):
            if recording is None:
                if len(of_kind) == MOST:
                    raise InputError(
                        f"more than {MOST} results of one shape are in use: CUDA graphs (trainer.cuda_graphs) cannot "
                        "overwrite them"
                    )
                with self._computing(), _no_garbage_collected(), _running_statistics_kept(self._module):
                    recording = _Recording(self._call, self._module, y)
                of_kind.append(recording)
            return recording(y)


class _Recording:
    def __init__(self, call: Callable[[Tensor], Tensor], module: nn.Module, y: Tensor) -> None:
        self._held: weakref.ref[_Token] | None = None
        like = y.detach().clone().requires_grad_(y.requires_grad)
        try:
            if torch.is_grad_enabled():
                self._replay: Callable[[Tensor], Tensor] = _AsModule(call, module)
                torch.cuda.make_graphed_callables(self._replay, (like,), allow_unused_input=True)  # in place
            else:
                self._replay = _forward_only(call, like)
        except RuntimeError as error:
            raise InputError(
                "CUDA graphs cannot record this reconstruction: a part of it, perhaps the operator, waits for the GPU "
                f"or computes on the CPU, or memory is short; leave trainer.cuda_graphs out: {error}"
            ) from error

    @property
    def busy(self) -> bool:
        return self._held is not None and self._held() is not None

    def __call__(self, y: Tensor) -> Tensor:
        out = self._replay(y)
        if not out.requires_grad:
            return out.clone()
        token = _Token()
        self._held = weakref.ref(token)
        return _Held.apply(out, token)


class _Token:
    """Lives as long as the autograd graph that may still go backward through a recording."""

    used = False


class _Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, token: _Token) -> Tensor:
        ctx.token = token
        return out.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.token.used:
            raise InputError(
                "a second backward pass through one reconstruction: CUDA graphs (trainer.cuda_graphs) have overwritten "
                "what it needs"
            )
        ctx.token.used = True
        return gradient, None


class _AsModule(nn.Module):
    """A call with the parameters that gradients are for."""

    def __init__(self, call: Callable[[Tensor], Tensor], module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._call = call
        self.training = module.training

    def forward(self, y: Tensor) -> Tensor:
        return self._call(y)


def _forward_only(call: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries allocate what they need at their first calls
            call(like)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        out = call(like)

    def replay(y: Tensor) -> Tensor:
        like.copy_(y)
        graph.replay()
        return out

    return replay


@contextlib.contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """A graph that is freed while another one is recorded spoils it."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Recording runs the network several times; its running statistics are as before afterwards, without a change that
    autograd, which may hold a buffer, would count."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)
