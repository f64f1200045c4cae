"""From data sets to batches, and from batches to what a training step needs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ei.common.processes import Part, Processes, check_division
from ei.common.seeds import derive_seed, generator, seed_all, seeded
from ei.common.signals import outlive_the_step
from ei.datasets.validation import Portion
from ei.errors import InputError
from ei.physics.base import where_sampled
from ei.physics.noise_adapter import get_noise


class Indexed(Dataset):
    """Items ``{"x": image, "index": its number}``: the number seeds what is drawn once per image, and tells which
    operator is its own where they differ. Measurements are ``{"y": measurement, "index": its number}``, the number in
    the file where they are a part of it; those of `ei.datasets.Pairs` have their image ``"x"`` beside them.

    What the data set draws for an item, from torch's, NumPy's or Python's global generator, is a function of ``seed``,
    the epoch and the index, where the index tells the epoch (`IndexInEpoch`): neither workers, nor processes, nor an
    interruption change it.
    """

    def __init__(self, dataset: Any, measured: bool = False, seed: int = 0) -> None:
        self.dataset, self.measured, self.seed = dataset, measured, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, index = getattr(index, "epoch", None), int(index)
        with contextlib.nullcontext() if epoch is None else seeded(derive_seed(self.seed, "item", epoch, index)):
            item = self.dataset[index]
        first = item[0] if isinstance(item, list | tuple) else item
        whole = self.measured or isinstance(self.dataset, Portion)
        number = number_of(self.dataset, index) if whole else index
        if not self.measured:
            return {"x": first, "index": number}
        truth = {"x": item[1]} if isinstance(item, tuple) and len(item) > 1 else {}
        return {"y": first, **truth, "index": number}


def spread(dataset: Any, most: int = 8) -> range:
    """The indices of a few items, evenly spread over a data set: about ``most`` of them."""
    return range(0, len(dataset), max(1, len(dataset) // most))


class IndexInEpoch(int):
    """An item's index that tells the epoch, too: so it gets to a process that loads items, which stays over epochs."""

    epoch: int

    def __new__(cls, index: int, epoch: int) -> IndexInEpoch:
        new = super().__new__(cls, index)
        new.epoch = epoch
        return new

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.epoch


def number_of(dataset: Any, index: int) -> int:
    """The number of an item in the whole of a data set, where this one is a part of it (`torch.utils.data.Subset`)."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    return index


def file_of(dataset: Any, index: int) -> str | None:
    """The name of the file that an item of a data set is from, also where this one is a part of it or cut out of it;
    None where it does not tell, by a method ``name_of``."""
    while not hasattr(dataset, "name_of") and hasattr(dataset, "dataset"):
        if isinstance(dataset, Subset):
            index = int(dataset.indices[index])
        index, dataset = index // getattr(dataset, "per_image", 1), dataset.dataset
    return dataset.name_of(index) if hasattr(dataset, "name_of") else None


def told_range(dataset: Any) -> float | None:
    """The range of the images that a data set tells as its ``data_range``, or the one that this is a part of; None
    where it does not tell."""
    while not hasattr(dataset, "data_range") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, "data_range", None)


class Shuffled(Sampler[int]):
    """A new order every epoch, a function of (seed, epoch); the trainer sets the epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.length, generator=generator(self.seed, "order", self.epoch)).tolist())


class Divided(Sampler[list[int]]):
    """This process's part of every batch that a sampler's order gives; the whole of it where there is one process."""

    def __init__(self, sampler: Shuffled | range, batch_size: int) -> None:
        self.sampler, self.batch_size, self.processes = sampler, batch_size, Processes.current()
        self.epoch: int | None = None  # nobody has told: then nothing is seeded

    def part(self, number: int) -> Part:
        """Which part of the epoch's batch ``number`` (from 0) is this process's."""
        return Part.of(min(self.batch_size, len(self.sampler) - number * self.batch_size), self.processes)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if isinstance(self.sampler, Shuffled):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        order: list[int] = list(self.sampler)
        if epoch is not None:
            order = [IndexInEpoch(index, epoch) for index in order]
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            part = self.part(number)
            yield batch[part.start : part.stop]


class Batches:
    """Batches of a data set, as `make_loader` makes them. The processes that load items stay from epoch to epoch;
    `close` ends them.

    Args:
        dataset: gives the items.
        batch_sampler: gives the indices of every batch, a new order for every epoch.
        workers: processes that load items; 0 loads them in this one.
    """

    def __init__(self, dataset: Dataset, batch_sampler: Divided, workers: int) -> None:
        self.dataset, self.batch_sampler, self.workers = dataset, batch_sampler, workers
        self._loader: DataLoader | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,
                batch_sampler=self.batch_sampler,
                num_workers=self.workers,
                worker_init_fn=outlive_the_step,
                persistent_workers=self.workers > 0,
            )
        return iter(self._loader)

    def close(self) -> None:
        """End the processes that load data; new ones start when batches are asked for again. Left to the end of the
        program, they would be waited for."""
        self._loader = None


def make_loader(
    dataset: Any, batch_size: int, shuffle: bool = True, workers: int = 0, seed: int = 0, measured: bool = False
) -> Batches:
    """Batches of a data set of images, with their numbers. With several processes (`ei.common.processes`), each gets
    its part of every batch.

    Args:
        dataset: items are images ``[H, W]`` or ``[C, H, W]``, or lists that begin with one.
        batch_size: images a batch, over all processes; the last batch of an epoch may have fewer.
        shuffle: in a new order every epoch.
        workers: processes that load items; 0 loads them in this one.
        seed: of the order, and of what the data set draws for an item.
        measured: the items are measurements ``[C, ...]`` (`ei.datasets.Measurements`), or pairs of a measurement and
            its image (`ei.datasets.Pairs`).

    Raises:
        InputError: if a batch is larger than the set, or cannot be divided over the processes.
    """
    if batch_size > len(dataset):
        raise InputError(
            f"a batch of {batch_size} is larger than the data set of {len(dataset)} images; choose a smaller "
            "--batch-size"
        )
    check_division(batch_size, Processes.current())
    order = Shuffled(len(dataset), seed) if shuffle else range(len(dataset))
    return Batches(Indexed(dataset, measured, seed), Divided(order, batch_size), workers)


def seeded_batches(loader: Iterable, seed: int, epoch: int, first: int) -> Generator:
    """An epoch's batches from number ``first`` on. Each fetch is seeded, so that the order of the epoch, and what a
    data set draws for an item, do not depend on where a run was interrupted. (Items of `make_loader` are seeded one by
    one, in whatever process they are loaded: `Indexed`.)"""
    for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    seed_all(derive_seed(seed, "epoch", epoch))
    iterator = iter(loader)
    for number in itertools.count():
        if number > 0:  # at the first fetch torch's own samplers still draw the order of the epoch
            seed_all(derive_seed(seed, "fetch", epoch, number))
        try:
            batch = next(iterator)
        except StopIteration:
            return
        if number >= first:
            yield batch


def images_of(batch: Any) -> Tensor:
    """The images of a batch, ``[B, C, H, W]``: the batch itself, the first entry of a list, or a dict's "x". A missing
    channel axis is added."""
    if isinstance(batch, dict):
        if "x" not in batch:
            raise InputError(
                f'a batch that is a dict has images under "x", measurements under "y", or both; not {list(batch)}'
            )
        batch = batch["x"]
    if isinstance(batch, list | tuple):
        batch = batch[0]
    if not isinstance(batch, torch.Tensor) or batch.dim() not in (3, 4):
        given = list(batch.shape) if isinstance(batch, torch.Tensor) else type(batch).__name__
        raise InputError(f"a batch must be images [B, H, W] or [B, C, H, W], or a list that begins so; not {given}")
    return batch if batch.dim() == 4 else batch.unsqueeze(1)


def image_of(item: Any) -> Tensor:
    """The image of a data set's item (an image ``[H, W]`` or ``[C, H, W]``, or a list that begins with one) as a batch
    ``[1, C, H, W]``."""
    return images_of((item[0] if isinstance(item, list | tuple) else item).unsqueeze(0))


def simulate(physics: Any, x: Tensor, indices: Sequence[int] | None, seed: int) -> Tensor:
    """Measurements of images ``x``; noise is drawn once per image, seeded by its index.

    Raises:
        InputError: if the physics has noise and the indices are not known, or if a measurement is no tensor.
    """
    y = physics.A(x)
    if not isinstance(y, Tensor):  # as of deepinv's stacked operators
        raise InputError(
            f"A of {type(physics).__name__} gives a {type(y).__name__}, and measurements must be a tensor: write an "
            "operator that gives all of them as one"
        )
    noise = get_noise(physics)
    if noise is None:
        return y
    if indices is None:
        raise InputError("noise is drawn once per image, by its index: make the batches with ei.datasets.make_loader")
    each = [noise(y[i : i + 1], generator=generator(seed, "noise", int(n))) for i, n in enumerate(indices)]
    return where_sampled(physics, torch.cat(each), y)


def indices_of(batch: Any) -> Any:
    """The numbers of a batch's images in their data set; None where it does not tell them."""
    return batch.get("index") if isinstance(batch, dict) else None


def images_and_measurements(batch: Any, physics: Any, like: Tensor, seed: int) -> tuple[Tensor | None, Tensor]:
    """The images and the measurements of a batch, on the device of ``like`` (images in its dtype, too). Measurements
    that the batch holds (a dict's "y") are taken as they are, and its images beside them (its "x") are their truth, or
    None where there are none; of a batch without measurements the images are measured by ``physics``, the operator of
    this batch (`ei.physics.select_physics`).

    Raises:
        InputError: for a batch of neither, or of different numbers of both.
    """
    y = batch.get("y") if isinstance(batch, dict) else None
    if y is not None:
        y = y.to(like.device)
        if batch.get("x") is None:
            return None, y
    x = images_of(batch)
    x = x.to(like.device, like.dtype.to_complex() if x.is_complex() else like.dtype)
    if y is not None:
        if len(x) != len(y):
            raise InputError(f"a batch has {len(x)} images and {len(y)} measurements: they must be pairs")
        return x, y
    with torch.no_grad():
        return x, simulate(physics, x, indices_of(batch), seed)
