"""Shrinking."""

from __future__ import annotations

import torch

from ei.transforms import Scale


def test_scale_shrinks_and_keeps_constants() -> None:
    x = torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(Scale(1).apply(x), x)
    wave = torch.cos(torch.arange(64) * 2 * torch.pi * 4 / 64).expand(1, 1, 64, 64)
    spectrum = torch.fft.rfft(Scale(1, factors=[0.5]).apply(wave, [[0.5, 0, 0]]).mean(-2)[0, 0]).abs()
    assert int(spectrum.argmax()) == 8  # twice the frequency
