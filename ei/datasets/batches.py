"""From data sets to batches, and from batches to what a training step needs."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from ei.common.checks import check_number, shape_or_type
from ei.common.processes import Part, Processes, check_division
from ei.common.seeds import derive_seed, generator, seed_all, seeded
from ei.common.signals import outlive_the_step
from ei.errors import InputError
from ei.physics.base import where_sampled
from ei.physics.noise_adapter import get_noise


class Indexed(Dataset):
    """Items ``{"x": image, "index": its index}``: the index seeds what is drawn once per image, and selects its
    operator. Measurements are ``{"y": measurement, "index": its index}``, with their image ``"x"`` where they have one.

    Asked for ``(epoch, index)``, what the data set draws for an item, from torch's, NumPy's or Python's global
    generator, is a function of ``seed``, epoch and index. Neither workers, nor processes, nor an interruption change
    it.
    """

    def __init__(self, dataset: Any, measured: bool = False, seed: int = 0) -> None:
        self.dataset = dataset
        self.measured = measured
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = place if isinstance(place, tuple) else (None, place)
        with contextlib.nullcontext() if epoch is None else seeded(derive_seed(self.seed, "item", epoch, index)):
            item = self.dataset[index]
        first = item[0] if isinstance(item, list | tuple) else item
        if self.measured and not getattr(first, "ndim", 0):
            raise InputError(
                f"item {index} of the measurements must be an array [C, ...] or a pair (measurement, image), got "
                f"{first!r:.60}"
            )
        if self.measured or isinstance(self.dataset, Subset):
            index = index_in_whole(self.dataset, index)
        if not self.measured:
            return {"x": first, "index": index}
        images = {"x": item[1]} if isinstance(item, tuple) and len(item) > 1 else {}
        return {"y": first, **images, "index": index}


def evenly_spaced(dataset: Any, most: int = 8) -> range:
    """The indices of about ``most`` items, evenly spaced over a data set."""
    return range(0, len(dataset), max(1, len(dataset) // most))


def index_in_whole(dataset: Any, index: int) -> int:
    """The index of an item in the whole data set that this one is a part of (`torch.utils.data.Subset`), or in the
    whole stack that it has slices of (``place_of``). It selects the operator of the item."""
    while isinstance(dataset, Subset):
        index = int(dataset.indices[index])
        dataset = dataset.dataset
    place_of = getattr(dataset, "place_of", None)
    return index if place_of is None else place_of(index)


def shapes_of_measurements(dataset: Any, physics: Any) -> list[tuple[int, ...]] | None:
    """The shape of each item's measurement where they differ (`Physics.measurement_shapes`), for `make_loader`; else
    None."""
    shapes = getattr(physics, "measurement_shapes", None)
    return None if shapes is None else [shapes[index_in_whole(dataset, index)] for index in range(len(dataset))]


def in_order(shapes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """The indices of items in their order, in batches of one shape and at most ``batch_size`` items."""
    groups = (list(group) for _, group in itertools.groupby(range(len(shapes)), key=shapes.__getitem__))
    return [group[k : k + batch_size] for group in groups for k in range(0, len(group), batch_size)]


def file_name_of(dataset: Any, index: int) -> str | None:
    """The name of the file that an item of a data set, of a part of it or of its tiles is from (``name_of`` of the data
    set); None without."""
    while not hasattr(dataset, "name_of") and hasattr(dataset, "dataset"):
        if isinstance(dataset, Subset):
            index = int(dataset.indices[index])
        index //= getattr(dataset, "per_image", 1)
        dataset = dataset.dataset
    return dataset.name_of(index) if hasattr(dataset, "name_of") else None


def declared_data_range(dataset: Any) -> float | None:
    """The ``data_range`` of a data set, or of the one that this is a part of; None without."""
    while not hasattr(dataset, "data_range") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, "data_range", None)


def _collated(items: list[dict[str, Any]]) -> Any:
    """`torch.utils.data.default_collate`, which stacks; raises `InputError` for items of different shapes."""
    for key in ("x", "y"):
        shapes = {tuple(item[key].shape) for item in items if hasattr(item.get(key), "shape")}
        if len(shapes) > 1:
            what = "images" if key == "x" else "measurements"
            sizes = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
            raise InputError(f"the {what} of a batch must have one shape, got {sizes}; crop them, or --batch-size 1")
    return default_collate(items)


class Divided(Sampler[list]):
    """This process's part of every batch of an epoch; the whole batch where there is one process. Where the epoch is
    set, ``(epoch, index)`` of each item.

    Args:
        indices: of the items, from 0.
        batch_size: of the batches.
        shapes: what the items of a batch must share, for each item; None where any do.
        seed: of the order, a new one every epoch; None for that of ``indices``.
    """

    def __init__(
        self, indices: range, batch_size: int, shapes: Sequence[Hashable] | None = None, seed: int | None = None
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.shapes = [None] * len(indices) if shapes is None else shapes
        self.seed = seed
        self.processes = Processes.current()
        self.epoch: int | None = None  # outside a training nothing is seeded
        self._batches: list[list[int]] | None = None

    def part(self, number: int) -> Part:
        """Which part of the epoch's batch ``number`` (from 0) is this process's."""
        return Part.of(len(self._batches_of_epoch()[number]), self.processes)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self._batches = None

    def __len__(self) -> int:
        return sum(-(-size // self.batch_size) for size in Counter(self.shapes).values())

    def __iter__(self) -> Iterator[list]:
        for batch in self._batches_of_epoch():
            part = Part.of(len(batch), self.processes)
            mine = batch[part.start : part.stop]
            yield mine if self.epoch is None else [(self.epoch, index) for index in mine]

    def _batches_of_epoch(self) -> list[list[int]]:
        """The batches of the epoch: each is there as soon as the order has all its items."""
        if self._batches is None:
            self._batches = []
            order: Sequence[int] = self.indices
            if self.seed is not None:
                order = torch.randperm(len(order), generator=generator(self.seed, "order", self.epoch or 0)).tolist()
            open_batches: dict[Hashable, list[int]] = {}
            for index in order:
                batch = open_batches.setdefault(self.shapes[index], [])
                batch.append(index)
                if len(batch) == self.batch_size:
                    self._batches.append(open_batches.pop(self.shapes[index]))
            self._batches.extend(open_batches.values())
        return self._batches


class Batches:
    """Batches of a data set, as `make_loader` makes them. Worker processes stay over epochs; `close` ends them."""

    def __init__(self, dataset: Dataset, batch_sampler: Divided, workers: int) -> None:
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.workers = workers
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
                collate_fn=_collated,
            )
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes, which the end of the program would wait for; the next epoch starts new ones."""
        self._loader = None


def make_loader(
    dataset: Any,
    batch_size: int,
    shuffle: bool = True,
    workers: int = 0,
    seed: int = 0,
    measured: bool = False,
    shapes: Sequence[Hashable] | None = None,
) -> Batches:
    """Batches of a data set, with the indices of their items. Of several processes each gets its part of every batch
    (`ei.common.processes`).

    Args:
        dataset: items are images ``[H, W]`` or ``[C, H, W]``, or lists that begin with one.
        batch_size: images a batch, over all processes; the last batch of an epoch may have fewer.
        shuffle: in a new order every epoch.
        workers: processes that load items; 0 loads them in this one.
        seed: of the order, and of what the data set draws for an item.
        measured: the items are measurements ``[C, ...]`` (`ei.datasets.Measurements`), or pairs of a measurement and
            its image, which those of `ei.datasets.Pairs` always are.
        shapes: for each item, what the items of a batch must share, as the shape of its measurement where scans differ;
            None where all have one.

    Raises:
        InputError: if there are not as many shapes as items, or a batch is empty, larger than the set, or cannot be
            divided over the processes.

    >>> loader = make_loader([torch.rand(1, 8, 8)] * 5, batch_size=2)
    >>> len(loader), next(iter(loader))["x"].shape
    (3, torch.Size([2, 1, 8, 8]))
    """
    _check_dataset(dataset)
    batch_size = check_number("batch_size", batch_size, integer=True, least=1)
    workers = check_number("workers", workers, integer=True, least=0)
    if batch_size > len(dataset):
        raise InputError(
            f"a batch of {batch_size} is larger than the data set of {len(dataset)} images; choose a smaller batch size"
        )
    check_division(batch_size, Processes.current())
    if shapes is not None and len(shapes) != len(dataset):
        raise InputError(f"there must be a shape for each of {len(dataset)} items, got {len(shapes)}")
    order = Divided(range(len(dataset)), batch_size, shapes, seed if shuffle else None)
    return Batches(Indexed(dataset, measured or _has_measurements(dataset), seed), order, workers)


def _has_measurements(dataset: Any) -> bool:
    """Whether a data set of this project, or one that a part of is taken, holds measurements."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, "has_measurements", False)


def _check_dataset(dataset: Any) -> None:
    """Raise for two tensors of all images and all measurements, which are not two items."""
    if not isinstance(dataset, list | tuple) or [getattr(item, "ndim", 0) >= 4 for item in dataset] != [True, True]:
        return
    first, second = (list(item.shape) for item in dataset)
    if first[0] == second[0] and not (first[0] == 2 and isinstance(dataset, list)):  # real and imaginary parts
        raise InputError(
            f"a data set must be a sequence of items, got two tensors {first} and {second}; pairs are "
            "torch.utils.data.TensorDataset(y, x), measurements first, with measured=True"
        )


def seeded_batches(loader: Iterable, seed: int, epoch: int, first: int) -> Generator:
    """An epoch's batches from number ``first`` on. Each fetch is seeded, so that the order of the epoch, and what a
    data set draws for an item, do not depend on where a run was interrupted. (`make_loader` seeds every item.)"""
    for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    seed_all(derive_seed(seed, "epoch", epoch))
    for number, batch in enumerate(loader):  # at the first fetch torch's own samplers draw the order of the epoch
        if number >= first:
            yield batch
        seed_all(derive_seed(seed, "fetch", epoch, number + 1))


def images_of(batch: Any) -> Tensor:
    """The images of a batch, ``[B, C, H, W]``: the batch itself, the first entry of a list, or a dict's "x". A missing
    channel axis is added. Raises `InputError` for another shape, and for integers.

    >>> images_of({"x": torch.rand(2, 3, 8, 8)}).shape
    torch.Size([2, 3, 8, 8])
    """
    if isinstance(batch, dict):
        if "x" not in batch:
            raise InputError(f'a batch that is a dict must have images "x" or measurements "y", got {list(batch)}')
        batch = batch["x"]
    if isinstance(batch, list | tuple):
        batch = batch[0]
    if not isinstance(batch, torch.Tensor) or batch.dim() not in (3, 4):
        raise InputError(
            f"a batch must be images [B, H, W] or [B, C, H, W], or a list that begins so, got {shape_or_type(batch)}"
        )
    if not (batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool):
        # Of 0 to 255, mostly: no learning rate or alpha is meant for these.
        name = str(batch.dtype).removeprefix("torch.")
        raise InputError(f"images must be floating-point numbers, got {name}; scale them to [0, 1], as x / 255")
    return batch if batch.dim() == 4 else batch.unsqueeze(1)


def image_of(item: Any) -> Tensor:
    """The image of a data set's item (an image ``[H, W]`` or ``[C, H, W]``, or a list that begins with one) as a batch
    ``[1, C, H, W]``.

    >>> image_of(torch.rand(16, 16)).shape
    torch.Size([1, 1, 16, 16])
    """
    image = item[0] if isinstance(item, list | tuple) else item
    if not isinstance(image, Tensor):
        raise InputError(
            "an item of a data set must be an image, a tensor [H, W] or [C, H, W], or a list that begins with one, got "
            f"a {type(image).__name__}"
        )
    return images_of(image.unsqueeze(0))


def simulate(physics: Any, x: Tensor, indices: Sequence[int] | None, seed: int) -> Tensor:
    """Measurements of images ``x``; noise is drawn once per image, seeded by its index.

    Raises:
        InputError: if the physics has noise and there are no indices, or if a measurement is no tensor.

    >>> physics = ei.physics.Inpainting(8, 8, noise=ei.physics.GaussianNoise(0.1))
    >>> x = torch.zeros(2, 1, 8, 8)
    >>> torch.equal(simulate(physics, x, [4, 5], seed=0), simulate(physics, x, [4, 5], seed=0))
    True
    """
    y = physics.A(x)
    if not isinstance(y, Tensor):  # as of deepinv's stacked operators
        raise InputError(
            f"measurements must be one tensor, got a {type(y).__name__} from A of {type(physics).__name__}: write an "
            "operator that returns all of them as one"
        )
    noise = get_noise(physics)
    if noise is None:
        return y
    if indices is None:
        raise InputError("noise is drawn once per image, by its index: make the batches with ei.datasets.make_loader")
    each = [noise(y[i : i + 1], generator=generator(seed, "noise", int(n))) for i, n in enumerate(indices)]
    return where_sampled(physics, torch.cat(each), y)


def indices_of(batch: Any) -> Any:
    """The indices of a batch's items in their data set; None where it has none."""
    return batch.get("index") if isinstance(batch, dict) else None


def images_and_measurements(batch: Any, physics: Any, like: Tensor, seed: int) -> tuple[Tensor | None, Tensor]:
    """The images and the measurements of a batch, on the device of ``like`` (images in its dtype, too). Measurements in
    the batch (a dict's "y") are used as they are, and the images beside them (its "x"; None without) are their ground
    truth; the images of a batch without measurements are measured by ``physics``, the operator of this batch
    (`ei.physics.select_physics`).

    Raises:
        InputError: for a batch without either, or with different numbers of both.
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
            raise InputError(f"a batch must be pairs, got {len(x)} images and {len(y)} measurements")
        if 0 in batch.get("index", ()):  # once an epoch
            _check_order(physics, x, y)
        return x, y
    with torch.no_grad():
        return x, simulate(physics, x, indices_of(batch), seed)


def _check_order(physics: Any, x: Tensor, y: Tensor) -> None:
    """Raise if images and measurements of a batch are exchanged: ``A y`` is ``x``, and ``A x`` is not ``y``."""
    if x.shape != y.shape:
        return  # the operator raises for measurements of another shape
    with torch.no_grad():
        error = (physics.A(x) - y).norm()
        exchanged_error = (physics.A(y) - x).norm()
    if exchanged_error < 0.2 * error and exchanged_error < 0.1 * x.norm():
        raise InputError(
            "images and measurements are exchanged: A of the measurements is the images; pairs must be (measurement, "
            "image), as ei.datasets.Pairs has them"
        )
