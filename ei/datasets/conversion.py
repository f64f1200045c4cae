"""Counts of a large detector to sinograms in a file, row by row, with the memory of a few slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ei.common.files import identity_of
from ei.common.processes import Processes
from ei.common.unfinished import UnfinishedArray
from ei.datasets.defects import Defects
from ei.datasets.scans import ScanFiles, bin_detectors, finished_sinograms
from ei.errors import InputError

OUTPUTS = (".npz", ".npy", ".h5", ".hdf5")
MEMORY = 2**27  # bytes that the counts of a part take as float64, with what is computed from them; at least one row
COPIES = 8  # of the counts of a part, while it is computed


class Conversion:
    """Sinograms ``[D/n, V]`` of the rows of a detector. What depends on all rows is found first, so that they are equal
    to those of `ei.datasets.scans.sinograms_and_defects`, which computes all at once.

    Args:
        scan: the counts.
        n: detectors in a bin, which are averaged.
        with_repair: whether defects are repaired (`ei.datasets.defects`); they are found row by row.
        memory: bytes to work with.

    Attributes:
        rows: the number of rows.
        detectors: the number of bins.
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
        y, found = finished_sinograms(self.scan.integrals(start, stop, self._least), self.n, self.with_repair)
        lists = (found.stuck, found.drifted, found.dark_views)
        return y, Defects(*([(start + row, place) for row, place in places] for places in lists))

    def sinogram(self, row: int) -> np.ndarray:
        """That of one row, ``[D/n, V]``."""
        return self.sinograms(row, row + 1)[0][0]

    def write(self, out: Path, call: Mapping[str, Any]) -> None:
        """Write all sinograms ``[rows, D/n, V]`` to a file, which appears when it is complete. What an interrupted call
        has written is kept beside it, and the same call continues there (`ei.common.unfinished`). Processes that have
        joined (`ei.common.processes`) share the rows.

        Args:
            out: ends in ``.npz`` (y, angles), ``.npy``, ``.h5`` or ``.hdf5`` (y).
            call: plain values that identify the call.

        Raises:
            InputError: for another ending, or if what is kept is of another call.
            StorageError: if it cannot be written; what was written is kept.
        """
        check_output(out)
        beside = {"angles": np.asarray(self.scan.angles, dtype=np.float64)}
        call = {**call, "time or size of the scan": identity_of(self.scan.paths)}
        with UnfinishedArray(out, self.rows, call, "y", beside, "sinograms") as array:
            if array.is_begun:
                print(f"continuing {array.unfinished}: {array.written} of {self.rows} sinograms are there")
            elif array.processes.first:
                array.begin((self.detectors, len(self.scan.angles)), np.float32)
            left = array.share()
            is_first = array.processes.first
            with tqdm(total=len(left), unit="row", delay=1, disable=not is_first) as bar:
                for block in _blocks(left, self._rows_at_once):
                    y, found = self.sinograms(block.start, block.stop)
                    array.write(block, y)
                    for name in ("stuck", "drifted", "dark_views"):
                        getattr(self.defects, name).extend(getattr(found, name))
                    bar.update(len(block))
            self._gather_defects(array.processes)
            array.complete()

    def _gather_defects(self, processes: Processes) -> None:
        """Let each process have the defects that all of them found."""
        found = processes.gathered((self.defects.stuck, self.defects.drifted, self.defects.dark_views))
        self.defects = Defects(*([place for places in lists for place in places] for lists in zip(*found, strict=True)))


def check_output(out: Path) -> None:
    """Raise `InputError` unless sinograms can be written to a file of this ending."""
    if out.suffix.lower() not in OUTPUTS or out.is_dir():
        raise InputError(f"--out must be a file that ends in {', '.join(OUTPUTS)}, got {out}")


def _blocks(rows: Sequence[int], most: int) -> Iterator[range]:
    """Runs of up to ``most`` neighbouring rows."""
    place = 0
    while place < len(rows):
        length = 1
        while length < most and place + length < len(rows) and rows[place + length] == rows[place] + length:
            length += 1
        yield range(rows[place], rows[place] + length)
        place += length
