"""A network on overlapping tiles: the result of the whole image, with the memory of a tile.

What shows it right: in float64 tiles give what the whole image gives, everywhere, to rounding; with a halo of one step
less they do not (the declared reach is that of the gradient); the network never sees more than a tile; gradients are
those of the whole image; and the peak memory of a process falls.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from conftest import ROOT, SmallNet, fill, relative, subprocess_run
from makers import images
from torch import Tensor, nn

from ei.errors import InputError
from ei.evaluation.loading import averaged
from ei.models import Reconstructor, UNet, Unrolled, network_tiles
from ei.models.network_tiles import call_tiled, check_tile, windows
from ei.physics import CT, Inpainting


def unet(**more: Any) -> UNet:
    """With weights so large that the deepest level matters."""
    net = fill(UNet(1, 1, **{"base_channels": 2, **more})).double()
    assert isinstance(net, UNet)
    return net.eval()


class Shapes:
    """The shapes that a network is called with."""

    def __init__(self, net: nn.Module) -> None:
        self.seen: list[tuple[int, ...]] = []
        net.register_forward_pre_hook(lambda _, arguments: self.seen.append(tuple(arguments[0].shape[2:])))


KINDS = [
    {},
    {"norm": "none"},
    {"norm": "none", "circular_padding": False},
    {"norm": "none", "cat": False},
    {"norm": "none", "compact": 5},
    {"norm": "none", "residual": False, "cat": False, "circular_padding": False},
]


@pytest.mark.parametrize("more", KINDS)
def test_tiles_give_what_the_whole_image_gives(more: dict[str, Any]) -> None:
    net = unet(**more)
    halo = -(-net.reach // net.multiple_of) * net.multiple_of
    side = 2 * halo + 2 * net.multiple_of
    x = images(1, 1, side + 5 * net.multiple_of, side + net.multiple_of, dtype=torch.float64)
    shapes = Shapes(net)
    with torch.no_grad():
        found = call_tiled(net, x, side)
        frame = 2 * net.wraps
        assert set(shapes.seen) == {(side + frame, side + frame)} and len(shapes.seen) == 4 * 2
        expected = net(x)
    assert float((found - expected).abs().max()) < 1e-12 * float(expected.abs().max())


def test_one_step_less_of_halo_is_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    net = unet(norm="none")
    x = images(1, 1, 136, 200, dtype=torch.float64)
    monkeypatch.setattr(network_tiles, "_halo_of", lambda net, name: 48)
    with torch.no_grad():
        assert float((call_tiled(net, x, 128) - net(x)).abs().max()) > 1e-6


@pytest.mark.parametrize("more", [{}, {"cat": False}])
def test_the_reach_is_that_of_the_gradient(more: dict[str, Any]) -> None:
    net = unet(norm="none", circular_padding=False, **more)
    for parameter in net.parameters():  # so that no ReLU is zero
        parameter.data.abs_()
    x = images(1, 1, 160, 160, dtype=torch.float64).requires_grad_()
    first, last = 80, 80 + net.multiple_of  # a block
    net(x)[0, 0, first:last, first:last].sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0].abs().sum(0).nonzero().flatten().tolist()
    beyond = [first - seen[0], seen[-1] - last + 1]
    # Max-pooling selects one of two pixels, so the gradient may end a few pixels before the reach.
    assert all(net.reach - net.multiple_of < count <= net.reach for count in beyond)


@pytest.mark.parametrize(("length", "side"), [(128, 128), (136, 128), (1024, 256), (1000, 256), (2048, 120), (64, 128)])
def test_windows(length: int, side: int) -> None:
    halo, step = 56, 8
    made = windows(length, side, halo, step)
    assert [made[0].first, *(window.last for window in made)] == [window.first for window in made] + [length]
    assert made[0].start == 0 and made[-1].stop == length
    for window in made:
        assert window.stop - window.start == min(side, length) and not any(number % step for number in window)
        assert window.first == 0 or window.first - window.start >= halo
        assert window.last == length or window.stop - window.last >= halo
    fewest = 1 if length <= side else -(-(length - 2 * halo) // (side - 2 * halo))
    assert len(made) == fewest


@pytest.mark.parametrize("kind", [Reconstructor, Unrolled])
def test_functions_of_images_that_need_padding(kind: Any) -> None:
    """Padded first, and then divided, as whole images are."""
    physics = Inpainting(150, 131)
    net = unet(norm="none")
    y = physics.A(images(2, 1, 150, 131, dtype=torch.float64))
    physics.double()
    shapes = Shapes(net)
    with torch.no_grad(), pytest.warns(UserWarning, match="are padded by reflection to 152 x 136"):
        expected = kind(net, physics, image_scale=2.0)(y)
        f = kind(net, physics, image_scale=2.0, network_tile=128)
        shapes.seen.clear()
        found = f.of(physics)(y)  # as evaluation calls it
    assert set(shapes.seen) == {(130, 130)}
    assert float((found - expected).abs().max()) < 1e-12
    assert f.network_tile == 128 and "network_tile" not in f.config


@pytest.mark.parametrize("kind", [Reconstructor, Unrolled])
def test_gradients_are_those_of_whole_images(kind: Any) -> None:
    physics = Inpainting(136, 128).double()
    gradients = []
    kept = [0, 0]
    for number, tile in enumerate((None, 128)):
        net = unet(norm="none").train()

        def count(tensor: Tensor, number: int = number) -> Tensor:
            kept[number] += tensor.nbytes
            return tensor

        y = images(1, 1, 136, 128, dtype=torch.float64).requires_grad_()
        more = {"recompute": True} if kind is Unrolled and tile else {}
        f = kind(net, physics, network_tile=tile, **more)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = f(y).square().mean()
        gradients.append(torch.autograd.grad(loss, [y, *net.parameters()]))
    assert all(relative(*reversed(pair)) < 1e-10 for pair in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 2


def test_the_average_over_a_group_runs_on_tiles() -> None:
    physics = Inpainting(136, 136).double()
    net = unet()
    f = Reconstructor(net, physics)
    y = images(1, 1, 136, 136, dtype=torch.float64)
    with torch.no_grad():
        expected = averaged(f, ["rotate90"])(y)
        f.network_tile = 128
        shapes = Shapes(net)
        found = averaged(f, ["rotate90"])(y)
    assert set(shapes.seen) == {(130, 130)} and f.network_tile == 128
    assert float((found - expected).abs().max()) < 1e-12


def test_the_moving_average_of_a_network_runs_on_tiles() -> None:
    net = unet()
    average = torch.optim.swa_utils.AveragedModel(net).eval()
    x = images(1, 1, 136, 128, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(call_tiled(average, x, 128), net(x), rtol=0, atol=1e-12)


class Convolution(nn.Module):
    """A user-defined network: of one convolution of 5 x 5 that pads with zeros."""

    reach = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_user_defined_network_declares_its_reach() -> None:
    net = Convolution().double()
    x = images(2, 1, 17, 23, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(call_tiled(net, x, check_tile(net, 7)), net(x), rtol=0, atol=1e-14)
    pointwise = copy.copy(net)
    pointwise.reach = 0
    assert check_tile(pointwise, 1) == 1


@pytest.mark.parametrize(
    ("net", "side", "message"),
    [
        (
            UNet(1, 1, base_channels=1),
            250,
            r"network_tile must be a multiple of 8 and at least 120, .*got 250; .* 256$",
        ),
        (UNet(1, 1, base_channels=1), 64, r"network_tile must be .* at least 120, .* 56 pixels .*got 64; .* 120$"),
        (UNet(1, 1, base_channels=1, compact=5), 128, "multiple of 16 and at least 240"),
        (UNet(1, 1, base_channels=1), 0, "network_tile must be a whole number >= 1, got 0"),
        (UNet(1, 1, base_channels=1), "256", "network_tile must be a whole number >= 1, got '256'"),
        (UNet(1, 1, base_channels=1), True, "network_tile must be a whole number >= 1, got True"),
        (UNet(1, 1, base_channels=1), 128.5, "network_tile must be a whole number >= 1, got 128.5"),
        (SmallNet(1), 128, "network_tile needs a network that declares its reach.*SmallNet has none"),
    ],
)
def test_wrong_tiles(net: nn.Module, side: Any, message: str) -> None:
    for make in (lambda: Reconstructor(net, CT(8, 5), network_tile=side), lambda: check_tile(net, side)):
        with pytest.raises(InputError, match=message):
            make()
    f = Reconstructor(net, CT(8, 5))
    with pytest.raises(InputError, match=message):
        f.network_tile = side
    assert f.network_tile is None


def test_batch_norm_in_training_needs_whole_images() -> None:
    net = unet().train()
    f = Reconstructor(net, Inpainting(136, 136).double(), network_tile=128)
    y = images(1, 1, 136, 136, dtype=torch.float64)
    with pytest.raises(InputError, match=r"network_tile: BatchNorm in training.*network\.norm=none") as error:
        f(y)
    assert "\n" not in str(error.value)
    f.eval()(y)
    small = Reconstructor(net.train(), Inpainting(128, 128).double(), network_tile=128)
    small(y[..., :128, :128])  # images that fit into a tile are not divided


PEAK = r"""
import re, sys, torch
torch.set_num_threads(1)
from ei.models import Reconstructor, UNet
from ei.physics import Inpainting
side, channels, tile = map(int, sys.argv[1:])
f = Reconstructor(UNet(1, 1, base_channels=channels), Inpainting(side, side), network_tile=tile or None).eval()
y = torch.rand(1, 1, side, side)
def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
before = peak()
with torch.no_grad():
    f(y)
print((peak() - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_memory_is_that_of_a_tile() -> None:
    peaks = []
    for tile in (0, 256):
        done = subprocess_run(sys.executable, "-c", PEAK, 640, 8, tile, cwd=ROOT)
        assert done.code == 0, done.err
        peaks.append(float(done.out))
    assert peaks[1] < peaks[0] / 2
