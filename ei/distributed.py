"""Several processes, one run: ``torchrun --nproc_per_node=K demo_train.py ...``.

Each process takes its part of every batch, all apply the same group elements, `DistributedDataParallel` averages the
gradients, and process 0 alone writes. So a network without BatchNorm learns what it would in one process, to rounding.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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
        """The sum over all processes of a tensor on the CPU, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over all processes of a tensor on the CPU, in place."""
        if self.count > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

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


class NoiseOfPart:
    """Noise for a part of a batch, as it would be drawn for the whole of it.

    Noise is drawn after the group acted, so measurements come transform-major: ``[n_trans * images of the part, ...]``.
    """

    def __init__(self, noise: Any, part: Part) -> None:
        self.noise, self.part = noise, part

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is not None:  # seeded by the image: no matter which process draws it
            return self.noise(y, generator=generator)
        part = self.part
        ours = torch.arange(part.start, part.stop, device=y.device)
        y = y.reshape(-1, len(ours), *y.shape[1:])
        whole = y.new_zeros(len(y), part.size, *y.shape[2:]).index_copy(1, ours, y)
        noisy = self.noise(whole.flatten(0, 1)).view_as(whole)
        return noisy.index_select(1, ours).flatten(0, 1)


def launched() -> Processes:
    """The processes that a launcher (``torchrun``) started, from its environment; this one alone without one."""
    return Processes(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that a launcher started, for the time of a ``with`` block: gloo on the CPU, nccl for CUDA."""
    if launched().count == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes.current()
    finally:
        dist.destroy_process_group()


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Let every BatchNorm inside ``network`` take its statistics over the parts of all processes. Names and values of
    the state dict stay as they are."""
    if Processes.current().count == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # replaces the children of network
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _SyncBatchNorm2d  # torch's SyncBatchNorm works on accelerators only


class _SyncBatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        count = _SumOverProcesses.apply(x.new_tensor(x.numel() / x.shape[1]))
        mean = _SumOverProcesses.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / count
        if self.track_running_stats:
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale[:, None, None]).to(input.dtype)
        return (centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # What every process makes of the sum depends on every process's addend.
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def check_division(batch_size: int, processes: Processes) -> None:
    """Raise unless batches of ``batch_size`` can be divided over the processes.

    Raises:
        InputError: naming the next size that works.
    """
    if batch_size % processes.count:
        following = -(-batch_size // processes.count) * processes.count
        raise InputError(
            f"a batch of {batch_size} cannot be divided over {processes.count} processes; choose --batch-size "
            f"{following}"
        )
