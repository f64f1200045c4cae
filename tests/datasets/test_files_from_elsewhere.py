"""Files that other programs wrote: checkpoints, images, measurements, masks. Read exactly, or refused in a line."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from conftest import Result, fill
from makers import dicom
from PIL import Image
from torch import nn
from torch.utils.data import Subset

import ei
from ei.closure import MCClosure
from ei.common.files import load_file, natural_order, save_file
from ei.datasets import FixedCrops, ImageStack, ImageTree, make_loader
from ei.datasets.batches import file_of
from ei.datasets.tree import find_images
from ei.errors import InputError
from ei.evaluation.quality import evaluate, read_metrics, write_metrics
from ei.models import Reconstructor, UNet
from ei.models.weights import generator_weights, load_weights
from ei.physics import CT
from ei.training import Trainer

# ---- checkpoints --------------------------------------------------------------------------------------------------


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
    told = " ".join(str(warning.message) for warning in caught)
    assert bool(caught) == bool(said) and all(word in told for word in [*said, *[str(path)] * bool(said)]), told


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
    with pytest.raises(InputError, match=r"theirs\.pt was refused: it holds a numpy"):
        load_file(tmp_path / "theirs.pt", "checkpoint")


def test_a_run_with_numbers_of_numpy_is_saved(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=np.float64(1e-3))  # type: ignore[arg-type]
    save_file({"optimizer": optimizer.state_dict(), "step": np.int64(3)}, tmp_path / "ckp.pth.tar")
    found = load_file(tmp_path / "ckp.pth.tar")
    assert found["step"] == 3 and type(found["optimizer"]["param_groups"][0]["lr"]) is float


def test_the_commands_take_a_bare_state_dict(script: Any, tmp_path: Path) -> None:
    torch.save({"module." + name: value for name, value in UNet(1, 1).state_dict().items()}, "theirs.pt")
    np.save("y.npy", CT(8, 50).A(torch.rand(2, 1, 8, 8))[:, 0].numpy())
    done: Result = script(
        "ei reconstruct", "--task", "ct", "--ckp", "theirs.pt", "--input", "y.npy", "--output", "x.npy"
    )
    assert done.code == 0 and np.load("x.npy").shape == (2, 8, 8), done
    assert "bare state dict" in done.err and "'module.'" in done.err and "A_dagger" in done.err


# ---- names and their order ----------------------------------------------------------------------------------------


def test_natural_order() -> None:
    names = ["y_10.npy", "y_2.npy", "y_1.npy", "y_02.npy", "x.npy", "9.npy", "y.npy", "y_2b.npy", "10.npy"]
    wanted = ["9.npy", "10.npy", "x.npy", "y.npy", "y_1.npy", "y_02.npy", "y_2.npy", "y_2b.npy", "y_10.npy"]
    assert sorted(names, key=natural_order) == wanted
    padded = [f"y_{number:03d}.npy" for number in range(12)]
    assert sorted(padded, key=natural_order) == padded  # what was in order stays in it


def test_folders_of_measurements_keep_their_names(script: Any, tmp_path: Path) -> None:
    """Each image is that of the file whose name it bears; numbers in names count as numbers."""
    physics, f = CT(8, 5), Reconstructor(fill(small()).eval(), CT(8, 5))
    (tmp_path / "y").mkdir()
    images = {f"y_{number}": torch.rand(1, 1, 8, 8) for number in (10, 2, 1)}
    for name, image in images.items():
        np.save(f"y/{name}.npy", physics.A(image)[0, 0].numpy())
    stack = torch.rand(2, 1, 8, 8)
    np.save("y/z.npy", physics.A(stack)[:, 0].numpy())
    np.savez("y/y_2.npz", y=physics.A(stack[:1])[:, 0].numpy())
    trainer = Trainer(f, physics, None, MCClosure(), {"total": torch.optim.Adam(f.net.parameters())}, epochs=1,
                      out=tmp_path / "run", progress=False)  # fmt: skip
    trainer.fit(make_loader([torch.rand(1, 8, 8)] * 2, 2))
    done: Result = script(
        "ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y", "--output", "x.npy", "--png"
    )
    assert done.code == 0 and "from y_1 to z_00001" in done.out, done
    names = ["y_1", "y_2.npy", "y_2.npz", "y_10", "z_00000", "z_00001"]
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == sorted(f"{name}.png" for name in names)
    truth = [images["y_1"], images["y_2"], stack[:1], images["y_10"], stack[:1], stack[1:]]
    with torch.no_grad():
        expected = torch.cat([trainer.f.eval()(physics.A(image)) for image in truth])[:, 0].numpy()
    np.testing.assert_allclose(np.load("x.npy"), expected, atol=1e-5)
    for name, image in zip(names, expected, strict=True):
        written = np.asarray(Image.open(tmp_path / "x" / f"{name}.png")) / 255
        np.testing.assert_allclose(written, image.clip(0, 1), atol=0.51 / 255)


def test_rows_of_metrics_keep_the_names_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / name)
    tree = ImageTree(tmp_path)
    crops = FixedCrops(tree, 4, per_image=2)
    assert [file_of(crops, index) for index in range(6)] == [*["a/1.png"] * 2, *["b.png"] * 2, *["c.png"] * 2]
    assert file_of(Subset(tree, [2, 0]), 1) == "a/1.png" and file_of([torch.zeros(8, 8)], 0) is None
    physics = ei.physics.Inpainting(8, 8)
    f = Reconstructor(small(), physics)
    rows = evaluate(f, physics, Subset(tree, [2, 0]))
    assert [row["file"] for row in rows] == ["c.png", "a/1.png"]
    write_metrics(rows, tmp_path / "metrics.csv")
    read = read_metrics(tmp_path / "metrics.csv")
    assert read == rows
    assert "file" not in evaluate(f, physics, [torch.rand(8, 8)])[0]


# ---- images -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (10, 8, 3), dtype=np.uint16)


def deep_png(path: Path, values: np.ndarray, colour_type: int) -> None:
    """A PNG of 16 bits: Pillow writes none of them in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def write_image(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, x=values, other=np.zeros(2))
    elif path.suffix in (".tif", ".tiff"):
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    elif path.suffix == ".png" and values.dtype == np.uint16:
        deep_png(path, values, 2 if values.ndim == 3 else 0)
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize("ending", [".png", ".tif", ".npy", ".npz", ".pgm"])
def test_16_bits_are_read_at_full_precision(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / f"x{ending}", DEEP[..., 0])
    expected = torch.from_numpy(DEEP[..., 0] / 65535).float()[None]
    assert torch.equal(ImageTree(tmp_path)[0], expected)
    low, high = 1000, 1000 + 4095
    with pytest.warns(UserWarning, match=f"of 80 values .* {(DEEP[..., 0] < low).sum()} lie below and "
                                         f"{(DEEP[..., 0] > high).sum()} above --range 1000 5095"):  # fmt: skip
        inside = ImageTree(tmp_path, value_range=(low, high))[0]
    np.testing.assert_allclose(inside[0], ((DEEP[..., 0] - 1000.0) / 4095).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_colours_of_16_bits(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / f"x{ending}", DEEP)
    expected = torch.from_numpy(np.moveaxis(DEEP / 65535, -1, 0)).float()
    assert torch.equal(ImageTree(tmp_path)[0], expected)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(ImageTree(tmp_path, gray=True)[0], (weights * expected).sum(0, keepdim=True))


def test_transparency_of_16_bits_is_dropped(tmp_path: Path) -> None:
    deep_png(tmp_path / "x.png", DEEP[..., :2], 4)
    assert torch.equal(ImageTree(tmp_path)[0], torch.from_numpy(DEEP[..., 0] / 65535).float()[None])


def test_12_bits_in_16(tmp_path: Path) -> None:
    """What the detector gives is told, and --range makes [0, 1] of it, all levels different."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    write_image(tmp_path / "x.png", ramp)
    with pytest.warns(UserWarning, match="up to 4095 of 65535.* give --range 0 4095"):
        ImageTree(tmp_path)
    (tmp_path / "y.pgm").write_bytes(b"P5\n64 64\n4095\n" + ramp.astype(">u2").tobytes())
    tree = ImageTree(tmp_path, value_range=(0, 4095))
    for image in tree:
        assert len(image.unique()) == 4096 and torch.equal(image[0], torch.from_numpy(ramp / 4095).float())
    assert torch.equal(ImageTree(tmp_path, ["y.pgm"])[0], tree[1])  # this format tells its largest value


SIGNED = {
    "int16.tif": RNG.integers(-1024, 3072, (8, 6)).astype(np.int16),
    "int32.tif": RNG.integers(-(2**30), 2**30, (8, 6)).astype(np.int32),
    "uint32.tif": RNG.integers(0, 2**32, (8, 6)).astype(np.uint32),
    "int8.tif": RNG.integers(-128, 128, (8, 6)).astype(np.int8),
    "float32.tif": RNG.normal(size=(8, 6)).astype(np.float32),
    "float64.tif": RNG.normal(size=(8, 6)),
    "float16.tiff": RNG.normal(size=(8, 6)).astype(np.float16),
    "float32.npy": RNG.normal(size=(8, 6)).astype(np.float32),
    "int64.npz": RNG.integers(-(2**40), 2**40, (8, 6)),
    "channels.npy": RNG.normal(size=(2, 8, 6)),
}


@pytest.mark.parametrize("name", SIGNED)
def test_other_types_need_a_range(tmp_path: Path, name: str) -> None:
    values = SIGNED[name]
    write_image(tmp_path / name, values)
    low, high = float(values.min()), float(values.max())
    with pytest.raises(InputError) as error:
        ImageTree(tmp_path)
    assert f"{values.dtype} values, from {low:.6g} to {high:.6g}" in str(error.value), error.value
    assert "--range LOW HIGH" in str(error.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = ImageTree(tmp_path, value_range=(low, high))[0].numpy()
    assert image.dtype == np.float32 and image.shape == (len(values) if values.ndim == 3 else 1, 8, 6)
    np.testing.assert_allclose(image.squeeze(), (values.astype(float) - low) / (high - low), atol=1e-7)
    with pytest.raises(InputError, match="LOW below HIGH"):
        ImageTree(tmp_path, value_range=(3, 3))


def test_dicom_is_read_in_its_units(tmp_path: Path) -> None:
    """Slope and intercept make HU of what is stored; a window maps them to [0, 1]."""
    pydicom = pytest.importorskip("pydicom")
    stored = RNG.integers(0, 4096, (12, 10), dtype=np.uint16)
    hounsfield = stored * 0.5 - 1024
    for number in (2, 10):
        path = tmp_path / f"slice_{number}.dcm"
        path.write_bytes(dicom(stored))
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-1024"
        dataset.save_as(path)
    with pytest.raises(InputError, match=f"DICOM values, from {hounsfield.min():.6g} to {hounsfield.max():.6g}"):
        ImageTree(tmp_path)
    with pytest.warns(UserWarning, match="clipped"):
        tree = ImageTree(tmp_path, value_range=(-1000, 400))
    np.testing.assert_allclose(tree[1][0], ((hounsfield + 1000) / 1400).clip(0, 1), atol=1e-6)


def test_sizes_of_exact_images(tmp_path: Path) -> None:
    """Crop and resize are those of 8-bit pictures, without their rounding."""
    values = RNG.integers(0, 256, (24, 20), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", values.astype(np.uint16) * 257)
    common, exact = (ImageTree(tmp_path, [name], crop=18, resize=7)[0] for name in ("x.png", "x.npy"))
    assert common.shape == exact.shape == (1, 7, 7)
    assert 0 < float((common - exact).abs().max()) <= 1.01 / 255  # rows and columns are rounded in turn
    ranged = ImageTree(tmp_path, ["x.png"], value_range=(0, 255))[0]
    assert torch.equal(ranged, ImageTree(tmp_path, ["x.png"])[0])


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    values = np.zeros((16, 24, 3), np.uint8)
    values[:8, :8] = 255  # the upper left corner as it is stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    for name in ("x.jpg", "x.png"):
        Image.fromarray(values).save(tmp_path / name, exif=exif)
    for image in (ImageTree(tmp_path, [name])[0] for name in ("x.jpg", "x.png")):
        assert image.shape == (3, 24, 16)
        assert float(image[:, :6, 10:].min()) > 0.9 and float(image[:, :, :6].max()) < 0.1
    with pytest.raises(InputError, match="24 x 16 pixels, smaller than the crop of 20"):
        ImageTree(tmp_path, crop=20)


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


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("pages.tif", np.zeros((3, 8, 8), np.uint16), "3 pictures"),
        ("last.npy", np.zeros((8, 9, 3)), "move the channels"),
        ("four.npy", np.zeros((1, 1, 8, 8)), r"\[1, 1, 8, 8\]"),
        ("text.npy", np.full((8, 8), "a"), "real numbers"),
        ("complex.npy", np.zeros((8, 8), complex), "real numbers"),
        ("nan.npy", np.full((8, 8), np.nan), "not finite"),
        ("wide.ppm", None, "more than 8 bits"),
        ("cut.npy", None, "cannot be read"),
        ("cut.tif", None, "cannot be read"),
        ("cut.dcm", None, "cannot be read"),
    ],
)
def test_images_that_are_refused(tmp_path: Path, name: str, values: np.ndarray | None, message: str) -> None:
    path = tmp_path / name
    if name == "wide.ppm":
        path.write_bytes(b"P6\n8 10\n4095\n" + (DEEP >> 4).astype(">u2").tobytes())
    elif values is None:
        path.write_bytes(b"\x93NUMPY" if name == "cut.npy" else b"II*\0abc")
    elif name == "pages.tif":
        pytest.importorskip("tifffile").imwrite(path, values, photometric="minisblack")
    else:
        np.save(path, values)
    with pytest.raises(InputError, match=message) as error:
        ImageTree(tmp_path, value_range=(0, 1))
    assert name in str(error.value)


def test_images_in_one_array(tmp_path: Path) -> None:
    values = RNG.normal(size=(10, 6, 7)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=r"float32 values, from .*--range"):
        ImageStack(tmp_path / "x.npy")
    with pytest.warns(UserWarning, match="of 42 values"):
        test = ImageStack(tmp_path / "x.npy", "test", value_range=(-1, 1))
    assert len(test) == 1 and len(list(ImageStack(tmp_path / "x.npy", value_range=(-9, 9)))) == 9
    np.testing.assert_allclose(test[0][0], ((values[9] + 1) / 2).clip(0, 1), atol=1e-6)
    np.savez(tmp_path / "x.npz", x=DEEP[:, None], y=values)
    assert torch.equal(ImageStack(tmp_path / "x.npz", "train")[3], torch.from_numpy(DEEP[3][None] / 65535).float())
    for bad, message in ((values[0], r"\[6, 7\]"), (np.full_like(values, np.inf), "image 0 .* not finite")):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(InputError, match=message):
            ImageStack(tmp_path / "bad.npy", value_range=(0, 1))


def test_a_run_in_hounsfield_units(script: Any, tmp_path: Path) -> None:
    """--range is a part of the run: its tests, and its repetition, read the images as it did."""
    (tmp_path / "slices").mkdir()
    for number in range(6):
        np.save(f"slices/{number}.npy", RNG.integers(-1000, 1000, (16, 16)).astype(np.int16))
    small_run = ("--task", "ct", "--ct-views", 5, "--data", "slices", "--max-steps", 1, "--base-channels", 2,
                 "--batch-size", 2, "--ei-trans", 1, "--epochs", 1)  # fmt: skip
    done: Result = script("ei train", *small_run, "--out", "run")
    assert done.code == 2 and "int16 values, from -" in done.err and "--range LOW HIGH" in done.err, done.err
    done = script("ei train", *small_run, "--range", -1000, 400, "--out", "run")
    assert done.code == 0 and "above --range -1000 400" in done.err, done.err
    assert script("ei train", "--config", "run/config.yaml", "--max-steps", 1, "--out", "again").code == 0
    first, second = (load_file(f"{name}/ckp_last.pth.tar")["state_dict"] for name in ("run", "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--out", "test")
    assert done.code == 0, done.err
    (row,) = read_metrics(tmp_path / "test" / "metrics.csv")
    assert row["file"] == (tmp_path / "run" / "split.txt").read_text().strip()


def test_a_run_of_one_array_with_a_range(script: Any, tmp_path: Path) -> None:
    """--range is what an array of other values needs: it was said to have no effect, and then asked for."""
    np.save(tmp_path / "x.npy", RNG.integers(-1000, 1000, (10, 16, 16)).astype(np.int16))
    small_run = ("--task", "ct", "--ct-views", 5, "--data", "x.npy", "--max-steps", 1, "--base-channels", 2,
                 "--batch-size", 2, "--ei-trans", 1, "--epochs", 1)  # fmt: skip
    done: Result = script("ei train", *small_run, "--range", -1000, 400, "--out", "run")
    assert done.code == 0 and "no effect" not in done.out and "above --range -1000 400" in done.err, done
    assert load_file("run/ckp_last.pth.tar")["config"]["range"] == [-1000, 400]
    looked = ("--task", "ct", "--ct-views", 5, "--data", "x.npy", "--max-elements", 1)
    assert "--range LOW HIGH" in script("ei diagnose", *looked).err  # which it takes, too
    assert script("ei diagnose", *looked, "--range", -1000, 400).code == 0


# ---- masks --------------------------------------------------------------------------------------------------------

MASK = RNG.integers(0, 2, (6, 9)).astype(np.uint8)


def write_mask(path: Path, kind: str) -> Any:
    """MASK as other programs keep it; what is to be given as the mask."""
    if kind == "array":
        return MASK.astype(bool)
    if kind in (".npy", "255"):
        np.save(path.with_suffix(".npy"), MASK * (255 if kind == "255" else 1))
        return path.with_suffix(".npy")
    if kind == ".npz":
        np.savez(path.with_suffix(".npz"), mask=MASK, other=np.zeros(3))
        return str(path.with_suffix(".npz"))
    if kind == ".mat":
        scipy.io.savemat(path.with_suffix(".mat"), {"mask": MASK.astype(float)})
        return path.with_suffix(".mat")
    if kind in ("dict", "dict of an array", "saved array"):
        content = {"mask": torch.from_numpy(MASK)[None, None], "seed": 3} if kind == "dict" else MASK
        torch.save({"mask": content} if kind == "dict of an array" else content, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    picture = Image.fromarray(MASK * 255)
    modes = {"bits": "1", "gray": "L", "colour": "RGB", "palette": "P", "transparent": "RGBA"}
    picture = Image.fromarray(MASK.astype(np.uint16) * 65535) if kind == "deep" else picture.convert(modes[kind])
    picture.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


@pytest.mark.filterwarnings("ignore:the mask .* holds numbers of NumPy")
@pytest.mark.parametrize("kind", ["array", ".npy", "255", ".npz", ".mat", "dict", "dict of an array", "saved array",
                                  "bits", "gray", "colour", "palette", "transparent", "deep"])  # fmt: skip
def test_masks_of_others(tmp_path: Path, kind: str) -> None:
    source = write_mask(tmp_path / "mask", kind)
    for physics in (ei.physics.Inpainting(6, 9, mask=source), ei.physics.MRI(source)):
        assert physics.mask.dtype == torch.float32 and torch.equal(physics.mask, torch.from_numpy(MASK).float())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gray.png", MASK * 100, "or 0 and 255, not values from 0 to 100"),
        ("colour.png", np.stack([MASK * 255, MASK * 0, MASK], -1), "in colour"),
        ("cut.png", b"\x89PNG\r\n", "damaged"),
        ("names.npz", {"a": MASK, "b": MASK}, "name the array 'mask'"),
        ("key.pt", {"masks": torch.ones(6, 9)}, "dict with one under 'mask'"),
        ("text.pt", ["text"], "must be a saved tensor"),
        ("complex.npy", MASK + 1j, "complex"),
        ("nan.npy", np.where(MASK, np.nan, 0), "not values from nan to nan"),
        ("gone.png", None, "there is no mask"),
    ],
)
def test_masks_that_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".pt":
        torch.save(content, path)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif content is not None:
        Image.fromarray(content).save(path)
    for make in (lambda: ei.physics.Inpainting(6, 9, mask=path), lambda: ei.physics.MRI(path)):
        with pytest.raises(InputError, match=message) as error:
            make()
        assert "\n" not in str(error.value) and (name in str(error.value))


def test_a_mask_as_a_list() -> None:
    """As a file of --physics may write it; anything else is refused in a line."""
    assert torch.equal(ei.physics.MRI([1, 0, 1, 1]).mask, torch.tensor([1.0, 0, 1, 1]))
    assert torch.equal(ei.physics.Inpainting(2, 2, mask=[[1, 0], [1, 1]]).mask, torch.tensor([[1.0, 0], [1, 1]]))
    for wrong in ([[1, 0], [1]], ["a"], 5, None):
        with pytest.raises(InputError, match="must be a tensor, an array or a list of numbers, or the path of one"):
            ei.physics.MRI(wrong)  # type: ignore[arg-type]


def test_a_picture_as_the_mask_of_a_run(script: Any, tmp_path: Path) -> None:
    mask = Image.fromarray(RNG.integers(0, 2, (16, 16)).astype(np.uint8) * 255)
    mask.save("mask.png")
    np.save("y.npy", RNG.random((4, 3, 16, 16), dtype=np.float32))
    options = ("--mask", "mask.png", "--base-channels", 2, "--max-steps", 1, "--ei-trans", 1, "--out", "run")
    done: Result = script("ei train", "--task", "inpainting", "--measurements", "y.npy", *options)
    assert done.code == 0, done.err
    assert torch.equal(load_file("run/ckp_last.pth.tar")["mask"], torch.from_numpy(np.asarray(mask) / 255).float())
    # Pixels that the mask drops are said, as before a training; measurements of this mask need no word.
    again = ("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--output", "x.npy", "--input")
    assert "warning: an image's own measurements are fitted to 0.0%" in script(*again, "y.npy").out
    np.save("own.npy", np.load("y.npy") * (np.asarray(mask) > 0))
    done = script(*again, "own.npy")
    assert done.code == 0 and "warning" not in done.out, done
