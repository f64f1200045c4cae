"""Files that other programs wrote: checkpoints, images, measurements, masks. Read exactly, or refused in a line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, fill
from torch import nn

import ei
from ei.common.files import load_file, save_file
from ei.errors import InputError
from ei.models import Reconstructor, UNet
from ei.models.weights import generator_weights, load_weights
from ei.physics import CT

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
