"""Tomography without matrices: equal to the one with them, its adjoint, and which of the two is taken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ei.errors import InputError, MissingExtraError
from ei.models import UNet, Unrolled
from ei.physics import Tomography, matrix_free, pinv_cg
from ei.physics.fbp import back_projection_by_views, back_projection_map

pytest.importorskip("astra", reason="astra-toolbox has no wheels for this system")

GEOMETRIES: dict[str, dict[str, Any]] = {
    "parallel": {},
    "shifted axis": {"centre": 1.7, "detector_spacing": 0.8, "pixel_size": 0.8},
    "wide detectors": {"detector_spacing": 2.5, "n_detectors": 17},
    "fan": {"source_origin": 90, "origin_detector": 30},
    "displaced fan": {"source_origin": 90, "origin_detector": 30, "centre": -9},
    "curved": {"source_origin": 90, "origin_detector": 30, "detector": "curved"},
}


def both(name: str, height: int = 31, width: int = 24) -> tuple[Tomography, Tomography]:
    arguments = {"n_detectors": 45, **GEOMETRIES[name]}
    angles = [3 + 13.0 * k for k in range(28)]
    return tuple(Tomography((height, width), angles, **arguments, engine=engine) for engine in ("matrix", "astra"))  # type: ignore[return-value]


def blob(height: int = 31, width: int = 24) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) - 12.0, torch.arange(width) - 14.0, indexing="ij")
    return torch.exp(-(x**2 + 0.5 * y**2) / 18).expand(3, 2, height, width) * torch.rand(3, 2, 1, 1)


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "curved"])
def test_it_is_the_matrix(name: str) -> None:
    matrix, free = both(name)
    x = blob()
    expected, y = matrix.A(x), free.A(x)
    # Lengths in pixels instead of interpolation, for fans.
    assert float((y - expected).norm() / expected.norm()) < (0.02 if "fan" in name else 1e-5)
    torch.testing.assert_close(free.A_dagger(expected), matrix.A_dagger(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(free.moved(21.5).A(x), matrix.moved(21.5).A(x), rtol=0.1, atol=0.1 * float(y.max()))
    assert float((free.moved(90).A(x) - free.A(x)).norm()) > 0.1 * float(y.norm())


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "curved"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adjoint_and_gradients(name: str, dtype: torch.dtype) -> None:
    _, free = both(name, 13, 18)
    x = torch.randn(2, 2, 13, 18, dtype=dtype, requires_grad=True)
    y = torch.randn(2, 2, *free.measurement_shape, dtype=dtype, requires_grad=True)
    for forward, adjoint in ((free.A, free.A_adjoint), (free.A_dagger, None)):
        at, other = (x, y) if adjoint is not None else (y, x)
        value = forward(at)
        assert value.dtype == dtype
        (gradient,) = torch.autograd.grad((value * other).sum(), at)
        gap = float(((value * other).sum() - (at * gradient).sum()).detach())
        assert abs(gap) < 1e-5 * float((value.norm() * other.norm()).detach())
        if adjoint is not None:
            torch.testing.assert_close(adjoint(y), gradient)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_back_projection_view_by_view(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(matrix_free, "BLOCK", 100)  # four rows at a time, three at the end
    scan = both("parallel" if name == "curved" else name)[0].scan
    if name == "curved":
        scan = Tomography((31, 24), range(0, 360, 13), 45, **GEOMETRIES["curved"]).scan
    device, dtype = torch.device("cpu"), torch.float32
    matrix, free = (make(scan, device, dtype) for make in (back_projection_map, back_projection_by_views))
    y = torch.randn(matrix.matrix.shape[1], 3)  # type: ignore[attr-defined]
    torch.testing.assert_close(free(y), matrix(y), rtol=1e-4, atol=1e-4)
    x = torch.randn(31 * 24, 3)
    torch.testing.assert_close(free.T(x), matrix.T(x), rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_free, "BLOCK", 100)
    _, free = both("shifted axis")
    x, threads = blob(), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            y = free.A(x).requires_grad_()
            image = free.A_dagger(y)
            results.append((y.detach(), free.A_adjoint(y.detach()), image, *torch.autograd.grad((image * x).sum(), y)))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_conjugate_gradients_and_training_go_through_it() -> None:
    _, free = both("parallel", 16, 16)
    x = blob(16, 16)[:2, :1]
    found = pinv_cg(free, free.A(x), 30)
    assert float((free.A(found) - free.A(x)).norm() / free.A(x).norm()) < 0.01
    f = Unrolled(UNet(1, 1, base_channels=2, norm="none"), free, iterations=1, cg_steps=2)
    f(free.A(x)).square().mean().backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in f.net.parameters() if weight.grad is not None)
    again = copy.deepcopy(free)
    torch.testing.assert_close(again.A(x), free.A(x))


def test_the_engine_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Tomography((16, 16), range(0, 180, 10), 23).engine == "matrix"
    needed = 1e6
    monkeypatch.setattr(matrix_free, "free_memory", lambda: needed)
    with pytest.warns(UserWarning, match=r"is computed by ASTRA: matrices would need .* GB"):
        free = Tomography((64, 64), range(0, 180, 2), 91)
    assert free.engine == "astra"
    assert free.config["engine"] == "auto"
    assert Tomography((64, 64), range(0, 180, 2), 91, engine="matrix").engine == "matrix"
    monkeypatch.setattr(matrix_free, "has_astra", lambda: False)
    with pytest.raises(MissingExtraError, match=r"equivariant-imaging\[astra\]"):
        Tomography((64, 64), range(0, 180, 2), 91)
    with pytest.raises(MissingExtraError, match="engine=astra needs ASTRA"):
        Tomography((64, 64), range(0, 180, 2), 91, engine="astra")


def test_wrong_engines() -> None:
    with pytest.raises(InputError, match="ASTRA has no curved detector"):
        Tomography((16, 16), range(0, 360, 20), 23, source_origin=50, origin_detector=5, detector="curved",
                   engine="astra")  # fmt: skip
    with pytest.raises(InputError, match="engine"):
        Tomography((16, 16), range(0, 180, 10), 23, engine="gpu")
    with pytest.raises(InputError, match="sees nothing"):
        Tomography((16, 16), range(0, 180, 10), 5, centre=100, engine="astra")
