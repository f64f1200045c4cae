"""MR images and k-space by commands: the task mri, k-space of one's own, complex images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Result, SmallNet
from makers import scan, smooth_maps
from torch import Tensor

import ei
from ei.closure import AdversarialEIClosure, EIClosure, SupervisedClosure
from ei.closure.base import CRITERIA
from ei.common.complex import magnitude, to_channels, to_complex
from ei.common.files import load_file
from ei.datasets import MagnitudePhantoms, Measurements, MRIData, make_loader
from ei.datasets.kspace import kspace_of, low_resolution_maps
from ei.errors import InputError, MissingFileError
from ei.evaluation import evaluate, report
from ei.evaluation.quality import data_range_of
from ei.metrics import psnr
from ei.models import Discriminator, Reconstructor, Unrolled
from ei.physics import MRI
from ei.training import Trainer
from ei.transforms import Rotate

Script = Callable[..., Result]
SMALL = ("--base-channels", 2, "--epochs", 1, "--device", "cpu", "--ei-trans", 1, "--norm", "none")


# ---- complex images -----------------------------------------------------------------------------------------------


class Fourier:
    """Some rows of the Fourier transform of complex images ``[B, 1, 8, 8]``."""

    noise = None
    mask = (torch.arange(8) % 3 != 1).to(torch.complex64)[:, None]

    def A(self, x: Tensor) -> Tensor:
        return self.mask * torch.fft.fft2(x, norm="ortho")

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(self.mask * y, norm="ortho")

    A_dagger = A_adjoint


def complex_images(count: int = 4) -> list[Tensor]:
    return list(torch.randn(count, 1, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)))


def test_channels_and_back() -> None:
    z = torch.randn(2, 3, 4, 5, dtype=torch.complex128)
    assert torch.equal(to_channels(z), torch.cat([z.real, z.imag], 1)) and torch.equal(to_complex(to_channels(z)), z)
    assert torch.equal(magnitude(z), z.abs())
    torch.testing.assert_close(magnitude(to_channels(z[:, :1])), z[:, :1].abs())
    for real in (z.real, z.real[0], z.real[:, :1]):
        assert magnitude(real) is real


@pytest.mark.parametrize("function", [Reconstructor, lambda net, physics: Unrolled(net, physics, iterations=1)])
def test_networks_are_given_two_real_channels(function: Callable) -> None:
    """Nothing of a complex image is dropped on its way through f: it is the same f as with two channels."""
    physics, net = Fourier(), SmallNet(2)
    y = physics.A(torch.stack(complex_images()))
    x = function(net, physics)(y)
    assert x.dtype == torch.complex64 and x.shape == (4, 1, 8, 8)
    first = physics.A_dagger(y)
    if function is Reconstructor:
        assert torch.equal(to_channels(x), net(to_channels(first)))
    scaled = Reconstructor(net, physics, image_scale=2.0)(y)
    torch.testing.assert_close(scaled, 2 * to_complex(net(to_channels(first / 2))))


@pytest.mark.parametrize(
    "closure",
    [EIClosure(1.0), SupervisedClosure(), AdversarialEIClosure(Discriminator((2, 8, 8)), 1.0, 1e-3)],
    ids=lambda closure: type(closure).__name__,
)
def test_a_training_on_complex_images(tmp_path: Path, closure: EIClosure) -> None:
    physics, net = Fourier(), SmallNet(2)
    optimizers = {"total": torch.optim.Adam(net.parameters(), 1e-2)}
    if isinstance(closure, AdversarialEIClosure):
        optimizers["D"] = torch.optim.Adam(closure.discriminator.parameters())
    f = Reconstructor(net, physics)
    trainer = Trainer(f, physics, Rotate(1), closure, optimizers, epochs=1, out=tmp_path / "run", progress=False)
    images = complex_images(2)
    history = trainer.fit(make_loader(images, batch_size=2))
    x = torch.stack(images)
    with torch.no_grad():
        mse = float((f(physics.A(x)) - x).abs().square().mean())
    assert 0.2 * mse < history[-1]["mse"] < 5 * mse
    rows = report(f, physics, images, tmp_path)
    assert (tmp_path / "reconstructions.png").stat().st_size > 5000
    with torch.no_grad():
        found = f(physics.A(x[:1])).abs()
    assert rows[0]["psnr_net"] == pytest.approx(float(psnr(found, x[:1].abs(), data_range_of(images))), rel=1e-5)


def test_the_psnr_of_complex_images() -> None:
    a, b = torch.stack(complex_images()), torch.zeros(4, 1, 8, 8, dtype=torch.complex64)
    torch.testing.assert_close(psnr(a, b), -10 * a.abs().square().mean((1, 2, 3)).log10())


def test_the_loss_of_complex_numbers_is_of_their_moduli() -> None:
    """Not the mean over both parts, which is half of it: alpha weighs it against losses of other images."""
    a, b = torch.tensor([1 + 2j, 0j]), torch.tensor([1j, 2 + 0j])
    assert float(CRITERIA["l2"](a, b)) == pytest.approx((2 + 4) / 2)


# ---- the task -----------------------------------------------------------------------------------------------------


def write_images(folder: Path, height: int = 16, width: int = 24) -> None:
    images = np.random.default_rng(0).random((20, height, width)).astype(np.float32)
    np.savez(folder / "images.npz", images=images)


def test_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    train, test = (MRIData(mode, tmp_path / "images.npz") for mode in ("train", "test"))
    assert (len(train), len(test)) == (18, 2) and train[0].shape == (2, 16, 24) and train[0].dtype == torch.float32
    with np.load(tmp_path / "images.npz") as file:
        np.testing.assert_array_equal(test[1][0], file["images"][19])
        np.save(tmp_path / "complex.npy", file["images"] * (1 + 2j))
        np.savez(tmp_path / "two.npz", a=file["images"], b=file["images"])
        np.save(tmp_path / "flat.npy", file["images"][0])
        np.save(tmp_path / "nan.npy", np.where(np.arange(20)[:, None, None] == 3, np.nan, file["images"]))
    assert not bool(train[0][1].any())
    torch.testing.assert_close(MRIData("train", tmp_path / "complex.npy")[0][1], 2 * train[0][0])
    (tmp_path / "broken.npz").write_bytes(b"nothing of the kind")
    for name, said in (
        ("two.npz", "a, b"),
        ("flat.npy", "[n, H, W]"),
        ("nan.npy", "image 3"),
        ("broken.npz", "damaged"),
    ):
        with pytest.raises(InputError) as error:
            MRIData("train", tmp_path / name)
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(MissingFileError, match=r"none\.npz"):
        MRIData("train", tmp_path / "none.npz")
    made = MagnitudePhantoms("test", img_size=16)
    assert made[0].shape == (2, 16, 16) and float(made[0][0].max()) == 1 and not bool(made[0][1].any())


def test_the_task_by_commands(script: Script) -> None:
    """Images that are not square, a mask of more columns, of which the middle is taken; train, test, resume."""
    write_images(Path())
    mask = torch.zeros(1, 32, 1)  # Robust EI's form
    mask[:, ::3] = 1
    torch.save({"mask": mask}, "mask.pth.tar")
    train = ("ei train", "--task", "mri", "--data", "images.npz", "--noise", "gaussian:0.1", *SMALL)
    done = script(*train, "--method", "rei", "--mask", "mask.pth.tar", "--out", "run")
    assert done.code == 0, done.err
    assert "its middle 24 are taken, of which 8 are measured" in done.out
    f = ei.load("run/ckp_last.pth.tar")
    assert f.physics.image_shape == (2, 16, 24) and torch.equal(f.physics.mask, mask[0, 4:28, 0])
    tested = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--out", "tested")
    assert tested.code == 0 and Path("tested/sample_0.png").stat().st_size > 5000, tested.err
    rows = evaluate(f, f.physics, MRIData("test", "images.npz"))
    assert f"{rows[0]['psnr_net']:.4f}"[:5] in Path("tested/metrics.csv").read_text()
    again = script("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 2, "--mask", "mask.pth.tar")
    assert again.code == 0, again.err
    torch.save(1 - mask, "other.pt")
    for wrong, said in (
        (("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 3, "--mask", "other.pt"), "contradicts"),
        ((*train, "--mask", "mask.pth.tar", "--crop", 8, "--out", "no", "--data", "none.npz"), "none.npz"),
        ((*train, "--acceleration", 0.5, "--out", "no"), "acceleration"),
    ):
        refused = script(*wrong)
        assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1, refused
    drawn = script(*train, "--acceleration", 3, "--out", "drawn")
    assert drawn.code == 0 and int(load_file("drawn/ckp_last.pth.tar")["mask"].sum()) == 8, drawn.err
    diagnosed = script("ei diagnose", "--task", "mri", "--group", "shift", "--size", 8, "--max-elements", 3)
    assert diagnosed.code == 0 and "cannot learn" in diagnosed.out, diagnosed.err


# ---- k-space of one's own -----------------------------------------------------------------------------------------


def test_measured_k_space_is_prepared_and_reconstructed(script: Script) -> None:
    k, x = scan()
    np.save("kspace.npy", k[0])
    done = script("ei prepare", "kspace", "--source", "kspace.npy", "--out", "y.npz")
    assert done.code == 0, done.err
    assert "21 of 32 columns" in done.out and "24 x 11" in done.out
    described = yaml.safe_load(Path("y.yaml").read_text())
    assert described == {"name": "MRI", "mask": "y_mask.npy", "coil_maps": "y_maps.npy", "cg_steps": 8}
    done = script("ei reconstruct", "--physics", "y.yaml", "--input", "y.npz", "--output", "x.npy", "--png")
    assert done.code == 0 and "without a network" in done.out, done.err
    found = np.load("x.npy")
    assert found.shape == (1, 32, 32) and found.dtype == np.complex64
    # The sum of squares of the true maps is one, so that magnitudes are the image's.
    truth = magnitude(x)[0, 0].numpy()
    assert np.linalg.norm(np.abs(found[0]) - truth) < 0.1 * np.linalg.norm(truth)
    assert Path("x/00000.png").stat().st_size > 200


@pytest.mark.parametrize("coils", [1, 3])
def test_training_from_complex_k_space(script: Script, coils: int) -> None:
    """``[n, H, W]`` or ``[n, K, H, W]``, complex, trains as the same k-space in two real channels does."""
    side = 16
    rng = np.random.default_rng(0)
    k, _ = scan(side, coils, 10)
    k = k * rng.uniform(0.8, 1.2, (10, 1, 1, 1)).astype(np.float32)
    np.save("whole.npy", k)
    assert script("ei prepare", "kspace", "--source", "whole.npy", "--out", "y.npz").code == 0
    k = k[:, 0] if coils == 1 else k
    np.save("complex.npy", k)
    np.save("parts.npy", np.stack([k.real, k.imag], 1))
    for name in ("complex", "parts"):
        done = script("ei train", "--physics", "y.yaml", "--group", "rotate90", "--measurements", f"{name}.npy", *SMALL,
                      "--noise", "gaussian:0.001", "--method", "rei", "--out", name)  # fmt: skip
        assert done.code == 0, done.err
        done = script("ei reconstruct", "--ckp", f"{name}/ckp_best.pth.tar", "--input", f"{name}.npy",
                      "--output", f"x_{name}.npy")  # fmt: skip
        assert done.code == 0, done.err
    a, b = np.load("x_complex.npy"), np.load("x_parts.npy")
    assert a.dtype == np.complex64 and a.shape == (10, side, side) and b.shape == (10, 2, side, side)
    np.testing.assert_array_equal(np.stack([a.real, a.imag], 1), b)
    done = script("ei diagnose", "--physics", "y.yaml", "--group", "rotate90", "--measurements", "complex.npy",
                  "--max-elements", 2)  # fmt: skip
    assert done.code == 0, done.err


def test_complex_files(tmp_path: Path) -> None:
    k = (np.arange(240).reshape(5, 6, 8) * (1 + 2j)).astype(np.complex64)
    np.save(tmp_path / "k.npy", k)
    plain, parts = Measurements(tmp_path / "k.npy"), Measurements(tmp_path / "k.npy", (2, 6, 8))
    assert plain[1].dtype == torch.complex64 and plain[1].shape == (1, 6, 8) and not plain.parts
    assert parts.parts and torch.equal(parts[1], torch.stack([plain[1][0].real, plain[1][0].imag]))
    assert torch.equal(Measurements(tmp_path / "k.npy", parts=True)[1], parts[1])
    np.save(tmp_path / "pair.npy", k.reshape(5, 2, 3, 8))  # complex with an axis of two of its own
    assert Measurements(tmp_path / "pair.npy", (2, 3, 8))[0].is_complex()
    with pytest.raises(InputError, match=r"\[2, 6, 9\] each.* complex"):
        Measurements(tmp_path / "k.npy", (2, 6, 9))
    np.save(tmp_path / "r.npy", k.real)
    with pytest.raises(InputError, match="some are real"):
        Measurements(tmp_path)


def test_maps_from_the_middle() -> None:
    """The true ones where there is something to see, up to the phase that the image has in low resolution."""
    k, x = scan(64, 6)
    y, mask = kspace_of(k)
    maps, used = low_resolution_maps(y, mask)
    assert used == (24, 11)
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(64, 64))
    object_ = magnitude(x)[0, 0] > 0.4
    true = smooth_maps(6, 64).to(torch.complex64)
    same = (maps.conj() * true).sum(0).abs()[object_]
    assert float(same.mean()) > 0.98


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda k: k.real, ["complex", "float32"]),
        (lambda k: k[0, 0], ["[coils, rows, columns]", "[32, 32]"]),
        (lambda k: np.fft.ifftshift(k, axes=(-2, -1)), ["at the ends of its rows", "fftshift"]),
        (lambda k: np.where(np.arange(32) // 2 == 8, 0, k), ["without a gap", "coil_maps"]),
        (lambda k: np.concatenate([k, np.roll(k, 1, -1)]), ["differ", "one mask"]),
        (lambda k: np.where(np.arange(32) == 0, np.nan, k), ["finite"]),
    ],
)
def test_k_space_that_cannot_be_used(script: Script, change: Callable, said: list[str]) -> None:
    np.save("k.npy", change(scan()[0]))
    done = script("ei prepare", "kspace", "--source", "k.npy", "--out", "y.npz")
    assert done.code == 2 and all(word in done.err for word in said) and done.err.count("\n") == 1, done
    assert not Path("y.npz").exists()


def test_k_space_that_does_not_fit_is_told(script: Script) -> None:
    k, _ = scan(16, 3, 4)
    np.save("k.npy", k)
    assert script("ei prepare", "kspace", "--source", "k.npy", "--out", "y.npz").code == 0
    cases: dict[str, tuple[np.ndarray, list[str]]] = {
        "coils": (k[:, :2], ["[4, 2, 16, 16]", "[2, 3, 16, 16]"]),
        "outside": (k + 1, ["not zero", "mask"]),
        "empty": (k * (abs(np.arange(16) - 8) < 2), ["is zero at"]),
        "shifted": (np.fft.ifftshift(k, axes=-2), ["at the ends of its rows", "fftshift"]),
        "real": (k.real, ["[4, 3, 16, 16]"]),
    }
    for name, (array, said) in cases.items():
        np.save(f"{name}.npy", array)
        done = script("ei reconstruct", "--physics", "y.yaml", "--input", f"{name}.npy", "--output", "x.npy")
        assert done.code == 2 and done.err.count("\n") == 1, (name, done)
        assert all(word in done.err for word in said), (name, done.err)
    np.save("sinograms.npy", k[:, 0])
    done = script("ei train", "--task", "ct", "--measurements", "sinograms.npy", "--out", "no")
    assert done.code == 2 and "complex" in done.err and done.err.count("\n") == 1, done
    for arguments, word in (
        (("--input", "k.npy", "--output", "x.npy"), "--ckp"),
        (("--physics", "y.yaml", "--input", "k.npy", "--output", "x.npy", "--average-over", "rotate90"), "--average"),
    ):
        done = script("ei reconstruct", *arguments)
        assert done.code == 2 and word in done.err and done.err.count("\n") == 1, done


def test_real_k_space(shared_data: Path, script: Script) -> None:
    """SigPy's brain, 8 coils, 12 % of k-space: consistent with what was measured, and dark where there is air."""
    done = script("ei prepare", "kspace", "--source", shared_data / "cartesian_ksp.npy", "--out", "brain.npz")
    assert done.code == 0 and "5148 of 41400 points" in done.out and "24 x 24" in done.out, done.err
    done = script("ei reconstruct", "--physics", "brain.yaml", "--input", "brain.npz", "--output", "x.npy", "--png")
    assert done.code == 0, done.err
    image = np.abs(np.load("x.npy")[0])
    assert image[:, :10].mean() < 0.15 * image[80:150, 60:120].mean()
    physics = MRI("brain_mask.npy", "brain_maps.npy", cg_steps=8)
    y = torch.stack([(k := torch.from_numpy(np.load("brain.npz")["y"])).real, k.imag], 1)
    with torch.no_grad():
        left = torch.linalg.vector_norm(physics.A(physics.A_dagger(y)) - y) / torch.linalg.vector_norm(y)
    assert float(left) < 0.12
