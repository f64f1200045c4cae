"""From the tree of a run to its training: each part is built once, in the order in which they need each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ei.commands.presets import method_of
from ei.commands.problem import (
    SPLIT,
    Shape,
    build_physics,
    check_count,
    check_operator,
    check_size,
    image_shape,
    load_images,
    load_measurements,
    load_pairs,
    measurement,
    needs_sizes,
    print_fit_of_truth,
    set_noise,
    sizes_from_measurements,
    sizes_of,
    with_noise_apart,
)
from ei.commands.tree import (
    CLASSES,
    DATASETS,
    DEFAULT_NAMES,
    MACHINE_KEYS,
    NESTED,
    PARTS,
    RUN_KEYS,
    Tree,
    check_keys,
    name_of,
    without,
)
from ei.common.checks import check_number
from ei.common.files import load_file
from ei.common.parts import Context, build, find, normalized, signature_of
from ei.common.processes import Processes, launched
from ei.common.seeds import derive_seed
from ei.common.user_code import is_user_code
from ei.datasets import ImageTree, Pairs, Tiles, image_of, make_loader, split_validation
from ei.datasets.batches import Indexed, number_of, spread
from ei.diagnosis.measurements import measurement_report
from ei.diagnosis.sinograms import SinogramReport, check_sinogram
from ei.errors import InputError
from ei.models.padding import padding_for
from ei.models.weights import generator_weights, load_weights
from ei.physics import TiledInpainting, select_physics
from ei.physics.projections import Projections
from ei.training import RunFolder, Trainer

# Up to so many values of measurements, all are read before a training begins.
READ_THROUGH = 2**28


class TrainingBuilder:
    """Builds the training of a tree.

    Args:
        tree: of the run; what the data determine (sizes, the image scale) is filled in.
        device: where to train.
        carried: the operator of a checkpoint's run, to continue it; None for a new run.
        is_new: whether the run begins.

    Attributes:
        tree: the tree with all that was filled in.
        physics: the operator, of tiles where the run has them.
        train, validation: the training set, and a loader of the validation set or None.
        shape: (C, H, W) of the images that a step sees.
        pairs: measurements with ground truth, or None.
    """

    def __init__(
        self, tree: Mapping[str, Any], device: torch.device, carried: Any = None, *, is_new: bool = True
    ) -> None:
        check_keys(tree)
        self.tree: Tree = with_noise_apart(tree)
        self.device = device
        self.is_new = is_new
        for key in ("physics", "closure"):
            if not self.tree.get(key):
                raise InputError(f"{key} is missing: give --task, or {key}: {{name: ..}} in a tree")
        self.data: Tree = dict(self.tree.get("data") or {})
        self.files: dict[str, str] = {}
        self.pairs: Pairs | None = None
        self.validation: DataLoader | None = None
        self.measured = self.data.get("measurements") is not None
        if self.measured and self.data.get("train") is not None:
            raise InputError("data.train and data.measurements exclude each other: give one of them")
        self.physics: Any = carried
        (self._load_measurements if self.measured else self._load_images)()
        check_size(self.physics, self.shape)
        self._set_noise()
        check_count(self.physics, len(self.train), "measurements" if self.measured else "training images")
        self._check_user_defined()
        if self.pairs is not None and self.is_new:
            print_fit_of_truth(self.pairs, self.physics)
        self._cut_into_tiles()
        self._split_validation()

    # ---- operator and data

    def _build_physics(self, sizes: Mapping[str, Any] | None = None) -> None:
        if self.physics is None:
            self.physics, self.tree["physics"] = build_physics(self.tree["physics"], self.device, sizes)

    @property
    def _needs_sizes(self) -> bool:
        return self.physics is None and needs_sizes(normalized(self.tree["physics"], "physics"))

    def _load_images(self) -> None:
        if not self._needs_sizes:
            self._build_physics()
        self.train, described = load_images(self.data, "train", self.physics)
        self.shape = image_shape(self.train)
        self._build_physics(sizes_of(self.shape))
        if isinstance(self.train, ImageTree):
            tests = load_images({**self.data, "train": described}, "test", self.physics).object
            if isinstance(tests, ImageTree):
                self.files[SPLIT] = "".join(f"{name}\n" for name in tests.names)
        self.data["train"] = described

    def _load_measurements(self) -> None:
        described = self.data["measurements"]
        if self._needs_sizes:
            self._build_physics(sizes_from_measurements(described, normalized(self.tree["physics"], "physics")))
        self._build_physics()
        self.train, self.shape = load_measurements(described, self.physics)
        if len(self.train) * self.train[0].numel() <= READ_THROUGH:
            for index in range(len(self.train)):
                self.train[index]  # raises where one is not finite: now, and not after an epoch
        if self.data.get("truth") is not None:
            self.train = self.pairs = load_pairs(self.train, self.data["truth"], self.shape)

    def _set_noise(self) -> None:
        filled = set_noise(self.physics, self.tree.get("noise"))
        self.tree.pop("noise", None)
        if filled:
            self.tree["noise"] = filled

    def _check_user_defined(self) -> None:
        if is_user_code(name_of(self.tree, "physics")):
            steps = self.tree.get("reconstructor") or {}
            needs_filter = isinstance(steps, Mapping) and bool(steps.get("filtered"))
            check_operator(self.physics, self.shape, self.device, name_of(self.tree, "reconstructor") == "Unrolled",
                           needs_filter)  # fmt: skip

    def _cut_into_tiles(self) -> None:
        side = self.data.get("tile")
        if side is not None:
            side = check_number("data.tile", side, integer=True, least=1)
            self.physics = TiledInpainting(self.physics, side)
            self.train = Tiles(self.train, side)
            self.shape = (self.shape[0], side, side)

    def _split_validation(self) -> None:
        described = self.data.get("validation", 0.1 if self.measured else None)
        if described is None or described == 0:
            return
        what = ("tiles of " if self.data.get("tile") else "") + ("measurements" if self.measured else "training images")
        if isinstance(described, int | float) and not isinstance(described, bool):
            fraction = check_number("data.validation", described, least=0, below=1)
            whole = len(self.train)
            self.train, validation = split_validation(self.train, fraction, f"the {what}")
            self.data["validation"] = fraction
            print(f"validation set: {len(validation)} of {whole} {what}")
        else:
            validation = build(described, DATASETS, "data.validation", Context({"mode": "test"}, {}, NESTED)).object
            print(f"validation set: {len(validation)} {what}")
        self.validation = DataLoader(Indexed(validation, self.measured), self.batch_size)

    @property
    def batch_size(self) -> int:
        return check_number("data.batch_size", self.data.get("batch_size", 2), integer=True, least=1)

    # ---- parts

    def training(self, out: Any = None) -> tuple[Trainer, Any]:
        """The trainer, with the run folder ``out``, and its loader."""
        trainer_part = self._without_run_keys("trainer", {"name": "Trainer"})
        seed = check_number("trainer.seed", trainer_part.get("seed", 0), integer=True, least=0)
        if self.measured and self.is_new:
            print_report(self.physics, self.train)
        scale = self._image_scale()
        transform = self._transform()
        workers = check_number("data.workers", self.data.get("workers", 0), integer=True, least=0)
        loader = make_loader(self.train, self.batch_size, workers=workers, seed=seed, measured=self.measured)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "weights"))
            net = self._network()
            closure = self._closure()
        net.to(self.device)
        f = self._reconstructor(net, scale)
        if hasattr(closure, "image_scale"):
            closure.image_scale = f.image_scale
        closure.check(f, self.physics) if hasattr(closure, "check") else None
        self._use_cuda_graphs(f)
        optimizers = self._optimizers(net, closure, f)
        self._load_weights(net)
        self.tree["data"] = {**self.data, "batch_size": self.batch_size}
        tree = {key: self.tree[key] for key in PARTS if self.tree.get(key) is not None}
        epochs = check_number("trainer.epochs", trainer_part.get("epochs", 50), integer=True, least=1)
        objects = {
            "f": f, "physics": self.physics, "transform": transform, "closure": closure, "optimizers": optimizers,
            "schedule": self._schedule(epochs), "validation": self.validation,
            "report_psnr": not self.measured or self.pairs is not None,
            "out": RunFolder(out, config=tree, files=self.files, tensorboard=self._run_key("tensorboard", False)),
            "config": without(tree, MACHINE_KEYS), "method": method_of(tree),
        }  # fmt: skip
        built = build({"epochs": epochs, **trainer_part}, CLASSES["trainer"], "trainer", Context({}, objects, NESTED))
        return built.object, loader

    def _without_run_keys(self, key: str, default: Tree) -> Tree:
        part = {**default, **normalized(self.tree.get(key) or default, key)}
        return {name: value for name, value in part.items() if name not in RUN_KEYS.get(key, ())}

    def _run_key(self, key: str, default: Any = None) -> Any:
        return (self.tree.get("trainer") or {}).get(key, default)

    def _image_scale(self) -> float | None:
        """The scale that measurements alone determine; None where the tree says it, or images do."""
        part = normalized(self.tree.get("reconstructor") or "Reconstructor", "reconstructor")
        if not self.measured or not self.is_new or part.get("image_scale") is not None:
            return None
        scale = find_image_scale(self.physics, self.train, self.device)
        print(f"image scale: {scale:g} (from A_dagger y; losses are in units of it)")
        return scale

    def _transform(self) -> Any:
        name = name_of(self.tree, "closure")
        closure = find(name, CLASSES["closure"], "closure")
        needed = getattr(closure, "needs_transform", None)
        if name == "UNSUREClosure":
            needed = self.tree["closure"].get("alpha") is not None
        if needed is False or (needed is None and self.tree.get("transform") is None):
            self.tree.pop("transform", None)
            return None
        if self.tree.get("transform") is None:
            raise InputError(f"transform is missing: {name} needs a group; give --group")
        transform, self.tree["transform"] = build(
            self.tree["transform"], CLASSES["transform"], "transform", Context({}, {}, NESTED)
        )
        check_group(transform, self.shape, str(name_of(self.tree, "transform")))
        return transform

    def _network(self) -> nn.Module:
        channels, height, width = self.shape
        part = self._without_run_keys("network", {"name": "UNet"})
        sizes = {"in_channels": channels, "out_channels": channels}
        net, filled = build(part, CLASSES["network"], "network", Context(sizes, {}, NESTED))
        if not isinstance(net, nn.Module):
            raise InputError(f"network.name: {part['name']} must give a torch.nn.Module, got {type(net).__name__}")
        weights = (self.tree.get("network") or {}).get("weights")
        self.tree["network"] = {**filled, **({} if weights is None else {"weights": weights})}
        padding_for(net, height, width)  # raises now if they are too small
        if _has_batch_norm(net) and hasattr(net, "compact"):
            self._check_batch_statistics(net.compact - 1)
        return net

    def _closure(self) -> Any:
        part = normalized(self.tree["closure"], "closure")
        make = find(part.get("name"), CLASSES["closure"], "closure")
        if "discriminator" in signature_of(make).parameters and "discriminator" not in part:
            part["discriminator"] = {"name": "Discriminator"}
        sizes = {"input_shape": self.shape, "sigma": self._starting_level}
        closure, self.tree["closure"] = build(part, CLASSES["closure"], "closure", Context(sizes, {}, NESTED))
        if not callable(closure):
            raise InputError(f"closure.name: {part['name']} must give a function of (f, physics, transform, y, x)")
        if getattr(closure, "needs_truth", False) and self.measured and self.pairs is None:
            raise InputError(
                f"{part['name']} learns from images, and data.measurements have none: use ei or mc, or give the ground "
                "truth with --truth"
            )
        for module in vars(closure).values() if hasattr(closure, "__dict__") else ():
            if isinstance(module, nn.Module):
                if _has_batch_norm(module):
                    self._check_batch_statistics(4)
                module.to(self.device)
        return closure

    def _starting_level(self) -> float:
        """Where the search for an unknown level of noise starts: a hundredth of the root mean square of a few
        measurements, where they are not zero. Noise is seldom below, and the search is to come from there.

        Raises:
            InputError: if all are zero.
        """
        squares = []
        for index in spread(self.train):
            if self.measured:
                y = measurement(self.train, index)
            else:
                physics = select_physics(self.physics, [number_of(self.train, index)])
                y = physics.A(image_of(self.train[index]).to(self.device))
            squares.append(y[y != 0].abs().square().mean())
        level = float(f"{0.01 * float(torch.stack(squares).nanmean()) ** 0.5:.3g}")
        if not level > 0:
            raise InputError("the measurements are all zero: there is no noise to find in them")
        return level

    def _reconstructor(self, net: nn.Module, scale: float | None) -> Any:
        part = normalized(self.tree.get("reconstructor") or "Reconstructor", "reconstructor")
        part.setdefault("name", DEFAULT_NAMES["reconstructor"])
        sizes = {} if scale is None else {"image_scale": scale}
        objects = {"net": net, "physics": self.physics}
        f, self.tree["reconstructor"] = build(
            part, CLASSES["reconstructor"], "reconstructor", Context(sizes, objects, NESTED)
        )
        return f

    def _use_cuda_graphs(self, f: Any) -> None:
        if not self._run_key("cuda_graphs", False):
            return
        is_split = str(name_of(self.tree, "closure")).startswith("Splitting")
        differs = select_physics(self.physics, [0]) is not self.physics
        if self.device.type != "cuda" or launched().count > 1 or getattr(f, "recompute", False) or is_split or differs:
            raise InputError(
                "trainer.cuda_graphs is for one process on a CUDA device and one operator, without splitting, tiles "
                "and recompute; leave it out"
            )
        f.use_cuda_graphs()

    def _optimizers(self, net: nn.Module, closure: Any, f: Any) -> dict[str, torch.optim.Optimizer]:
        part = normalized(self.tree.get("optimizer") or {"name": "Adam", "lr": 1e-3}, "optimizer")
        part.setdefault("name", DEFAULT_NAMES["optimizer"])
        if "lr" in part:
            part["lr"] = check_number("optimizer.lr", part["lr"], above=0)
        if "weight_decay" in part:
            part["weight_decay"] = check_number("optimizer.weight_decay", part["weight_decay"], least=0)
        objects = {"params": list(net.parameters())}
        optimizer, self.tree["optimizer"] = build(part, CLASSES["optimizer"], "optimizer", Context({}, objects, NESTED))
        others = closure.optimizers(f, optimizer.param_groups[0]["lr"]) if hasattr(closure, "optimizers") else {}
        return {"total": optimizer, **others}

    def _schedule(self, epochs: int) -> Any:
        described = self.tree.get("schedule")
        if described is None:
            return None
        built = build(described, CLASSES["schedule"], "schedule", Context({}, {"epochs": epochs}, NESTED))
        self.tree["schedule"] = built.description
        return built.object

    def _load_weights(self, net: nn.Module) -> None:
        path = (self.tree.get("network") or {}).get("weights")
        if path is not None and self.is_new:
            load_weights(net, generator_weights(load_file(path, "checkpoint"), path), path)

    def _check_batch_statistics(self, halvings: int) -> None:
        """Raise if BatchNorm would see a single value per channel, which has no variance, after ``halvings`` of the
        sides."""
        smallest = max(1, (len(self.train) % self.batch_size or self.batch_size) // Processes.current().count)
        _, height, width = self.shape
        if smallest * -(-height // 2**halvings) * -(-width // 2**halvings) < 2:
            raise InputError(
                f"images of {height} x {width} in a batch of {smallest} leave BatchNorm one value per channel at the "
                "deepest level of the network; use larger images or batches"
            )


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def check_group(group: Any, shape: Shape, name: str) -> None:
    """Try a group on an image: raises now if it has too few elements, or user-defined code fails.

    Raises:
        InputError: in one line.
    """
    if not callable(getattr(group, "apply", None)):
        raise InputError(f"transform.name: {name} must give a group with a method apply, got {type(group).__name__}")
    try:
        with torch.no_grad():
            transformed = group.apply(torch.zeros(1, *shape))
    except InputError as error:
        raise InputError(f"transform: {error}") from error
    except Exception as error:  # whatever the code raises
        raise InputError(
            f"apply of {name} cannot take images of shape {[1, *shape]}: {type(error).__name__}: {error}"
        ) from error
    is_images = isinstance(transformed, Tensor) and transformed.dim() == 4
    if not is_images or transformed.shape[1:] != shape or not len(transformed):
        got = list(transformed.shape) if isinstance(transformed, Tensor) else type(transformed).__name__
        raise InputError(f"apply of {name} must give images [n, {', '.join(map(str, shape))}], got {got}")


def print_report(physics: Any, measurements: Any, only_warnings: bool = False) -> None:
    """Print what a few measurements look like, and whether sinograms fit their geometry; or only what is a warning."""
    some = spread(measurements)
    ys = [measurement(measurements, index) for index in some]
    lines = measurement_report(physics, ys, [number_of(measurements, index) for index in some]).splitlines()
    report = None if only_warnings else sinogram_report(physics, measurements)
    lines += [] if report is None else [report.line()]
    for line in lines:
        if not only_warnings or line.startswith("warning"):
            print(line)


def sinogram_report(physics: Any, measurements: Any) -> SinogramReport | None:
    """Whether measured sinograms fit their geometry; None for other measurements."""
    if not isinstance(physics, Projections):
        return None
    ys = [measurement(measurements, index) for index in spread(measurements, 16)]
    return check_sinogram(physics, torch.stack(ys))


def find_image_scale(physics: Any, measurements: Any, device: torch.device) -> float:
    """The largest value of ``A_dagger y``, but for its thousandth part, over a few measurements; 1 where images are in
    about [0, 1] already."""
    peaks = []
    for index in spread(measurements):
        selected = select_physics(physics, [number_of(measurements, index)])
        x = selected.A_dagger(measurement(measurements, index)[None].to(device)).abs().flatten()
        peaks.append(float(x.kthvalue(max(1, math.ceil(0.999 * len(x)))).values))
    scale = float(f"{statistics.median(peaks):.3g}")
    if not scale > 0:
        raise InputError("A_dagger of the measurements is zero: is this the operator that they were made with?")
    return 1.0 if 1 / 3 <= scale <= 3 else scale
