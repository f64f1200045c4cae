"""Circular shifts."""

from __future__ import annotations

import torch

from ei.transforms import Shift, Shift1D


def test_signals_shift_without_an_image_axis() -> None:
    x = torch.rand(2, 1, 9)
    assert torch.equal(Shift1D(1).apply(x, [4]), x.roll(4, -1))


def test_shift_is_a_circular_roll_transform_major() -> None:
    x = torch.rand(2, 3, 5, 7)
    elements = torch.tensor([[1, -2], [3, 6]])
    out = Shift(2).apply(x, elements)
    assert out.shape == (4, 3, 5, 7)
    assert torch.equal(out[:2], torch.roll(x, (1, -2), (2, 3)))
    assert torch.equal(out[2:], torch.roll(x, (3, 6), (2, 3)))


def test_what_shift_draws() -> None:
    x = torch.empty(1, 1, 6, 9)
    drawn = torch.stack([Shift(5).sample(x) for _ in range(300)])
    assert drawn.shape == (300, 5, 2)
    assert set(drawn[..., 0].flatten().tolist()) == {i for i in range(-5, 6) if i}
    assert set(drawn[..., 1].flatten().tolist()) == {i for i in range(-8, 9) if i}
    assert all(len(set(sample[:, axis].tolist())) == 5 for sample in drawn for axis in (0, 1))
    limited = torch.stack([Shift(2, max_offset=3).sample(x) for _ in range(100)])
    assert set(limited.flatten().tolist()) == {-2, -1, 1, 2}
    assert int(Shift(2, max_offset=100).sample(x)[:, 0].abs().max()) <= 5
