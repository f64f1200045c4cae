"""From data sets to batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

import ei
from ei.datasets import (
    ImageTree,
    Tiles,
    image_of,
    images_of,
    make_loader,
    simulate,
)
from ei.datasets.batches import Indexed, file_name_of, images_and_measurements
from ei.errors import InputError
from ei.evaluation import evaluate
from ei.evaluation.quality import read_metrics, write_metrics
from ei.models import Reconstructor, UNet
from ei.physics import CT, GaussianNoise, Inpainting


def test_items_of_a_subset_keep_their_index() -> None:
    """It seeds their noise and selects their operator, in training as in evaluation."""
    part = Subset([torch.full((1, 4, 4), float(n)) for n in range(5)], [3, 1])
    items = [Indexed(part)[k] for k in range(2)]
    assert [(float(item["x"].max()), item["index"]) for item in items] == [(3, 3), (1, 1)]


def test_batches() -> None:
    x = torch.rand(5, 4, 6)
    assert images_of(x).shape == (5, 1, 4, 6)
    assert images_of([x[:, None], torch.zeros(5)]).shape == (5, 1, 4, 6)
    assert image_of(x[0]).shape == image_of([x[0][None], 3]).shape == (1, 1, 4, 6)
    assert images_of({"x": x, "index": torch.arange(5)}).shape == (5, 1, 4, 6)
    for bad in ("text", torch.zeros(4), [1, 2]):
        with pytest.raises(ValueError, match="batch"):
            images_of(bad)
    sizes = [len(batch["x"]) for batch in make_loader(list(x), 2, shuffle=False)]
    assert sizes == [2, 2, 1]
    with pytest.raises(ValueError, match="6 is larger than the data set of 5"):
        make_loader(list(x), 6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_images_of_integers_are_an_error(dtype: torch.dtype) -> None:
    """Images of 0 to 255 would be trained on in silence, at another alpha and learning rate than was meant."""
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=rf"floating-point numbers, got {name}; scale them to \[0, 1\], as x / 255"):
        images_of(next(iter(make_loader(torch.full((3, 1, 4, 4), 200, dtype=dtype), 2))))
    assert images_of(torch.ones(1, 4, 4, dtype=torch.bool)).shape == (1, 1, 4, 4)


def test_noise_is_drawn_once_per_image() -> None:
    physics = Inpainting(4, 4, noise=GaussianNoise(1.0))
    x = torch.rand(3, 1, 4, 4)
    y = simulate(physics, x, [7, 8, 9], seed=0)
    assert torch.equal(simulate(physics, x[1:2], [8], seed=0)[0], y[1])
    assert not torch.equal(simulate(physics, x[1:2], [8], seed=1)[0], y[1])
    with pytest.raises(ValueError, match="make_loader"):
        simulate(physics, x, None, seed=0)


def test_rows_of_metrics_keep_the_names_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / name)
    tree = ImageTree(tmp_path, "all")
    tiles = Tiles(tree, 4)
    assert [file_name_of(tiles, index) for index in range(12)] == [*["a/1.png"] * 4, *["b.png"] * 4, *["c.png"] * 4]
    assert file_name_of(Subset(tree, [2, 0]), 1) == "a/1.png" and file_name_of([torch.zeros(8, 8)], 0) is None
    physics = ei.physics.Inpainting(8, 8)
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    rows = evaluate(f, physics, Subset(tree, [2, 0]))
    assert [row["file"] for row in rows] == ["c.png", "a/1.png"]
    write_metrics(rows, tmp_path / "metrics.csv")
    read = read_metrics(tmp_path / "metrics.csv")
    assert read == rows
    assert "file" not in evaluate(f, physics, [torch.rand(8, 8)])[0]


def test_two_tensors_are_no_items() -> None:
    x, y = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)
    for pair in ((x, y), [x, y]):
        with pytest.raises(InputError, match=r"TensorDataset\(y, x\)"):
            make_loader(pair, 2, measured=True)
    assert len(make_loader([torch.rand(2, 3, 8, 8)] * 2, 1, measured=True)) == 2  # two measurements of MRI, 3 coils
    assert len(make_loader([x[0], x[1]], 1)) == 2
    with pytest.raises(InputError, match=r"item 0 of the measurements must be an array .* got tensor\(nan\)"):
        next(iter(make_loader([(torch.tensor(float("nan")), y[0])], 1, shuffle=False, measured=True)))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_exchanged_images_and_measurements_are_an_error(noise: float) -> None:
    """As TensorDataset(x, y), the order of other libraries, would train on the ground truth."""
    physics = Inpainting(8, 8, mask_rate=0.5)
    x = torch.rand(6, 1, 8, 8)
    y = physics.A(x + noise * torch.randn_like(x))
    found, measured = images_and_measurements(next(iter(pairs(y, x))), physics, x, 0)
    assert torch.equal(found, x) and torch.equal(measured, y)
    with pytest.raises(InputError, match="exchanged"):
        images_and_measurements(next(iter(pairs(x, y))), physics, x, 0)
    same = Inpainting(8, 8, mask_rate=0.0)  # both orders fit
    images_and_measurements(next(iter(pairs(x, x))), same, x, 0)
    sinograms = CT(8, 5).A(x)  # of another shape: the operator checks it
    assert torch.equal(images_and_measurements(next(iter(pairs(sinograms, x))), CT(8, 5), x, 0)[1], sinograms)


def pairs(y: torch.Tensor, x: torch.Tensor) -> Any:
    return make_loader(TensorDataset(y, x), len(y), shuffle=False, measured=True)
