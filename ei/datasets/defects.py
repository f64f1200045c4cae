"""Defects of a detector in counts or sinograms: detectors that are stuck or have drifted, views without beam, and
zingers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from scipy.ndimage import median_filter, minimum_filter1d

from ei.errors import InputError

Places = list[tuple[int, ...]]

# A detector is stuck if it changes from view to view less than this part of what its neighbours do.
STUCK = 0.05
# A stripe stands out by this many times the slope beside it (1.2 is the edge of a tube about the rotation axis), and by
# this many standard errors over the views.
SHARP, SIGNIFICANT = 2.0, 6.0
# Of the range of the sinogram: smaller stripes are left, as are views whose mean differs less from those beside it.
STRIPE, DARK_VIEW = 0.01, 0.1
# A zinger lies below the rest by this part of the range, and by this many standard deviations of the noise.
ZINGER, BEYOND_NOISE = 0.1, 8.0
WIDEST = 3  # stripes, in detectors; dark views
WIDEST_STUCK = 16  # groups of stuck detectors
# Values that differ by less than this part of the range are equal. Without so much noise, nothing shows that a
# detector is stuck for being constant alone: a round object is alike in all views.
EQUAL, LEAST_CHANGE = 0.01, 1e-4
FEWEST_VIEWS = 32


@dataclass(frozen=True)
class Defects:
    """The defects of sinograms ``[n, D, V]``, each list of (row, detector), (row, view) or (row, detector, view).

    Attributes:
        stuck: detectors whose value does not change: dead, hot, or saturated in all views.
        drifted: detectors whose sensitivity is not that of the flats: stripes in the sinogram, rings in the image.
        dark_views: views without beam, or with less than the others.
        zingers: single counts far above the others, as of cosmic rays.
    """

    stuck: Places = field(default_factory=list)
    drifted: Places = field(default_factory=list)
    dark_views: Places = field(default_factory=list)
    zingers: Places = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(self.lists)

    @property
    def lists(self) -> list[Places]:
        """Those of every kind."""
        return [getattr(self, kind.name) for kind in fields(self)]

    @classmethod
    def joined(cls, parts: Sequence[Defects]) -> Defects:
        """Those of several parts of a scan together."""
        of_kinds = zip(*(part.lists for part in parts), strict=True)
        return cls(*([place for places in lists for place in places] for lists in of_kinds))

    def behind(self, rows: int) -> Defects:
        """The same, so many rows further on."""
        return Defects(*([(row + rows, *place) for row, *place in places] for places in self.lists))

    @property
    def sentences(self) -> list[str]:
        """What is wrong, and where."""
        kinds = (
            ("detectors are stuck (their value does not change)", self.stuck),
            ("detectors have drifted since the flats (stripes in the sinogram)", self.drifted),
            ("views have no beam, or another one", self.dark_views),
            ("single counts are far above the others (zingers; detector, view)", self.zingers),
        )
        return [f"{len(places)} {what}: {_listed(places)}" for what, places in kinds if places]


def find_defects(y: np.ndarray, stripe: float = STRIPE) -> Defects:
    """The defects of counts or line integrals ``[D, V]`` or ``[n, D, V]``, the n rows of a detector. Smaller stripes
    than the part ``stripe`` of the range are none.

    Up to 16 stuck detectors side by side are found, up to three drifted ones and three dark views; at the ends two
    stuck detectors and two dark views, but no drifted detectors. A feature of one to three detectors exactly on the
    rotation axis looks like a drifted detector. With fewer than 32 views no defects of detectors are found. Zingers are
    found in line integrals, not in counts; gratings of one pixel can look like some.

    Raises:
        InputError: for another shape, or values that are not finite.
    """
    y = _rows(y)
    stuck: Places = []
    drifted: Places = []
    dark_views: Places = []
    zingers: Places = []
    for row, sinogram in enumerate(y):
        dark = sorted({*_stripes(sinogram.T, WIDEST, DARK_VIEW), *_at_ends(sinogram.T, DARK_VIEW)})
        dark_views += [(row, int(view)) for view in dark]
        views = np.setdiff1d(np.arange(sinogram.shape[1]), dark)
        lit = sinogram[:, views]
        if len(views) < FEWEST_VIEWS:
            continue
        constant = _constant(lit)
        stuck += [(row, int(detector)) for detector in constant]
        lit = _interpolated(lit, constant)
        flashes = _flashes(lit)
        zingers += [(row, int(detector), int(views[view])) for detector, view in np.argwhere(flashes)]
        stripes = _stripes(_without_flashes(lit, flashes), WIDEST, stripe)
        drifted += [(row, int(detector)) for detector in stripes if detector not in constant]
    return Defects(stuck, drifted, dark_views, zingers)


def repair(y: np.ndarray, defects: Defects) -> np.ndarray:
    """Sinograms of the same shape and type, with zingers, dark views and stuck detectors interpolated from what is
    beside them, and the stripes of drifted detectors removed (`without_stripes`)."""
    rows = np.array(_rows(y))
    flashes = np.zeros(rows.shape, dtype=bool)
    flashes[tuple(np.array(defects.zingers, dtype=int).reshape(-1, 3).T)] = True
    for row in range(len(rows)):
        dark, stuck, drifted = (
            [place[1] for place in places if place[0] == row]
            for places in (defects.dark_views, defects.stuck, defects.drifted)
        )
        rows[row] = _interpolated(_interpolated(rows[row].T, dark).T, stuck)
        rows[row] = _without_flashes(rows[row], flashes[row])
        if drifted:
            rows[row][drifted] = without_stripes(rows[row])[drifted]
    return rows.reshape(y.shape).astype(y.dtype)


def without_stripes(y: np.ndarray, size: int = 21) -> np.ndarray:
    """A sinogram ``[D, V]`` without stripes. The values of each detector are sorted, smoothed over ``size`` detectors
    by a median, and put back in their order (Vo, Atwood & Drakopoulos, "Superior techniques for eliminating ring
    artifacts in X-ray micro-tomography", Optics Express 26, 2018, algorithm 3)."""
    order = np.argsort(y, axis=1, kind="stable")
    smooth = median_filter(np.take_along_axis(y, order, axis=1), (min(size, len(y)), 1))
    result = np.empty_like(y)
    np.put_along_axis(result, order, smooth, axis=1)
    return result


def _rows(y: np.ndarray) -> np.ndarray:
    array = np.asarray(y)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise InputError(f"sinograms must be real, of shape [D, V] or [n, D, V], got {array.dtype} {list(array.shape)}")
    if not np.isfinite(array).all():
        raise InputError(f"sinograms have {np.count_nonzero(~np.isfinite(array))} values that are not finite")
    return (array[None] if array.ndim == 2 else array).astype(np.float64)


def _constant(y: np.ndarray) -> list[int]:
    """Detectors that hardly change from view to view, while up to three on either side do; and those of wider groups or
    at the ends that do not change at all, if they do not measure what the detector's ends do, air."""
    # Not the median: behind a round object small parts pass a detector in less than half of the views.
    change = np.abs(np.diff(y, axis=1)).mean(1)
    low, high = np.percentile(y, (1, 99))
    groups = _groups(np.flatnonzero(change <= 1e-9 * change.max()), y[:, 0], EQUAL * (high - low))
    wide = [group for group in groups if len(group) > WIDEST or group[0] == 0 or group[-1] == len(y) - 1]
    border = max(5, round(0.04 * len(y)))
    ends = np.array([np.median(y[:border]), np.median(y[-border:])])  # one of them may be inside the object
    is_noisy = change.max() > LEAST_CHANGE * (high - low)
    stuck = {
        detector
        for group in wide
        if is_noisy and len(group) <= WIDEST_STUCK and abs(y[group[0], 0] - ends).min() > EQUAL * (high - low)
        for detector in group
    }
    others = np.setdiff1d(np.arange(len(y)), sorted(stuck))
    change = change[others]
    for place, detector in enumerate(others):
        before, behind = change[max(0, place - 3) : place], change[place + 1 : place + 4]
        if change[place] < STUCK * min(before.max(initial=0), behind.max(initial=0)):
            stuck.add(int(detector))
    return sorted(stuck)


def _groups(places: np.ndarray, values: np.ndarray, equal: float) -> list[list[int]]:
    """Ascending ``places`` in groups side by side whose values differ by no more than ``equal``."""
    is_new = (np.diff(places) > 1) | (np.abs(np.diff(values[places])) > equal)
    return [group.tolist() for group in np.split(places, np.flatnonzero(is_new) + 1) if len(group)]


def _flashes(y: np.ndarray) -> np.ndarray:
    """Where line integrals ``[D, V]`` are far below all that the views before and behind measure nearby. Nearby is as
    far as anything in the object moves between two views of a full turn. A gap in an object is in several views."""
    low, high = np.percentile(y, (1, 99))
    reach = int(np.ceil(np.pi * y.shape[0] / y.shape[1])) + 1
    nearby = np.pad(minimum_filter1d(y, 2 * reach + 1, axis=0), ((0, 0), (1, 1)), mode="reflect")
    floor = np.minimum(nearby[:, :-2], nearby[:, 2:])
    # Whatever is near the ends may come from beyond them: there the floor is that of the whole sinogram.
    inside = np.zeros(y.shape, dtype=bool)
    inside[reach:-reach, 1:-1] = True
    floor = np.where(inside, floor, np.minimum(floor, low))
    rough = np.abs(y - median_filter(y, (3, 1)))
    noise = 3 * np.maximum(np.median(rough, axis=1)[:, None], np.median(rough, axis=0)[None])
    return y < floor - np.maximum(ZINGER * (high - low), BEYOND_NOISE * noise)


def _without_flashes(y: np.ndarray, flashes: np.ndarray) -> np.ndarray:
    """``y`` ``[D, V]`` with these values interpolated from the other detectors of their view."""
    y = y.copy()
    for view in np.flatnonzero(flashes.any(0)):
        y[:, view] = _interpolated(y[:, view, None], np.flatnonzero(flashes[:, view]).tolist())[:, 0]
    return y


def _stripes(y: np.ndarray, widest: int, least: float) -> list[int]:
    """The lines of ``y`` ``[lines, values]`` that stand out, in groups of up to ``widest``, from two lines on either
    side. They differ by more than these do from each other, and by the same amount in most values."""
    low, high = np.percentile(y, (1, 99))
    stripes: set[int] = set()
    for width in range(1, widest + 1):
        count = len(y) - width - 3
        if count < 1:
            break
        before, left, right, behind = (y[first : first + count] for first in (0, 1, width + 2, width + 3))
        inside = np.stack([y[2 + k : 2 + k + count] for k in range(width)]).mean(0)
        height = inside - (left + right) / 2
        slope = np.maximum(abs((left - before).mean(1)), abs((behind - right).mean(1)))
        beside = np.maximum(SHARP * slope, abs((left - right).mean(1)))
        error = height.std(1) / y.shape[1] ** 0.5
        limit = np.maximum(beside, SIGNIFICANT * error).clip(min=least * (high - low))
        for first in np.flatnonzero(abs(height.mean(1)) > limit) + 2:
            group = set(range(first, first + width))
            stripes |= set() if stripes & group else group  # of some, a narrower one is the reason
    return sorted(stripes)


def _at_ends(y: np.ndarray, least: float) -> list[int]:
    """As `_stripes`, the first and last one or two lines, which are compared with the two beside them."""
    low, high = np.percentile(y, (1, 99))
    found: list[int] = []
    for ordered, numbers in ((y, np.arange(len(y))), (y[::-1], np.arange(len(y))[::-1])):
        for width in (1, 2) if len(y) >= 2 * WIDEST else ():
            height = ordered[:width].mean(0) - ordered[width]
            slope = abs((ordered[width] - ordered[width + 1]).mean())
            error = height.std() / y.shape[1] ** 0.5
            if abs(height.mean()) > max(SHARP * slope, SIGNIFICANT * error, least * (high - low)):
                found += numbers[:width].tolist()
                break
    return found


def _interpolated(y: np.ndarray, bad: Sequence[int]) -> np.ndarray:
    """``y`` ``[lines, values]`` with the ``bad`` lines interpolated linearly from the others."""
    good = np.setdiff1d(np.arange(len(y)), bad)
    if len(good) in (0, len(y)):
        return y
    places = np.interp(np.arange(len(y)), good, np.arange(len(good)))
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, len(good) - 1)
    part = (places - below)[:, None]
    return np.where(part == 0, y[good][below], (1 - part) * y[good][below] + part * y[good][above])


def _listed(places: Places) -> str:
    several = any(row for row, *_ in places)
    texts = [str(place[0]) if len(place) == 1 else str(tuple(place)) for _, *place in places]
    names = [f"{text} of row {row}" if several else text for text, (row, *_) in zip(texts, places, strict=True)]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
