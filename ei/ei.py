"""The front door of 2021: class EI with one training method for each method of the paper.

    ei = EI(in_channels=1, out_channels=1, img_width=128, img_height=128, dtype=torch.float, device="cpu")
    ei.train_ei(dataloader, physics, transform, epochs=5000, lr={"G": 5e-4, "WD": 1e-8}, alpha={"ei": 100},
                ckp_interval=1000, schedule=[2000, 3000, 4000])

Thin aliases over `ei.training.Trainer`; new code may as well use that.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

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
from ei.common.files import load_file
from ei.common.seeds import derive_seed
from ei.datasets.batches import Indexed
from ei.errors import InputError
from ei.models import Discriminator, Reconstructor, UNet
from ei.models.padding import padding_for
from ei.models.weights import generator_weights, load_weights
from ei.physics.noise_adapter import get_noise
from ei.training import Trainer, cosine_schedule, step_schedule


def _with_group(
    method: str, doc: str, make: Callable[[EI, Mapping[str, float], str], Closure]
) -> Callable[..., Trainer]:
    def train(
        self: EI,
        dataloader: Iterable,
        physics: Any,
        transform: Any,
        epochs: int,
        lr: Mapping[str, float],
        alpha: Mapping[str, float],
        ckp_interval: int,
        schedule: Sequence[int],
        residual: bool = True,
        pretrained: str | None = None,
        task: str = "",
        loss_type: str = "l2",
        cat: bool = True,
        report_psnr: bool = False,
        lr_cos: bool = False,
    ) -> Trainer:
        return self._train(method, make(self, alpha, loss_type), dataloader, physics, transform, epochs, lr,
                           ckp_interval, schedule, residual, pretrained, task, cat, report_psnr, lr_cos)  # fmt: skip

    train.__doc__ = doc
    return train


def _without_group(method: str, doc: str, make: Callable[[str], Closure]) -> Callable[..., Trainer]:
    def train(
        self: EI,
        dataloader: Iterable,
        physics: Any,
        epochs: int,
        lr: Mapping[str, float],
        ckp_interval: int,
        schedule: Sequence[int],
        residual: bool = True,
        pretrained: str | None = None,
        task: str = "",
        loss_type: str = "l2",
        cat: bool = True,
        report_psnr: bool = False,
        lr_cos: bool = False,
    ) -> Trainer:
        return self._train(method, make(loss_type), dataloader, physics, None, epochs, lr, ckp_interval, schedule,
                           residual, pretrained, task, cat, report_psnr, lr_cos)  # fmt: skip

    train.__doc__ = doc
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

    train_ei = _with_group(
        "ei", "Equivariant imaging.", lambda ei, alpha, loss: EIClosure(_entry(alpha, "alpha", "ei"), criterion=loss)
    )
    train_ei_adv = _with_group(
        "ei_adv", "Adversarial equivariant imaging.", lambda ei, alpha, loss: ei._adversarial(alpha, loss)
    )
    train_supervised_ei = _with_group(
        "ei_sup",
        "Supervised learning with the equivariance loss.",
        lambda ei, alpha, loss: SupervisedEIClosure(_entry(alpha, "alpha", "ei"), criterion=loss),
    )
    train_supervised = _without_group("sup", "Supervised learning.", lambda loss: SupervisedClosure(criterion=loss))
    train_mc = _without_group("mc", "Measurement consistency alone.", lambda loss: MCClosure(criterion=loss))

    def _adversarial(self, alpha: Mapping[str, float], loss_type: str) -> AdversarialEIClosure:
        with _seeded("discriminator"):
            discriminator = Discriminator((self.out_channels, self.img_height, self.img_width))
        weights = _entry(alpha, "alpha", "ei"), _entry(alpha, "alpha", "adv")
        return AdversarialEIClosure(discriminator.to(self.device, self.dtype), *weights, criterion=loss_type)

    def _train(
        self,
        method: str,
        closure: Closure,
        dataloader: Iterable,
        physics: Any,
        transform: Any,
        epochs: int,
        lr: Mapping[str, float],
        ckp_interval: int,
        schedule: Sequence[int],
        residual: bool,
        pretrained: str | None,
        task: str,
        cat: bool,
        report_psnr: bool,
        lr_cos: bool,
    ) -> Trainer:
        rate, decay = _entry(lr, "lr", "G"), _entry(lr, "lr", "WD", 0.0)
        with _seeded("weights"):
            net = UNet(self.in_channels, self.out_channels, compact=4, residual=residual, cat=cat)
        padding_for(net, self.img_height, self.img_width)  # raises now if they are too small
        if pretrained:
            load_weights(net, generator_weights(load_file(pretrained, "checkpoint"), pretrained), pretrained)
        net = net.to(self.device, self.dtype)
        optimizers: dict[str, torch.optim.Optimizer] = {"total": Adam(net.parameters(), lr=rate, weight_decay=decay)}
        if isinstance(closure, AdversarialEIClosure):
            optimizers["D"] = Adam(closure.discriminator.parameters(), lr=_entry(lr, "lr", "D", rate), weight_decay=0)
        trainer = Trainer(
            Reconstructor(net, physics),
            physics,
            transform,
            closure,
            optimizers,
            epochs=epochs,
            schedule=cosine_schedule(epochs) if lr_cos else step_schedule(schedule),
            seed=torch.initial_seed(),
            ckp_interval=ckp_interval,
            report_psnr=report_psnr,
            method=method,
            task=task,
            config={
                "method": method,
                "task": task,
                "epochs": epochs,
                "lr": rate,
                "wd": decay,
                "schedule": list(schedule),
                "cos": lr_cos,
                "ckp_interval": ckp_interval,
            },
        )
        trainer.fit(_with_indices(dataloader) if get_noise(physics) is not None else dataloader)
        return trainer


@contextlib.contextmanager
def _seeded(purpose: str) -> Iterator[None]:
    """Seeds torch by the program's own `torch.manual_seed`, without disturbing what it draws later."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(torch.initial_seed(), purpose))
        yield


def _entry(values: Mapping[str, float], argument: str, key: str, default: float | None = None) -> float:
    """``values[key]``, as a finite number >= 0."""
    value = values.get(key, default)
    if value is None:
        raise InputError(f"{argument} needs the entry {key!r}")
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{argument}[{key!r}] must be a finite number >= 0, not {value}")
    return float(value)


def _with_indices(dataloader: Iterable) -> DataLoader:
    """The same batches with the numbers of their images, which seed the noise."""
    if not isinstance(dataloader, DataLoader) or dataloader.batch_sampler is None:
        raise InputError("a physics with noise needs a torch DataLoader in batches: noise is drawn once per image")
    return DataLoader(
        Indexed(dataloader.dataset), batch_sampler=dataloader.batch_sampler, num_workers=dataloader.num_workers
    )
