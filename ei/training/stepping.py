"""What the optimisers do in a step: the learning rate, the gradients of all losses, then the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ei.common.checks import check_number
from ei.errors import InputError


def check_optimizers(optimizers: Mapping[str, Optimizer]) -> None:
    """Raise `InputError` unless every optimiser has parameters to train that no other one has, whose gradients would
    mix."""
    if not isinstance(optimizers, Mapping):
        raise InputError(
            'optimizers must be a dict of losses and their optimisers, as {"total": torch.optim.Adam('
            f"f.net.parameters())}}, got {type(optimizers).__name__}"
        )
    owners: dict[int, str] = {}
    for key, optimizer in optimizers.items():
        if not trained_parameters(optimizer):
            raise InputError(f"all parameters of the optimiser {key!r} are frozen: let some have requires_grad")
        for parameter in _parameters(optimizer):
            other = owners.setdefault(id(parameter), key)
            if other != key:
                shared = f"share a parameter of the shape {list(parameter.shape)}: give it to one of them"
                raise InputError(f"the optimisers {other!r} and {key!r} {shared}")


def set_learning_rates(optimizers: Mapping[str, Optimizer], base: Mapping[str, Sequence[float]], factor: float) -> None:
    """Every group's learning rate: ``factor`` times that of ``base``."""
    for key, optimizer in optimizers.items():
        for group, lr in zip(optimizer.param_groups, base[key], strict=True):
            group["lr"] = lr * factor


def descend(
    optimizers: Mapping[str, Optimizer],
    losses: Mapping[str, Tensor],
    scale: float,
    largest_norms: Mapping[str, float | None],
) -> None:
    """One step of every optimiser on its loss, times ``scale``. Parameters that are frozen stay as they are;
    a gradient whose norm is above the one of its optimiser in ``largest_norms`` is scaled down to it.

    All gradients are there before the first step: it changes weights in place, which the graph of another loss may
    hold, as the generator's adversarial loss holds the discriminator's.

    Raises:
        InputError: if a loss depends on nothing that its optimiser trains.
    """
    for key, optimizer in optimizers.items():
        optimizer.zero_grad()
        trained = trained_parameters(optimizer)
        if losses[key].requires_grad:
            (losses[key] * scale).backward(inputs=trained)
        if all(parameter.grad is None for parameter in trained):
            raise InputError(
                f"the loss {key!r} depends on none of the parameters of its optimiser, which would train nothing: are "
                "they those of f.net, and is there a detach() or no_grad() in the closure?"
            )
    for key, optimizer in optimizers.items():
        if (largest := largest_norms.get(key)) is not None:
            nn.utils.clip_grad_norm_(_parameters(optimizer), largest)
        optimizer.step()


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network, weights and BatchNorm statistics, of this decay a step, in (0, 1)."""
    check_number("average", decay, above=0, below=1)
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of an optimiser that are not frozen."""
    return [parameter for parameter in _parameters(optimizer) if parameter.requires_grad]
