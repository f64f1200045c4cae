"""Lay out data: the paper's from what can be fetched by hand (the README says from where), and measured scans.

    {prog} ct100 --dicom CT100_dicom.zip            writes dataset/CT/CT100_128x128.mat
    {prog} urban100 --source Urban100.zip           writes dataset/Urban100/train/... and test/...
    {prog} sinogram --counts counts.npy --flat flat.npy --dark dark.npy --angles angles.txt --bin 2 --out y.npz
                                                    a parallel scan of yours: y.npz, and its geometry y.yaml
    {prog} kspace --source kspace.npy --out y.npz    MRI of yours: k-space y.npz, its mask, coil maps, and y.yaml
    {prog} noise --flat flat.npy --dark dark.npy    gain and read-out noise of a detector, as --noise takes them

ct100 and urban100 take a folder or a ZIP file. CT100 needs the extra ``dicom``. Its recipe is reconstructed: it gives
the paper's FBP figures, not the authors' bytes. Where the rotation axis falls on the detector is found and written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ei.commands.settings import parser_of
from ei.common.arrays import read_array
from ei.datasets.flats import detector_noise
from ei.datasets.kspace import prepare_kspace, read_kspace
from ei.datasets.paper_data import prepare_ct100, prepare_urban100
from ei.datasets.scans import prepare_scan, sinograms_of_counts
from ei.errors import InputError
from ei.evaluation import check_sinogram
from ei.physics import Tomography


def main(arguments: Sequence[str], prog: str = "ei prepare") -> None:
    parser = parser_of("prepare", prog, (__doc__ or "").format(prog=prog))
    parser.add_argument("what", choices=tuple(WHAT))
    given = vars(parser.parse(arguments))
    function, needed = WHAT[given["what"]]
    for option in needed:
        if option not in given:
            raise InputError(f"{given['what']} needs --{option}; --help has examples")
    function(given)


def _ct100(given: Mapping[str, Any]) -> None:
    out = Path(given.get("out", "dataset/CT/CT100_128x128.mat"))
    value = prepare_ct100(Path(given["dicom"]), out)
    print(f"{out}: 100 slices; FBP of 50 views on the 10 test slices: {value:.2f} dB (the paper's: 30.24)")


def _urban100(given: Mapping[str, Any]) -> None:
    out = Path(given.get("out", "dataset/Urban100"))
    prepare_urban100(Path(given["source"]), out)
    print(f"{out}: 90 training and 10 test images, each of which opens")


def _sinogram(given: Mapping[str, Any]) -> None:
    arrays = [read_array(given[name]) for name in ("counts", "flat", "dark", "angles")]
    _write_scan(arrays, given.get("bin", 1), Path(given["out"]))


def _noise(given: Mapping[str, Any]) -> None:
    each = given.get("bin", 1)
    found = detector_noise(read_array(given["flat"]), read_array(given["dark"]), each)
    what = f"a bin of {each} detectors, averaged" if each > 1 else "a pixel"
    print(f"gain                   {found.gain:.4g} +- {found.gain_error:.1g} counts a photon, of {what}")
    print(f"read-out noise         {found.sigma:.4g} counts (standard deviation)")
    print(f"without an object      {found.photons:.4g} photons; brightness varies by {found.drift:.2%} between flats")
    print(f"of counts above dark   --noise {found.of_counts}")
    print(f"of line integrals      --noise {found.of_line_integrals}")


def _kspace(given: Mapping[str, Any]) -> None:
    out = Path(given["out"])
    y, mask, used = prepare_kspace(read_kspace(given["source"]), out)
    what = "columns" if mask.dim() == 1 else "points"
    print(f"{out}: y {list(y.shape)}; {int(mask.sum())} of {mask.numel()} {what} are measured")
    if used is None:
        print(f"{out.with_suffix('.yaml')}: the operator, of one coil")
    else:
        print(f"{out.with_suffix('.yaml')}: the operator; coil maps from the middle {used[0]} x {used[1]} of k-space" +
              (f", of all {len(y)} images together, which must be of one slice" if len(y) > 1 else ""))  # fmt: skip


def _write_scan(arrays: list[np.ndarray], each: int, out: Path) -> tuple[dict[str, Any], np.ndarray]:
    counts, flat, dark, angles = arrays
    y = sinograms_of_counts(counts, flat, dark, each)
    angles = np.atleast_1d(angles)
    if angles.ndim != 1 or len(angles) != len(counts):
        raise InputError(f"there are {angles.size} angles, and counts of {len(counts)} views")
    out.parent.mkdir(parents=True, exist_ok=True)
    side = y.shape[-2]
    measured = torch.from_numpy(y)[:, None]
    found = check_sinogram(Tomography((side, side), angles, side), measured)
    geometry = prepare_scan(out, y, angles.tolist(), found.centre)
    print(f"{out}: y {list(y.shape)}, angles [{len(angles)}]; {out.with_suffix('.yaml')}: the geometry")
    print(check_sinogram(Tomography(**geometry, angles=angles), measured))
    return geometry, y


WHAT: dict[str, tuple[Any, tuple[str, ...]]] = {
    "ct100": (_ct100, ("dicom",)),
    "urban100": (_urban100, ("source",)),
    "sinogram": (_sinogram, ("counts", "flat", "dark", "angles", "out")),
    "noise": (_noise, ("flat", "dark")),
    "kspace": (_kspace, ("source", "out")),
}
