"""Folders of images: what is in them, how they are divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ei.datasets import (
    ImageTree,
    split_images,
)
from ei.datasets.tree import find_images
from ei.errors import InputError, MissingFileError


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "elsewhere", tmp_path / "images"
    for folder, names in ((outside, "abc"), (inside / "own", "de")):
        folder.mkdir(parents=True)
        for name in names:
            Image.new("L", (8, 8)).save(folder / f"{name}.png")
    (inside / "linked").symlink_to(outside)
    (inside / "own" / "around").symlink_to(inside)  # would never end
    (inside / "file.png").symlink_to(outside / "a.png")
    assert find_images(inside) == ["file.png", "linked/a.png", "linked/b.png", "linked/c.png", "own/d.png", "own/e.png"]
    (inside / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png is a link to a file that is not there"):
        find_images(inside)


def test_files_of_another_kind_are_not_left_out_in_silence(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    np.save(tmp_path / "c.npy", np.zeros((8, 8)))
    with pytest.warns(UserWarning, match=r"1 files of .* \.npy or \.npz are left out: it holds 2 that end in \.png"):
        assert find_images(tmp_path) == ["a.png", "b.png"]


def test_a_folder_tree(tree: Path) -> None:
    images = ImageTree(tree, "all", crop=40, resize=16)
    assert len(images) == 5 and images.names == sorted(images.names)
    assert all(image.shape == (3, 16, 16) and float(image.min()) >= 0 and float(image.max()) <= 1 for image in images)
    assert ImageTree(tree, crop=40, gray=True)[0].shape == (1, 40, 40)
    assert ImageTree(tree / "b", "all", crop=[40, 30])[0].shape == (1, 40, 30)  # all gray
    for options, message in (({}, "one size"), ({"crop": 44}, "smaller than the crop")):
        with pytest.raises(InputError, match=message):
            ImageTree(tree, "all", **options)
    (tree / "6.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="6\\.png cannot be read"):
        ImageTree(tree, "all", crop=40)


def test_splits(tree: Path) -> None:
    drawn = split_images(tree, 0.4)
    assert len(drawn["test"]) == 2 and drawn == split_images(tree, 0.4)
    assert sorted(drawn["train"] + drawn["test"]) == ImageTree(tree, "all", crop=40).names
    chosen = tree.parent / "list.txt"
    chosen.write_text("4.tif\n\n# a comment\na/1.png\n")
    assert split_images(tree, chosen)["test"] == ["4.tif", "a/1.png"]
    chosen.write_text("nowhere.png\n")
    with pytest.raises(InputError, match="nowhere"):
        split_images(tree, chosen)
    with pytest.raises(MissingFileError):
        split_images(tree, "no list")
    with pytest.raises(MissingFileError):
        split_images(tree / "a" / "nothing", 0.5)


def test_a_folder_is_divided_by_a_fraction_or_a_list(tree: Path) -> None:
    """By plain values, as a configuration has them; the draw is that of `split_images`."""
    for fraction in (None, 0.4):
        drawn = split_images(tree, 0.1 if fraction is None else fraction)
        for mode in ("train", "test"):
            assert ImageTree(str(tree), mode, crop=40, test_fraction=fraction).names == drawn[mode]
    (tree.parent / "list.txt").write_text("4.tif\na/1.png\n")
    by_list = ImageTree(str(tree), "test", crop=40, split=str(tree.parent / "list.txt"), test_fraction=0.4)
    assert by_list.names == ["4.tif", "a/1.png"] and by_list.name_of(1) == "a/1.png" and len(by_list.headers) == 2


def test_a_divided_folder_is_read_by_its_mode(tree: Path) -> None:
    (tree / "a").rename(tree / "train")
    (tree / "b").rename(tree / "test")
    assert ImageTree(tree, "train", crop=40).names == ["1.png", "2.jpg"]
    assert ImageTree(tree, "test", crop=40).names == ["c/3.png"]
    with pytest.warns(UserWarning, match="have no effect"):
        ImageTree(tree, "test", crop=40, test_fraction=0.5)
    (tree / "test").rename(tree / "other")
    with pytest.raises(MissingFileError, match="test"):
        ImageTree(tree, "test", crop=40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": "big"}, "crop must be a whole number >= 1, got 'big'"),
        ({"crop": [40, 40, 40]}, r"crop must be a side or \[height, width\], got \[40, 40, 40\]"),
        ({"resize": 0}, "resize must be a whole number >= 1, got 0"),
        ({"gray": "yes"}, "gray must be true or false, got 'yes'"),
        ({"value_range": "wide"}, r"value_range must be two numbers \[LOW, HIGH\], got 'wide'"),
        ({"value_range": [0, "a"]}, "HIGH of value_range must be a finite number, got 'a'"),
        ({"test_fraction": 1.5}, "test_fraction must be finite and > 0 and < 1, got 1.5"),
        ({"split": 3}, "split must be a path, got 3"),
        ({"mode": "validation"}, "mode must be one of 'train', 'test', 'all', got 'validation'"),
        ({"folder": None}, "folder must be a path, got None"),
    ],
)
def test_arguments_of_a_wrong_type(tree: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageTree(**{"folder": tree, "crop": 40, **arguments})
