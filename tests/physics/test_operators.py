"""Forward operators: reference figures, the definition written out, adjointness, autograd."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from conftest import ROOT, reference, relative, subprocess_run
from torch.nn import functional

from ei.errors import InputError
from ei.physics import CT, MRI, GaussianNoise, Inpainting, Tomography, linear_map
from ei.physics.ct import back_projection_map, radon_map

GEOMETRIES = [
    # N, V, uniform, circle. D - N is odd for 2, 5, 16 and even for 24: both ways of padding.
    (1, 1, True, False),
    (1, 2, True, True),
    (2, 3, True, False),
    (5, 4, True, False),
    (5, 7, False, True),
    (16, 10, True, False),
    (17, 9, True, True),
    (24, 1, True, False),
    (33, 20, False, False),
]


def radon_by_definition(x: torch.Tensor, degrees: torch.Tensor, circle: bool) -> torch.Tensor:
    """The words of the design, with one `grid_sample` a view."""
    n = x.shape[-1]
    d = n if circle else math.ceil(math.sqrt(2) * n)
    before = d // 2 - n // 2
    padded = functional.pad(x, (before, d - n - before, before, d - n - before))
    axis = torch.linspace(-1, 1, d, dtype=x.dtype) if d > 1 else torch.zeros(1, dtype=x.dtype)
    views = []
    for t in torch.deg2rad(degrees).tolist():
        xs = math.cos(t) * axis[None, :] + math.sin(t) * axis[:, None]
        ys = -math.sin(t) * axis[None, :] + math.cos(t) * axis[:, None]
        grid = torch.stack([xs, ys], dim=-1).expand(len(x), -1, -1, -1)
        views.append(functional.grid_sample(padded, grid, align_corners=True).sum(dim=2))
    return torch.stack(views, dim=-1)


def fbp_by_definition(y: torch.Tensor, n: int, degrees: torch.Tensor, circle: bool) -> torch.Tensor:
    d, v = y.shape[2:]
    length = max(64, 2 ** math.ceil(math.log2(2 * d)))
    h = torch.zeros(length, dtype=y.dtype)
    h[0] = 0.25
    distance = torch.minimum(torch.arange(length), length - torch.arange(length))
    odd = distance % 2 == 1
    h[odd] = -1 / (math.pi * distance[odd].to(y.dtype)) ** 2
    spectrum = torch.fft.fft(y, n=length, dim=2) * (2 * torch.fft.fft(h).real)[:, None]
    filtered = torch.fft.ifft(spectrum, dim=2).real[:, :, :d]
    axis = torch.linspace(-1, 1, d, dtype=y.dtype) if d > 1 else torch.zeros(1, dtype=y.dtype)
    x_axis, y_axis = axis[None, :], axis[:, None]
    image = torch.zeros(*y.shape[:2], d, d, dtype=y.dtype)
    for k, t in enumerate(torch.deg2rad(degrees).tolist()):
        position = ((x_axis * math.cos(t) - y_axis * math.sin(t)) + 1) / 2 * (d - 1)
        low = position.floor().long()
        for index, weight in ((low, 1 - (position - low)), (low + 1, position - low)):
            inside = (index >= 0) & (index < d)
            image += filtered[..., k][..., index.clamp(0, d - 1)] * (weight * inside)
    image *= math.pi / (2 * v)
    before = d // 2 - n // 2
    image = image[..., before : before + n, before : before + n]
    if circle:
        image = image * (x_axis**2 + y_axis**2 <= 1 + 1e-12)
    return image


@pytest.mark.parametrize("name", ["ct_128_50", "ct_32_10", "ct_32_12_circle"])
def test_ct_reproduces_the_reference(name: str) -> None:
    figures = reference(name)
    physics = CT(
        int(figures["img_width"]), int(figures["radon_view"]), bool(figures["uniform"]), bool(figures["circle"])
    )
    sinogram = physics.A(torch.from_numpy(figures["x"]))
    assert sinogram.dtype == torch.float32
    assert relative(sinogram, figures["sinogram"]) < 1e-5
    assert relative(physics.A_dagger(torch.from_numpy(figures["sinogram"])), figures["fbp"]) < 1e-4


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_ct_is_what_the_design_says(geometry: tuple) -> None:
    n, _, _, circle = geometry
    physics = CT(*geometry)
    x = torch.randn(2, 3, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = physics.A(x)
    assert y.shape == (2, 3, *physics.measurement_shape)
    torch.testing.assert_close(y, radon_by_definition(x, physics.angles, circle), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        physics.A_dagger(y), fbp_by_definition(y, n, physics.angles, circle), rtol=1e-9, atol=1e-9
    )


def test_ct_agrees_with_scikit_image() -> None:
    """An implementation that shares no code with ours; at odd sizes its rotation centre is ours too."""
    from skimage.transform import radon

    rows, columns = np.mgrid[:65, :65] - 32.0
    image = np.exp(-((rows - 9) ** 2 + (columns + 5) ** 2) / 40) + 0.5 * np.exp(-((rows + 12) ** 2 + columns**2) / 90)
    image[rows**2 + columns**2 > 31**2] = 0
    ours = CT(65, 12, circle=True).A(torch.from_numpy(image)[None, None])[0, 0].numpy()
    theirs = radon(image, theta=np.arange(12) * 15.0, circle=True)
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-9


PHYSICS = [*(CT(*geometry) for geometry in GEOMETRIES), Inpainting(5, 8, mask_rate=0.4), Inpainting(1, 3, mask_rate=0)]


@pytest.mark.parametrize("physics", PHYSICS, ids=str)
def test_adjoint_and_autograd(physics: CT | Inpainting) -> None:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *physics.image_shape, dtype=torch.float64, generator=rng, requires_grad=True)
    y = torch.randn(physics.A(x).shape, dtype=torch.float64, generator=rng, requires_grad=True)
    ax, aty = physics.A(x), physics.A_adjoint(y)
    gap = abs(float(((ax * y).sum() - (x * aty).sum()).detach()))
    assert gap <= 1e-10 * float((ax.norm() * y.norm()).detach())

    (gradient,) = torch.autograd.grad((ax * y).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, aty, rtol=1e-12, atol=1e-12)
    (back,) = torch.autograd.grad(physics.A_adjoint(y), y, grad_outputs=x.detach())
    torch.testing.assert_close(back, ax, rtol=1e-12, atol=1e-12)
    # The gradient is differentiable again.
    (second,) = torch.autograd.grad(gradient, y, grad_outputs=x.detach())
    torch.testing.assert_close(second, ax, rtol=1e-12, atol=1e-12)


def test_large_matrices_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are made: 2048 pixels and 4000 views would fit on no machine that runs the tests."""
    with pytest.raises(ValueError, match=r"CT\(2048, 4000\) would need \d+ GB .* this machine has \d+ GB"):
        CT(2048, 4000)
    monkeypatch.setattr("ei.physics.linear_map.LARGE", 1e4)
    with pytest.warns(UserWarning, match=r"CT\(16, 10\) precomputes matrices of 0.0 GB"):
        CT(16, 10)


@pytest.mark.parametrize("physics", [CT(5, 3), CT(6, 4, circle=True), Inpainting(3, 4)], ids=str)
def test_gradients_numerically(physics: CT | Inpainting) -> None:
    x = torch.randn(1, 1, *physics.image_shape, dtype=torch.float64, requires_grad=True)
    y = physics.A(x).detach().requires_grad_()
    for function, at in ((physics.A, x), (physics.A_dagger, y), (physics.A_adjoint, y)):
        assert torch.autograd.gradcheck(function, (at,))
        assert torch.autograd.gradgradcheck(lambda v, function=function: function(v).square(), (at,))


@pytest.mark.parametrize("name", ["A", "A_adjoint", "A_dagger"])
@pytest.mark.parametrize(
    "physics", [CT(5, 3), Tomography((4, 6), [0, 50, 110], n_detectors=9), Inpainting(3, 4)], ids=str
)
def test_torch_func(physics: Any, name: str) -> None:
    function = getattr(physics, name)
    shape = physics.image_shape if name == "A" else getattr(physics, "measurement_shape", physics.image_shape)
    x = torch.rand(3, 2, 1, *shape, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(function)(x), torch.stack([function(each) for each in x]))
    torch.testing.assert_close(
        torch.func.vmap(function, in_dims=1)(x), torch.stack([function(x[:, k]) for k in range(2)])
    )
    columns = torch.eye(shape[0] * shape[1], dtype=torch.float64).view(-1, 1, *shape)
    matrix = function(columns).flatten(1).T
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        found = jacobian(lambda flat: function(flat.view(1, 1, *shape)).flatten())(x[0, 0].flatten())
        torch.testing.assert_close(found, matrix)
    torch.testing.assert_close(
        torch.func.hessian(lambda flat: function(flat.view(1, 1, *shape)).square().sum() / 2)(x[0, 0].flatten()),
        matrix.T @ matrix,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("physics", [CT(16, 6), Inpainting(16, 16)], ids=str)
def test_dtype_is_kept(physics: CT | Inpainting, dtype: torch.dtype) -> None:
    x = torch.rand(1, 1, 16, 16).to(dtype)
    y = physics.A(x)
    assert y.dtype == physics.A_dagger(y).dtype == physics.A_adjoint(y).dtype == dtype
    exact = physics.A(x.double())
    assert relative(y.double(), exact) < {8: 1e-12, 4: 1e-6, 2: 4e-3}[dtype.itemsize]


def test_float64_is_computed_in_float64() -> None:
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    assert 1e-10 < relative(CT(16, 6).A(x.float()).double(), CT(16, 6).A(x)) < 1e-5


def test_ct_leaves_autocast() -> None:
    physics = CT(16, 6)
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    plain = physics.A_dagger(physics.A(x))
    (plain_gradient,) = torch.autograd.grad(plain.square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = physics.A_dagger(physics.A(x))
        (gradient,) = torch.autograd.grad(inside.square().sum(), x)
    torch.testing.assert_close(inside, plain)
    torch.testing.assert_close(gradient, plain_gradient)


def test_instances_do_not_touch_each_other() -> None:
    first, second = CT(16, 6), CT(16, 6)
    x = torch.rand(1, 1, 16, 16)
    before = second.A(x)
    first.double()
    third = copy.deepcopy(second).double()
    assert third.A(x).dtype == torch.float32  # the input's dtype decides
    assert torch.equal(second.A(x), before) and torch.equal(copy.deepcopy(second).A(x), before)
    assert second.state_dict() == {}
    first_mask, second_mask = Inpainting(4, 4), Inpainting(4, 4)
    first_mask.to(torch.float16)
    assert second_mask.A(torch.ones(1, 1, 4, 4)).dtype == torch.float32


def test_matrices_are_made_once_and_are_small() -> None:
    first = CT(128, 50)
    key = (128, 50, True, False, torch.device("cpu"), torch.float32)
    built = radon_map(*key), back_projection_map(*key)
    second = CT(128, 50)
    assert (radon_map(*key), back_projection_map(*key)) == built
    assert second.projection(*key[-2:]) is first.projection(*key[-2:]) is built[0]
    assert radon_map(*key).nbytes + back_projection_map(*key).nbytes < 100e6
    assert 1.6e6 < len(radon_map(*key).matrix.values) < 2e6


def test_no_warning_reaches_the_user(tmp_path) -> None:
    code = (
        "import torch; from ei.physics import CT; p = CT(16, 6); x = torch.rand(1, 1, 16, 16, requires_grad=True);"
        "p.A_dagger(p.A(x)).sum().backward()"
    )
    done = subprocess_run(sys.executable, "-W", "always", "-c", code, cwd=ROOT)
    assert done == (0, "", "")


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: CT(16, 6).A(torch.zeros(1, 1, 16, 15)), ["[B, C, 16, 16]", "[1, 1, 16, 15]"]),
        (lambda: CT(16, 6).A(torch.zeros(16, 16)), ["[B, C, 16, 16]", "[16, 16]"]),
        (lambda: CT(16, 6).A_dagger(torch.zeros(1, 1, 6, 23)), ["[B, C, 23, 6]", "[1, 1, 6, 23]"]),
        (lambda: CT(16, 6).A_adjoint(torch.zeros(1, 1, 16, 16)), ["[B, C, 23, 6]", "[1, 1, 16, 16]"]),
        (lambda: CT(0, 6), ["img_width", "0"]),
        (lambda: CT(16, 0), ["radon_view", "0"]),
        (lambda: Inpainting(4, 5).A(torch.zeros(1, 3, 5, 4)), ["[B, C, 4, 5]", "[1, 3, 5, 4]"]),
        (lambda: Inpainting(4, 5, mask=torch.ones(5, 4)), ["[4, 5]", "[5, 4]"]),
        (lambda: Inpainting(4, 5, mask=torch.full((4, 5), 0.5)), ["zeros", "ones"]),
        (lambda: Inpainting(4, 5, mask=torch.zeros(4, 5)), ["no pixel"]),
        (lambda: Inpainting(4, 5, mask_rate=1.0), ["mask_rate", "1.0"]),
        (lambda: Inpainting(4, 5, mask_rate=-0.1), ["mask_rate", "-0.1"]),
        (lambda: Inpainting(4, 5, mask_rate=float("nan")), ["mask_rate", "nan"]),
        (lambda: Inpainting(4, 5, mask="missing.pt"), ["missing.pt"]),
        (lambda: GaussianNoise(-1), ["sigma", "-1"]),
    ],
)
def test_errors_name_expected_and_given(call, names: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_batch_and_channels(batch: int, channels: int) -> None:
    physics = CT(8, 5)
    x = torch.rand(batch, channels, 8, 8)
    each = torch.stack([physics.A(image[None, None])[0, 0] for image in x.flatten(0, 1)])
    torch.testing.assert_close(physics.A(x).flatten(0, 1), each)
    assert physics.A(x[:0]).shape == (0, channels, 12, 5)


def test_mask_rate_is_what_is_removed() -> None:
    mask = Inpainting(64, 48, mask_rate=0.3).mask
    assert int((mask == 0).sum()) == 922  # of 921.6: to the nearest whole number
    assert torch.equal(mask, Inpainting(64, 48, mask_rate=0.3).mask)
    assert not torch.equal(mask, Inpainting(64, 48, mask_rate=0.3, seed=1).mask)
    assert Inpainting(64, 48, mask_rate=0).mask.all()
    assert Inpainting(2, 2, mask_rate=0.99).mask.sum() == 1


def test_mask_from_tensor_and_file(tmp_path) -> None:
    mask = (torch.rand(6, 7) > 0.5).float()
    mask[0, 0] = 1
    torch.save(mask[None, None], tmp_path / "mask.pt")
    for given in (mask, mask.bool(), mask.numpy() > 0, tmp_path / "mask.pt", str(tmp_path / "mask.pt")):
        if isinstance(given, np.ndarray):
            given = torch.from_numpy(given)
        assert torch.equal(Inpainting(6, 7, mask=given).mask, mask)
    mask_again = Inpainting(6, 7, mask=mask)
    mask.zero_()
    assert mask_again.mask.any()  # a copy was made


def test_the_2021_spelling_of_inpainting() -> None:
    physics = Inpainting(img_heigth=6, img_width=7, mode="random", mask_rate=0.5, resize=True, device="cpu")
    assert physics.image_shape == (6, 7)
    with pytest.raises(TypeError, match="colour"):
        Inpainting(6, 7, colour=True)
    with pytest.raises(TypeError, match="img_width"):
        Inpainting(6)


def test_the_authors_mask(shared_data) -> None:
    assert int(Inpainting(256, 256, mask=shared_data / "mask_random0.3.pt").mask.sum()) == 45827


def test_noise() -> None:
    physics = Inpainting(32, 32, mask_rate=0, noise=GaussianNoise(0.1))
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(physics.A(x), x)
    noise = physics(x) - x
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert not torch.equal(physics(x), physics(x))
    assert torch.equal(CT(8, 3)(x[..., :8, :8]), CT(8, 3).A(x[..., :8, :8]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_agree() -> None:
    physics = CT(128, 50)
    x = torch.rand(2, 1, 128, 128)
    y = physics.A(x)
    assert relative(physics.A(x.cuda()).cpu(), y) < 1e-5
    assert relative(physics.A_dagger(y.cuda()).cpu(), physics.A_dagger(y)) < 1e-5
    assert relative(Inpainting(128, 128).cuda().A(x.cuda()).cpu(), Inpainting(128, 128).A(x)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("physics", [CT(8, 3), Tomography((8, 8), [0, 50, 110], n_detectors=12)], ids=["CT", "any"])
def test_projections_of_other_than_real_numbers_are_refused(physics: CT | Tomography, dtype: torch.dtype) -> None:
    """Sums of 8-bit values wrapped around in 8 bits, and of complex ones the imaginary part was dropped."""
    x, y = torch.ones(1, 1, 8, 8).to(dtype), torch.ones(1, 1, 12, 3).to(dtype)
    for function, tensor in ((physics.A, x), (physics.A_adjoint, y), (physics.A_dagger, y)):
        with pytest.raises(InputError, match=rf"real floating-point values, not {dtype}"):
            function(tensor)


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
@pytest.mark.parametrize(
    "operator",
    [
        lambda device: CT(8, 4, device=device),
        lambda device: Tomography((8, 8), [0.0, 45.0, 90.0], 12, device=device),
        lambda device: Inpainting(8, 8, device=device),
        lambda device: MRI(torch.ones(8), device=device),
    ],
)
def test_a_device_that_is_not_there(operator: Callable[[str], Any], device: str) -> None:
    with pytest.raises(InputError, match=f"torch cannot use the device '{device}' here"):
        operator(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_images_at_once(dtype: torch.dtype) -> None:
    """Few columns are filled up to a multiple of four, more are not: the products are those of the images alone, and so
    are their derivatives."""
    physics = CT(9, 5)
    x = torch.rand(18, 1, 9, 9, dtype=dtype, requires_grad=True)
    weights = torch.rand(18, 1, *physics.measurement_shape, dtype=dtype)
    alone = torch.cat([physics.A(image[None]) for image in x])
    for count in range(1, 19):
        together = physics.A(x[:count])
        torch.testing.assert_close(together, alone[:count])
        (ours,), (theirs,) = (
            torch.autograd.grad((y * weights[:count]).sum(), x, retain_graph=True) for y in (together, alone[:count])
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("masks", [1, 2])
def test_a_mask_for_other_channels_is_told(masks: int) -> None:
    physics = Inpainting(8, 8, mask=torch.ones(masks, 3, 8, 8))
    with pytest.raises(InputError, match="the mask has 3 channels, and images for Inpainting have 1"):
        physics.of(range(masks)).A(torch.rand(masks, 1, 8, 8))
    assert physics.of(range(masks)).A(torch.rand(masks, 3, 8, 8)).shape == (masks, 3, 8, 8)


@pytest.mark.parametrize("gathered", [2**27, 60])
@pytest.mark.parametrize("count", [1, 3])
def test_the_sparse_product_of_gpus_is_that_of_cpus(count: int, gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of many lengths, empty ones and a matrix without entries; also where a product is made part by part."""
    monkeypatch.setattr(linear_map, "GATHERED", gathered)
    dense = np.random.default_rng(0).random((11, 7)) * (np.random.default_rng(1).random((11, 7)) < 0.4)
    dense[[0, 5, 10]] = 0
    vectors = torch.rand(count, 7, dtype=torch.float64).mT
    for matrix in (dense, 0 * dense):
        sparse = scipy.sparse.csr_array(matrix)
        cpu, gpu = (
            form.from_scipy(sparse, torch.device("cpu"), torch.float64)
            for form in (linear_map.CSR, linear_map.PaddedRows)
        )
        torch.testing.assert_close(gpu.multiply(vectors), torch.from_numpy(matrix) @ vectors)
        torch.testing.assert_close(gpu.multiply(vectors), cpu.multiply(vectors))
    vectors[3] = torch.nan  # a pixel without a value: only what sees it has none
    blind = torch.from_numpy(dense[:, 3] == 0)
    blind[[0, 5, 10]] = False
    padded = linear_map.PaddedRows.from_scipy(scipy.sparse.csr_array(dense), torch.device("cpu"), torch.float64)
    assert bool(padded.multiply(vectors)[blind].isfinite().all())
