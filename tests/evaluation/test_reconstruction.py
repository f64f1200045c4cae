"""Measurements to files of images: what is interrupted goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallNet, fill
from PIL import Image
from torch import Tensor

from ei.common.unfinished import UnfinishedArray
from ei.datasets import Measurements
from ei.evaluation.reconstruction import WrittenImages, reconstruct_file, write_pngs
from ei.models import Reconstructor
from ei.physics import CT


class Counting(Reconstructor):
    """Counts the measurements that it reconstructs, and may stop before one."""

    images = 0
    stop_at: int | None = None

    def of(self, physics: Any) -> Counting:
        return self

    def forward(self, y: Tensor) -> Tensor:
        if self.stop_at is not None and self.images + len(y) > self.stop_at:
            raise KeyboardInterrupt
        self.images += len(y)
        return super().forward(y)


@pytest.fixture
def y(tmp_path: Path) -> Path:
    np.save(tmp_path / "y.npy", CT(16, 5).A(torch.rand(9, 1, 16, 16)).numpy()[:, 0])
    return tmp_path / "y.npy"


def function(stop_at: int | None = None) -> Counting:
    f = Counting(fill(SmallNet(1)), CT(16, 5))
    f.stop_at = stop_at
    return f


@pytest.mark.parametrize("ending", [".npy", ".h5", ".tif"])
def test_only_the_rest_is_computed(y: Path, ending: str, capsys: pytest.CaptureFixture) -> None:
    whole, path = y.with_name(f"whole{ending}"), y.with_name(f"x{ending}")
    options: dict[str, Any] = {"batch_size": 3, "call": {"input": "y"}}
    assert reconstruct_file(function(), Measurements(y), whole, **options) > 0
    stopped = function(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(stopped, Measurements(y), path, **options)
    assert stopped.images == 4 and not path.exists()
    rest = function()
    capsys.readouterr()
    reconstruct_file(rest, Measurements(y), path, **options)
    assert "4 of 9 images are there" in capsys.readouterr().out
    assert rest.images == 5 and path.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in y.parent.iterdir()) == sorted([y.name, whole.name, path.name])


def test_nothing_is_computed_where_all_is_there(y: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = y.with_name("x.npy")
    monkeypatch.setattr("ei.common.unfinished.complete_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(function(), Measurements(y), path)
    monkeypatch.undo()
    f = function()
    reconstruct_file(f, Measurements(y), path)
    assert f.images == 0 and np.load(path).shape == (9, 16, 16)


def test_what_watches_has_a_file_that_is_continued_too(y: Path) -> None:
    """An image counts as there when both files have it."""

    def watch(f: Any, physics: Any, y: Tensor, x: Tensor) -> Tensor:
        return -2 * x.abs()

    paths = [y.with_name(name) for name in ("x.npy", "x_std.npy")]
    options: dict[str, Any] = {"batch_size": 3, "watch": watch, "beside": paths[1]}
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(function(stop_at=5), Measurements(y), paths[0], **options)
    assert not any(path.exists() for path in paths)
    with open(y.with_name("x_std.npy.unfinished"), "r+b") as file:
        file.seek(-6, os.SEEK_END)
        assert file.read(1) == b"\1"  # of the fourth image
        file.seek(-6, os.SEEK_END)
        file.write(b"\0")
    rest = function()
    reconstruct_file(rest, Measurements(y), paths[0], **options)
    x, errors = (np.load(path) for path in paths)
    assert rest.images == 6 and (x != 0).any((1, 2)).all()
    np.testing.assert_allclose(errors, 2 * np.abs(x), rtol=1e-5)


@pytest.mark.parametrize(("unit", "divided"), [(1.0, False), (0.01, True), (300.0, True)])
def test_pictures_of_any_unit_are_neither_black_nor_white(unit: float, divided: bool, tmp_path: Path) -> None:
    """Attenuation in a unit of length may be 0.009 or 300: one number divides all pictures."""
    images = np.linspace(0, 1, 2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8) * unit
    scale = write_pngs(images, tmp_path / "x", ["0", "1"])
    assert scale == (pytest.approx(unit, rel=0.01) if divided else 1)
    written = np.stack([np.asarray(Image.open(tmp_path / "x" / f"{name}.png")) for name in ("0", "1")])
    np.testing.assert_allclose(written / 255, (images / scale).clip(0, 1), atol=0.51 / 255)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".h5"])
@pytest.mark.parametrize("shape", [(1, 8, 9), (2, 8, 9), (1, 3, 8, 9), (2, 3, 8, 9), (3, 8, 3)])
def test_written_images_are_read_in_their_layout(shape: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    images, path = np.random.default_rng(0).random(shape, np.float32), tmp_path / f"x{suffix}"
    with UnfinishedArray(path, len(images), {}) as array:
        array.begin(shape[1:], images.dtype)
        array.share()
        array.write(range(len(images)), images)
        array.complete()
    read = WrittenImages(path, len(images))
    assert read.shape == shape and len(read) == len(images)
    np.testing.assert_array_equal(np.stack([read[index] for index in range(len(images))]), images)
    write_pngs(read, tmp_path / "x", [str(index) for index in range(len(images))])
    assert len(list((tmp_path / "x").iterdir())) == len(images)
