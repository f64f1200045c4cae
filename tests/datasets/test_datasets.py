"""Data sets: layouts, splits, what is refused, generated images."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from makers import write_folder, write_mat
from PIL import Image

from ei.datasets import CVDB, CVDB_ICCV, CTData, DeadLeaves, EllipsePhantoms, image_of, images_of, make_loader, simulate
from ei.physics import GaussianNoise, Inpainting


def test_ct_splits_nine_to_one(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "ct.mat", n=100, side=4)
    data = scipy.io.loadmat(path)["DATA"]
    train, test = CTData("train", path), CTData("test", str(path))
    assert (len(train), len(test)) == (90, 10)
    assert train[0].shape == (4, 4) and train[0].dtype == torch.float32
    assert np.array_equal(train[89], data[89]) and np.array_equal(test[0], data[90])


def test_matlab_73_files(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((10, 4, 6))
    with h5py.File(tmp_path / "ct.mat", "w", userblock_size=512) as file:
        file["DATA"] = data.T  # as Matlab stores it
    with open(tmp_path / "ct.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    assert np.allclose(CTData("train", tmp_path / "ct.mat")[3], data[3])


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"OTHER": np.zeros((4, 4))}, ["DATA", "OTHER"]),
        ({"DATA": np.zeros((4, 4))}, ["[n, H, W]", "[4, 4]"]),
        ({"DATA": np.full((4, 4, 4), np.nan)}, ["image 0", "not finite"]),
        ({"DATA": np.zeros((4, 4, 4)) + 1j}, ["real", "complex"]),
        ({"DATA": np.zeros((1, 4, 4))}, ["at least 2"]),
    ],
)
def test_bad_mat_files(tmp_path: Path, arrays: dict, names: list[str]) -> None:
    path = write_mat(tmp_path / "ct.mat", **arrays)
    with pytest.raises(ValueError) as error:
        CTData("train", path)
    assert all(name in str(error.value) for name in [*names, str(path)])


def test_missing_and_damaged_mat_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CT100_128x128\.mat"):
        CTData("train", tmp_path / "CT100_128x128.mat")
    with pytest.raises(ValueError, match="folder"):
        CTData("train", tmp_path)
    whole = write_mat(tmp_path / "ct.mat").read_bytes()
    for content in (b"", b"not a mat file", whole[:200], whole[: len(whole) // 2]):
        (tmp_path / "bad.mat").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.mat"):
            CTData("train", tmp_path / "bad.mat")
    with pytest.raises(ValueError, match="mode"):
        CTData("validation", write_mat(tmp_path / "ct.mat"))


def test_urban_folder(tmp_path: Path) -> None:
    from torchvision import transforms

    root = write_folder(tmp_path / "Urban100", side=520)
    train = CVDB(root, "train")
    assert len(train) == 3 and len(CVDB(root, "test")) == 2
    with Image.open(root / "train" / "train" / "img_001.png") as image:
        steps = [transforms.CenterCrop(512), transforms.Resize(256), transforms.ToTensor()]
        expected = transforms.Compose(steps)(image.convert("RGB"))
    assert torch.equal(train[1], expected)
    assert CVDB(root, "train", crop_size=(64, 32), resize=False)[0].shape == (3, 64, 32)


def test_the_2021_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "dataset" / "Urban100")
    monkeypatch.chdir(tmp_path)
    batches = list(CVDB_ICCV(dataset_name="Urban100", mode="train", batch_size=2, shuffle=False))
    assert [images_of(batch).shape for batch in batches] == [(2, 3, 256, 256), (1, 3, 256, 256)]
    assert isinstance(batches[0], list)


@pytest.mark.parametrize(("mode", "dtype"), [("L", np.uint8), ("RGBA", np.uint8), ("P", np.uint8), ("I;16", np.uint16)])
def test_other_kinds_of_png(tmp_path: Path, mode: str, dtype: type) -> None:
    root = write_folder(tmp_path, n_train=1)
    value = 200 * (257 if dtype == np.uint16 else 1)
    array = np.full((512, 512), value, dtype=dtype)
    image = Image.fromarray(array)
    (image if mode == "I;16" else image.convert(mode)).save(root / "train" / "train" / "img_000.png")
    torch.testing.assert_close(CVDB(root, "train")[0], torch.full((3, 256, 256), 200 / 255))


def test_bad_image_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CVDB(tmp_path / "nowhere", "train")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no images"):
        CVDB(tmp_path / "empty", "train")
    root = write_folder(tmp_path / "small", side=100)
    with pytest.raises(ValueError, match=r"img_000\.png is 100 x 100 pixels, smaller than the crop of 512 x 512"):
        CVDB(root, "train")
    root = write_folder(tmp_path / "damaged")
    bad = root / "train" / "train" / "img_001.png"
    whole = bad.read_bytes()
    for content in (b"", b"text", whole[:60], whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"img_001\.png"):
            CVDB(root, "train")


@pytest.mark.parametrize(("kind", "shape"), [(DeadLeaves, (3, 24, 24)), (EllipsePhantoms, (24, 24))])
def test_generated_images(kind: type, shape: tuple[int, ...]) -> None:
    train, test = kind("train", 24, n_images=10), kind("test", 24, n_images=10)
    assert (len(train), len(test)) == (9, 1)
    images = [*train, *test]
    assert all(image.shape == shape and image.dtype == torch.float32 for image in images)
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 and float(image.std()) > 0.02 for image in images)
    assert not torch.equal(images[0], images[1])
    assert torch.equal(kind("train", 24, n_images=10)[5], train[5])  # whatever was drawn before
    assert not torch.equal(kind("train", 24, n_images=10, seed=1)[5], train[5])
    with pytest.raises(IndexError):
        train[9]
    with pytest.raises(ValueError, match="img_size"):
        kind("train", 2)


def test_dead_leaves_are_shift_invariant_and_rougher_than_blurred() -> None:
    """Statistics do not depend on the place, and wrap around: neighbours across the border are like any others."""
    images = torch.stack(list(DeadLeaves("train", 32, n_images=60)))
    down = (images - images.roll(1, dims=-2)).abs().mean(dim=(0, 1, 3))
    assert float(down[0]) == pytest.approx(float(down[1:].mean()), rel=0.25)


def test_phantoms_stay_inside_the_circle() -> None:
    axis = torch.arange(32) - 15.5
    outside = axis[:, None].square() + axis.square() > 16**2
    assert max(float(image[outside].max()) for image in EllipsePhantoms("train", 32, n_images=20)) == 0


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


def test_noise_is_drawn_once_per_image() -> None:
    physics = Inpainting(4, 4, noise=GaussianNoise(1.0))
    x = torch.rand(3, 1, 4, 4)
    y = simulate(physics, x, [7, 8, 9], seed=0)
    assert torch.equal(simulate(physics, x[1:2], [8], seed=0)[0], y[1])
    assert not torch.equal(simulate(physics, x[1:2], [8], seed=1)[0], y[1])
    with pytest.raises(ValueError, match="make_loader"):
        simulate(physics, x, None, seed=0)


def test_real_ct(shared_data: Path) -> None:
    assert len(CTData("test", shared_data / "CT100_128x128.mat")) == 10


def test_real_urban(shared_data: Path) -> None:
    test = CVDB(shared_data / "Urban100", "test")
    assert len(test) == 10 and test.paths[6].endswith("img_097.png")
