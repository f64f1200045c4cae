"""The Radon transform and FBP: reference figures, the definition written out, scikit-image."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, reference, relative, subprocess_run
from makers import GEOMETRIES
from torch.nn import functional

from ei.errors import InputError
from ei.physics import CT
from ei.physics.ct import Geometry, back_projection_map, radon_map


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


def test_large_matrices_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are made: 2048 pixels and 4000 views would fit on no machine that runs the tests."""
    with pytest.raises(ValueError, match=r"CT\(2048, 4000\) would need \d+ GB .* this machine has \d+ GB"):
        CT(2048, 4000)
    monkeypatch.setattr("ei.physics.linear_map.LARGE", 1e4)
    with pytest.warns(UserWarning, match=r"CT\(16, 10\) precomputes matrices of 0.0 GB"):
        CT(16, 10)


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


def test_matrices_are_made_once_and_are_small() -> None:
    first = CT(128, 50)
    key = (Geometry(128, 50), torch.device("cpu"), torch.float32)
    built = radon_map(*key), back_projection_map(*key)
    second = CT(128, 50)
    assert (radon_map(*key), back_projection_map(*key)) == built
    assert second.projection(*key[-2:]) is first.projection(*key[-2:]) is built[0]
    assert radon_map(*key).nbytes + back_projection_map(*key).nbytes < 20e6  # 55 MB without symmetry


@pytest.mark.slow
def test_no_warning_reaches_the_user(tmp_path) -> None:
    code = (
        "import torch; from ei.physics import CT; p = CT(16, 6); x = torch.rand(1, 1, 16, 16, requires_grad=True);"
        "p.A_dagger(p.A(x)).sum().backward()"
    )
    done = subprocess_run(sys.executable, "-W", "always", "-c", code, cwd=ROOT)
    assert done == (0, "", "")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_batch_and_channels(batch: int, channels: int) -> None:
    physics = CT(8, 5)
    x = torch.rand(batch, channels, 8, 8)
    each = torch.stack([physics.A(image[None, None])[0, 0] for image in x.flatten(0, 1)])
    torch.testing.assert_close(physics.A(x).flatten(0, 1), each)
    assert physics.A(x[:0]).shape == (0, channels, 12, 5)


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


def test_sizes_from_measurements() -> None:
    for width in (1, 17, 64, 128):
        sizes = CT.sizes_from_measurement((1, *CT(width, 3).measurement_shape))
        assert sizes == {"img_width": width, "radon_view": 3}
    assert CT.sizes_from_measurement((1, 32, 7), circle=True)["img_width"] == 32
    for call, words in (
        (lambda: CT.sizes_from_measurement((1, 46, 20), radon_view=46), ["46 detectors and 20 views", "swap"]),
        (lambda: CT.sizes_from_measurement((1, 4, 20)), ["4", "no image size"]),
        (lambda: CT.sizes_from_measurement((47, 20)), ["[47, 20]"]),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
