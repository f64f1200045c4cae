"""A step that is tried before a run begins: what goes wrong in user-defined parts is an error of one line."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ei.common.processes import Part, Processes
from ei.common.seeds import derive_seed, seed_all, states_kept
from ei.datasets.batches import Batches, images_and_measurements, indices_of, seeded_batches
from ei.diagnosis.user_defined import Shape, in_a_line
from ei.errors import InputError
from ei.models.base import select_function
from ei.training import Trainer
from ei.training.losses import check_images, check_losses, name_in_messages
from ei.training.parallel import division, draws_of_part
from ei.training.stepping import trained_parameters
from ei.training.validation import seeded_group


def try_step(trainer: Trainer, loader: Iterable, shape: Shape) -> None:
    """Compute the losses of the first step and their gradients, for images of ``shape`` (C, H, W), and leave the run as
    it was. Raises `InputError`, in one line, for what its parts do wrong."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(states_kept([trainer.device] if trainer.device.type == "cuda" else []))
        stack.enter_context(_weights_kept(trainer.networks.values()))
        with in_a_line("the schedule must be a function that gives the learning rate's factor of an epoch"):
            float(trainer.schedule(0))
        batch, part = _first_batch(trainer, loader)
        seed_all(derive_seed(trainer.seed, "trial"))
        f, physics = select_function(trainer.f, trainer.physics, indices_of(batch))
        like = next(trainer.networks["total"].parameters())
        with in_a_line("the images of a batch cannot be measured"):
            x, y = images_and_measurements(batch, physics, like=like, seed=trainer.seed)
        part = part or Part.of(len(y), Processes())
        with in_a_line(f"network and reconstruction function cannot take measurements of shape {list(y.shape)}"):
            check_images(f(y), [len(y), *shape], "the reconstruction function")
        closure = copy.copy(trainer.closure)  # it may count its calls
        name = name_in_messages(closure)
        with in_a_line(f"{name}, tried on a batch", with_gradients=True):
            with draws_of_part(physics, part, trainer.processes):
                losses = closure(f, physics, seeded_group(trainer, "trial"), y, x)
            check_losses(trainer, losses, x)
            _check_gradients(trainer, losses, name)


@contextlib.contextmanager
def _weights_kept(networks: Iterable[nn.Module]) -> Iterator[None]:
    """A ``with`` block after which networks have the weights and BatchNorm statistics that they had before it."""
    states = [(network, copy.deepcopy(network.state_dict())) for network in networks]
    try:
        yield
    finally:
        for network, state in states:
            network.load_state_dict(state)


def _first_batch(trainer: Trainer, loader: Iterable) -> tuple[Any, Part | None]:
    try:
        with in_a_line("the data set gives no batch"):
            batches = seeded_batches(loader, trainer.seed, epoch=0, first=0)
            with contextlib.closing(batches):
                return next(batches), division(loader, trainer.transform, trainer.processes)(0)
    finally:
        if isinstance(loader, Batches):
            loader.close()


def _check_gradients(trainer: Trainer, losses: Mapping[str, Tensor], who: str) -> None:
    """Raise unless losses depend on what their optimisers train."""
    for key, optimizer in trainer.optimizers.items():
        if not _depends_on(losses[key], trained_parameters(optimizer)):
            raise InputError(f"{key!r} of {who} does not depend on the network: no detach(), no_grad() or NumPy")


def _depends_on(loss: Tensor, parameters: list[Tensor]) -> bool:
    if not loss.requires_grad:
        return False
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in gradients)
