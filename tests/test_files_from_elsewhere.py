"""Files that other programs wrote: checkpoints, images, measurements, masks. Read exactly, or refused in a line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, fill
from PIL import Image
from torch import nn
from torch.utils.data import Subset

import ei
from ei.closure import MCClosure
from ei.common.files import load_file, natural_order, save_file
from ei.datasets import FixedCrops, ImageTree, make_loader
from ei.datasets.batches import file_of
from ei.errors import InputError
from ei.evaluation.quality import evaluate, read_metrics, write_metrics
from ei.models import Reconstructor, UNet
from ei.models.weights import generator_weights, load_weights
from ei.physics import CT
from ei.training import Trainer

# ---- checkpoints --------------------------------------------------------------------------------------------------


def small(**options: Any) -> UNet:
    return UNet(1, 1, base_channels=2, **options)


WEIGHTS = fill(small()).state_dict()


def behind(prefix: str, weights: dict[str, torch.Tensor] = WEIGHTS, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in weights.items()} | more


def in_the_middle(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As a compiled part of a network names its weights."""
    return {name.replace("Conv2.", "Conv2._orig_mod."): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WEIGHTS, ["bare state dict"]),
        ({"model": WEIGHTS, "epoch": 3}, ["'model'"]),
        ({"state_dict": WEIGHTS, "optimizer": {"lr": 1e-3}}, []),
        ({"state_dict": behind("module.")}, ["'module.'"]),
        ({"state_dict": behind("_orig_mod.")}, ["'_orig_mod.'"]),
        ({"state_dict": in_the_middle(WEIGHTS)}, ["'_orig_mod.'"]),
        ({"state_dict": behind("module._orig_mod.net.")}, ["'_orig_mod.'", "'module.net.'"]),
        (behind("net.") | {"physics.mask": torch.ones(2)}, ["bare state dict", "'net.'", "physics.mask"]),
        (behind("module.") | {"n_averaged": torch.tensor(3)}, ["bare state dict", "'module.'", "n_averaged"]),
    ],
    ids=["bare", "key", "ours", "module", "compiled", "inside", "wrapped", "function", "average"],
)
def test_weights_under_other_names(content: Any, said: list[str], tmp_path: Path) -> None:
    path = tmp_path / "theirs.pt"
    torch.save(content, path)
    net = small()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_weights(net, generator_weights(load_file(path, "checkpoint"), path), path)
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in net.state_dict().items())
    told = " ".join(str(warning.message) for warning in caught)
    assert bool(caught) == bool(said) and all(word in told for word in [*said, *[str(path)] * bool(said)]), told


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"a": WEIGHTS, "b": WEIGHTS}, ["'a', 'b'"]),
        (behind("a.") | behind("b."), ["several times", "a., b."]),
        (behind("net.") | {"other.mask": torch.ones(2)}, ["not in the network: other.mask", "'net.'"]),
        ({"state_dict": behind("module.", small(norm="none").state_dict())}, ["not in the file: Conv1.conv.1.weight"]),
        ({"state_dict": small(cat=False).state_dict()}, ["not in the file: Up_conv4.conv.0.weight, ", "more"]),
        ({"state_dict": {"encoder.0": torch.ones(2)}}, ["not in the file: Conv1", "not in the network: encoder.0"]),
        ({"state_dict": UNet(1, 1, base_channels=3).state_dict()}, ["Conv1.conv.0.weight is [3, 1, 3, 3] in the file"]),
        ({"epoch": 3}, ["neither 'state_dict' nor 'state_dict_G'"]),
        ({}, ["neither 'state_dict' nor 'state_dict_G'"]),
    ],
    ids=["two keys", "twice", "more", "norm", "cat", "foreign", "wide", "nothing", "empty"],
)
def test_weights_that_are_not_certain(content: Any, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "theirs.pt"
    torch.save(content, path)
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with warnings.catch_warnings(), pytest.raises(InputError) as error:
        warnings.simplefilter("ignore")
        load_weights(net, generator_weights(load_file(path, "checkpoint"), path), path)
    assert all(name in str(error.value) for name in [*names, "theirs.pt"]), error.value
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_bare_state_dict_behind_a_prefix_is_reconstructed_with(tmp_path: Path) -> None:
    net = fill(UNet(3, 3))  # three channels: the number is in the file, behind the prefix
    torch.save(behind("module.", net.state_dict()), tmp_path / "theirs.pt")
    physics = ei.physics.Inpainting(8, 8)
    with pytest.warns(UserWarning, match="network after A_dagger"):
        f = ei.load(tmp_path / "theirs.pt", physics)
    y = physics.A(torch.rand(1, 3, 8, 8))
    assert torch.equal(f(y), Reconstructor(net.eval(), physics)(y))


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_of_numpy_in_a_checkpoint(tmp_path: Path, legacy: bool) -> None:
    """As of an optimiser whose learning rate came out of np.logspace."""
    path = tmp_path / "theirs.pt"
    numbers = {"lr": np.float64(1e-3), "betas": (np.float32(0.5), 0.9), "step": np.int64(-7), "on": np.bool_(True)}
    turned = np.arange(6, dtype=">f4").reshape(2, 3).T
    content = {"state_dict": WEIGHTS, "optimizer": {**numbers, "array": turned, "none": np.zeros((0, 2), np.int16)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.warns(UserWarning, match=r"theirs\.pt holds numbers of NumPy"):
        optimizer = load_file(path, "checkpoint")["optimizer"]
    assert optimizer["array"].tolist() == [[0, 3], [1, 4], [2, 5]] and optimizer["none"].shape == (0, 2)
    plain = {name: optimizer[name] for name in numbers}
    assert plain == {"lr": 1e-3, "betas": (0.5, 0.9), "step": -7, "on": True}
    assert [type(value) for value in plain.values()] == [float, tuple, int, bool]


@pytest.mark.parametrize("thing", [np.array(["text"]), np.array([{}], dtype=object), np.dtype("f8"), np.str_("a")])
def test_what_else_numpy_has_is_refused(tmp_path: Path, thing: Any) -> None:
    torch.save({"state_dict": WEIGHTS, "thing": thing}, tmp_path / "theirs.pt")
    with pytest.raises(InputError, match=r"theirs\.pt was refused: it holds a numpy"):
        load_file(tmp_path / "theirs.pt", "checkpoint")


def test_a_run_with_numbers_of_numpy_is_saved(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=np.float64(1e-3))  # type: ignore[arg-type]
    save_file({"optimizer": optimizer.state_dict(), "step": np.int64(3)}, tmp_path / "ckp.pth.tar")
    found = load_file(tmp_path / "ckp.pth.tar")
    assert found["step"] == 3 and type(found["optimizer"]["param_groups"][0]["lr"]) is float


def test_the_commands_take_a_bare_state_dict(script: Any, tmp_path: Path) -> None:
    torch.save({"module." + name: value for name, value in UNet(1, 1).state_dict().items()}, "theirs.pt")
    np.save("y.npy", CT(8, 50).A(torch.rand(2, 1, 8, 8))[:, 0].numpy())
    done: Result = script(
        "ei reconstruct", "--task", "ct", "--ckp", "theirs.pt", "--input", "y.npy", "--output", "x.npy"
    )
    assert done.code == 0 and np.load("x.npy").shape == (2, 8, 8), done
    assert "bare state dict" in done.err and "'module.'" in done.err and "A_dagger" in done.err


# ---- names and their order ----------------------------------------------------------------------------------------


def test_natural_order() -> None:
    names = ["y_10.npy", "y_2.npy", "y_1.npy", "y_02.npy", "x.npy", "9.npy", "y.npy", "y_2b.npy", "10.npy"]
    wanted = ["9.npy", "10.npy", "x.npy", "y.npy", "y_1.npy", "y_02.npy", "y_2.npy", "y_2b.npy", "y_10.npy"]
    assert sorted(names, key=natural_order) == wanted
    padded = [f"y_{number:03d}.npy" for number in range(12)]
    assert sorted(padded, key=natural_order) == padded  # what was in order stays in it


def test_folders_of_measurements_keep_their_names(script: Any, tmp_path: Path) -> None:
    """Each image is that of the file whose name it bears; numbers in names count as numbers."""
    physics, f = CT(8, 5), Reconstructor(fill(small()).eval(), CT(8, 5))
    (tmp_path / "y").mkdir()
    images = {f"y_{number}": torch.rand(1, 1, 8, 8) for number in (10, 2, 1)}
    for name, image in images.items():
        np.save(f"y/{name}.npy", physics.A(image)[0, 0].numpy())
    stack = torch.rand(2, 1, 8, 8)
    np.save("y/z.npy", physics.A(stack)[:, 0].numpy())
    np.savez("y/y_2.npz", y=physics.A(stack[:1])[:, 0].numpy())
    trainer = Trainer(f, physics, None, MCClosure(), {"total": torch.optim.Adam(f.net.parameters())}, epochs=1,
                      out=tmp_path / "run", progress=False)  # fmt: skip
    trainer.fit(make_loader([torch.rand(1, 8, 8)] * 2, 2))
    done: Result = script(
        "ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y", "--output", "x.npy", "--png"
    )
    assert done.code == 0 and "from y_1 to z_00001" in done.out, done
    names = ["y_1", "y_2.npy", "y_2.npz", "y_10", "z_00000", "z_00001"]
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == sorted(f"{name}.png" for name in names)
    truth = [images["y_1"], images["y_2"], stack[:1], images["y_10"], stack[:1], stack[1:]]
    with torch.no_grad():
        expected = torch.cat([trainer.f.eval()(physics.A(image)) for image in truth])[:, 0].numpy()
    np.testing.assert_allclose(np.load("x.npy"), expected, atol=1e-5)
    for name, image in zip(names, expected, strict=True):
        written = np.asarray(Image.open(tmp_path / "x" / f"{name}.png")) / 255
        np.testing.assert_allclose(written, image.clip(0, 1), atol=0.51 / 255)


def test_rows_of_metrics_keep_the_names_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / name)
    tree = ImageTree(tmp_path)
    crops = FixedCrops(tree, 4, per_image=2)
    assert [file_of(crops, index) for index in range(6)] == [*["a/1.png"] * 2, *["b.png"] * 2, *["c.png"] * 2]
    assert file_of(Subset(tree, [2, 0]), 1) == "a/1.png" and file_of([torch.zeros(8, 8)], 0) is None
    physics = ei.physics.Inpainting(8, 8)
    f = Reconstructor(small(), physics)
    rows = evaluate(f, physics, Subset(tree, [2, 0]))
    assert [row["file"] for row in rows] == ["c.png", "a/1.png"]
    write_metrics(rows, tmp_path / "metrics.csv")
    read = read_metrics(tmp_path / "metrics.csv")
    assert read == rows
    assert "file" not in evaluate(f, physics, [torch.rand(8, 8)])[0]
