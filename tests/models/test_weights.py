"""Weights in the checkpoints of other programs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fill

import ei
from ei.common.files import load_file
from ei.errors import InputError
from ei.models import Reconstructor, UNet
from ei.models.weights import generator_weights, load_weights


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
    text = " ".join(str(warning.message) for warning in caught)
    assert bool(caught) == bool(said) and all(word in text for word in [*said, *[str(path)] * bool(said)]), text


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
