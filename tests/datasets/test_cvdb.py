"""Urban100's folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from makers import write_folder
from PIL import Image

from ei.datasets import (
    CVDB,
    CVDB_ICCV,
    images_of,
)


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


def test_real_urban(shared_data: Path) -> None:
    test = CVDB(shared_data / "Urban100", "test")
    assert len(test) == 10 and test.name_of(6).endswith("img_097.png")
