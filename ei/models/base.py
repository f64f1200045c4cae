"""What every reconstruction function shares: a network, an operator, and how the network is called.

The only place that knows of precision, memory format and the scale of images.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ei.common.checks import check_choice, check_number
from ei.common.complex import to_channels, to_complex
from ei.errors import InputError
from ei.models.graphs import RecordedCalls
from ei.models.network_tiles import check_tile
from ei.models.padding import call_padded
from ei.physics.base import Physics, select_physics

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11

PRECISIONS = ("fp32", "tf32", "bf16")


class ReconstructionFunction(nn.Module):
    """A function f from measurements to images ``[B, C, H, W]`` that is made of one network and one operator.

    Args:
        net: from images ``[B, C, H, W]`` to images; it is put in channels-last format.
        physics: the operator.
        precision: "fp32"; "tf32" to let a GPU's convolutions round what they multiply to 10 bits (torch's own default
            there; without effect on a CPU); or "bf16" to run the network under ``torch.autocast``. Input and output
            stay float32 and the physics stays outside autocast. A user-defined training loop does its backward pass
            inside `computing`.
        image_scale: s > 0: the network sees ``x / s`` and its output is multiplied by s. 1 for images in [0, 1].
        network_tile: run the network on overlapping tiles of this side (`ei.models.network_tiles`): equal results with
            the memory of a tile. By default on whole images.

    ``net``, ``physics``, ``precision`` and ``image_scale`` are public; ``net.state_dict()`` is what is saved.

    Attributes:
        network_tile: as the argument; it may be set later.
        net_averaged: the moving average of ``net`` where a training keeps one (`ei.training.Trainer`, ``average=``).
            It is what evaluation takes (`evaluating`) and no part of this module: ``f(y)`` is ``net``'s.

    Raises:
        InputError: for a net that is none, another precision, a scale that is no finite number above zero, or a tile
            that does not fit the network (`ei.models.network_tiles.check_tile`).
    """

    net_averaged: nn.Module | None = None
    _recorded: RecordedCalls | None = None

    def __init__(
        self,
        net: nn.Module,
        physics: Any,
        precision: str = "fp32",
        *,
        image_scale: float = 1.0,
        network_tile: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module) or isinstance(net, Physics):
            raise InputError(
                f"net must be a network, a torch.nn.Module, got a {type(net).__name__}; physics comes second"
            )
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.image_scale = check_number("image_scale", image_scale, above=0)
        self.net = net.to(memory_format=torch.channels_last)
        self.physics = physics
        self.network_tile = network_tile

    @property
    def network_tile(self) -> int | None:
        return self._network_tile

    @network_tile.setter
    def network_tile(self, side: int | None) -> None:
        self._network_tile = None if side is None else check_tile(self.net, side)

    def of(self, physics: Any) -> Self:
        """The same f with another operator: it shares the network, which is neither copied nor moved, and starts with
        this one's settings and training mode. As cheap as a few attributes, so it may be made for every batch."""
        if self._recorded is not None:
            raise InputError("CUDA graphs (trainer.cuda_graphs) need one operator for all images")
        other = copy.copy(self)
        # A shallow copy would share this dictionary, and with it the physics.
        other._modules = {name: module for name, module in self._modules.items() if name != "physics"}
        other.__dict__.pop("physics", None)  # where an operator lies that is no module
        other.physics = physics
        return other

    def use_cuda_graphs(self) -> None:
        """In training mode, record what a call does once for each shape of measurements, and replay it (see
        `ei.models.graphs`): the same kernels, without the time that Python takes to start them. For CUDA; gradients of
        gradients cannot be taken."""
        self._recorded = RecordedCalls(super().__call__, self, lambda: computing(self))
        # Gradients arrive from the stream that a recording was made on; torch would warn of it in every run.
        silence = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if silence is not None:
            silence(False)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._recorded is None or not self.training:
            return super().__call__(*args, **kwargs)
        return self._recorded(*args, **kwargs)

    def image_dtype(self) -> torch.dtype:
        """The dtype of images: that of the network's weights."""
        return next((p.dtype for p in self.net.parameters()), torch.float32)

    def call_net(self, x: Tensor) -> Tensor:
        """``s * net(x / s)``, in channels-last and the chosen precision; ``x`` and the result in `image_dtype`. Sides
        that do not fit the network are padded (`ei.models.padding`); with a `network_tile` larger images are divided.
        The network is given complex images as twice as many real channels (`ei.common.complex`); the result is complex.
        """
        if x.is_complex():
            return to_complex(self.call_net(to_channels(x)))
        dtype = self.image_dtype()
        x = x.to(dtype)
        if self.image_scale != 1:
            x = x / self.image_scale
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        bf16 = self.precision == "bf16"
        autocast = torch.autocast(x.device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
        with computing(self) if x.is_cuda else contextlib.nullcontext(), autocast:
            x = call_padded(self.net, x, self.network_tile) if x.dim() == 4 else self.net(x)
        x = x.to(dtype)
        return x if self.image_scale == 1 else x * self.image_scale


def require_of(f: Any, what: str) -> None:
    """Raise `InputError` unless f has ``of(physics)``, as `ReconstructionFunction.of`.

    Args:
        f: a reconstruction function.
        what: who needs it, with the verb: "splitting needs".
    """
    if not callable(getattr(f, "of", None)):
        raise InputError(
            f"{what} a reconstruction function with of(physics), the same f with another operator, and "
            f"{type(f).__name__} has none: Reconstructor and Unrolled have"
        )


def select_function(f: Any, physics: Any, indices: Sequence[int] | Tensor | None) -> tuple[Any, Any]:
    """f and the operator of the images with these indices (`ei.physics.select_physics`). Raises `InputError` for an
    operator that differs by image, and an f without ``of``."""
    selected = select_physics(physics, indices)
    if selected is physics:
        return f, physics
    require_of(f, "an operator that differs by image needs")
    return f.of(selected), selected


@contextlib.contextmanager
def computing(f: Any) -> Iterator[None]:
    """How convolutions on a GPU compute in a ``with`` block, forward and backward: in float32 unless the ``precision``
    of ``f`` is "tf32". They compute the same way every time, so that a run is a function of its seed."""
    if not torch.cuda.is_available():
        yield
        return
    cudnn: Any = torch.backends.cudnn
    tf32 = getattr(f, "precision", "fp32") == "tf32"
    try:
        where, name, value, before = cudnn, "allow_tf32", tf32, cudnn.allow_tf32
        named = getattr(torch.backends, "fp32_precision", "none") != "none"
    except RuntimeError:
        named = True
    if named:  # somebody has chosen precisions by the names that torch has for them from 2.9
        where, name, value = cudnn.conv, "fp32_precision", "tf32" if tf32 else "ieee"
        before = where.fp32_precision
    deterministic = cudnn.deterministic
    setattr(where, name, value)
    cudnn.deterministic = True
    try:
        yield
    finally:
        setattr(where, name, before)
        cudnn.deterministic = deterministic


def keep_average(f: Any, average: nn.Module | None) -> None:
    """Note at a reconstruction function the moving average of its network; None where it has none."""
    # Not through nn.Module's own __setattr__: the average is no part of f, so its weights are not listed with f's.
    object.__setattr__(f, "net_averaged", average)


@contextlib.contextmanager
def evaluating(f: Any) -> Iterator[Any]:
    """A reconstruction function as it is evaluated, in a ``with`` block: in evaluation mode, and with the moving
    average of its network where a training keeps one.

    Args:
        f: a `ReconstructionFunction`, or a user-defined module with a network ``net``.
    """
    held, average, was_training = getattr(f, "net", None), getattr(f, "net_averaged", None), f.training
    if average is not None:
        like = next(held.parameters(), None) if held is not None else None
        f.net = average if like is None else average.to(like.device)
    f.eval()
    try:
        yield f
    finally:
        if average is not None:
            f.net = held
        f.train(was_training)


def outside_autocast(tensor: Tensor) -> torch.autocast:
    """The context that operators are called in: whatever autocast is on for the device of ``tensor`` is off."""
    return torch.autocast(tensor.device.type, enabled=False)
