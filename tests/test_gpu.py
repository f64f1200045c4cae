"""On a GPU as on the CPU: operators, groups, reconstruction functions, trainings. Skipped without one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Result, relative, small_unet
from torch import Tensor, nn

from ei.closure import EIClosure
from ei.common.files import load_file
from ei.common.seeds import generator
from ei.errors import InputError
from ei.models import Reconstructor, Unrolled
from ei.models.base import computing
from ei.physics import CT, MRI, GaussianNoise, Inpainting, PoissonGaussianNoise, Tomography, pinv_cg
from ei.physics.krylov import WithPseudoInverse
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Scale, Shift, Transform

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MAPS = torch.randn(3, 9, 8, dtype=torch.complex64, generator=generator(0))
MASK = (torch.rand(9, 8, generator=generator(1)) > 0.4).float()
PHYSICS: list[Callable[[], Any]] = [
    lambda: CT(16, 7),
    lambda: CT(17, 5, uniform=False, circle=True),
    lambda: Tomography((9, 12), range(0, 180, 20), n_detectors=15),
    lambda: Tomography((8, 8), range(0, 360, 30), n_detectors=15, source_origin=40.0, origin_detector=20.0),
    lambda: Inpainting(7, 10),
    lambda: MRI(MASK),
    lambda: MRI(MASK, MAPS),
]
IDS = ["CT", "CT of a circle, limited angle", "parallel", "fan", "inpainting", "MRI", "MRI of 3 coils"]


def image_of(physics: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = tuple(physics.image_shape)
    return torch.rand(2, *(shape if len(shape) == 3 else (1, *shape)), dtype=dtype)


@pytest.mark.parametrize("make", PHYSICS, ids=IDS)
def test_operators_equal_those_on_the_cpu(make: Callable[[], Any]) -> None:
    there, here = make().cuda(), make()
    x = image_of(here)
    y = here.A(x)
    assert there.A(x.cuda()).device.type == "cuda"
    assert relative(there.A(x.cuda()), y) < 1e-5
    assert relative(there.A_adjoint(y.cuda()), here.A_adjoint(y)) < 1e-5
    assert relative(there.A_dagger(y.cuda()), here.A_dagger(y)) < 1e-5
    assert relative(pinv_cg(there, y.cuda(), 5), pinv_cg(here, y, 5)) < 1e-4


@pytest.mark.parametrize("make", PHYSICS, ids=IDS)
def test_adjoint(make: Callable[[], Any]) -> None:
    """The inner products agree in float64, and autograd's derivative is the adjoint, both ways."""
    physics = make().cuda()
    x = image_of(physics, torch.float64).cuda().requires_grad_()
    y = torch.randn_like(physics.A(x)).requires_grad_()
    a, b = (physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum()
    size = (physics.A(x).norm() * y.norm()).detach()
    assert float((a - b).detach().abs()) < 1e-12 * float(size)
    torch.testing.assert_close(torch.autograd.grad(physics.A(x), x, y)[0], physics.A_adjoint(y))
    torch.testing.assert_close(torch.autograd.grad(physics.A_adjoint(y), y, x)[0], physics.A(x))


@pytest.mark.parametrize(
    "transform",
    [Shift(3), Rotate(3), FourierRotate(3), Rotate90(2), Reflect(1), Scale(2), Compose(Shift(2), Rotate90(2)),
     Rotate(2, per_image=True)],
    ids=["shift", "rotate", "fourier", "rotate90", "reflect", "scale", "compose", "per image"],
)  # fmt: skip
def test_groups_equal_those_on_the_cpu(transform: Transform) -> None:
    x = torch.rand(2, 1, 12, 12)
    elements = transform.sample(x, torch.Generator().manual_seed(0))
    drawn_there = transform.sample(x.cuda(), torch.Generator().manual_seed(0))
    assert torch.equal(elements.cpu(), drawn_there.cpu())
    assert relative(transform.apply(x.cuda(), drawn_there), transform.apply(x, elements)) < 1e-5


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), PoissonGaussianNoise(0.05, 0.1)], ids=str)
def test_noise(noise: Any) -> None:
    physics = Inpainting(64, 64, mask_rate=0, noise=noise).cuda()
    x = torch.full((2, 1, 64, 64), 0.5).cuda()
    drawn = physics(x) - x
    assert drawn.device.type == "cuda"
    expected = 0.1 if isinstance(noise, GaussianNoise) else (0.05 * 0.5 + 0.1**2) ** 0.5
    assert float(drawn.std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reconstructor(small_unet("batch"), CT(32, 12)),
        lambda: Unrolled(small_unet(), CT(32, 12), iterations=2, cg_steps=4),
        lambda: Unrolled(small_unet(), CT(32, 12), iterations=2, cg_steps=4, recompute=True),
        lambda: Unrolled(small_unet(), CT(32, 12), iterations=2, cg_steps=2, filtered=True),
        lambda: Unrolled(small_unet(), Inpainting(32, 32), iterations=1, cg_steps=1),
    ],
    ids=["direct", "unrolled", "recomputed", "filtered", "unrolled inpainting"],
)
def test_the_ei_loss_and_its_gradients_equal_those_on_the_cpu(make: Callable[[], Any]) -> None:
    """fp32 is fp32: convolutions by TF32, torch's default on a GPU, would be off by a thousandth."""
    here = make()
    there = copy.deepcopy(here).cuda()
    y = here.physics.A(torch.rand(2, 1, 32, 32, generator=generator(3)))
    group = Rotate(2)
    elements = group.sample(y, torch.Generator().manual_seed(0))

    class Fixed(Rotate):
        def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return elements

    gradients = []
    for f, measured in ((here, y), (there, y.cuda())):
        losses = EIClosure(1.0)(f, f.physics, Fixed(2), measured)
        losses["total"].backward()
        gradients.append((losses["total"], torch.cat([p.grad.flatten().cpu() for p in f.net.parameters()])))
    assert relative(gradients[1][0], gradients[0][0]) < 2e-5
    assert relative(gradients[1][1], gradients[0][1]) < 2e-3  # of BatchNorm; on a CPU float32 is 5e-5 off float64


TRAIN = ("--config", ROOT / "configs" / "ct_ei.yaml", ROOT / "configs" / "recipe" / "unrolled.yaml",
         "--ct-views", 12, "--base-channels", 4)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> list[object]:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (8, 32, 32), dtype=np.uint8))
    return ["--data", tmp_path / "images.npy"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    precision: str, script: Callable[..., Result], data: list[object], tmp_path: Path
) -> None:
    options = ("--device", "cuda", "--precision", precision, "--epochs", 4)
    for name, more in (("whole", []), ("again", []), ("parts", ["--max-steps", 3]), ("parts", ["--resume", "auto"])):
        done = script("ei train", *TRAIN, *data, *options, *more, "--out", tmp_path / name)
        assert done.code == 0, done.err
    whole, again, parts = (
        load_file(tmp_path / name / "ckp_last.pth.tar")["state_dict"] for name in ("whole", "again", "parts")
    )
    assert all(value.device.type == "cpu" for value in whole.values())
    for name, value in whole.items():
        assert torch.equal(again[name], value), f"{name}, run again: {relative(again[name], value)}"
        assert torch.equal(parts[name], value), f"{name}, continued: {relative(parts[name], value)}"


@pytest.mark.parametrize("method", ["mc", "ei", "sup", "ei_sup", "ei_adv", "sure", "rei", "split", "split_ei"])
def test_every_method_trains_and_its_checkpoint_works_on_the_cpu(
    method: str, script: Callable[..., Result], data: list[object], tmp_path: Path
) -> None:
    noise = ["--noise", "gaussian:0.05"] if method in ("sure", "rei") else []
    train = script("ei train", "--task", "ct", *TRAIN[3:], *data, "--method", method, *noise, "--device", "cuda",
                   "--epochs", 2, "--ei-trans", 2, "--out", tmp_path / "run")  # fmt: skip
    assert train.code == 0, train.err
    figures = []
    for device in ("cuda", "cpu"):
        test = script("ei test", "--ckp", tmp_path / "run" / "ckp_last.pth.tar", *data, "--device", device,
                      "--out", tmp_path / device)  # fmt: skip
        assert test.code == 0, test.err
        figures.append((tmp_path / device / "metrics.csv").read_text().splitlines()[1].split(","))
    for a, b in zip(*figures, strict=True):
        assert float(a) == pytest.approx(float(b), abs=1e-2)


def test_compiled_is_the_same() -> None:
    f, compiled = (Reconstructor(small_unet("batch"), CT(32, 12), compile=c).cuda() for c in (False, True))
    y = f.physics.A(torch.rand(2, 1, 32, 32).cuda())
    assert relative(compiled(y), f(y)) < 1e-3


@pytest.mark.parametrize("make", PHYSICS[:2], ids=IDS[:2])
def test_the_same_every_time(make: Callable[[], Any]) -> None:
    physics = make().cuda()
    f = Unrolled(small_unet(), physics, iterations=2, cg_steps=3)
    f.net.cuda()
    y = physics.A(image_of(physics).cuda())
    gradients = []
    for _ in range(10):
        with computing(f):
            gradients.append(torch.autograd.grad(f(y).square().sum(), list(f.net.parameters())))
    assert all(torch.equal(a, b) for one in gradients for a, b in zip(one, gradients[0], strict=True))


def test_cuda_graphs_refuse_what_waits_for_the_gpu() -> None:
    y = CT(32, 12).A(torch.rand(1, 1, 32, 32)).cuda()

    class Waits(CT):
        def A(self, x: Tensor) -> Tensor:
            return super().A(x) * x.abs().max().cpu().to(x.device)

    f = Reconstructor(nn.Conv2d(1, 1, 1), CT(32, 12)).cuda()
    f.use_cuda_graphs()
    f.physics = WithPseudoInverse(Waits(32, 12).cuda())
    f.physics.A_dagger = lambda y: pinv_cg(f.physics, y, 3)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="cannot record"):
        f(y)
