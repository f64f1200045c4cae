"""Real scans of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Result

Script = Callable[..., Result]
NAME = "benchmarks/prepare_scans.py"


def test_real_scans_are_prepared(shared_data: Path, script: Script) -> None:
    done = script(NAME, "htc2022", "--source", shared_data / "HTC2022", "--views", 30, "--arc", 60, "--bin", 16)
    assert done.code == 0, done.err
    folder = Path("dataset/HTC2022/30_over_60")
    geometry = yaml.safe_load((folder / "geometry.yaml").read_text())
    assert geometry["angles"] == [2.0 * k for k in range(30)] and geometry["image_shape"] == [32, 32]
    assert np.load(folder / "train.npy").shape == (15, 35, 30) and np.load(folder / "test.npy").shape == (4, 35, 30)
    reference = np.load(folder / "test_reference.npy")
    assert reference.shape == (4, 1, 32, 32) and 0.02 < np.quantile(reference, 0.9) < 0.06  # per millimetre
    pytest.importorskip("h5py")
    done = script(NAME, "tooth", "--source", shared_data / "tooth.h5", "--bin", 8)
    assert done.code == 0 and "the sinogram fits" in done.out
    assert np.load("dataset/tooth/y_reference.npy").shape == (2, 1, 80, 80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("htc2022", "--source", "."), "htc2022_"),
        (("htc2022", "--source", "scans", "--views", 100, "--arc", 30), "100 views over 30 degrees"),
        (("tooth", "--source", "tooth.h5"), "tooth.h5"),
    ],
)
def test_wrong_input_is_an_error_of_one_line(arguments: tuple, message: str, script: Script) -> None:
    Path("scans").mkdir()
    Path("scans/htc2022_01a_full.mat").touch()
    done = script(NAME, *arguments)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done
