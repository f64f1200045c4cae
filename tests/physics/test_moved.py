"""Moved operators: ``A.moved(g) x`` is ``A T_g^-1 x``; their adjoints, their matrices, what cannot be moved."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from makers import scan_of
from torch import Tensor

import ei.physics.ct
from ei.errors import InputError
from ei.physics import CT, MRI, Inpainting, Tomography
from ei.physics.base import move_physics
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Shift, Shift1D, Turn

SCANNERS = {
    "CT": CT(8, 6),
    "CT, 1 degree a view": CT(8, 5, uniform=False),
    "parallel": Tomography((8, 8), range(0, 180, 25), 11, centre=0.7),
    "fan": Tomography((8, 8), range(0, 360, 40), 14, source_origin=20, origin_detector=5),
    "curved": Tomography((8, 8), range(0, 360, 40), 14, source_origin=20, origin_detector=5, detector="curved"),
    "two scans": Tomography((8, 8), [range(0, 180, 30), range(10, 190, 30)], 12),
}
scanners = pytest.mark.parametrize("physics", SCANNERS.values(), ids=SCANNERS)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@scanners
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_scanner_turned_by_quarters_sees_the_image_turned_back(physics: Any, turns: int) -> None:
    x = images(2, 3, 8, 8)
    expected = physics.A(torch.rot90(x, -turns, dims=(-2, -1)))
    torch.testing.assert_close(physics.moved(90.0 * turns).A(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(physics.moved(torch.tensor(turns), Rotate90(1)).A(x), expected, rtol=1e-12, atol=1e-12)


@scanners
@pytest.mark.parametrize("degrees", [7.5, -100.25, 400])
def test_at_other_angles_it_does_so_to_interpolation(physics: Any, degrees: float) -> None:
    turned, group = _of_larger_images(physics), FourierRotate(1)
    x = _smooth(turned.image_shape[0])
    moved = turned.moved(torch.tensor(degrees), group).A(x)
    plain = turned.A(group.act(x, torch.tensor(-degrees)))
    assert float((moved - plain).norm() / plain.norm()) < 0.02
    wrong = turned.A(group.act(x, torch.tensor(degrees)))
    assert float((moved - wrong).norm() / plain.norm()) > 0.1


def _smooth(side: int) -> Tensor:
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    x, y = at[None, :], at[:, None]
    blob = torch.exp(-((x - 8) ** 2 + (y + 3) ** 2) / 30) + 0.5 * torch.exp(-((x + 5) ** 2 / 20 + (y - 9) ** 2 / 60))
    return blob.expand(2, 1, side, side)


def _of_larger_images(physics: Any) -> Any:
    """The same kind of scanner for images of 64 x 64, or of 62 x 62 for CT: its axis goes through the middle of images
    of even D - N alone."""
    if isinstance(physics, CT):
        return CT(62, physics.radon_view, physics.uniform)
    config = {**physics.config, "image_shape": (64, 64), "n_detectors": 8 * physics.n_detectors}
    if config["source_origin"] is not None:
        config |= {"source_origin": 160, "origin_detector": 40}
    return Tomography(**config)


@scanners
def test_adjoint_gradient_and_pseudo_inverse_of_a_moved_scanner(physics: Any) -> None:
    moved = physics.moved(33.3)
    x = images(2, 2, 8, 8).requires_grad_()
    y = torch.randn_like(moved.A(x))
    aty = moved.A_adjoint(y)
    assert float((moved.A(x) * y).sum().detach()) == pytest.approx(float((x * aty).sum().detach()), rel=1e-10)
    (gradient,) = torch.autograd.grad((moved.A(x) * y).sum(), x)
    torch.testing.assert_close(gradient, aty, rtol=1e-12, atol=1e-12)
    quarter = physics.moved(90)
    torch.testing.assert_close(
        quarter.A_dagger(y), torch.rot90(physics.A_dagger(y), 1, dims=(-2, -1)), rtol=1e-9, atol=1e-9
    )


def test_moving_adds_up_and_leaves_the_operator_alone() -> None:
    physics = CT(8, 6)
    x = images(1, 1, 8, 8)
    before = physics.A(x)
    torch.testing.assert_close(physics.moved(20).moved(15.5).A(x), physics.moved(35.5).A(x))
    assert physics.moved(0) is physics
    assert physics.moved(360) is physics
    assert torch.equal(physics.A(x), before)
    rebuilt = CT(**physics.moved(20).config)
    assert torch.equal(rebuilt.A(x), physics.moved(20).A(x))
    assert torch.equal(physics.moved(20).angles, physics.angles + 20)


def test_matrices_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = ei.physics.ct.radon_map

    def counted(*arguments: Any) -> Any:
        made.append(arguments[0].first_angle)
        return original(*arguments)

    monkeypatch.setattr(ei.physics.ct, "radon_map", counted)
    physics = CT(8, 6)
    x = images(1, 1, 8, 8)
    made.clear()
    for degrees in (10, 20, 10, 20, 10):
        physics.moved(degrees).A(x)
    assert made == [10, 20]
    one = physics.moved(10).projection(torch.device("cpu"), torch.float64).nbytes
    physics._moved_cache.most = int(2.5 * one)
    for degrees in (30, 10, 20):  # 20 was used longest ago when 30 came, and 10 is still there
        physics.moved(degrees).A(x)
    assert made == [10, 20, 30, 20]
    assert not copy.deepcopy(physics)._moved_cache


@pytest.mark.parametrize("shape", [(6, 6), (3, 1, 6, 6), (2, 3, 6, 6)], ids=str)
@pytest.mark.parametrize(
    ("transform", "element"),
    [
        (Shift(1), [2, -1]),
        (Rotate90(1), 3),
        (Reflect(1), [0, 1]),
        (Compose(Shift(1), Reflect(1)), [1.0, 4, 1, 1]),
    ],
)
def test_a_moved_mask(shape: tuple[int, ...], transform: Any, element: Any) -> None:
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4).float()
    physics = Inpainting(6, 6, mask=mask)
    x = images(physics.count * 2, 3, 6, 6)
    element = torch.tensor(element)
    moved = physics.moved(element, transform)
    torch.testing.assert_close(
        moved.A(transform.act(x, element)), transform.act(physics.A(x), element), rtol=1e-12, atol=1e-12
    )
    assert moved.count == physics.count
    assert not torch.equal(moved.mask, physics.mask)


def test_a_mask_reads_two_numbers_as_a_shift_and_one_as_quarter_turns() -> None:
    physics = Inpainting(6, 6)
    assert torch.equal(physics.moved([1, 2]).mask, physics.moved(torch.tensor([1, 2]), Shift(1)).mask)
    assert torch.equal(physics.moved(1).mask, physics.moved(torch.tensor(1), Rotate90(1)).mask)


def test_a_moved_mask_of_k_space_is_that_of_an_image_with_a_ramp_of_phases() -> None:
    mask = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1])
    physics = MRI(mask, height=4)
    image = torch.complex(*images(2, 1, 4, 8))
    ramp = torch.exp(2j * torch.pi * 3 * (torch.arange(8, dtype=torch.float64) - 4) / 8)
    to_parts = lambda z: torch.stack([z.real, z.imag], 1)  # noqa: E731
    expected = torch.roll(physics.A(to_parts(image / ramp)), 3, -1)
    for moved in (physics.moved(3), physics.moved(torch.tensor(3), Shift1D(1)), physics.moved([1, 3])):
        assert torch.equal(moved.mask, torch.roll(mask, 3))
        torch.testing.assert_close(moved.A(to_parts(image)), expected)
    points = MRI((torch.rand(4, 8) > 0.5).float())
    assert torch.equal(points.moved([1, 3]).mask, torch.roll(points.mask, (1, 3), (0, 1)))


class Own:
    """A user-defined operator with a method of its own."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def moved(self, element: Tensor) -> str:
        return f"moved by {int(element)}"


def test_a_user_defined_operator_is_moved_by_its_own_method() -> None:
    assert move_physics(Own(), torch.tensor(4), Rotate90(1)) == "moved by 4"


@pytest.mark.parametrize(
    ("physics", "element", "transform", "message"),
    [
        (CT(8, 6), torch.tensor([1, 2]), Shift(1), "CT is moved by rotations, in degrees .* of Shift"),
        (CT(8, 6), float("nan"), None, "CT is moved by rotations"),
        (CT(8, 6), "ten", None, "CT is moved by rotations"),
        (Inpainting(8, 8), torch.tensor(10), Rotate(1), "a mask is moved by what permutes pixels"),
        (Inpainting(8, 8), 1.5, None, "a shift .rows, columns. or a number of quarter turns, got 1.5"),
        (Inpainting(8, 6), 1, None, "quarter turns need a square mask"),
        (MRI(torch.ones(8)), torch.tensor(1), Rotate90(1), "MRI is moved by whole columns"),
        (MRI(torch.ones(8)), 0.5, None, "MRI is moved by whole columns"),
        (object(), 1, None, "object has no method moved"),
    ],
)
def test_what_cannot_be_moved(physics: Any, element: Any, transform: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        move_physics(physics, element, transform)


def test_turns_lie_evenly_in_the_full_turn_or_in_one_step() -> None:
    x = torch.zeros(2, 1, 8, 8)
    assert Turn(1).every(x).tolist() == [15 + 30 * k for k in range(12)]
    assert Turn(1, step=7.2, positions=2).every(x).tolist() == pytest.approx([1.8, 5.4])
    drawn = Turn(3, step=3.6).sample(x)
    assert drawn.shape == (3,)
    assert len(drawn.unique()) == 3
    assert bool(((drawn > 0) & (drawn < 3.6)).all())
    assert torch.equal(Turn(1).act(x + 1, torch.tensor(30.0)), Rotate(1).act(x + 1, torch.tensor(30.0)))
    for arguments in ({"step": 0}, {"step": 361}, {"positions": 0}, {"n_trans": 13}):
        with pytest.raises(InputError):
            Turn(**{"n_trans": 2, **arguments})


def test_scans_that_differ_warn_once_of_missing_views() -> None:
    physics = Tomography((9, 8), [range(0, 90, 10), range(45, 135, 10), range(0, 90, 10)], 13)
    y = torch.zeros(3, 1, 13, 9)
    with pytest.warns(UserWarning) as caught:
        physics.A_dagger(y)
        physics.of([1]).A_dagger(y)
        physics.of([1]).moved(10).A_dagger(y)
    assert [str(each.message)[:17] for each in caught] == ["views are missing"]


@pytest.mark.filterwarnings("ignore:views")
def test_scans_that_differ_measure_each_image_by_its_own_angles() -> None:
    angles = [[0, 30, 70, 120], [10, 20, 100, 150], [0, 30, 70, 120]]
    physics = Tomography((9, 8), angles, 13)
    each = [scan_of(physics, n) for n in range(3)]
    x = images(6, 2, 9, 8)  # three images under two transforms
    y = physics.A(x)
    for n, one in enumerate(each):
        assert torch.equal(y[n::3], one.A(x[n::3]))
        assert torch.equal(physics.A_adjoint(y)[n::3], one.A_adjoint(y[n::3]))
        assert torch.equal(physics.filter(y)[n::3], one.filter(y[n::3]))
        assert torch.equal(physics.A_dagger(y)[n::3], one.A_dagger(y[n::3]))
        assert torch.equal(physics.of([n]).A(x), one.A(x))
    assert torch.equal(physics.of([2, 1]).A(x[:2]), torch.cat([each[2].A(x[:1]), each[1].A(x[1:2])]))
    assert physics.of([0, 2]).count == 1  # one geometry
    assert physics.of([1]).selected_from is physics
    assert physics.of([1]).moved(5).selected_from is physics
    assert physics.count == 3
    assert torch.equal(Tomography(**physics.config).A(x), y)
    dot = float((y * y).sum())
    assert dot == pytest.approx(float((x * physics.A_adjoint(y)).sum()), rel=1e-10)
    kept = torch.ones(3, 1, 1, 4, dtype=torch.float64)
    kept[1, ..., 2:] = 0
    expected = each[1].A_dagger_of(y[1:2], kept[1:2])
    torch.testing.assert_close(physics.A_dagger_of(y[:3], kept)[1:2], expected)


def test_ragged_scans_need_batches_of_one_shape(tmp_path: Any) -> None:
    ragged = [[0, 30, 70, 120], [10, 20, 100]]
    physics = Tomography((9, 8), ragged, 13)
    assert physics.measurement_shapes == [(13, 4), (13, 3)]
    assert Tomography((9, 8), [ragged[0], ragged[0]], 13).measurement_shapes is None
    assert physics.of([1]).A(images(2, 1, 9, 8)).shape == (2, 1, 13, 3)
    for call in (lambda: physics.A(images(2, 1, 9, 8)), lambda: physics.of([0, 1])):
        with pytest.raises(InputError, match="the scans of a batch must have equal shapes, got scans of 3 and 4 views"):
            call()
    with pytest.raises(InputError, match="there is a scan for each of 2 images, indices 0 to 1, got index 2"):
        physics.of([2])
    with pytest.raises(InputError, match="batches must carry the indices"):
        physics.of(None)
    with pytest.raises(InputError, match="the angles of scan 1 must be finite"):
        Tomography((9, 8), [[0, 1], [float("inf")]], 13)
    with pytest.raises(InputError, match="the angles of scan 1 must be a list of at least one number"):
        Tomography((9, 8), [[0, 1], []], 13)
    with pytest.raises(
        InputError, match=r"angles must be a list, a file, or {start: a, step: b, count: n}, in degrees"
    ):
        Tomography((9, 8), {"start": 0, "stop": 180, "count": 9}, 13)
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path, angles in zip(paths, ragged, strict=True):
        np.save(path, angles)
    assert Tomography((9, 8), paths, 13).scans == physics.scans


def test_k_space_masks_of_each_image() -> None:
    mask = (torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(2)) > 0.4).float()
    maps = torch.complex(*images(2, 2, 6, 5))
    for physics, one in ((MRI(mask), lambda n: MRI(mask[n])), (MRI(mask, maps), lambda n: MRI(mask[n], maps))):
        x = images(6, 2, 6, 5)
        y = physics.A(x)
        assert physics.count == 3
        for n in range(3):
            assert torch.equal(y[n::3], one(n).A(x[n::3]))
            assert torch.equal(physics.of([n]).A(x), one(n).A(x))
        assert torch.equal(physics.of([2, 0]).A(x[:2])[1:], one(0).A(x[1:2]))
        assert float((y * y).sum()) == pytest.approx(float((x * physics.A_adjoint(y)).sum()), rel=1e-10)
    columns = MRI(torch.eye(5)[:3, None], height=6)
    assert columns.image_shape == (2, 6, 5)
    assert torch.equal(columns.of([1]).A(x), MRI(torch.eye(5)[1], height=6).A(x))
    with pytest.raises(InputError, match="measures nothing"):
        MRI(torch.stack([mask[0], torch.zeros(6, 5)]))
