"""The reconstruction function of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SmallNet
from makers import loader, make

import ei
from ei.errors import InputError


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
def test_a_missing_device_is_an_error(device: str, tmp_path: Path) -> None:
    make(tmp_path / "run", epochs=1).fit(loader())
    with pytest.raises(InputError, match=f"torch cannot use the device '{device}' here"):
        ei.load(tmp_path / "run" / "ckp_last.pth.tar", net=SmallNet(3), device=device)
