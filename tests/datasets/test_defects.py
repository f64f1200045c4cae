"""Defects of a detector: found where they are, nothing found where there are none, and repaired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from makers import disc_sinogram, read_scan, sinograms_and_defects, sinograms_of_counts

from ei.datasets import EllipsePhantoms
from ei.datasets.defects import Defects, find_defects, repair, without_stripes
from ei.errors import InputError
from ei.physics import CT, Tomography

SIDE, VIEWS = 96, 90


def disc(radius: float, row: float = 0, column: float = 0) -> np.ndarray:
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    return (np.hypot(axis[:, None] - row, axis[None] - column) < radius) * 1.0


OBJECTS: dict[str, Callable[[], np.ndarray]] = {
    "disc": lambda: disc(38),
    "tube": lambda: disc(40) - disc(33),
    "thin tube": lambda: disc(40) - disc(38),
    "rod in a tube": lambda: disc(40) - disc(30) + 2 * disc(6),
    "rods": lambda: disc(40) + disc(4, 12, 12) + 3 * disc(2, -20, 5) - disc(6, -8, -15),
    "box": lambda: np.pad(np.ones((50, 30)), ((23, 23), (33, 33))),
    "cube": lambda: np.pad(np.ones((60, 60)), 18),
    "phantom": lambda: EllipsePhantoms("train", SIDE, 10)[3].double().numpy(),
}


def sinogram(image: np.ndarray, beam: str = "parallel", views: int = VIEWS) -> np.ndarray:
    """``[D, V]``, of up to two."""
    turn = np.arange(views) / views
    physics: CT | Tomography = Tomography((SIDE, SIDE), 180 * turn, SIDE)
    if beam == "fan":
        fan = {"source_origin": 3.0 * SIDE, "origin_detector": 2.0 * SIDE}
        physics = Tomography((SIDE, SIDE), 360 * turn, 2 * SIDE, **fan)
    if beam == "ct":
        physics = CT(SIDE, views)
    y = physics.A(torch.from_numpy(image)[None, None])[0, 0].numpy()
    return 2 * y / y.max()


def noisy(y: np.ndarray, photons: float) -> np.ndarray:
    """What is counted of line integrals."""
    return np.random.default_rng(0).poisson(photons * np.exp(-y)).astype(float) if photons else 1e4 * np.exp(-y)


def integrals(counts: np.ndarray, photons: float) -> np.ndarray:
    return -np.log(np.maximum(counts, 1) / (photons or 1e4))


@pytest.mark.parametrize("beam", ["parallel", "fan", "ct"])
@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("photons", [0, 1e3, 1e5])
def test_good_sinograms_have_no_defects(name: str, beam: str, photons: float) -> None:
    for views in (40, VIEWS):
        counts = noisy(sinogram(OBJECTS[name](), beam, views), photons)
        assert not find_defects(counts), find_defects(counts).sentences
        assert not find_defects(integrals(counts, photons)), find_defects(integrals(counts, photons)).sentences


def test_small_parts_in_a_round_object_leave_no_detector_stuck() -> None:
    """They pass most detectors in less than half of the views. Without noise two detectors were stuck."""
    geometry = {"detector_spacing": 1.5, "source_origin": 110.0, "origin_detector": 90.0}
    physics = Tomography((SIDE, SIDE), np.arange(240) * 1.5, 124, **geometry)
    parts = [(0, 0, 40, 1.0), (14, -9, 6, 0.8), (-22, 12, 4, 1.0), (4, 26, 4, 1.0), (-8, -31, 3, 1.0)]
    assert not find_defects(disc_sinogram(physics, parts)[0, 0].numpy())
    beads = [(0, 0, 40, 1.0), (30, 0, 1, 1.0), (0, 24, 1, 1.0)]
    assert not find_defects(disc_sinogram(physics, beads)[0, 0].numpy())


def change(counts: np.ndarray, kind: str, photons: float) -> None:
    if kind == "dead":
        counts[40] = 0
    elif kind == "stuck":
        counts[40] = 0.3 * photons
    elif kind == "saturated":
        counts[40:42] = photons
    elif kind == "drifted":
        counts[40] *= 0.9
    elif kind == "no beam":
        counts[:, [10, 60]] = 0
    elif kind == "half a beam":
        counts[:, 10] *= 0.5


FOUND = {
    "dead": ("stuck", [40]),
    "stuck": ("stuck", [40]),
    "saturated": ("stuck", [40, 41]),
    "drifted": ("drifted", [40]),
    "no beam": ("dark_views", [10, 60]),
    "half a beam": ("dark_views", [10]),
}


@pytest.mark.parametrize("kind", FOUND)
@pytest.mark.parametrize("name", ["disc", "rods", "phantom"])
@pytest.mark.parametrize("photons", [1e4, 1e6])
def test_defects_are_found_and_repaired(kind: str, name: str, photons: float) -> None:
    y = sinogram(OBJECTS[name]())
    counts = noisy(y, photons)
    clean = integrals(counts, photons)
    change(counts, kind, photons)
    bad = integrals(counts, photons)
    defects = find_defects(bad)
    attribute, places = FOUND[kind]
    assert getattr(defects, attribute) == [(0, place) for place in places], defects
    assert sum(map(len, defects.lists)) == len(places)
    assert len(defects.sentences) == 1 and f": {', '.join(map(str, places))}" in defects.sentences[0]
    mended = repair(bad, defects)
    assert mended.shape == bad.shape and mended.dtype == bad.dtype
    error, before, least = (float(np.linalg.norm(z - y)) for z in (mended, bad, clean))
    assert error < least + 0.25 * (before - least)
    others = np.delete(mended, places, axis=1 if attribute == "dark_views" else 0)
    np.testing.assert_array_equal(others, np.delete(bad, places, axis=1 if attribute == "dark_views" else 0))


@pytest.mark.parametrize("photons", [1e3, 1e5])
@pytest.mark.parametrize("name", ["disc", "rods", "phantom"])
def test_zingers_are_found_and_repaired(name: str, photons: float) -> None:
    """Of 20 saturated counts at random places nearly all are found, and nothing else; two side by side, too."""
    y = sinogram(OBJECTS[name]())
    counts = noisy(y, photons)
    clean = integrals(counts, photons)
    rng = np.random.default_rng(1)
    places = {(0, int(d), int(v)) for d, v in zip(rng.integers(0, SIDE, 18), rng.integers(0, VIEWS, 18), strict=True)}
    places |= {(0, 50, 44), (0, 51, 44)}
    for _, detector, view in places:
        counts[detector, view] = 2 * photons
    bad = integrals(counts, photons)
    defects = find_defects(bad)
    assert set(defects.zingers) <= places and len(defects.zingers) >= 0.9 * len(places)
    assert not defects.stuck + defects.drifted + defects.dark_views
    assert "zingers; detector, view" in defects.sentences[0] and str(defects.zingers[0][1:]) in defects.sentences[0]
    mended = repair(bad, defects)
    error, before, least = (float(np.linalg.norm(z - y)) for z in (mended, bad, clean))
    assert error < least + 0.4 * (before - least)
    places_found = np.zeros(bad.shape, dtype=bool)
    for _, detector, view in defects.zingers:
        places_found[detector, view] = True
    np.testing.assert_array_equal(mended[~places_found], bad[~places_found])


def test_a_thin_gap_in_an_object_is_no_zinger() -> None:
    """It is in all views, where the step between them takes it."""
    image = disc(40)
    image[20, 48] = image[48, 75] = 0
    assert not find_defects(sinogram(50 * image, views=36)).zingers
    plates = np.zeros((SIDE, SIDE))
    plates[30:66, [k for k in range(30, 66) if k % 8 < 3]] = 1
    assert not find_defects(sinogram(plates)).zingers


@pytest.mark.parametrize("photons", [0, 1e4])
@pytest.mark.parametrize(
    ("detectors", "views"),
    [(range(40, 44), ()), (range(40, 50), ()), ((0,), ()), ((SIDE - 2, SIDE - 1), ()),
     ((), (0,)), ((), (VIEWS - 2, VIEWS - 1)), ((), (30, 31)), ((), (30, 31, 32))],
)  # fmt: skip
def test_groups_and_those_at_the_ends(photons: float, detectors: range, views: tuple[int, ...]) -> None:
    clean = noisy(sinogram(OBJECTS["rods"]()), photons)
    counts = clean.copy()
    counts[list(detectors)] = 1
    counts[:, list(views)] *= 0.02
    y = integrals(counts, photons)
    found = find_defects(y)
    assert found.stuck == [(0, d) for d in detectors] and found.dark_views == [(0, v) for v in views], found
    error = np.abs(repair(y, found) - integrals(clean, photons)).mean(1 if len(detectors) else 0)
    assert error[list(detectors or views)].max() < 0.25  # of line integrals up to 2


def test_air_between_two_parts_is_not_stuck() -> None:
    """Over a short arc, without noise: detectors between them measure nothing in all views."""
    image = disc(6, 0, -25) + disc(6, 0, 20) * np.linspace(1, 2, SIDE)
    physics = Tomography((SIDE, SIDE), np.arange(40) * 0.5 - 10, SIDE)
    assert not find_defects(physics.A(torch.from_numpy(image)[None, None])[0, 0].numpy())


def test_air_at_one_end_of_a_truncated_scan_is_not_stuck() -> None:
    physics = Tomography((SIDE, SIDE), np.arange(0, 360, 4.0), 62, centre=24.0)
    assert not find_defects(physics.A(torch.from_numpy(disc(42, 1, 2))[None, None])[0, 0].numpy())


def test_defects_of_several_rows() -> None:
    """Each row of a detector has its own; they are found before detectors are averaged."""
    y = np.stack([sinogram(OBJECTS[name]()) for name in ("disc", "rods")])
    counts = noisy(y, 1e5).transpose(2, 0, 1)
    counts[:, 1, 30] = 0
    flat, dark = np.full((3, 2, SIDE), 1e5), np.zeros((3, 2, SIDE))
    with pytest.warns(UserWarning, match="no photons"):
        found, defects = sinograms_and_defects(counts, flat, dark, 4)
    assert defects.stuck == [(1, 30)] and "30 of row 1" in defects.sentences[0]
    with pytest.warns(UserWarning, match="no photons"):
        mended, _ = sinograms_and_defects(counts, flat, dark, 4, with_repair=True)
    good = y.reshape(2, SIDE // 4, 4, VIEWS).mean(2)
    assert np.linalg.norm(mended - good) < 0.005 * np.linalg.norm(good) < np.linalg.norm(found - good)


def test_the_defects_of_a_row_leave_the_other_rows_as_they_are() -> None:
    y = np.random.default_rng(0).random((2, 12, 40))
    repaired = repair(y, Defects(stuck=[(1, 3)], drifted=[(1, 7)], dark_views=[(1, 5)], zingers=[(1, 9, 20)]))
    np.testing.assert_array_equal(repaired[0], y[0])
    np.testing.assert_array_equal(repaired[1][[0, 1, 2]][:, [0, 1]], y[1][[0, 1, 2]][:, [0, 1]])
    assert not any(np.array_equal(repaired[1][row], y[1][row]) for row in (3, 7))
    assert np.flatnonzero(repaired[1][9] != y[1][9]).tolist() == [5, 20]


def test_few_views_tell_nothing_of_detectors() -> None:
    y = sinogram(OBJECTS["rods"](), views=30)
    y[40] = 1.0
    assert not find_defects(y)
    assert not find_defects(np.ones((4, 5))) and not find_defects(np.zeros((30, 40)))
    for wrong in (np.zeros(5), np.full((20, 20), np.nan), np.zeros((20, 20), complex), np.zeros((0, 20))):
        with pytest.raises(InputError):
            find_defects(wrong)


def test_stripes_are_removed_as_by_sorting() -> None:
    """A stripe that is partial too, and nothing of a sinogram whose detectors see the same values."""
    rng = np.random.default_rng(0)
    y = np.sort(rng.random(VIEWS))[None].repeat(40, 0)
    y = np.stack([rng.permutation(row) for row in y])
    np.testing.assert_array_equal(without_stripes(y), y)
    striped = y.copy()
    striped[20] += 0.3
    np.testing.assert_allclose(without_stripes(striped), y, atol=1e-12)


def test_real_scans(shared_data: Path) -> None:
    """Good detectors have next to nothing; the changes that are put in are found."""
    pytest.importorskip("h5py")
    counts, flat, dark, _ = read_scan(str(shared_data / "tooth.h5"))
    defects = find_defects(sinograms_of_counts(counts, flat, dark))
    assert not defects.stuck and not defects.dark_views and len(defects.drifted) < 0.01 * 2 * 640
    counts = counts.copy()
    counts[:, 0, 300] = 500
    counts[:, 1, 200] *= 0.9
    counts[77] = dark.mean(0)
    y, defects = sinograms_and_defects(counts, flat, dark, with_repair=True)
    assert (0, 300) in defects.stuck and (1, 200) in defects.drifted and {(0, 77), (1, 77)} <= set(defects.dark_views)
    truth = sinograms_of_counts(*read_scan(str(shared_data / "tooth.h5"))[:3])
    assert np.linalg.norm(y - truth) < 0.02 * np.linalg.norm(truth)
    for path in sorted((shared_data / "HTC2022").glob("*_full.mat")):
        scan = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["CtDataFull"]
        assert not find_defects(np.asarray(scan.sinogram).T), path
