"""Reconstruction that knows A: values and gradients of the unrolled function, and what belongs to it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from conftest import ROOT, SmallNet, fill, subprocess_run
from makers import images, matrix_of, plain_cg
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from ei.errors import InputError
from ei.models import GroupAverage, Reconstructor, UNet, Unrolled, average_over
from ei.physics import CT, Inpainting, Tomography, pinv_cg
from ei.physics.split import Split
from ei.transforms import Reflect, Rotate90


def small_net(channels: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return SmallNet(channels).to(dtype)


class FourierRows:
    """A few rows of the two-dimensional Fourier transform: complex measurements of real images, no adjoint written."""

    image_shape = (1, 8, 8)

    def A(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")[..., :3, :]


class Weighted:
    """A mask with weights of all sizes, no module: an operator of one's own, with or without its adjoint."""

    image_shape = (8, 8)

    def __init__(self) -> None:
        self.weights = images(8, 8, seed=3, dtype=torch.float64) * (images(8, 8, seed=4, dtype=torch.float64) > 0.4)

    def A(self, x: Tensor) -> Tensor:
        return x * self.weights.to(x.dtype)


class WeightedWithAdjoint(Weighted):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return y * self.weights.to(y.dtype)


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("last", ["data", "net"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
def test_values_are_those_of_a_plain_loop(last: str, recompute: bool, filtered: bool) -> None:
    physics, net = CT(8, 5), small_net()
    matrix = matrix_of(physics, 1, 8, 8)
    weight = matrix_of(Filter(physics), 1, *physics.measurement_shape) if filtered else None
    y = physics.A(images(2, 1, 8, 8))
    f = Unrolled(net, physics, iterations=2, cg_steps=3, last=last, recompute=recompute, filtered=filtered)
    expected = []
    with torch.no_grad():
        for one in y.double().flatten(1):
            x = plain_cg(matrix, one, 6, weight)
            for k in (1, 2):
                x = net(x.view(1, 1, 8, 8).float()).double().flatten()
                if k == 1 or last == "data":
                    x = x + plain_cg(matrix, one - matrix @ x, 3, weight)
            expected.append(x.view(1, 8, 8))
    torch.testing.assert_close(f(y).detach().double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_data_are_met_as_far_as_the_steps_go() -> None:
    physics, net = CT(8, 5), small_net(dtype=torch.float64)
    y = physics.A(images(2, 1, 8, 8, dtype=torch.float64))

    def misfit(f: nn.Module) -> float:
        with torch.no_grad():
            return float((physics.A(f(y)) - y).norm() / y.norm())

    misfits = [misfit(Unrolled(net, physics, iterations=1, cg_steps=steps)) for steps in (1, 3, 10, 60)]
    assert misfits == sorted(misfits, reverse=True)
    assert misfits[-1] < 1e-6 < misfits[0] < misfit(Unrolled(net, physics, iterations=1, last="net"))


@pytest.mark.parametrize("cg_steps", [1, 5])
def test_one_iteration_keeps_measured_pixels(cg_steps: int) -> None:
    physics, net = Inpainting(8, 8, mask_rate=0.4), small_net(3)
    x = images(2, 3, 8, 8)
    f = Unrolled(net, physics, iterations=1, cg_steps=cg_steps)
    with torch.no_grad():
        out, filled = f(physics.A(x)), net(physics.A(x))
    measured = physics.mask.bool().expand_as(x)
    torch.testing.assert_close(out[measured], x[measured], rtol=0, atol=1e-6)
    torch.testing.assert_close(out[~measured], filled[~measured], rtol=0, atol=1e-6)  # the null space is the network's


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("physics", [CT(8, 5), Inpainting(8, 8, mask_rate=0.4)], ids=["CT", "Inpainting"])
def test_a_batch_is_its_images_one_by_one(physics: Any, dtype: torch.dtype) -> None:
    x = images(3, 1, 8, 8, dtype=dtype)
    x[1] = 0  # finished before it begins, beside others that are not
    y, net = physics.A(x), small_net(dtype=dtype)
    f = Unrolled(net, physics, cg_steps=4)
    whole, ones = f(y), torch.cat([f(one[None]) for one in y])
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(whole, ones, rtol=0, atol=rounding)
    gradients = [torch.autograd.grad(out.square().sum(), list(net.parameters())) for out in (whole, ones)]
    for one, other in zip(*gradients, strict=True):  # a product of a single column adds in another order
        assert float((one - other).norm()) <= 10 * rounding * float(other.norm())


def test_image_scale() -> None:
    """In other units of the image the same function, for either kind."""
    physics, net = CT(8, 5), small_net(dtype=torch.float64)
    y = physics.A(images(2, 1, 8, 8, dtype=torch.float64))
    kinds: tuple[Any, ...] = (Reconstructor, Unrolled)
    for scale in (0.01, 40.0):
        for kind in kinds:
            scaled, plain = kind(net, physics, image_scale=scale)(scale * y), kind(net, physics)(y)
            torch.testing.assert_close(scaled / scale, plain, rtol=0, atol=1e-10)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    Reconstructor(net, physics, image_scale=4.0)(y)
    torch.testing.assert_close(seen[0], physics.A_dagger(y) / 4)


class Filter:
    """The filter of a physics, as an operator."""

    def __init__(self, physics: Any) -> None:
        self.A = physics.filter


def fan() -> Tomography:
    return Tomography((7, 9), [0, 40, 75, 130, 200, 290], 11, source_origin=20, origin_detector=10)


@pytest.mark.parametrize("physics", [CT(8, 5), CT(7, 3, circle=True), fan()], ids=["CT", "odd", "fan"])
def test_the_filter_is_a_weight_and_that_of_the_pseudo_inverse(physics: Any) -> None:
    W = matrix_of(Filter(physics), 1, *physics.measurement_shape)
    torch.testing.assert_close(W, W.T, rtol=0, atol=1e-15)
    assert float(torch.linalg.eigvalsh(W).min()) > 0
    y = images(2, 3, *physics.measurement_shape)
    assert physics.filter(y).dtype == torch.float32 and physics.filter(y).shape == y.shape
    if isinstance(physics, CT):
        back_projection = physics.back_projection(y.device, torch.float64)
        columns = physics.filter(y.double()).flatten(2).flatten(0, 1).T
        torch.testing.assert_close(back_projection(columns).T.view(2, 3, -1), physics.A_dagger(y.double()).flatten(2))
    with pytest.raises(InputError, match="sinograms"):
        physics.filter(y[..., :-1])


def test_a_filter_of_ones_own() -> None:
    """Where A^T W A is the identity on what is seen, one step is enough."""

    class Filtered(WeightedWithAdjoint):
        def filter(self, y: Tensor) -> Tensor:
            squares = self.weights.to(y.dtype).square()
            return torch.where(squares > 0, y / squares.clamp(min=1e-12), y)

    physics = Filtered()
    x = images(2, 1, 8, 8, dtype=torch.float64)
    seen = (physics.weights > 0) * x
    one = pinv_cg(physics, physics.A(x), 1, weight=physics.filter)
    torch.testing.assert_close(one, seen)
    assert float((pinv_cg(physics, physics.A(x), 1) - seen).norm()) > 0.1 * float(seen.norm())
    f = Unrolled(small_net(dtype=torch.float64), physics, iterations=1, cg_steps=1, filtered=True)
    torch.testing.assert_close(physics.A(f(physics.A(x))), physics.A(x))


def test_of_a_part_of_the_views_the_filter_is_the_same() -> None:
    physics = CT(8, 5)
    kept = torch.tensor([1.0, 0, 1, 1, 0]).expand(1, 1, 1, 5)
    y = physics.A(images(1, 1, 8, 8, dtype=torch.float64))
    matrix = kept.expand(1, 1, *physics.measurement_shape).reshape(-1, 1) * matrix_of(physics, 1, 8, 8)
    expected = plain_cg(matrix, (kept * y).flatten(), 2, matrix_of(Filter(physics), 1, *physics.measurement_shape))
    split = Split(physics, kept)
    x = pinv_cg(split, y, 2, weight=split.filter)
    torch.testing.assert_close(x.flatten(), expected, rtol=0, atol=1e-9)
    none = Split(Inpainting(8, 8), torch.ones(1, 1, 8, 8))
    with pytest.raises(InputError, match="Inpainting has none"):
        none.filter(y)


def test_a_filter_weights_views_by_the_angle_they_stand_for() -> None:
    """40 views of 10 degrees beside 20 of the other 170: with equal weights steps towards the data are slower than
    without any."""
    angles = [*torch.arange(0, 10, 0.25).tolist(), *torch.arange(10, 180, 8.5).tolist()]
    physics = Tomography((24, 24), angles, 35)
    disc = (torch.cartesian_prod(*[torch.arange(24.0) - 9] * 2).norm(dim=1) < 7).double().view(1, 1, 24, 24)
    y = physics.A(disc)

    def distance(weight: Any) -> float:
        return float((pinv_cg(physics, y, 1, tol=0, weight=weight) - disc).norm() / disc.norm())

    equal = super(Tomography, physics).filter
    assert distance(physics.filter) < 0.7 * min(distance(None), distance(equal))
    even = Tomography((8, 8), range(0, 180, 20), 11)
    sinogram = images(1, 1, 11, 9)
    torch.testing.assert_close(even.filter(sinogram), super(Tomography, even).filter(sinogram))
    torch.testing.assert_close(physics.filter(y.half()).double(), physics.filter(y), rtol=0.05, atol=0.5)


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(
    "physics",
    [CT(8, 5), Inpainting(8, 8, mask_rate=0.4), FourierRows(), Weighted()],
    ids=["CT", "Inpainting", "FourierRows", "Weighted"],
)
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_finite_differences(physics: Any, recompute: bool, filtered: bool) -> None:
    """By the measurements and by weights; on a mask conjugate gradients have converged long before the last step."""
    net = small_net(dtype=torch.float64)
    y = physics.A(images(2, 1, 8, 8, dtype=torch.float64)).requires_grad_()
    if filtered and not hasattr(physics, "filter"):
        pytest.skip("has no filter")
    f = Unrolled(net, physics, iterations=2, cg_steps=3, recompute=recompute, filtered=filtered)
    weights = [net.get_parameter("a.bias"), net.get_parameter("b.weight")]
    fast = {"fast_mode": True, "atol": 1e-4}  # random directions, not every entry
    assert torch.autograd.gradcheck(lambda y, *_: f(y), (y, *weights), **fast)


def test_complex_images_stay_complex() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(20, 12, dtype=torch.complex128)

    class Complex:
        def A(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ matrix.T

        def A_adjoint(self, y: Tensor) -> Tensor:
            return (y @ matrix.conj()).view(-1, 1, 3, 4)

    y = torch.randn(2, 20, dtype=torch.complex128, requires_grad=True)
    x = pinv_cg(Complex(), y, steps=30, tol=0, orthogonal=True)
    torch.testing.assert_close(x.flatten(1), y @ torch.linalg.pinv(matrix).T)
    assert torch.autograd.gradcheck(lambda y: pinv_cg(Complex(), y, steps=3, tol=0, orthogonal=True), (y,))


def test_a_fixed_number_of_steps() -> None:
    """tol=0 makes exactly the steps that are asked for, and the last one asks for no gradient that nobody uses."""
    calls: list[str] = []

    class Counted(WeightedWithAdjoint):
        def A(self, x: Tensor) -> Tensor:
            calls.append("A")
            return super().A(x)

        def A_adjoint(self, y: Tensor) -> Tensor:
            calls.append("A_adjoint")
            return super().A_adjoint(y)

    y = Weighted().A(images(1, 1, 8, 8))
    pinv_cg(Counted(), y, steps=7, tol=0)
    assert calls.count("A") == calls.count("A_adjoint") == 7
    calls.clear()
    pinv_cg(Counted(), 0 * y, steps=7)  # with a tolerance it stops as soon as every image is finished
    assert calls == ["A_adjoint"]


def test_nothing_waits_for_the_device() -> None:
    """Tensors without values, as torch.compile traces with: to ask for one, as a branch would, is an error."""
    net, physics = small_net(), WeightedWithAdjoint()
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = torch.ones(2, 1, 8, 8)
        Unrolled(net, physics)(y).sum().backward()
        pinv_cg(physics, y, tol=0)
        with pytest.raises(DataDependentOutputException):
            pinv_cg(physics, y)


def test_no_graph_where_none_is_needed() -> None:
    physics, net = CT(8, 5), small_net()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    y = physics.A(images(1, 1, 8, 8))
    f = Unrolled(net, physics, iterations=2)
    assert f(y).requires_grad
    assert [x.requires_grad for x in seen] == [False, True]
    with torch.no_grad():
        assert not f(y).requires_grad
    seen.clear()
    f(y.requires_grad_())
    assert [x.requires_grad for x in seen] == [True, True]


# ------------------------------------------------------------------------------------------------ how, but not what


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_recomputation_changes_nothing(norm: str, precision: str) -> None:
    """Neither values nor gradients, nor the running statistics, which see a batch once."""
    physics = CT(8, 5)
    y = physics.A(images(2, 1, 8, 8))
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = UNet(1, 1, base_channels=2, norm=norm)
        f = Unrolled(net, physics, recompute=recompute, precision=precision)
        out = f(y)
        out.square().sum().backward()
        results.append(
            {"out": out.detach(), **{name: p.grad for name, p in net.named_parameters()}, **net.state_dict()}
        )
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


def test_a_retained_graph_is_recomputed_again() -> None:
    physics, net = CT(8, 5), UNet(1, 1, base_channels=2)
    out = Unrolled(net, physics, iterations=2, recompute=True)(physics.A(images(2, 1, 8, 8))).square().sum()
    first, second = (torch.autograd.grad(out, list(net.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert {int(value) for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")} == {2}


def test_recomputation_keeps_little() -> None:
    """Of each iteration only what it begins with, the image and the measurements (which are there anyway)."""
    physics, net = CT(16, 5), UNet(1, 1, base_channels=4)
    y = physics.A(images(2, 1, 16, 16))
    kept = [0]

    def count(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.nbytes
        return tensor

    for iterations, recompute in ((4, False), (4, True), (8, True)):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            Unrolled(net, physics, iterations=iterations, recompute=recompute)(y)
    _, plain, four, eight = kept
    image = images(2, 1, 16, 16)
    assert eight < plain / 20 and eight - four == 4 * (image.nbytes + y.nbytes)


PEAK = r"""
import re, torch
torch.set_num_threads(1)
from ei.models import UNet, Unrolled
from ei.physics import CT
physics, net = CT(128, 50), UNet(1, 1, base_channels=16, norm="none")
y = physics.A(torch.rand(2, 1, 128, 128))
Unrolled(net, physics, iterations=8, recompute=True)(y).square().mean().backward()
# Not ru_maxrss: over fork and exec it keeps the peak of whoever started this process.
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_with_recomputation() -> None:
    done = subprocess_run(sys.executable, "-c", PEAK, cwd=ROOT)
    assert done.code == 0, done.err
    assert int(done.out) * 1024 < 4e9


def test_bf16_leaves_the_physics_in_fp32() -> None:
    class Watched(CT):
        def check(self, tensor: Tensor) -> Tensor:
            assert tensor.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
            return tensor

        def A(self, x: Tensor) -> Tensor:
            return super().A(self.check(x))

        def A_adjoint(self, y: Tensor) -> Tensor:
            return super().A_adjoint(self.check(y))

    physics, net = Watched(8, 5), small_net()
    y = physics.A(images(2, 1, 8, 8))
    seen: list[torch.dtype] = []
    net.get_submodule("a").register_forward_hook(lambda *call: seen.append(call[2].dtype))
    exact = Unrolled(net, physics)(y)
    f = Unrolled(net, physics, precision="bf16")
    coarse = f(y)
    assert coarse.dtype == torch.float32 and set(seen) == {torch.float32, torch.bfloat16}
    assert 1e-6 < float(((coarse - exact).norm() / exact.norm()).detach()) < 5e-2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Unrolled(net, physics)(y).dtype == torch.float32
    Unrolled(net, physics, precision="bf16", recompute=True)(y).sum().backward()


# ------------------------------------------------------------------------------------------------------- any physics


def test_adjoint_by_autograd_or_written() -> None:
    net = small_net()
    y = Weighted().A(images(2, 1, 8, 8))
    torch.testing.assert_close(Unrolled(net, Weighted())(y), Unrolled(net, WeightedWithAdjoint())(y))


def test_complex_measurements_of_real_images() -> None:
    physics, net = FourierRows(), small_net()
    y = physics.A(images(2, 1, 8, 8))
    out = Unrolled(net, physics, iterations=1)(y)
    assert out.dtype == torch.float32
    torch.testing.assert_close(physics.A(out), y, rtol=0, atol=1e-5)
    torch.testing.assert_close(Unrolled(net, physics, iterations=1)(y.to(torch.complex128)), out)


def test_a_deepinv_physics_works_as_it_is() -> None:
    deepinv = pytest.importorskip("deepinv")
    mask, net = Inpainting(8, 8, mask_rate=0.4).mask, small_net()
    theirs, ours = deepinv.physics.Inpainting(img_size=(1, 8, 8), mask=mask), Inpainting(8, 8, mask=mask)
    y = ours.A(images(2, 1, 8, 8))
    torch.testing.assert_close(Unrolled(net, theirs)(y), Unrolled(net, ours)(y))


class Plain:
    """Another operator that is no module."""

    def A(self, x: Tensor) -> Tensor:
        return x[..., ::2]

    A_dagger = A_adjoint = lambda self, y: torch.stack([y, 0 * y], dim=-1).flatten(-2)


@pytest.mark.parametrize("other", [Inpainting(8, 8, mask_rate=0.5, seed=1), Plain()], ids=["module", "plain"])
@pytest.mark.parametrize("first", [Inpainting(8, 8), Plain()], ids=["module", "plain"])
@pytest.mark.parametrize("kind", [Reconstructor, Unrolled])
def test_the_same_function_of_another_operator(kind: Any, first: Any, other: Any) -> None:
    net = small_net()
    f = kind(net, first, image_scale=2.0, precision="bf16").eval()
    g = f.of(other)
    assert type(g) is kind and g.net is f.net and g.physics is other and f.physics is first
    assert not g.training and not g.net.training and g.config == f.config and g.precision == "bf16"
    y = other.A(images(2, 1, 8, 8))
    assert torch.equal(g(y), kind(net, other, image_scale=2.0, precision="bf16")(y))
    assert torch.equal(g.of(first)(first.A(images(2, 1, 8, 8))), f(first.A(images(2, 1, 8, 8))))
    assert [name for name, _ in g.named_parameters()] == [f"net.{name}" for name, _ in net.named_parameters()]


def test_config_builds_it_again() -> None:
    f = Unrolled(small_net(), CT(8, 5), iterations=2, cg_steps=4, last="net", image_scale=3.0)
    assert f.config == {"iterations": 2, "cg_steps": 4, "filtered": False, "last": "net", "image_scale": 3.0}
    assert Unrolled(f.net, f.physics, **f.config).config == f.config
    f = Unrolled(small_net(), CT(8, 5), filtered=True)
    with pytest.raises(InputError, match="Inpainting has none"):
        f.of(Inpainting(8, 8))(images(1, 1, 8, 8))
    assert f.config["filtered"] is True and Unrolled(f.net, f.physics, **f.config).filtered
    assert Reconstructor(f.net, f.physics, image_scale=2.0).config == {"image_scale": 2.0}


class NoAdjoint:
    def A(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: Unrolled(SmallNet(1), CT(8, 5), iterations=0), ["iterations", "0"]),
        (lambda: Unrolled(SmallNet(1), CT(8, 5), iterations=1.5), ["iterations", "1.5"]),  # type: ignore[arg-type]
        (lambda: Unrolled(SmallNet(1), CT(8, 5), cg_steps=0), ["cg_steps", "0"]),
        (lambda: Unrolled(SmallNet(1), CT(8, 5), last="x"), ["data", "net", "'x'"]),
        (lambda: Unrolled(SmallNet(1), CT(8, 5), image_scale=0), ["image_scale", "0"]),
        (lambda: Unrolled(SmallNet(1), CT(8, 5), image_scale=float("inf")), ["image_scale", "inf"]),
        (lambda: Unrolled(SmallNet(1), CT(8, 5), precision="fp16"), ["fp32", "bf16", "fp16"]),
        (lambda: Unrolled(SmallNet(1), CT(8, 5), filtered="no"), ["filtered", "'no'"]),  # type: ignore[arg-type]
        (lambda: Unrolled(SmallNet(1), Inpainting(8, 8), filtered=True), ["filter", "Inpainting"]),
        (lambda: Unrolled(SmallNet(1), NoAdjoint()), ["NoAdjoint", "image_shape"]),
        (lambda: Reconstructor(SmallNet(1), CT(8, 5), image_scale=-1), ["image_scale", "-1"]),
        (lambda: UNet(1, 1, norm="layer"), ["batch", "none", "layer"]),
        (lambda: average_over(["rotate90", "shift"]), ["rotate90", "reflect", "shift"]),
        (lambda: average_over([]), ["rotate90", "reflect"]),
        (lambda: GroupAverage(SmallNet(1), ["rotate90"])(torch.zeros(1, 1, 4, 6)), ["square", "4 x 6"]),
    ],
)
def test_errors(call: Any, names: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(name in str(error.value) for name in names) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------- UNet without BatchNorm, averages


def test_unet_without_batchnorm() -> None:
    batch, none = UNet(1, 1, base_channels=2), UNet(1, 1, base_channels=2, norm="none")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in none.modules())
    convolutions = {name for name, module in batch.named_modules() if isinstance(module, nn.Conv2d)}
    expected = [name for name in batch.state_dict() if name.rsplit(".", 1)[0] in convolutions]
    assert list(none.state_dict()) == expected
    assert {"Conv1.conv.0.weight", "Conv1.conv.3.weight", "Up4.up.1.weight", "Conv_1x1.bias"} <= set(expected)
    assert batch.config["norm"] == "batch" and none.config["norm"] == "none"
    old = {name: value for name, value in batch.config.items() if name != "norm"}  # of a checkpoint from before
    assert UNet(**old).state_dict().keys() == batch.state_dict().keys()
    x = images(2, 1, 8, 8)
    torch.testing.assert_close(none.train()(x), none.eval()(x))
    torch.testing.assert_close(none(x), torch.cat([none(one[None]) for one in x]), rtol=1e-4, atol=1e-5)


def test_elements_of_the_product_are_counted_once() -> None:
    assert len(average_over(["rotate90"])) == len(average_over(["reflect"])) == len(average_over(["rotate90"] * 2)) == 4
    both = average_over(["rotate90", "reflect"])
    assert len(both) == 8 and set(both) == set(average_over(["reflect", "rotate90"]))
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    turned = [element.act(picture) for element in both]
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8 and torch.equal(turned[0], picture)
    for element, one in zip(both, turned, strict=True):
        assert torch.equal(element.undo(one), picture)
        for other in both:
            assert torch.equal(other.act(one), other.after(element).act(picture)) and other.after(element) in both
    named = {
        tuple(Reflect(1).act(picture, torch.tensor(e)).flatten().tolist()) for e in ([0, 0], [0, 1], [1, 0], [1, 1])
    }
    assert named == {tuple(e.act(picture).flatten().tolist()) for e in average_over(["reflect"])}


def test_the_average_is_equivariant() -> None:
    net, x = fill(UNet(2, 2, base_channels=2, norm="none")).eval(), images(2, 2, 8, 8)
    turns = lambda x: Rotate90(1).apply(x, [1])  # noqa: E731
    mirror = lambda x: Reflect(1).apply(x, [[1, 0]])  # noqa: E731
    both = GroupAverage(net, ["rotate90", "reflect"])
    assert both(x).shape == x.shape
    for names, moves in ((["rotate90"], [turns]), (["reflect"], [mirror]), (["rotate90", "reflect"], [turns, mirror])):
        average = GroupAverage(net, names)
        for move in moves:
            torch.testing.assert_close(average(move(x)), move(average(x)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(turns(x)), turns(net(x)), atol=1e-4)
    assert GroupAverage(net, ["reflect"])(images(1, 2, 8, 16)).shape == (1, 2, 8, 16)


def test_f_with_the_average_in_the_place_of_its_net() -> None:
    physics = CT(8, 4)
    f = Unrolled(UNet(1, 1, base_channels=2, norm="none"), physics).eval()
    y = physics.A(images(1, 1, 8, 8))
    plain = f(y)
    f.net = GroupAverage(f.net, ["rotate90", "reflect"])
    assert f(y).shape == plain.shape and not torch.allclose(f(y), plain)


def test_cuda_graphs_are_for_cuda_and_training() -> None:
    f = Unrolled(UNet(1, 1, base_channels=2, norm="none"), CT(16, 5), iterations=1, cg_steps=1)
    y = f.physics.A(torch.rand(1, 1, 16, 16))
    before = f.eval()(y)
    f.use_cuda_graphs()
    assert torch.equal(f(y), before)  # in evaluation nothing is recorded
    with pytest.raises(InputError, match="CUDA device, not on cpu"):
        f.train()(y)
    with pytest.raises(InputError, match="one operator"):
        f.of(CT(16, 5))
