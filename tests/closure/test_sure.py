"""SURE against the risk it estimates, by many draws; noise of a closure that measures again."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallNet, fill
from makers import MODELS, columns, train
from torch import Tensor, nn

import ei
from ei.closure import EIClosure, MCClosure, RobustEIClosure, SplittingClosure, SUREClosure, UNSUREClosure
from ei.closure.base import measure
from ei.closure.sure import default_tau
from ei.common.files import load_file
from ei.common.processes import Part, Processes
from ei.common.seeds import generator
from ei.datasets import EllipsePhantoms, make_loader, simulate
from ei.errors import InputError
from ei.metrics import psnr
from ei.models import Reconstructor, UNet, Unrolled
from ei.physics import (
    CT,
    MRI,
    GaussianNoise,
    Inpainting,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    TransmissionNoise,
    pinv_cg,
)
from ei.physics.base import sampling_mask_for
from ei.training import Trainer
from ei.training.parallel import draws_of_part
from ei.training.validation import log_columns
from ei.transforms import Shift


@pytest.mark.parametrize("noise", MODELS, ids=str)
def test_fresh_noise_has_no_gradient(noise: Noise) -> None:
    physics = CT(8, 5, noise=noise)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    torch.manual_seed(1)
    y = measure(physics, x)
    torch.manual_seed(1)
    assert torch.equal(y, noise(physics.A(x)))
    weights = torch.rand_like(y)
    expected = torch.autograd.grad(physics.A(x), x, weights)[0]
    assert torch.equal(torch.autograd.grad(y, x, weights)[0], expected)


def test_negative_entries_are_clipped_for_the_draw_alone_and_counted() -> None:
    physics = Inpainting(4, 4, mask_rate=0, noise=PoissonNoise(0.05))
    x = torch.full((1, 1, 4, 4), 0.5)
    x[0, 0, 0] = -0.25
    x.requires_grad_()
    y = measure(physics, x)
    assert torch.equal(y[0, 0, 0], x[0, 0, 0]) and not torch.equal(y[0, 0, 1:], x[0, 0, 1:])
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))
    assert physics.noise.clipped == 4
    measure(physics, x)
    assert physics.noise.clipped == 8
    physics.noise = GaussianNoise(0.1)
    measure(physics, x)
    assert physics.noise.clipped == 0


def test_user_defined_noise_is_called() -> None:
    class Operator:
        noise = staticmethod(lambda y, generator=None: y + 1)
        A = staticmethod(lambda x: 2 * x)

    assert torch.equal(measure(Operator(), torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 3.0))


class Bent(nn.Module):
    """A network that is clearly nonlinear: a tanh between two convolutions."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.a, self.b = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, channels, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return 0.6 * x + self.scale * self.b(torch.tanh(4 / self.scale * self.a(x)))


CASES = {
    "gaussian": (Inpainting(12, 12, mask_rate=0, noise=GaussianNoise(0.1)), 1),
    "gaussian, mask": (Inpainting(12, 12, noise=GaussianNoise(0.1)), 1),
    "gaussian, mri": (MRI(columns(12), noise=GaussianNoise(0.1)), 2),
    "poisson, mask": (Inpainting(12, 12, noise=PoissonNoise(0.05)), 1),
    "mixed, mask": (Inpainting(12, 12, noise=PoissonGaussianNoise(0.05, 0.1)), 1),
    # 12 pixels across attenuate as 128 of CT100 do with 0.0064.
    "transmission, ct": (CT(12, 8, noise=TransmissionNoise(1e5, 30, 0.07)), 1),
}


def smooth_image(channels: int) -> Tensor:
    coarse = 0.1 + 0.9 * torch.rand(1, channels, 4, 4, generator=generator(5), dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear")


def risks(physics: Any, channels: int, chunks: int, of: int, domain: str = "measurement") -> Tensor:
    """Of chunks of draws, rows ``[chunks, 4]``: the estimate, the risk, and the estimate without its last term and
    without its variance."""
    net = Bent(channels, 1.0).double()
    # Filtered back-projection of 8 views is so far off that noise would not matter.
    f: Any = Unrolled(net, physics, iterations=1) if isinstance(physics, CT) else Reconstructor(net, physics)
    x = smooth_image(channels)
    clean = physics.A(x)
    measured = sampling_mask_for(physics, clean)
    measured = torch.ones_like(clean) if measured is None else measured.expand_as(clean)
    count = measured.sum() * of

    def mean(difference: Tensor) -> Tensor:
        if domain == "image":
            return physics.A_dagger(difference).square().mean()
        return (difference.square() * measured).sum() / count

    rows = []
    torch.manual_seed(21)
    with torch.no_grad():
        for _ in range(chunks):
            y = physics(x.expand(of, -1, -1, -1))
            x1 = f(y)
            estimate = SUREClosure(mc_domain=domain).risk(f, physics, y, x1)
            risk, residual, variance = mean(physics.A(x1) - clean), mean(physics.A(x1) - y), mean(y - clean)
            rows.append((estimate, risk, residual - variance, estimate + variance))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["measurement", "image"])
@pytest.mark.parametrize("name", CASES)
def test_sure_is_the_risk_in_the_mean(name: str, domain: str) -> None:
    rows = risks(*CASES[name], chunks=100, of=100, domain=domain)
    difference, risk = rows[:, 0] - rows[:, 1], float(rows[:, 1].mean())
    error = float(difference.std() / math.sqrt(len(difference)))
    allowed = 3 * error if "gaussian" in name else max(3 * error, 0.02 * risk)
    assert abs(float(difference.mean())) < allowed
    for without in (rows[:, 2], rows[:, 3]):  # the test has power: it sees if a term is missing
        assert abs(float(without.mean()) - risk) > 3 * allowed


def test_the_estimate_hardly_depends_on_tau() -> None:
    """In float32 tiny steps drown in rounding, in any precision large ones see the curvature; between lies the default.
    Errors relative to the variance of the noise, root mean squares over signs."""
    physics, channels = CASES["gaussian, mask"]
    torch.manual_seed(0)
    y = physics(smooth_image(channels).expand(16, -1, -1, -1))
    f, exact = (Reconstructor(Bent(channels, 1.0), physics) for _ in range(2))
    exact.double()

    def error(tau: float | None, f: Any, y: Tensor) -> float:
        differences = []
        with torch.no_grad():
            for seed in range(8):
                torch.manual_seed(seed)
                value = SUREClosure(tau=tau).risk(f, physics, y, f(y))
                torch.manual_seed(seed)
                limit = SUREClosure(tau=1e-6).risk(exact, physics, y.double(), exact(y.double()))
                differences.append(float(value - limit))
        return float(np.sqrt(np.mean(np.square(differences)))) / 0.01

    single = y.float()
    default = float(default_tau(physics, single, physics.noise.variance(single)).mean())
    assert error(None, f, single) == pytest.approx(error(default, f, single), rel=1e-2)
    assert all(error(tau, f, single) < 0.005 for tau in (0.003, 0.01, 0.03))
    assert error(1e-7, f, single) > 0.02 and error(0.3, exact, y) > 0.02


def test_the_default_tau() -> None:
    """Of the noise; of y where that would drown in rounding; for each image its own, over what is measured."""
    physics, y = Inpainting(6, 6, noise=PoissonNoise(0.05)), torch.rand(3, 1, 6, 6)
    y = physics.A(y * torch.tensor([1.0, 50.0, 0.0]).view(3, 1, 1, 1))
    tau = default_tau(physics, y, physics.noise.variance(y))
    assert tau.shape == (3, 1, 1, 1)
    kept = physics.mask.sum()
    for k in (0, 1):
        noise = float((0.05 * y[k].sum() / kept).sqrt())
        assert float(tau[k]) == pytest.approx(noise * float(2 / kept) ** 0.25, rel=1e-5)
    assert float(tau[2]) == pytest.approx(1e-3)  # nothing to go by
    quiet = default_tau(physics, y, torch.full_like(y, 1e-16))
    assert float(quiet[1]) == pytest.approx(1e-3 * float((y[1].square().sum() / kept).sqrt()), rel=1e-5)
    torch.testing.assert_close(default_tau(physics, y[1:2], 0.05 * y[1:2]), tau[1:2])
    whole = SimpleNamespace(A=lambda x: x)  # tells nothing of a mask
    each = [default_tau(whole, one[None], 0.05 * one[None]) for one in y]
    torch.testing.assert_close(default_tau(whole, y, 0.05 * y), torch.cat(each))
    complex_y = torch.complex(y, y)
    torch.testing.assert_close(default_tau(whole, complex_y, 0.05 * y)[1], each[1][0] / 2**0.25)


def test_f_does_not_notice_the_default_step() -> None:
    """``y + tau b`` has more energy than y. An f that answers to it, and to nothing else, has a tiny error; with a step
    that it notices, its divergence seems large and negative. A training finds such an f."""
    sigma, side = 0.1, 64
    physics = Inpainting(side, side, mask_rate=0, noise=GaussianNoise(sigma))
    y = physics(torch.zeros(200, 1, side, side))

    def f(y: Tensor) -> Tensor:
        energy = y.square().mean((1, 2, 3), keepdim=True) / sigma**2
        return -y * (energy > 1 + 4 * (2 / side**2) ** 0.5)

    true = float(f(y).square().mean())
    assert true < 0.01 * sigma**2
    assert abs(float(SUREClosure()(f, physics, None, y)["total"]) - true) < 0.05 * sigma**2
    assert float(SUREClosure(tau=0.3 * sigma)(f, physics, None, y)["total"]) < -0.8 * sigma**2


def test_f_is_not_differentiated_by_what_is_not_measured() -> None:
    """A user-defined f may look there, and then more signs are nothing but more scatter of the estimate."""
    physics, asked = Inpainting(16, 16, mask_rate=0.5, noise=GaussianNoise(0.1)), []

    def f(y: Tensor) -> Tensor:
        asked.append(y)
        return y

    y = physics(torch.rand(2, 3, 16, 16))
    SUREClosure(tau=0.05)(f, physics, None, y)
    steps = (asked[1] - asked[0]).abs()
    torch.testing.assert_close(steps, 0.05 * physics.mask.expand_as(y), rtol=0, atol=1e-6)


def test_a_network_with_kinks_needs_no_tiny_steps() -> None:
    """The gradient's deviations over signs and noise: at a hundredth of the default they are several times larger."""
    physics = Inpainting(16, 16, mask_rate=0, noise=GaussianNoise(0.1))
    f = Reconstructor(fill(SmallNet(1)), physics)
    torch.manual_seed(0)
    x = torch.rand(2, 1, 16, 16)

    def deviation(tau: float | None) -> float:
        gradients = []
        for seed in range(200):
            torch.manual_seed(seed)
            loss = SUREClosure(tau=tau)(f, physics, None, physics(x))["total"]
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(f.parameters()))]))
        return float(torch.stack(gradients).var(0).sum().sqrt())

    assert deviation(3e-4) > 2 * deviation(None)


def test_sure_is_the_formula() -> None:
    """With the same signs, over measured entries; a linear f = a y has it in closed form."""
    physics = Inpainting(6, 7, noise=PoissonGaussianNoise(0.05, 0.1))
    y = physics(torch.rand(3, 2, 6, 7))
    f = Reconstructor(fill(SmallNet(2)), physics)
    torch.manual_seed(4)
    losses = SUREClosure(tau=0.02)(f, physics, None, y)
    torch.manual_seed(4)
    mask = physics.mask.expand_as(y)
    m, b = mask.sum(), (2.0 * torch.randint(0, 2, y.shape) - 1) * mask
    v = (0.05 * y + 0.01) * mask
    measured = physics.A(f(y))
    expected = (measured - y).square().sum() / m - v.sum() / m
    expected = expected + 2 / (m * 0.02) * (b * v * (physics.A(f(y + 0.02 * b)) - measured)).sum()
    torch.testing.assert_close(losses["sure"], expected)
    assert losses.keys() == {"sure", "total", "x1"} and losses["total"] is losses["sure"]

    physics = Inpainting(6, 7, noise=GaussianNoise(0.3))
    a, y = 0.7, physics(torch.rand(3, 2, 6, 7))
    losses = SUREClosure()(lambda y: a * y, physics, None, y)
    expected = (a - 1) ** 2 * y.square().sum() / m - 0.09 + 2 * 0.09 * a
    torch.testing.assert_close(losses["sure"], expected)
    stein = 1 - 0.09 * m / y.square().sum()  # what it is smallest for: James and Stein's
    values = [
        SUREClosure()(lambda y, c=c: c * y, physics, None, y)["sure"] for c in (stein - 0.02, stein, stein + 0.02)
    ]
    assert values[1] < values[0] and values[1] < values[2]


def test_sure_of_complex_measurements() -> None:
    class Complex:
        noise = GaussianNoise(0.3)
        A = staticmethod(lambda x: torch.complex(x[:, :1], x[:, 1:]))

    def f(y: Tensor) -> Tensor:
        return torch.cat([0.7 * y.real - 0.2 * y.imag, 0.1 * y.real + 0.4 * y.imag], 1)

    x = torch.rand(500, 2, 8, 8)
    y = Complex.noise(Complex.A(x))
    sure = SUREClosure().risk(f, Complex, y, f(y))
    risk = (Complex.A(f(y)) - Complex.A(x)).abs().square().mean()
    assert float(sure) == pytest.approx(float(risk), rel=0.02)


@pytest.mark.parametrize("domain", ["measurement", "image"])
def test_sure_of_complex_images_is_exact_for_a_multiple(domain: str) -> None:
    """f(y) = c y: its derivative along signs b is c b, and Re(conj(b) c b) = Re(c)."""

    class Identity:
        noise = GaussianNoise(0.3)
        A = A_dagger = staticmethod(lambda x: x)

    y, c = torch.randn(2, 1, 16, 16, dtype=torch.complex128, generator=generator(0)), 0.6 + 0.2j
    sure = SUREClosure(mc_domain=domain).risk(lambda y: c * y, Identity, y, c * y)
    variance = float(Identity.noise.variance(y).mean())
    expected = abs(c - 1) ** 2 * y.abs().square().mean() - variance + 2 * variance * c.real
    assert float(sure) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("closure", "noise"),
    [
        (SUREClosure(tau=1e-3), PoissonNoise(0.05)),
        (RobustEIClosure(0.5, tau=1e-3), GaussianNoise(0.1)),
        (RobustEIClosure(0.5, tau=1e-3, mc_domain="image"), GaussianNoise(0.1)),
    ],
)
def test_gradients_flow_through_both_reconstructions(closure: Any, noise: Noise) -> None:
    """Against finite differences of the loss by the weights, with the same signs. (A draw of counts has jumps, so the
    noise of the equivariance loss is Gaussian here.)"""
    physics = Inpainting(6, 6, noise=noise)
    f = Reconstructor(Bent(1, 1.0).double(), physics)
    y = physics(torch.rand(2, 1, 6, 6, dtype=torch.float64))

    def loss() -> Tensor:
        torch.manual_seed(2)
        return closure(f, physics, Shift(1), y)["total"]

    weight = f.net.a.weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    for place in ((0, 0, 1, 1), (3, 0, 2, 0)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[place] += step
                values.append(float(loss()))
                weight[place] -= step
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_robust_ei_is_sure_and_equivariance() -> None:
    physics = Inpainting(8, 8, noise=PoissonNoise(0.05))
    f = Reconstructor(fill(SmallNet(3)), physics)
    y = physics(torch.rand(2, 3, 8, 8))
    torch.manual_seed(3)
    losses = RobustEIClosure(0.5)(f, physics, Shift(2), y)
    assert losses.keys() == {"sure", "ei", "total", "x1"} and not losses["x1"].requires_grad
    torch.testing.assert_close(losses["total"], losses["sure"] + 0.5 * losses["ei"])
    torch.manual_seed(3)
    torch.testing.assert_close(losses["ei"], EIClosure(0.5)(f, physics, Shift(2), y)["ei"])
    assert SUREClosure.columns == {"loss_sure": "total"}
    assert RobustEIClosure.columns == {"loss_sure": "sure", "loss_ei": "ei", "loss_total": "total"}
    for stop in (False, True):
        ei_loss = RobustEIClosure(1.0, stop)(f, physics, Shift(2), y)["ei"]
        assert ei_loss.requires_grad


def test_what_sure_cannot_do() -> None:
    physics, y = Inpainting(8, 8), torch.rand(1, 3, 8, 8)
    f = Reconstructor(fill(SmallNet(3)), physics)
    for closure in (SUREClosure(), RobustEIClosure(1.0)):
        physics.noise = None
        with pytest.raises(InputError, match="needs a noise model"):
            closure(f, physics, Shift(1), y)
        physics.noise = lambda y, generator=None: y
        with pytest.raises(InputError, match="variance"):
            closure(f, physics, Shift(1), y)
        physics.noise = GaussianNoise(0.1)
        with pytest.raises(InputError, match="bf16"):
            closure(Reconstructor(f.net, physics, "bf16"), physics, Shift(1), y)


@pytest.mark.parametrize("domain", ["measurement", "image"])
@pytest.mark.parametrize("noise", MODELS, ids=str)
def test_a_part_of_a_batch_is_drawn_as_within_the_whole(
    noise: Noise, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of measurements again (2 transforms of 3 images), and SURE of the measurements, averaged by the trainer."""
    monkeypatch.setattr(Processes, "sum", lambda self, values: torch.ones_like(values))  # all of CT is measured
    closure = SUREClosure(mc_domain=domain)
    physics = CT(8, 5, noise=noise)
    f = Reconstructor(fill(SmallNet(1)), physics)
    x = torch.rand(6, 1, 8, 8)
    u, y = physics.A(x).view(2, 3, 1, 12, 5), physics(x[:3])
    torch.manual_seed(1)
    noisy, whole = noise(u.flatten(0, 1)).view_as(u), closure(f, physics, None, y)["sure"]
    total = 0.0
    for rank in range(2):
        part = Part.of(3, Processes(rank, 2))
        ours = slice(part.start, part.stop)
        torch.manual_seed(1)
        with draws_of_part(physics, part, Processes(rank, 2)):
            assert torch.equal(physics.noise(u[:, ours].flatten(0, 1)), noisy[:, ours].flatten(0, 1))
            total = total + part.weight * closure(f, physics, None, y[ours])["sure"]
    torch.testing.assert_close(total, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("closure", [SUREClosure(), SplittingClosure(0.6), SplittingClosure(0.6, criterion="l1")])
def test_a_part_of_a_batch_counts_by_what_is_measured_in_it(closure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of 10 % and 90 % of the pixels: the losses of two processes have the mean of one."""
    masks = (torch.rand(2, 1, 8, 8, generator=generator(0)) < torch.tensor([0.1, 0.9]).view(2, 1, 1, 1)).float()
    physics = Inpainting(8, 8, mask=masks, noise=GaussianNoise(0.1))
    f, y = Reconstructor(fill(SmallNet(1)), physics), masks * torch.rand(2, 1, 8, 8, generator=generator(1))
    torch.manual_seed(1)
    whole = closure(f, physics, None, y)["total"]
    monkeypatch.setattr(Processes, "sum", lambda self, values: masks.mean())
    total = torch.zeros(())
    for rank in range(2):
        part, one = Part.of(2, Processes(rank, 2)), physics.of([rank])
        torch.manual_seed(1)
        with draws_of_part(one, part, Processes(rank, 2)):
            total = total + part.weight * closure(f.of(one), one, None, y[rank : rank + 1])["total"]
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("closure", "header"),
    [
        (SUREClosure(), "epoch,loss_sure,psnr,mse"),
        (RobustEIClosure(1.0), "epoch,loss_sure,loss_ei,loss_total,psnr,mse"),
    ],
)
def test_a_run_and_its_checkpoint(tmp_path: Path, closure: Any, header: str) -> None:
    """Resumed to the same bytes; the checkpoint carries its noise."""
    noise = PoissonGaussianNoise(0.05, 0.1)
    train(tmp_path / "whole", closure, noise)
    assert (tmp_path / "whole" / "training_loss.csv").read_text().splitlines()[0] == header
    again = train(tmp_path / "again", closure, noise)
    assert again.history[-1] == load_file(tmp_path / "whole" / "ckp_last.pth.tar")["history"][-1]
    carried = ei.load(tmp_path / "whole" / "ckp_last.pth.tar").physics.noise
    assert isinstance(carried, PoissonGaussianNoise) and carried.config == noise.config


def test_losses_in_units_are_divided_by_the_square() -> None:
    physics = CT(8, 5, noise=GaussianNoise(0.3))
    f, y = Reconstructor(fill(SmallNet(1)), physics), physics.A(torch.rand(2, 1, 8, 8))
    closure = RobustEIClosure(2.0)
    torch.manual_seed(3)
    plain = closure(f, physics, Shift(1), y)
    torch.manual_seed(3)
    closure.image_scale = 5.0
    divided = closure(f, physics, Shift(1), y)
    assert torch.equal(divided["x1"], plain["x1"])
    for name in ("sure", "ei", "total"):
        assert divided[name].item() == pytest.approx(plain[name].item() / 25)
    with pytest.raises(InputError, match="noise"):
        closure.check(f, CT(8, 5))


@pytest.mark.slow
def test_sure_of_the_validation_set_selects_the_epoch(tmp_path: Path) -> None:
    """Measurement consistency falls while it overfits the noise; the ground truth, which it never sees, shows when it
    was best."""
    x = torch.stack([EllipsePhantoms("train", 16, n_images=40)[i] for i in range(24)])[:, None]
    physics = CT(16, 12, noise=GaussianNoise(0.4))
    y = simulate(physics, x, range(24), 0)
    torch.manual_seed(0)
    f = Reconstructor(UNet(1, 1, base_channels=8, norm="none"), physics)
    true: list[float] = []

    def look(trainer: Trainer) -> None:
        f.eval()
        with torch.no_grad():
            true.append(float(psnr(f(y[20:]), x[20:]).mean()))

    validation = make_loader(list(y[20:]), 4, shuffle=False, measured=True)
    optimizers = {"total": torch.optim.Adam(f.net.parameters(), 2e-3)}
    trainer = Trainer(
        f, physics, None, MCClosure(mc_domain="image"), optimizers, epochs=40, out=tmp_path / "run", progress=False,
        report_psnr=False, validation=validation, on_epoch_end=look,
    )  # fmt: skip
    history = trainer.fit(make_loader(list(y[:20]), 4, measured=True))
    by_sure, by_loss = (
        min(range(40), key=lambda epoch: history[epoch][column]) for column in ("validation_sure", "validation_loss_fc")
    )
    assert true[by_sure] > true[by_loss] + 0.05 and true[by_sure] > max(true) - 0.1
    assert load_file(tmp_path / "run" / "ckp_best.pth.tar")["epoch"] == by_sure
    f = Reconstructor(UNet(1, 1, base_channels=2), CT(16, 12, noise=lambda y, generator=None: y))
    assert "validation_sure" not in log_columns(
        Trainer(f, f.physics, None, MCClosure(), {"total": torch.optim.Adam(f.net.parameters())}, epochs=1, out=False,
                report_psnr=False, validation=validation)
    )  # fmt: skip


def test_in_images_sure_needs_a_linear_pseudo_inverse() -> None:
    """Three steps of conjugate gradients are no linear function of y; as many as there are pixels are."""
    exact = CT(6, 5, noise=GaussianNoise(0.5))
    y = exact(torch.rand(2, 1, 6, 6)).double()
    for steps in (3, 60):
        physics = copy.copy(exact)
        physics.A_dagger = lambda y, steps=steps: pinv_cg(exact, y, steps, 1e-14, orthogonal=True)
        f = Reconstructor(fill(SmallNet(1)).double(), exact)
        for closure in (SUREClosure(mc_domain="image"), UNSUREClosure(0.1, mc_domain="image")):
            if steps == 60:
                assert closure(f, physics, None, y)["total"].isfinite()
                continue
            with pytest.raises(InputError, match="needs a linear A_dagger"):
                closure(f, physics, None, y)
