"""The noise of operators that were not written for this project, deepinv's first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ei.closure import EIClosure, MCClosure
from ei.closure.base import measure
from ei.datasets import make_loader, simulate
from ei.errors import InputError
from ei.models import Reconstructor, UNet
from ei.physics import GaussianNoise, Inpainting
from ei.physics.base import sampling_mask_for
from ei.physics.noise_adapter import SeededNoise, get_noise
from ei.physics.split import draw_kept, entries_to_split
from ei.training import Trainer
from ei.transforms import Shift

X = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Theirs(torch.nn.Module):
    """An operator in deepinv's form: ``noise`` is a method, the noise itself is ``noise_model``."""

    def __init__(self, noise_model: Any) -> None:
        super().__init__()
        self.noise_model = noise_model

    def A(self, x: Tensor) -> Tensor:
        return x * (torch.arange(8) % 2)

    def A_dagger(self, y: Tensor) -> Tensor:
        return y

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.noise_model(x, **kwargs)


class ZeroNoise(torch.nn.Module):
    def forward(self, x: Tensor, *_: Any, **kwargs: Any) -> Tensor:
        return x


class GlobalNoise(torch.nn.Module):
    """From torch's global generator; what it does not know is swallowed."""

    def forward(self, x: Tensor, sigma: float | None = None, **kwargs: Any) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class OwnGenerator(GlobalNoise):
    def __init__(self) -> None:
        super().__init__()
        self.rng = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor, sigma: float | None = None, **kwargs: Any) -> Tensor:
        return x + 0.1 * torch.empty_like(x).normal_(generator=self.rng)


NOISES = [GlobalNoise(), OwnGenerator(), lambda y: y + 0.1 * torch.randn_like(y)]


@pytest.mark.parametrize("noise", NOISES, ids=["global", "own generator", "a function"])
def test_noise_is_drawn_once_an_image(noise: Any) -> None:
    for physics in (Theirs(noise), SimpleNamespace(A=lambda x: x, A_dagger=lambda y: y, noise=noise)):
        torch.manual_seed(0)
        first = simulate(physics, X, [4, 7], seed=0)
        after = torch.rand(1)
        torch.manual_seed(0)
        assert torch.equal(after, torch.rand(1))  # and nobody else's draws are moved
        torch.manual_seed(5)
        assert torch.equal(simulate(physics, X, [4, 7], seed=0), first)
        assert torch.equal(simulate(physics, X[1:], [7], seed=0), first[1:])
        assert not torch.equal(simulate(physics, X, [4, 8], seed=0)[1], first[1])
        assert not torch.equal(first, physics.A(X))


@pytest.mark.parametrize("noise", NOISES, ids=["global", "own generator", "a function"])
def test_fresh_noise_follows_the_step(noise: Any) -> None:
    """A closure that measures again is seeded by the step: a resumed run draws what it would have drawn."""
    physics = Theirs(noise)
    torch.manual_seed(2)
    first, second = measure(physics, X), measure(physics, X)
    torch.manual_seed(2)
    assert torch.equal(measure(physics, X), first) and not torch.equal(first, second)


def test_no_noise_is_none() -> None:
    physics = Theirs(ZeroNoise())
    assert get_noise(physics) is None
    assert torch.equal(simulate(physics, X, None, seed=0), physics.A(X))  # needs no numbers of images
    own = GaussianNoise(0.1)
    assert get_noise(Inpainting(8, 8, noise=own)) is own and get_noise(Inpainting(8, 8)) is None


def test_a_noisy_deepinv_operator_trains_the_same_again() -> None:
    deepinv = pytest.importorskip("deepinv")
    mask = Inpainting(16, 16, mask_rate=0.4).mask
    histories = []
    for _ in range(2):
        physics = deepinv.physics.Inpainting(
            img_size=(1, 16, 16), mask=mask, noise_model=deepinv.physics.GaussianNoise(0.1)
        )
        torch.manual_seed(0)
        f = Reconstructor(UNet(1, 1, base_channels=2), physics)
        optimizer = torch.optim.Adam(f.net.parameters())
        trainer = Trainer(f, physics, Shift(2), EIClosure(1), {"total": optimizer}, epochs=2, out=False, progress=False)
        images = [torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]
        histories.append(trainer.fit(make_loader(images, 2)))
    assert histories[0] == histories[1]


def test_counts_of_a_negative_reconstruction_are_drawn_as_of_zero() -> None:
    """deepinv's Poisson noise raises for negative entries, which no image has and a reconstruction may: a training
    ended with its traceback."""

    class Counts(torch.nn.Module):
        clip_positive = False

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            if bool((x < 0).any()):
                raise ValueError("Input tensor for Poisson noise must be non-negative.")
            return torch.poisson(x)

    x = torch.tensor([0.0, -1, 0, 4]).repeat(1, 1, 8, 2).requires_grad_()  # of which every second column is measured
    y = measure(Theirs(Counts()), x).detach()
    assert bool((y[..., 1::4] == -1).all()) and float(y[..., 3::4].mean()) > 1
    y = measure(Theirs(Counts()), x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, (torch.arange(8) % 2).float().expand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="non-negative"):  # of images it is an error
        simulate(Theirs(Counts()), -torch.ones(1, 1, 8, 8), [0], 0)


def test_measurements_that_are_no_tensor_are_refused() -> None:
    physics = SimpleNamespace(A=lambda x: [x, x], A_dagger=lambda y: y[0])
    with pytest.raises(InputError, match="must be one tensor, got a list from A of SimpleNamespace"):
        simulate(physics, X, None, 0)


def test_a_noise_free_one_takes_batches_without_numbers() -> None:
    physics = Theirs(ZeroNoise())
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    optimizers = {"total": torch.optim.Adam(f.net.parameters())}
    trainer = Trainer(f, physics, None, MCClosure(), optimizers, epochs=1, out=False, progress=False)
    assert len(trainer.fit(torch.utils.data.DataLoader(X, batch_size=2))) == 1


class Masked(Theirs):
    """As deepinv's inpainting and MRI are: ``noise`` multiplies the noisy measurement by the mask."""

    def __init__(self, noise_model: torch.nn.Module, mask: Tensor) -> None:
        super().__init__(noise_model)
        self.register_buffer("mask", mask)

    def A(self, x: Tensor) -> Tensor:
        return self.mask * x

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.mask * self.noise_model(x, **kwargs)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_noise_where_an_operator_masks(channels: int) -> None:
    """Its ``noise_model`` was called without the mask: all holes had noise, and splitting and SURE counted them."""
    physics = Masked(GlobalNoise(), (torch.rand(1, channels, 8, 8) > 0.4).float())
    x = torch.rand(2, 3, 8, 8)
    holes = (physics.mask == 0).expand(2, 3, 8, 8)
    for y in (simulate(physics, x, [0, 1], 0), measure(physics, x)):
        assert not y[holes].any() and bool((y != physics.A(x))[~holes].all())
    entries = entries_to_split(physics, physics.A(x))
    assert torch.equal(entries, physics.mask.expand(2, -1, -1, -1))  # all channels of a pixel at once
    kept = draw_kept(entries, torch.rand_like(entries), 0.5)
    assert not kept[entries == 0].any()
    assert sampling_mask_for(Masked(ZeroNoise(), torch.ones(1, 1, 8, 8)), x) is None
    assert sampling_mask_for(Theirs(GlobalNoise()), x) is None


def test_masks_of_deepinv() -> None:
    deepinv = pytest.importorskip("deepinv")
    mask, maps = (torch.rand(8, 9) > 0.4).float(), torch.randn(1, 3, 8, 9, dtype=torch.complex64)
    noise = deepinv.physics.GaussianNoise(0.1)
    for physics, channels, shape in (
        (deepinv.physics.Inpainting(img_size=(3, 8, 9), mask=mask.expand(3, 8, 9), noise_model=noise), 3, (1,)),
        (deepinv.physics.MRI(mask=mask, img_size=(2, 8, 9), noise_model=noise), 2, (1,)),
        (deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=(2, 8, 9), noise_model=noise), 2, (1, 1)),
    ):
        x = torch.rand(2, channels, 8, 9)
        entries = sampling_mask_for(physics, physics.A(x))
        assert torch.equal(entries, mask.expand(2, *shape, 8, 9))
        assert not simulate(physics, x, [0, 1], 0)[..., mask == 0].any()


@pytest.mark.parametrize("noise", NOISES, ids=["global", "own generator", "a function"])
def test_two_draws_from_one_generator_differ(noise: Any) -> None:
    """Both were seeded by the generator's initial seed."""
    seeded, rng = SeededNoise(noise), torch.Generator().manual_seed(5)
    first, second = seeded(X, rng), seeded(X, rng)
    assert not torch.equal(first, second)
    rng.manual_seed(5)
    assert torch.equal(seeded(X, rng), first) and torch.equal(seeded(X, rng), second)


def test_a_function_that_takes_the_generator_draws_from_it() -> None:
    noise = SeededNoise(lambda y, generator=None: y + torch.randn(y.shape, generator=generator))
    rng, other = (torch.Generator().manual_seed(5) for _ in range(2))
    assert torch.equal(noise(X, rng), X + torch.randn(X.shape, generator=other))
    assert torch.equal(noise(X, rng), X + torch.randn(X.shape, generator=other))
