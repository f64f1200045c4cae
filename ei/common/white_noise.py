"""The level of white noise in smooth values."""

from __future__ import annotations

import numpy as np


def white_noise(values: np.ndarray) -> float:
    """The standard deviation of the white noise in values that are smooth along their first axis, from how each differs
    from the mean of its neighbours (the median, for normal noise); 0 for fewer than three.

    >>> white_noise(np.array([0.0, 1.0, 2.0, 3.0]))
    0.0
    """
    bends = np.abs(values[:-2] - 2 * values[1:-1] + values[2:]) if len(values) > 2 else np.zeros(1)
    return float(np.median(bends)) / 0.6745 / 6**0.5
