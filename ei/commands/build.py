"""From the tree of a run to its training: each part is built once, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ei.commands import presets
from ei.commands.problem import Problem, load_images
from ei.commands.tree import (
    CLASSES,
    DEFAULT_NAMES,
    MACHINE_KEYS,
    PARTS,
    RUN_KEYS,
    Tree,
    build_part,
    check_keys,
    get,
    name_of,
    walk_texts,
    without,
)
from ei.common.checks import check_number
from ei.common.files import load_file
from ei.common.parts import find, normalized, signature_of
from ei.common.processes import Processes, launched
from ei.common.seeds import derive_seed
from ei.common.user_code import is_user_code
from ei.datasets import ImageTree, Pairs, Tiles, image_of, make_loader, split_validation
from ei.datasets.batches import Divided, Indexed, index_in_whole, shapes_of_measurements, simulate
from ei.diagnosis.before_training import (
    find_image_scale,
    measurement,
    report_data,
    report_truth,
    starting_level,
)
from ei.diagnosis.trial import try_step
from ei.diagnosis.user_defined import call, check_group, check_noise, check_operator
from ei.errors import InputError
from ei.models import UNet
from ei.models.base import ReconstructionFunction
from ei.models.network_tiles import check_no_batch_statistics
from ei.models.padding import padding_for
from ei.models.weights import generator_weights, load_weights
from ei.physics import TiledInpainting, select_physics
from ei.physics.noise_adapter import get_noise
from ei.training import RunFolder, Trainer

# Up to so many values of measurements, all are read before a training begins.
READ_THROUGH = 2**28
# In the run folder: which images of a folder were left for testing.
SPLIT = "split.txt"


def split_beside(checkpoint: Path | str) -> str | None:
    """The list of test images that a run wrote beside its checkpoints: images that came into the folder since must not
    change what is tested."""
    beside = Path(checkpoint).with_name(SPLIT)
    return str(beside.resolve()) if beside.exists() else None


def build_training(
    tree: Mapping[str, Any],
    device: torch.device,
    out: Any = None,
    state: Mapping[str, Any] | None = None,
    carried: Any = None,
) -> tuple[Trainer, Any]:
    """A trainer and its loader. Everything a user can get wrong is checked here, before a run folder is made.

    Args:
        tree, device: of the run.
        out: the run folder; None for the default, False for none.
        state: the content of a checkpoint of this run to continue from.
        carried: its operator.
    """
    trainer, loader = _Training(tree, device, carried, state is None).build(out)
    if state is not None:
        trainer.resume(state)
    return trainer, loader


class _Training(Problem):
    """The problem of a run and what trains on it; see `build_training`.

    Attributes:
        tree: with all that was filled in.
        physics, data, shape: of tiles where the run has them.
        validation: a loader of the validation set, or None.
    """

    def __init__(self, tree: Mapping[str, Any], device: torch.device, carried: Any, is_new: bool) -> None:
        check_keys(tree)
        if not tree.get("closure"):
            raise InputError("closure is missing: give --method, or closure: {name: ..} in a tree")
        super().__init__(tree, device, "train", carried)
        self.is_new = is_new
        self.has_truth = not self.has_measurements or isinstance(self.data, Pairs)
        self.files = self._list_of_test_images()
        self.batch_size = self._number("data.batch_size", 2, integer=True, least=1)
        self.seed = self._number("trainer.seed", 0, integer=True, least=0)
        self._check_data()
        if get(tree, "data.tile") is not None:
            side = self._number("data.tile", None, integer=True, least=1)
            self.physics = TiledInpainting(self.physics, side)
            self.data = Tiles(self.data, side)
            self.shape = (self.shape[0], side, side)
        self._split_validation()

    def _number(self, key: str, default: Any, **valid: Any) -> Any:
        return check_number(key, get(self.tree, key, default), **valid)

    def _list_of_test_images(self) -> dict[str, str]:
        folder = get(self.tree, "data.train.folder")
        if not isinstance(self.data, ImageTree) or folder is None or Path(folder) != self.data.folder:
            return {}  # it is divided into train/ and test/
        tests = load_images(self.tree["data"], "test", self.physics).object
        return {SPLIT: "".join(f"{name}\n" for name in tests.names)} if isinstance(tests, ImageTree) else {}

    def _check_data(self) -> None:
        if is_user_code(name_of(self.tree, "physics")):
            unrolled = name_of(self.tree, "reconstructor") == "Unrolled"
            needs_filter = unrolled and bool(get(self.tree, "reconstructor.filtered"))
            check_operator(self.physics, self.shape, self.device, unrolled, needs_filter)
        self._check_noise()
        is_unsure = name_of(self.tree, "closure") == presets.UNSURE
        if is_unsure and not self.has_measurements and get_noise(self.physics) is None:
            raise InputError(
                "--noise unknown is for --measurements: give the noise that is added as a key: noise=gaussian:0.1"
            )
        if self.has_measurements and len(self.data) * measurement(self.data, 0).numel() <= READ_THROUGH:
            for index in range(len(self.data)):
                self.data[index]  # raises where one is not finite: now, and not after an epoch
        if self.is_new and isinstance(self.data, Pairs):
            print("\n".join(report_truth(self.physics, self.data)))

    def _check_noise(self) -> None:
        if get_noise(self.physics) is None:
            return
        if is_user_code(get(self.tree, "noise.name")):
            check_noise(get_noise(self.physics), call(self.physics, "A", torch.zeros(1, *self.shape), self.device))
        if not self.has_measurements:  # raises now what a step would raise
            physics = select_physics(self.physics, [index_in_whole(self.data, 0)])
            simulate(physics, image_of(self.data[0]).to(self.device), [0], self.seed)

    def _split_validation(self) -> None:
        """Of measurements a tenth is the validation set by default, of images nothing."""
        self.validation: DataLoader | None = None
        described = get(self.tree, "data.validation", 0.1 if self.has_measurements else 0)
        what = "measurements" if self.has_measurements else "training images"
        what = f"tiles of {what}" if get(self.tree, "data.tile") else what
        if isinstance(described, Mapping):
            validation = build_part(described, "data.validation", {"mode": "test"}).object
        else:
            fraction = check_number("data.validation", described, least=0, below=1)
            if not fraction:
                return
            self.data, validation = split_validation(self.data, fraction, f"the {what}")
            self.tree["data"]["validation"] = fraction
        print(f"validation set: {len(validation)} of {len(validation) + len(self.data)} {what}")
        items = Indexed(validation, self.has_measurements)
        shapes = shapes_of_measurements(validation, self.physics)
        if shapes is None:
            self.validation = DataLoader(items, self.batch_size)
        else:
            batches = Divided(range(len(validation)), self.batch_size, shapes)
            self.validation = DataLoader(items, batch_sampler=batches)

    # ---- parts

    def build(self, out: Any) -> tuple[Trainer, Any]:
        """The trainer, with the run folder ``out``, and its loader."""
        if self.has_measurements and self.is_new:
            print("\n".join(report_data(self.physics, self.data)))
        scale = self._image_scale()
        loader = make_loader(
            self.data,
            self.batch_size,
            workers=self._number("data.workers", 0, integer=True, least=0),
            seed=self.seed,
            measured=self.has_measurements,
            shapes=shapes_of_measurements(self.data, self.physics),
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.seed, "weights"))
            net = self._network()
            closure = self._closure()
        transform = self._transform(closure)
        net.to(self.device)
        f = self._function(net, scale)
        if hasattr(closure, "image_scale"):
            closure.image_scale = f.image_scale
        if hasattr(closure, "check"):
            closure.check(f, self.physics)
        if hasattr(closure, "check_transform"):
            closure.check_transform(transform, self.physics, torch.zeros(1, *self.shape))
        self._use_cuda_graphs(f)
        optimizers = self._optimizers(net, closure, f)
        weights = get(self.tree, "network.weights")
        if weights is not None and self.is_new:
            load_weights(net, generator_weights(load_file(weights, "checkpoint"), weights), weights)
        trainer = self._trainer(f, transform, closure, optimizers, out)
        if any(is_user_code(text) for text in walk_texts(self.tree)):
            try_step(trainer, loader, self.shape)
        return trainer, loader

    def _build(self, key: str, sizes: Mapping[str, Any] | None = None, objects: Mapping[str, Any] | None = None) -> Any:
        """The object of a part; its description in the tree is filled in."""
        part = normalized(self.tree.get(key) or {}, key)
        run_keys = {name: part.pop(name) for name in RUN_KEYS.get(key, ()) if name in part}
        if key in DEFAULT_NAMES:
            part = {"name": DEFAULT_NAMES[key], **part}
        made, filled = build_part(part, key, sizes, objects)
        self.tree[key] = {**filled, **run_keys}
        return made

    def _image_scale(self) -> dict[str, float]:
        """The image scale from measurements; nothing where the tree has it, or for images."""
        if not self.has_measurements or not self.is_new or get(self.tree, "reconstructor.image_scale") is not None:
            return {}
        scale = find_image_scale(self.physics, self.data, self.device)
        print(f"image scale: {scale:g} (from A_dagger y; losses are in units of it)")
        return {"image_scale": scale}

    def _transform(self, closure: Any) -> Any:
        """The group; None, and none in the tree, where the closure uses none."""
        needed = getattr(closure, "needs_transform", None)
        if needed is False or (needed is None and self.tree.get("transform") is None):
            self.tree.pop("transform", None)
            return None
        if self.tree.get("transform") is None:
            raise InputError(f"transform is missing: {name_of(self.tree, 'closure')} needs a group; give --group")
        transform = self._build("transform")
        check_group(transform, self.shape, str(name_of(self.tree, "transform")))
        return transform

    def _network(self) -> nn.Module:
        channels, height, width = self.shape
        net = self._build("network", {"in_channels": channels, "out_channels": channels})
        if not isinstance(net, nn.Module):
            name = name_of(self.tree, "network")
            raise InputError(f"network.name: {name} must give a torch.nn.Module, got {type(net).__name__}")
        padding_for(net, height, width)  # raises now if they are too small
        if isinstance(net, UNet):
            self._check_batch_statistics(net, net.compact - 1)
        return net

    def _function(self, net: nn.Module, scale: Mapping[str, float]) -> ReconstructionFunction:
        f = self._build("reconstructor", scale, {"net": net, "physics": self.physics})
        if not isinstance(f, ReconstructionFunction):
            name = name_of(self.tree, "reconstructor")
            raise InputError(f"reconstructor.name: {name} must derive from ei.models.base.ReconstructionFunction")
        if f.network_tile is not None and max(self.shape[1:]) > f.network_tile:
            check_no_batch_statistics(f.net)  # raises now what a step would raise
        return f

    def _closure(self) -> Any:
        part = normalized(self.tree["closure"], "closure")
        make = find(part.get("name"), CLASSES["closure"], "closure")
        if "discriminator" in signature_of(make).parameters:
            self.tree["closure"] = {"discriminator": {"name": "Discriminator"}, **part}
        sizes = {
            "input_shape": self.shape,
            "sigma": lambda: starting_level(self.physics, self.data, self.device, self.has_measurements),
        }
        closure = self._build("closure", sizes)
        if not callable(closure):
            raise InputError(f"closure.name: {part['name']} must give a function of (f, physics, transform, y, x)")
        if getattr(closure, "needs_truth", False) and not self.has_truth:
            raise InputError(f"{part['name']} learns from images, and data.measurements have none: give --truth")
        for module in getattr(closure, "__dict__", {}).values():
            if isinstance(module, nn.Module):
                self._check_batch_statistics(module, 4)
                module.to(self.device)
        return closure

    def _use_cuda_graphs(self, f: Any) -> None:
        if not get(self.tree, "trainer.cuda_graphs"):
            return
        is_split = str(name_of(self.tree, "closure")).startswith("Splitting")
        differs = select_physics(self.physics, [0]) is not self.physics
        recomputes = getattr(f, "recompute", False) or getattr(f, "network_tile", None) is not None
        if self.device.type != "cuda" or launched().count > 1 or recomputes or is_split or differs:
            raise InputError("trainer.cuda_graphs is for one CUDA process, one operator and whole images; leave it out")
        f.use_cuda_graphs()

    def _optimizers(self, net: nn.Module, closure: Any, f: Any) -> dict[str, torch.optim.Optimizer]:
        part: Tree = {"lr": 1e-3, **normalized(self.tree.get("optimizer") or {}, "optimizer")}
        part["lr"] = check_number("optimizer.lr", part["lr"], above=0)
        if "weight_decay" in part:
            part["weight_decay"] = check_number("optimizer.weight_decay", part["weight_decay"], least=0)
        self.tree["optimizer"] = part
        optimizer = self._build("optimizer", objects={"params": list(net.parameters())})
        others = closure.optimizers(f, part["lr"]) if hasattr(closure, "optimizers") else {}
        return {"total": optimizer, **others}

    def _trainer(self, f: Any, transform: Any, closure: Any, optimizers: Any, out: Any) -> Trainer:
        self.tree["trainer"] = {"epochs": 50, **normalized(self.tree.get("trainer") or {}, "trainer")}
        epochs = self._number("trainer.epochs", None, integer=True, least=1)
        schedule = self._build("schedule", objects={"epochs": epochs}) if self.tree.get("schedule") else None
        self.tree["data"]["batch_size"] = self.batch_size
        tree = {key: self.tree[key] for key in PARTS if self.tree.get(key) is not None}
        folder = RunFolder(out, config=tree, files=self.files, tensorboard=bool(get(tree, "trainer.tensorboard")))
        objects = {
            "f": f,
            "physics": self.physics,
            "transform": transform,
            "closure": closure,
            "optimizers": optimizers,
            "schedule": schedule,
            "validation": self.validation,
            "report_psnr": self.has_truth,
            "out": folder,
            "config": without(tree, MACHINE_KEYS),
            "method": presets.method_of(tree),
        }
        return self._build("trainer", objects=objects)

    def _check_batch_statistics(self, module: nn.Module, halvings: int) -> None:
        """Raise if BatchNorm would see a single value per channel, which has no variance, after ``halvings`` of the
        sides."""
        smallest = max(1, (len(self.data) % self.batch_size or self.batch_size) // Processes.current().count)
        _, height, width = self.shape
        has_norm = any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
        if has_norm and smallest * -(-height // 2**halvings) * -(-width // 2**halvings) < 2:
            sizes = f"images of {height} x {width} in a batch of {smallest}"
            raise InputError(f"{sizes} leave BatchNorm one value per channel; use larger images or batches")
