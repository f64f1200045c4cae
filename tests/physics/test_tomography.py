"""Tomography of any two-dimensional scanner: against discs in closed form, ASTRA, scikit-image, and `CT`."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from makers import disc_image, disc_sinogram
from torch import Tensor

from ei.errors import InputError, MissingFileError
from ei.physics import CT, Tomography
from ei.physics.fbp import ray_weights, view_weights

DISCS = ((5.0, -8.0, 40.0, 1.0), (-15.0, 20.0, 12.0, 0.7), (30.0, 10.0, 8.0, -0.4))  # x, y, radius, value
FAN = {"source_origin": 410.66, "origin_detector": 143.08}
STRONG = {"source_origin": 150.0, "origin_detector": 100.0}


def sinogram_of(physics: Tomography, size: float = 1.0) -> Tensor:
    return disc_sinogram(physics, [(x * size, y * size, radius * size, value) for x, y, radius, value in DISCS])


def image_of_discs(shape: tuple[int, int], pixel: float = 1.0, size: float = 1.0) -> Tensor:
    return disc_image(shape, [(x * size, y * size, radius * size, value) for x, y, radius, value in DISCS], pixel)


RNG = np.random.default_rng(0)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "half a turn": (range(0, 180, 2), {}),
    "a full turn": (range(0, 360, 3), {}),
    "both ends": (np.linspace(0, 180, 121), {}),
    "uneven": (np.sort(RNG.uniform(0, 180, 150)), {}),
    "shuffled, negative": (RNG.permutation(120) * 1.5 - 90, {}),
    "wide detectors": (range(0, 180, 2), {"detector_spacing": 2.0}),
    "narrow detectors": (range(0, 180, 2), {"detector_spacing": 0.5}),
    "millimetres": (range(0, 180, 2), {"detector_spacing": 0.25, "pixel_size": 0.25}),
    "axis": (range(0, 180, 2), {"centre": 7.3}),
    "fan": (range(0, 360, 2), FAN),
    "fan, uneven": (np.sort(RNG.uniform(0, 360, 300)), FAN),
    "fan, axis": (range(0, 360, 2), {"centre": -5.5, **FAN}),
    "fan, strong": (range(0, 360, 2), STRONG),
    "fan, short scan": (np.arange(0, 206, 1.5), FAN),
    "fan, strong, more than a short scan": (np.arange(30, 30 + 250, 1.5), STRONG),
}
FAST = ("half a turn", "shuffled, negative", "wide detectors", "millimetres", "axis", "fan, short scan")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case not in FAST)) for case in CASES])
def test_projections_are_those_of_discs_and_fbp_gives_the_discs(case: str) -> None:
    angles, options = CASES[case]
    size = options.get("pixel_size", 1.0)
    larger = 1 + options.get("origin_detector", 0.0) / options.get("source_origin", 1.0)
    spacing = options.get("detector_spacing", larger)
    physics = Tomography((128, 128), angles, math.ceil(200 * size * larger / spacing),
                         **{"detector_spacing": spacing, **options})  # fmt: skip
    image, exact = image_of_discs((128, 128), size, size), sinogram_of(physics, size)
    assert float((physics.A(image) - exact).norm() / exact.norm()) < 0.012
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no view is missing
        found = physics.A_dagger(exact)[0, 0]
    axis = np.arange(128) - 63.5
    for (x0, y0, radius, _), value in zip(DISCS, (1.0, 1.7, 0.6), strict=True):
        inside = (axis[None] - x0) ** 2 + (axis[:, None] - y0) ** 2 < (radius - 3) ** 2
        if radius == 40:
            for x1, y1, other, _ in DISCS[1:]:
                inside &= (axis[None] - x1) ** 2 + (axis[:, None] - y1) ** 2 > (other + 4) ** 2
        if value != 1.7:  # that disc reaches over the edge of the large one
            assert float(found[torch.from_numpy(inside)].mean()) == pytest.approx(value, rel=0.02)
    outside = torch.from_numpy(np.hypot(axis[None], axis[:, None]) > 60) & (image[0, 0] == 0)
    assert abs(float(found[outside].mean())) < 0.02


GEOMETRIES = [
    ((7, 9), [3.0, 50.0, 120.0], 5, {}),
    ((8, 5), [10.0, -20.0], 12, {"centre": 1.3, "detector_spacing": 0.7}),
    ((6, 6), [0.0, 90.0, 200.0, 333.0], 9, {"source_origin": 20.0, "origin_detector": 7.0, "detector_spacing": 2.5}),
    ((1, 4), [45.0], 3, {}),
]


@pytest.mark.parametrize(("shape", "angles", "detectors", "options"), GEOMETRIES)
def test_the_adjoint_is_exact_and_is_what_autograd_takes(
    shape: tuple[int, int], angles: list[float], detectors: int, options: dict[str, float]
) -> None:
    physics = Tomography(shape, angles, detectors, **options)
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, detectors, len(angles), dtype=torch.float64)
    left = (physics.A(x) * y).sum()
    assert left.item() == pytest.approx((x * physics.A_adjoint(y)).sum().item(), rel=1e-11)
    assert torch.allclose(torch.autograd.grad(left, x)[0], physics.A_adjoint(y), rtol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert physics.A_dagger(y).shape == x.shape and physics.A_dagger(y.half()).dtype == torch.float16
    torch.testing.assert_close(physics.A(x.float()), physics.A(x).float(), rtol=1e-4, atol=1e-4)


def test_it_is_ct_for_even_differences() -> None:
    ct = CT(64, 45)  # 91 detectors: odd, so that the image lies half a pixel up and left of the axis
    assert (ct.n_detectors - 64) % 2 == 1
    ct = CT(128, 45)
    physics = Tomography((128, 128), ct.angles, ct.n_detectors)
    image = image_of_discs((128, 128))
    y = ct.A(image)
    assert float((physics.A(image) - y).norm() / y.norm()) < 0.016
    assert torch.allclose(physics.A_dagger(y), ct.A_dagger(y), atol=1e-9)


def test_it_is_scikit_images_radon() -> None:
    """The axis of `skimage.transform.radon` is pixel N // 2: for odd N in the middle, else half a bin beside it, the
    image half a pixel to the left and above."""
    radon = pytest.importorskip("skimage.transform").radon
    angles = np.linspace(0, 180, 30, endpoint=False) + 2
    for side, centre in ((129, 0.0), (128, 0.5)):
        theirs = radon(image_of_discs((side, side))[0, 0].numpy(), angles, circle=True)
        physics = Tomography((side, side), angles, side, centre=centre)
        moved = image_of_discs((129, 129))[0, 0, :side, :side]  # discs about pixel N // 2, as they have them
        if side == 128:
            theirs = radon(moved.numpy(), angles, circle=True)
        ours = sinogram_of(physics)[0, 0].numpy()
        assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.02


@pytest.mark.parametrize("projector", ["strip", "line", "linear", "line_fanflat"])
def test_it_is_astra_for_the_same_numbers(projector: str) -> None:
    astra = pytest.importorskip("astra")
    fan = projector.endswith("fanflat")
    angles = np.linspace(0, 360 if fan else 180, 40, endpoint=False) + 3.3
    image = image_of_discs((96, 128))
    name, distances = ("fanflat", tuple(FAN.values())) if fan else ("parallel", ())
    geometry = astra.create_proj_geom(name, 1.2, 190, np.deg2rad(angles), *distances)
    identifier = astra.create_projector(projector, geometry, astra.create_vol_geom(96, 128))
    _, theirs = astra.create_sino(image[0, 0].numpy(), identifier)
    physics = Tomography((96, 128), angles, 190, detector_spacing=1.2, **(FAN if fan else {}))
    ours = physics.A(image)[0, 0].numpy().T
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.01


def test_views_stand_for_the_angles_between_their_neighbours() -> None:
    weights, arcs = view_weights([0, 10, 30, 90, 100, 140], 180)
    assert weights.tolist() == [25, 15, 40, 35, 25, 40] and not arcs
    weights, arcs = view_weights([0, 180, 45, 90, 135, 360], 180)  # three of them are one
    assert weights.tolist() == [15, 15, 45, 45, 45, 15] and not arcs
    weights, arcs = view_weights(list(range(120)), 180)
    assert weights.tolist() == [1] * 120 and arcs == [(119.5, 179.5)]
    assert view_weights([7], 180)[0].tolist() == [180]
    assert view_weights(range(0, 180, 30), 180) [0].tolist() == [30] * 6  # few views are not missing ones  # fmt: skip


def test_rays_that_are_measured_twice_share() -> None:
    """Weights of a ray and its opposite one add up to the cosine; in a full turn each is half of it."""
    full = Tomography((64, 64), range(360), 101, **STRONG).scan
    cosine = np.cos(np.arctan(full.positions / 250))
    np.testing.assert_allclose(ray_weights(full), np.repeat(cosine[:, None] / 2, 360, axis=1))
    short = Tomography((64, 64), range(240), 101, **STRONG).scan
    weights = ray_weights(short) / cosine[:, None]
    angle = np.rad2deg(np.arctan(short.positions / 250))
    both = 0
    for detector in range(0, 101, 10):
        for view in range(0, 240, 7):
            opposite = (view + 180 - 2 * angle[detector]) % 360
            if opposite <= 238.5:
                low = int(opposite)
                other = np.interp(opposite, [low, low + 1], weights[100 - detector, [low, low + 1]])
                assert weights[detector, view] + other == pytest.approx(1, abs=0.02)
                both += 1
            elif 241 < opposite < 358:
                assert weights[detector, view] == pytest.approx(1)
    assert both > 20


def test_missing_views_warn_once_and_do_not_fail() -> None:
    physics = Tomography((16, 16), range(0, 120, 4), 25)
    y = physics.A(torch.rand(1, 1, 16, 16))
    with pytest.warns(UserWarning, match="views are missing"):
        physics.A_dagger(y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        physics.A_dagger(y)
        y = torch.zeros(1, 1, 31, 103)
        y[:, :, 8:-8] = torch.rand(103)
        Tomography((16, 16), np.arange(0, 206, 2.0), 31, **FAN).A_dagger(y)  # a short scan


def test_it_is_built_again_from_its_configuration_and_copied() -> None:
    physics = Tomography((8, 6), np.array([1.0, 30.0, 77.0]), 11, centre=0.5, source_origin=20, origin_detector=3)
    x = torch.rand(1, 1, 8, 6)
    for other in (Tomography(**physics.config), copy.deepcopy(physics)):
        assert torch.equal(other.A(x), physics.A(x)) and other.config == physics.config
        assert other.projection(x.device, x.dtype) is physics.projection(x.device, x.dtype)


def test_angles_come_from_files(tmp_path: Path) -> None:
    angles = [0.0, 12.5, 100.25]
    np.save(tmp_path / "a.npy", angles)
    np.savez(tmp_path / "a.npz", angles=angles, other=[1])
    (tmp_path / "a.txt").write_text("0\n12.5\n100.25\n")
    (tmp_path / "a.csv").write_text("0,12.5,100.25\n")
    (tmp_path / "commas.txt").write_text("0,12.5,100.25\n")
    scipy.io.savemat(tmp_path / "a.mat", {"angles": np.array(angles)[:, None]})
    for name in ("a.npy", "a.npz", "a.txt", "a.csv", "commas.txt", "a.mat"):
        assert Tomography((4, 4), tmp_path / name, 7).config["angles"] == angles
    (tmp_path / "one.txt").write_text("12.5\n")
    assert Tomography((4, 4), tmp_path / "one.txt", 7).config["angles"] == [12.5]
    with pytest.raises(MissingFileError):
        Tomography((4, 4), tmp_path / "b.npy", 7)
    (tmp_path / "bad.txt").write_text("zero\n")
    with pytest.raises(InputError, match=r"bad.txt"):
        Tomography((4, 4), str(tmp_path / "bad.txt"), 7)


def make(**changes: Any) -> Tomography:
    return Tomography(**{"image_shape": (8, 8), "angles": [0.0, 60.0, 120.0], "n_detectors": 12, **changes})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: make().A_dagger(torch.zeros(1, 1, 12, 4)), ["4 views", "3 angles"]),
        (lambda: make().A_adjoint(torch.zeros(1, 1, 3, 12)), ["swapped"]),
        (lambda: make().A_dagger(torch.zeros(1, 1, 11, 3)), ["[B, C, 12, 3]", "[1, 1, 11, 3]"]),
        (lambda: make().A(torch.zeros(1, 1, 8, 9)), ["[B, C, 8, 8]"]),
        (lambda: make(angles=[]), ["angles"]),
        (lambda: make(angles=[0.0, math.nan]), ["angles", "view 1"]),
        (lambda: make(angles=["a"]), ["angles"]),
        (lambda: make(angles=[[[0.0, 1.0]]]), ["angles of scan 0"]),
        (lambda: make(angles=[{"start": 0, "step": 6, "cuont": 3}]), ["{start: a, step: b, count: n}", "cuont"]),
        (lambda: make(source_origin=100.0), ["both", "origin_detector"]),
        (lambda: make(origin_detector=100.0), ["both", "source_origin"]),
        (lambda: make(source_origin=5.0, origin_detector=1.0), ["source", "inside", "5"]),
        (lambda: make(source_origin=50.0, origin_detector=-1.0), ["origin_detector", "-1"]),
        (lambda: make(detector_spacing=0.0), ["detector_spacing", "> 0"]),
        (lambda: make(pixel_size=-1.0), ["pixel_size", "> 0"]),
        (lambda: make(centre=math.inf), ["centre"]),
        (lambda: make(centre=100.0), ["sees nothing", "centre"]),
        (lambda: make(n_detectors=0), ["n_detectors"]),
        (lambda: make(n_detectors=2.5), ["n_detectors", "2.5"]),
        (lambda: make(image_shape=(8,)), ["image_shape"]),
        (lambda: make(image_shape=(8, 0)), ["image_shape", "0"]),
        (lambda: Tomography((40_000, 40_000), range(5000), 60_000, engine="matrix"), ["GB"]),
    ],
)
def test_wrong_geometry_is_one_line(wrong: Any, said: list[str]) -> None:
    with pytest.raises(InputError) as error:
        wrong()
    assert all(part in str(error.value) for part in said) and "\n" not in str(error.value), str(error.value)
