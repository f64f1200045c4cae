"""The front door of 2021: class EI with one training method for each method of the paper.

    ei = EI(in_channels=1, out_channels=1, img_width=128, img_height=128, dtype=torch.float, device="cpu")
    ei.train_ei(dataloader, physics, transform, epochs=5000, lr={"G": 5e-4, "WD": 1e-8}, alpha={"ei": 100},
                ckp_interval=1000, schedule=[2000, 3000, 4000])

Thin aliases over `ei.training.Trainer`; new code may as well use that.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Adam
from torch.utils.data import DataLoader

from ei.closure import (
    AdversarialEIClosure,
    Closure,
    EIClosure,
    MCClosure,
    SupervisedClosure,
    SupervisedEIClosure,
)
from ei.common.checks import check_number
from ei.common.files import load_file
from ei.common.seeds import derive_seed
from ei.datasets.batches import Indexed
from ei.errors import InputError
from ei.models import Discriminator, Reconstructor, UNet
from ei.models.padding import padding_for
from ei.models.weights import generator_weights, load_weights
from ei.physics.noise_adapter import get_noise
from ei.training import Trainer, cosine_schedule, step_schedule

WITHOUT_GROUP = ("transform", "alpha")


class Arguments(NamedTuple):
    """What all training methods take, in 2021's order; `EI` documents it."""

    dataloader: Iterable
    physics: Any
    transform: Any
    epochs: int
    lr: Mapping[str, float]
    alpha: Mapping[str, float]
    ckp_interval: int
    schedule: Sequence[int]
    residual: bool = True
    pretrained: str | None = None
    task: str = ""
    loss_type: str = "l2"
    cat: bool = True
    report_psnr: bool = False
    lr_cos: bool = False


def _training_method(
    method: str, summary: str, make_closure: Callable[[EI, Arguments], Closure], *absent: str
) -> Callable[..., Trainer]:
    """A method of `EI` with the signature of `Arguments`, but for the ``absent`` ones."""
    taken = [one for one in inspect.signature(Arguments).parameters.values() if one.name not in absent]
    signature = inspect.Signature(taken)

    def train(self: EI, *values: Any, **named: Any) -> Trainer:
        bound = signature.bind(*values, **named).arguments
        arguments = Arguments(**{**dict.fromkeys(absent), **bound})
        return self._train(method, make_closure(self, arguments), arguments)

    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    train.__signature__ = signature.replace(parameters=[itself, *taken])  # type: ignore[attr-defined]
    train.__doc__ = summary
    return train


class EI:
    """Trains UNets as the 2021 code did.

    Args:
        in_channels, out_channels: channels of the images.
        img_width, img_height: their size in pixels.
        dtype: of the network's weights and of the images it is given (float32 or float64).
        device: where to train.

    All training methods take, in 2021's order:
        dataloader: batches of images ``[B, C, H, W]`` or ``[B, H, W]``, or lists whose first entry is one.
        physics: anything with ``A(x)`` and ``A_dagger(y)``.
        transform: (the EI methods) the group, anything with ``apply(x)``.
        epochs: how often to go through the loader.
        lr: ``{"G": learning rate, "WD": weight decay}``; adversarial also ``"D"``, the discriminator's (default: G's).
        alpha: (the EI methods) ``{"ei": weight}``; adversarial also ``"adv"``.
        ckp_interval: epochs between checkpoints.
        schedule: epochs, counted from 0, at which the learning rate drops to a tenth.
        residual, cat: of the `UNet`.
        pretrained: path of a checkpoint to take the weights from.
        task: goes into the name of the run folder.
        loss_type: "l2" or "l1".
        report_psnr: log PSNR and MSE of the training batches.
        lr_cos: cosine learning rate instead of ``schedule``.

    The seed of weights, shuffling and transforms is that of `torch.manual_seed`.

    They return the `Trainer` after its training: ``.f`` is the reconstruction function, ``.folder`` the run folder
    ``ckp/<time>_<method>_<task>``.

    Raises:
        InputError: for arguments that do not fit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        img_width: int = 256,
        img_height: int = 256,
        dtype: torch.dtype = torch.float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.img_width, self.img_height = img_width, img_height
        self.dtype, self.device = dtype, torch.device(device)

    train_ei = _training_method(
        "ei",
        "Equivariant imaging.",
        lambda _, arguments: EIClosure(_weight(arguments, "ei"), criterion=arguments.loss_type),
    )
    train_ei_adv = _training_method(
        "ei_adv", "Adversarial equivariant imaging.", lambda ei, arguments: ei._adversarial(arguments)
    )
    train_supervised_ei = _training_method(
        "ei_sup",
        "Supervised learning with the equivariance loss.",
        lambda _, arguments: SupervisedEIClosure(_weight(arguments, "ei"), criterion=arguments.loss_type),
    )
    train_supervised = _training_method(
        "sup",
        "Supervised learning.",
        lambda _, arguments: SupervisedClosure(criterion=arguments.loss_type),
        *WITHOUT_GROUP,
    )
    train_mc = _training_method(
        "mc",
        "Measurement consistency alone.",
        lambda _, arguments: MCClosure(criterion=arguments.loss_type),
        *WITHOUT_GROUP,
    )

    def _adversarial(self, arguments: Arguments) -> AdversarialEIClosure:
        with _seeded("discriminator"):
            discriminator = Discriminator((self.out_channels, self.img_height, self.img_width))
        rate = _entry(arguments.lr, "lr", "D", _entry(arguments.lr, "lr", "G"))
        return AdversarialEIClosure(
            discriminator.to(self.device, self.dtype),
            _weight(arguments, "ei"),
            _weight(arguments, "adv"),
            lr_discriminator=rate,
            criterion=arguments.loss_type,
        )

    def _train(self, method: str, closure: Closure, arguments: Arguments) -> Trainer:
        rate = _entry(arguments.lr, "lr", "G")
        decay = _entry(arguments.lr, "lr", "WD", 0.0)
        f = Reconstructor(self._network(arguments), arguments.physics)
        optimizer = Adam(f.net.parameters(), lr=rate, weight_decay=decay)
        schedule: dict[str, Any]
        if arguments.lr_cos:
            schedule = {"name": "cosine_schedule"}
        else:
            schedule = {"name": "step_schedule", "milestones": list(arguments.schedule)}
        trainer = Trainer(
            f,
            arguments.physics,
            arguments.transform,
            closure,
            {"total": optimizer, **closure.optimizers(f, rate)},
            epochs=arguments.epochs,
            schedule=cosine_schedule(arguments.epochs) if arguments.lr_cos else step_schedule(arguments.schedule),
            seed=torch.initial_seed(),
            ckp_interval=arguments.ckp_interval,
            report_psnr=arguments.report_psnr,
            method=method,
            task=arguments.task,
            config={
                "closure": {"name": type(closure).__name__},
                "optimizer": {"name": "Adam", "lr": rate, "weight_decay": decay},
                "schedule": schedule,
                "trainer": {
                    "epochs": arguments.epochs,
                    "ckp_interval": arguments.ckp_interval,
                    "task": arguments.task,
                },
            },
        )
        has_noise = get_noise(arguments.physics) is not None
        trainer.fit(_with_indices(arguments.dataloader) if has_noise else arguments.dataloader)
        return trainer

    def _network(self, arguments: Arguments) -> UNet:
        with _seeded("weights"):
            net = UNet(self.in_channels, self.out_channels, residual=arguments.residual, cat=arguments.cat)
        padding_for(net, self.img_height, self.img_width)  # raises now if they are too small
        if arguments.pretrained:
            weights = generator_weights(load_file(arguments.pretrained, "checkpoint"), arguments.pretrained)
            load_weights(net, weights, arguments.pretrained)
        return net.to(self.device, self.dtype)


@contextlib.contextmanager
def _seeded(purpose: str) -> Iterator[None]:
    """Seeds torch by the program's own `torch.manual_seed`, without disturbing what it draws later."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(torch.initial_seed(), purpose))
        yield


def _weight(arguments: Arguments, key: str) -> float:
    return _entry(arguments.alpha, "alpha", key)


def _entry(values: Mapping[str, float], argument: str, key: str, default: float | None = None) -> float:
    """``values[key]``, a finite number >= 0."""
    value = values.get(key, default)
    if value is None:
        raise InputError(f"{argument} needs the entry {key!r}")
    return check_number(f"{argument}[{key!r}]", value, least=0)


def _with_indices(dataloader: Iterable) -> DataLoader:
    """The same batches with the numbers of their images, which seed the noise."""
    if not isinstance(dataloader, DataLoader) or dataloader.batch_sampler is None:
        raise InputError("a physics with noise needs a torch DataLoader in batches: noise is drawn once per image")
    return DataLoader(
        Indexed(dataloader.dataset), batch_sampler=dataloader.batch_sampler, num_workers=dataloader.num_workers
    )
