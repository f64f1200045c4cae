"""Networks: reference figures, names of the authors' checkpoints, what fits and what does not."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SmallNet, fill, filled, reference, state_dict_shapes, subprocess_run
from torch import nn

from ei.errors import InputError
from ei.models import Discriminator, GroupAverage, Reconstructor, UNet, Unrolled
from ei.models.base import computing
from ei.models.unet import Up
from ei.models.weights import load_weights
from ei.physics import CT, Inpainting

AUTHORS = state_dict_shapes("unet_state_dict_rgb")


@pytest.mark.parametrize(("name", "channels"), [("unet_rgb_compact4", 3), ("unet_gray_compact5", 1)])
def test_unet_reproduces_the_reference(name: str, channels: int) -> None:
    figures = reference(name)
    net = UNet(channels, channels, int(figures["compact"]), bool(figures["residual"]), True, bool(figures["cat"]))
    shapes = {
        key: [channels if side == 3 and key in ("Conv1.conv.0.weight", "Conv_1x1.weight", "Conv_1x1.bias") and
              axis == (1 if key == "Conv1.conv.0.weight" else 0) else side for axis, side in enumerate(shape)]
        for key, shape in AUTHORS.items()
    }  # fmt: skip
    load_weights(net, filled(shapes), "the reference")
    x = torch.from_numpy(figures["x"])
    with torch.no_grad():
        out_eval = net.eval()(x)
        out_train = net.train()(x)
    for out, expected in ((out_eval, figures["out_eval"]), (out_train, figures["out_train"])):
        expected = torch.from_numpy(expected)
        assert float((out - expected).norm() / expected.norm()) < 1e-4


def test_unet_has_the_authors_names_and_shapes() -> None:
    five = UNet(3, 3, compact=5).state_dict()
    assert {name: list(value.shape) for name, value in five.items()} == AUTHORS
    assert list(five) == list(AUTHORS)
    four = UNet(3, 3).state_dict()
    dropped = ("Conv5.", "Up5.", "Up_conv5.")
    assert list(four) == [name for name in AUTHORS if not name.startswith(dropped)]


@pytest.mark.parametrize(("channels", "count"), [(1, 8_562_881), (3, 8_564_163)])
def test_number_of_parameters(channels: int, count: int) -> None:
    assert sum(p.numel() for p in UNet(channels, channels).parameters()) == count


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (8, 5)])
def test_upsampling_and_convolution_in_one(height: int, width: int) -> None:
    up = Up(6, 4).double().eval()
    x = torch.randn(2, 6, height, width, dtype=torch.float64, requires_grad=True)
    weights = [x, up.up[1].weight, up.up[1].bias]
    outputs = up(x), up.up(x)  # the second one goes through the modules as they are named
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad(out.square().sum(), weights) for out in outputs]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_options_of_the_unet() -> None:
    x = torch.rand(2, 3, 16, 24)
    plain = UNet(3, 3, base_channels=4).eval()
    assert plain(x).shape == x.shape
    assert not any("Up_conv" in name for name in UNet(3, 3, cat=False, base_channels=4).state_dict())
    assert UNet(3, 3, cat=False, base_channels=4)(x).shape == x.shape
    assert UNet(3, 1, residual=False, base_channels=4)(x).shape == (2, 1, 16, 24)
    not_residual = UNet(3, 3, residual=False, base_channels=4).eval()
    not_residual.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain(x), not_residual(x) + x)
    assert [m.padding_mode for m in plain.modules() if isinstance(m, nn.Conv2d)].count("circular") == 1
    assert UNet(3, 3, circular_padding=False, base_channels=4).Conv1.conv[0].padding_mode == "zeros"


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: UNet(3, 3, compact=3), ["4 or 5", "3"]),
        (lambda: UNet(3, 3, compact=6), ["4 or 5", "6"]),
        (lambda: UNet(3, 1), ["residual", "3", "1"]),
        (lambda: UNet(3, 3, base_channels=0), ["base_channels"]),
        (lambda: UNet(3, 3, base_channels=2)(torch.zeros(1, 3, 100, 128)), ["100 x 128", "104 x 128"]),
        (lambda: UNet(1, 1, 5, base_channels=2)(torch.zeros(1, 1, 33, 8)), ["33 x 8", "48 x 16"]),
        (lambda: UNet(3, 3, base_channels=2)(torch.zeros(1, 1, 8, 8)), ["[B, 3, H, W]", "[1, 1, 8, 8]"]),
        (lambda: Discriminator((3, 8)), ["channels, height, width"]),
        (lambda: Discriminator((1, 16, 16))(torch.zeros(1, 1, 16, 8)), ["[B, 1, 16, 16]", "[1, 1, 16, 8]"]),
        (lambda: Reconstructor(SmallNet(1), Inpainting(4, 4), precision="fp16"), ["fp32", "bf16", "fp16"]),
    ],
)
def test_errors(call, names: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(name in str(error.value) for name in names)


def test_discriminator_has_the_authors_names_and_shapes() -> None:
    net = Discriminator((1, 64, 64))
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == state_dict_shapes("discriminator_state_dict")
    assert net(torch.rand(2, 1, 64, 64)).shape == (2, *net.output_shape) == (2, 1, 4, 4)
    odd = Discriminator((3, 40, 17))
    assert odd(torch.rand(2, 3, 40, 17)).shape == (2, *odd.output_shape)


def test_authors_weights_drop_exactly_the_fifth_level() -> None:
    weights = filled({k: [max(1, s // 16) if s > 3 else s for s in shape] for k, shape in AUTHORS.items()})
    net = UNet(3, 3, base_channels=4)
    load_weights(net, weights, "file")
    assert torch.equal(net.state_dict()["Up4.up.1.weight"], weights["Up4.up.1.weight"])
    load_weights(UNet(3, 3, compact=5, base_channels=4), weights, "file")
    for broken, culprit in (
        ({**weights, "Conv6.weight": torch.zeros(1)}, "Conv6.weight"),
        ({k: v for k, v in weights.items() if k != "Conv_1x1.bias"}, "Conv_1x1.bias"),
        ({**weights, "Conv_1x1.bias": torch.zeros(1)}, "Conv_1x1.bias"),
    ):
        with pytest.raises(ValueError, match=culprit):
            load_weights(net, broken, "file")
    with pytest.raises(ValueError, match="Conv5"):
        load_weights(UNet(3, 3, compact=5, base_channels=4), net.state_dict(), "file")


def test_reconstructor() -> None:
    physics = CT(16, 6)
    net = fill(UNet(1, 1, base_channels=4)).eval()
    f = Reconstructor(net, physics).eval()
    y = physics.A(torch.rand(2, 1, 16, 16))
    expected = net(physics.A_dagger(y))
    torch.testing.assert_close(f(y), expected)
    assert f.net is net and f.physics is physics
    coarse = Reconstructor(net, physics, precision="bf16").eval()(y)
    assert coarse.dtype == torch.float32
    difference = float(((coarse - expected).norm() / expected.norm()).detach())
    assert 1e-6 < difference < 5e-2
    assert not any("physics" in name for name, _ in f.named_parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the physics stays outside
        seen: list[torch.Tensor] = []
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        f(y)
    assert torch.equal(seen[0], physics.A_dagger(y)) and seen[0].is_contiguous(memory_format=torch.channels_last)


def test_reconstructor_takes_any_physics() -> None:
    class Mine:
        def A(self, x):
            return x[..., ::2]

        def A_dagger(self, y):
            return y.repeat_interleave(2, dim=-1)

    assert Reconstructor(SmallNet(1), Mine())(torch.rand(1, 1, 4, 4)).shape == (1, 1, 4, 8)


@pytest.mark.parametrize("shape", [(20, 20), (13, 30), (9, 16)])
@pytest.mark.parametrize("kind", [Reconstructor, lambda net, physics: Unrolled(net, physics, last="net", iterations=1)])
def test_sides_of_any_length(kind, shape: tuple[int, int]) -> None:
    """Around the network images are reflected at their borders, as NumPy does it, and the result is cropped."""
    physics = Inpainting(*shape, mask_rate=0.2)
    net = fill(UNet(2, 2, base_channels=2)).eval()
    f = kind(net, physics).eval()
    y = physics.A(torch.rand(2, 2, *shape))
    lack = [-side % 8 for side in shape]
    widths = [(0, 0), (0, 0), *((missing // 2, missing - missing // 2) for missing in lack)]
    padded = torch.from_numpy(np.pad(y.numpy(), widths, mode="reflect"))  # y is A_dagger y, and A^+ y
    with pytest.warns(UserWarning, match=f"{shape[0]} x {shape[1]} are padded by reflection to {padded.shape[2]} x "):
        x = f(y)
    rows, columns = (slice(first, first + side) for (first, _), side in zip(widths[2:], shape, strict=True))
    torch.testing.assert_close(x, net(padded)[:, :, rows, columns])
    with pytest.raises(ValueError, match="multiples of 8"):
        net(y)  # the network alone says what it needs


def test_sides_that_fit_are_not_padded_and_tiny_ones_are_refused() -> None:
    net = UNet(1, 1, base_channels=2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = Reconstructor(net, Inpainting(16, 24))
        y = torch.rand(1, 1, 16, 24)
        assert torch.equal(f(y), net(f.physics.A(y)))
        assert Reconstructor(SmallNet(1), Inpainting(5, 7))(torch.rand(1, 1, 5, 7)).shape == (1, 1, 5, 7)
    with pytest.raises(ValueError, match=r"3 x 16 are too small .* multiples of 8"):
        Reconstructor(net, Inpainting(3, 16))(torch.rand(1, 1, 3, 16))


@pytest.mark.filterwarnings("ignore:images of 11 x 11 are padded")
def test_an_average_over_a_group_is_equivariant_where_it_pads() -> None:
    net = GroupAverage(fill(UNet(1, 1, base_channels=2)), ["rotate90", "reflect"]).eval()
    x = torch.rand(1, 1, 11, 11)  # five pixels are missing: two on one side, three on the other
    f = Reconstructor(net, Inpainting(11, 11, mask_rate=0))
    for turned in (x.rot90(1, (-2, -1)), x.flip(-1)):
        undone = f(turned).rot90(-1, (-2, -1)) if turned.equal(x.rot90(1, (-2, -1))) else f(turned).flip(-1)
        torch.testing.assert_close(undone, f(x))


@pytest.mark.filterwarnings("ignore:images of 12 x 20 are padded")
def test_padded_gradients() -> None:
    """What is learned from sides of any length is the gradient of what is computed."""
    net = fill(UNet(1, 1, base_channels=2, norm="none")).double()
    f = Reconstructor(net, Inpainting(12, 20, mask_rate=0))
    y = torch.rand(1, 1, 12, 20, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(f(y).square().sum(), y)
    step = 1e-6 * direction
    difference = (f(y + step).square().sum() - f(y - step).square().sum()) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_how_a_gpu_would_convolve(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    f = Reconstructor(UNet(1, 1, base_channels=2), CT(16, 3), precision=precision)
    with computing(f):
        assert (cudnn.allow_tf32, cudnn.deterministic) == (True, False)  # without one, nothing is touched
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with computing(f):
        assert (cudnn.allow_tf32, cudnn.deterministic) == (precision == "tf32", True)
    assert (cudnn.allow_tf32, cudnn.deterministic) == (True, False)


NEWER = """
import sys

import torch
from ei.models import Reconstructor, UNet
from ei.models.base import computing
from ei.physics import CT

conv = getattr(torch.backends.cudnn, "conv", None)
if hasattr(conv, "fp32_precision"):  # torch 2.9
    exec(sys.argv[1])
    before = conv.fp32_precision
    f = Reconstructor(UNet(1, 1, base_channels=2), CT(16, 3))
    f(torch.zeros(1, 1, 23, 3))
    torch.cuda.is_available = lambda: True
    with computing(f):
        assert conv.fp32_precision == "ieee" and torch.backends.cudnn.deterministic
    f.precision = "tf32"
    with computing(f):
        assert conv.fp32_precision == "tf32"
    assert conv.fp32_precision == before and not torch.backends.cudnn.deterministic
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen", ["conv.fp32_precision = 'ieee'", "torch.backends.fp32_precision = 'tf32'",
               "torch.backends.fp32_precision = 'ieee'"],
)  # fmt: skip
def test_precisions_chosen_by_their_newer_names(chosen: str, tmp_path: Path) -> None:
    done = subprocess_run(sys.executable, "-c", NEWER, chosen, cwd=tmp_path)
    assert done.code == 0, done.err


def test_an_operator_without_a_pseudo_inverse_is_named() -> None:
    class EveryOther:
        def A(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., ::2]

    with pytest.raises(InputError, match=r"Reconstructor needs A_dagger\(y\), and EveryOther has none: define it as"):
        Reconstructor(torch.nn.Identity(), EveryOther())(torch.ones(1, 1, 4, 2))
