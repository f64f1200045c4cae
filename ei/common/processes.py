"""Several processes, one run: ``torchrun --nproc_per_node=K -m ei train ...``.

Each process takes its part of every batch, all apply the same group elements, `DistributedDataParallel` averages the
gradients, and process 0 alone writes. So a network without BatchNorm learns what it would in one process, to rounding.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ei.common.signals import leaving_on_sigterm
from ei.errors import InputError


@dataclass(frozen=True)
class Processes:
    """The processes of a run: this one's ``rank``, and how many there are."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Those that have joined; this one alone if none have."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over all processes of a tensor on the CPU, in place."""
        if self.count > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def gathered(self, value: Any) -> list[Any]:
        """The plain values of all processes, by rank."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            dist.barrier()

    def replicated(self, network: nn.Module) -> nn.Module:
        """``network`` with gradients averaged over all processes in every backward pass."""
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        # A step calls the network twice before it goes backward. Broadcasting buffers (BatchNorm's statistics) before
        # the second call would change in place what the backward pass of the first still needs.
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None, **options)


@dataclass(frozen=True)
class Part:
    """A process's part of a batch: the images ``start`` to ``stop`` of ``size``.

    A batch of fewer images than processes leaves some without one. They take the first image, with no weight: all have
    to take part in a step.
    """

    start: int
    stop: int
    size: int
    weight: float

    @classmethod
    def of(cls, size: int, processes: Processes) -> Part:
        """This process's part of a batch of ``size`` images."""
        each, left = divmod(size, processes.count)
        start = processes.rank * each + min(processes.rank, left)
        stop = start + each + (processes.rank < left)
        return cls(start, stop, size, (stop - start) / size) if stop > start else cls(0, 1, size, 0.0)


_PART: ContextVar[Part | None] = ContextVar("part", default=None)


@contextlib.contextmanager
def drawing_for(part: Part) -> Iterator[None]:
    """In a ``with`` block, `drawn` draws for the whole batch that ``part`` is of, and gives this part of it."""
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)


def drawn(draw: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
    """``draw(shape)``: random numbers for the images along the first axis. Where this process has a part of a batch
    (`drawing_for`), they are drawn for the whole batch, so that all processes draw the same. Images under several
    transforms lie transform-major: ``[n_trans * images, ...]``."""
    part = _PART.get()
    if part is None:
        return draw(shape)
    transforms = shape[0] // (part.stop - part.start)
    whole = draw((transforms * part.size, *shape[1:]))
    return whole.view(transforms, part.size, *shape[1:])[:, part.start : part.stop].flatten(0, 1)


def mean_over_batch(value: Tensor) -> Tensor:
    """The mean over a whole batch of a scalar that is a mean over images, without gradient. Where this process has a
    part of a batch (`drawing_for`), all processes have to call this together, and get the same. A closure whose means
    are not over images, but over what each of them measures, divides by a mean over the batch."""
    part = _PART.get()
    return value.detach() if part is None else Processes.current().sum(part.weight * value.detach())


def launched() -> Processes:
    """The processes that a launcher (``torchrun``) started, from its environment; this one alone without one."""
    return Processes(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that a launcher started, for the time of a ``with`` block: gloo on the CPU, nccl for CUDA."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what is seeded, recorded and timed is on the current device
    if launched().count == 1:
        yield Processes()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        processes = Processes.current()
        yield processes
        # `DistributedDataParallel` keeps gloo's threads alive. One that still holds a tensor of Python's when the
        # interpreter ends aborts the process; a barrier has no tensor.
        processes.wait()
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_prints() -> Iterator[None]:
    """In a ``with`` block, of the processes that a launcher started the first one alone prints."""
    with contextlib.ExitStack() as stack:
        if not launched().first:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[Processes]:
    """Do the work of a command together, for the time of a ``with`` block: the processes that a launcher started have
    `joined`, the first one alone prints, and SIGTERM ends each of them as an exception does."""
    with first_prints(), joined(device) as processes, leaving_on_sigterm():
        yield processes


def check_division(batch_size: int, processes: Processes) -> None:
    """Raise `InputError`, naming the next size that works, unless batches of ``batch_size`` can be divided over the
    processes."""
    if batch_size % processes.count:
        following = -(-batch_size // processes.count) * processes.count
        what = f"a batch of {batch_size} cannot be divided over {processes.count} processes"
        raise InputError(f"{what}; choose --batch-size {following}")
