"""Numbers and arrays of NumPy in files of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ei.common.files import load_file, save_file
from ei.errors import InputError

WEIGHTS = {"a": torch.arange(3.0)}


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
    with pytest.raises(InputError, match=r"theirs\.pt was rejected: it holds a numpy"):
        load_file(tmp_path / "theirs.pt", "checkpoint")


def test_a_run_with_numbers_of_numpy_is_saved(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=np.float64(1e-3))  # type: ignore[arg-type]
    save_file({"optimizer": optimizer.state_dict(), "step": np.int64(3)}, tmp_path / "ckp.pth.tar")
    found = load_file(tmp_path / "ckp.pth.tar")
    assert found["step"] == 3 and type(found["optimizer"]["param_groups"][0]["lr"]) is float
