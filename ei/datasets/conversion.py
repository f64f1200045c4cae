"""Counts of a large detector to sinograms in a file, row by row, with the memory of a few slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ei.common.files import identity_of
from ei.common.unfinished import UnfinishedArray
from ei.datasets.defects import Defects, find_defects, repair
from ei.datasets.scans import ScanFiles, bin_detectors
from ei.errors import InputError

OUTPUTS = (".npz", ".npy", ".h5", ".hdf5")
MEMORY = 2**27  # bytes that the counts of a part take as float64, with what is computed from them; at least one row
COPIES = 8  # of the counts of a part, while it is computed


class Conversion:
    """Sinograms ``[D/n, V]`` of the rows of a detector. What depends on all rows is found first, so that they do not
    depend on how many are computed at once.

    Args:
        scan: the counts.
        n: detectors in a bin, which are averaged.
        with_repair: whether defects are repaired (`ei.datasets.defects`); they are found row by row.
        memory: bytes to work with.

    Attributes:
        rows, detectors: the number of rows, and of bins.
        defects: those found by `write`.

    Raises:
        InputError: for counts that are not finite or mostly without photons, or fewer detectors than ``n``.

    >>> conversion = Conversion(ScanFiles("scan.h5"), n=2)  # doctest: +SKIP
    >>> conversion.write(Path("y.h5"), {})  # doctest: +SKIP
    """

    def __init__(self, scan: ScanFiles, n: int = 1, with_repair: bool = False, memory: int = MEMORY) -> None:
        self.scan = scan
        self.n = n
        self.with_repair = with_repair
        views, self.rows, detectors = scan.shape
        self.detectors = len(bin_detectors(np.zeros(detectors), n, 0))
        self.defects = Defects([], [], [])
        self._rows_at_once = max(1, memory // (8 * COPIES * views * detectors))
        self._least = scan.light(max(1, memory // (8 * COPIES * self.rows * detectors))).least

    def sinograms(self, start: int, stop: int) -> tuple[np.ndarray, Defects]:
        """Those of some rows, ``[stop - start, D/n, V]``, float32, and the defects in them."""
        y = self.scan.integrals(start, stop, self._least)
        found = find_defects(y)
        y = repair(y, found) if self.with_repair else y
        lists = (found.stuck, found.drifted, found.dark_views)
        found = Defects(*([(start + row, place) for row, place in places] for places in lists))
        return bin_detectors(y, self.n, axis=-2).astype(np.float32), found

    def sinogram(self, row: int) -> np.ndarray:
        """That of one row, ``[D/n, V]``."""
        return self.sinograms(row, row + 1)[0][0]

    def write(self, out: Path, call: Mapping[str, Any]) -> None:
        """Write all sinograms ``[rows, D/n, V]`` to a file, which appears when it is complete. What an interrupted call
        has written is kept beside it, and the same call continues there (`ei.common.unfinished`, also for the errors).

        Args:
            out: ends in ``.npz`` (y, angles), ``.npy``, ``.h5`` or ``.hdf5`` (y).
            call: plain values that identify the call.
        """
        check_output(out)
        beside = {"angles": np.asarray(self.scan.angles, dtype=np.float64)}
        call = {**call, "time or size of the scan": identity_of(self.scan.paths)}
        with UnfinishedArray(out, self.rows, call, "y", beside, "sinograms") as array:
            if array.is_begun:
                print(f"continuing {array.unfinished}: {array.written} of {self.rows} sinograms are there")
            else:
                array.begin((self.detectors, len(self.scan.angles)), np.float32)
            left = array.share()
            with tqdm(total=self.rows, initial=self.rows - len(left), unit="row", delay=1) as bar:
                for place in range(0, len(left), self._rows_at_once):
                    block = left[place : place + self._rows_at_once]  # neighbours: rows are written in their order
                    y, found = self.sinograms(block[0], block[-1] + 1)
                    array.write(block, y)
                    for name in ("stuck", "drifted", "dark_views"):
                        getattr(self.defects, name).extend(getattr(found, name))
                    bar.update(len(block))
            array.complete()


def check_output(out: Path) -> None:
    """Raise `InputError` unless sinograms can be written to a file of this ending."""
    if out.suffix.lower() not in OUTPUTS or out.is_dir():
        raise InputError(f"--out must be a file that ends in {', '.join(OUTPUTS)}, got {out}")
