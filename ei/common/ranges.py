"""Which values an image has."""

from __future__ import annotations


def is_unit_range(least: float, largest: float) -> bool:
    """Whether values from ``least`` to ``largest`` are those of images in [0, 1]: nothing below 0, and the brightest
    between 1/2 and 1, to a hundredth."""
    return least >= -0.01 and 0.5 <= largest <= 1.01
