"""Which data set reads a path, and data sets out of the plain values of a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from makers import write_folder, write_mat
from PIL import Image

import ei
from ei.datasets import dataset_for
from ei.errors import InputError, MissingFileError


def test_paths(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    np.save(tmp_path / "x.npy", np.zeros((4, 8, 8), np.uint8))
    write_mat(tmp_path / "x.mat")
    for path, part in (
        (str(tmp_path), {"name": "ImageTree", "folder": str(tmp_path)}),
        (str(tmp_path / "x.npy"), {"name": "ImageStack", "path": str(tmp_path / "x.npy")}),
        (str(tmp_path / "x.mat"), {"name": "CTData", "root_dir": str(tmp_path / "x.mat")}),
    ):
        assert dataset_for(path) == part
    (tmp_path / "empty").mkdir()
    for path, error in (("empty", MissingFileError), ("none.npy", MissingFileError), ("a.png", InputError)):
        with pytest.raises(error, match="a folder of images, or one array in a file") as caught:
            dataset_for(str(tmp_path / path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("{name: ImageTree, folder: images, mode: test, crop: 16, gray: true}", (1, 16, 16)),
        ("{name: CVDB, root: images, mode: train, crop_size: [16, 24], resize: false}", (3, 16, 24)),
        ("{name: ImageStack, path: x.npy, value_range: [0, 2]}", (1, 8, 8)),
        ("{name: CTData, mode: train, root_dir: x.mat}", (16, 16)),
        ("{name: MRIData, mode: test, root_dir: x.npy}", (2, 8, 8)),
        ("{name: EllipsePhantoms, mode: train, img_size: 16, n_images: 4, seed: 3}", (16, 16)),
        ("{name: DeadLeaves, mode: test, img_size: 16, n_images: 4, seed: 3}", (3, 16, 16)),
        ("{name: MagnitudePhantoms, img_size: 16, n_images: 4}", (2, 16, 16)),
    ],
)
def test_data_sets_of_a_configuration(
    part: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", side=32)
    np.save("x.npy", np.ones((10, 8, 8)))
    write_mat(tmp_path / "x.mat")
    arguments = yaml.safe_load(part)
    dataset = getattr(ei.datasets, arguments.pop("name"))(**arguments)
    assert dataset[0].shape == shape and dataset[0].dtype == torch.float32 and len(dataset) >= 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("CVDB", {"root": "x", "crop_size": "big"}, "there are no images at x/train"),
        ("ImageStack", {"path": 5}, "must be a path, got 5"),
        ("CTData", {"root_dir": None}, "must be a path"),
        ("MRIData", {"root_dir": ["a"]}, "must be a path"),
        ("EllipsePhantoms", {"img_size": "large"}, "img_size must be a whole number >= 8, got 'large'"),
        ("DeadLeaves", {"n_images": 1}, "n_images must be a whole number >= 2, got 1"),
        ("DeadLeaves", {"seed": "a"}, "seed must be a whole number, got 'a'"),
        ("MagnitudePhantoms", {"mode": "all"}, "mode must be one of 'train', 'test', got 'all'"),
    ],
)
def test_values_of_a_wrong_type(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(ei.datasets, name)(**arguments)
