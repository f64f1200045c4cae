"""Operators whose answers are known from theory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Operator:
    """An operator by its function."""

    def __init__(self, A: Callable[[Tensor], Tensor]) -> None:
        self.A = A


def frequencies(n: int) -> tuple[Tensor, Tensor]:
    f = torch.fft.fftfreq(n) * n
    return f[:, None].expand(n, n), f[None, :].expand(n, n)


def fourier(mask: Tensor) -> Operator:
    return Operator(lambda x: torch.fft.fft2(x, norm="ortho") * mask)


def convolution(response: Tensor) -> Operator:
    return Operator(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * response).real)


def bayer(n: int) -> Operator:
    """A colour mosaic: of every 2 x 2 pixels one is red, two are green and one is blue."""
    mask = torch.zeros(3, n, n)
    mask[0, ::2, ::2] = mask[1, ::2, 1::2] = mask[1, 1::2, ::2] = mask[2, 1::2, 1::2] = 1
    return Operator(lambda x: (x * mask).sum(1, keepdim=True))


def disc(n: int, radius: float) -> Operator:
    """The ideal low-pass filter up to ``radius`` cycles a pixel."""
    return convolution((torch.hypot(*frequencies(n)) <= radius * n).float())


def blur(n: int, sigma: float, across: float) -> Operator:
    """A Gaussian blur of ``sigma`` pixels down the columns and ``across`` pixels along the rows."""
    row, column = frequencies(n)
    return convolution(torch.exp(-2 * (torch.pi / n) ** 2 * ((row * sigma) ** 2 + (column * across) ** 2)))
