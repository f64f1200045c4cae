"""Lay out data: the paper's (docs/project/reproduce_the_paper.md has the sources), and measured scans.

    {prog} ct100 --dicom CT100_dicom.zip            writes dataset/CT/CT100_128x128.mat
    {prog} urban100 --source Urban100.zip           writes dataset/Urban100/train/... and test/...
    {prog} sinogram --counts counts.npy --flat flat.npy --dark dark.npy --angles angles.txt --bin 2 --out y.npz
                                                    a parallel scan: y.npz, and its geometry y.yaml
    torchrun --nproc_per_node=4 -m ei prepare sinogram ...   several processes share the rows
    {prog} sinogram --counts scan.h5 --out y.h5     one of Data Exchange or NeXus
    {prog} kspace --source kspace.npy --out y.npz   MRI: k-space y.npz, its mask, coil maps, and y.yaml
    {prog} noise --flat flat.npy --dark dark.npy    gain and read-out noise of a detector, as --noise takes them

ct100 and urban100 take a folder or a ZIP file. CT100 needs the extra ``dicom``. Its recipe is reconstructed: it gives
the paper's FBP figures, not the authors' bytes. Where the rotation axis falls on the detector is found in several rows;
the median of theirs is written, one value for all, and their spread is printed. Of a tilted detector the axis is a line
across the rows: --axis-per-slice fits it and shifts each row onto that of the middle. Sinograms are written row by row
with the memory of a few, to .npz, .npy or .h5; where the command is interrupted, the same command continues there.
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import theilslopes

from ei.commands.flags import path
from ei.commands.typed import Parser
from ei.common.arrays import read_array, split_name
from ei.common.checks import check_number, check_optional
from ei.common.files import check_not_read, writing
from ei.common.processes import launched, together
from ei.common.yaml_text import read_yaml
from ei.datasets.conversion import NAMES, Conversion, check_output
from ei.datasets.flats import detector_noise
from ei.datasets.kspace import KEYS as OF_KSPACE
from ei.datasets.kspace import prepare_kspace, read_kspace
from ei.datasets.paper_data import prepare_ct100, prepare_urban100
from ei.datasets.scans import parallel_geometry, write_geometry
from ei.diagnosis import check_sinogram
from ei.diagnosis.sinograms import most_varied
from ei.errors import InputError
from ei.physics import Tomography
from ei.physics.matrix_free import has_astra

INPUTS = ("counts", "flat", "dark", "angles", "source")
ROWS = 9  # in which the axis is searched
APART = 1.0  # bins: with axes farther apart one value for all blurs
FEWEST = 3  # rows that determine a line, and whether it is one


def parser(prog: str) -> Parser:
    made = Parser(prog=prog, description=(__doc__ or "").format(prog=prog))
    made.add_argument("what", choices=tuple(WHAT))
    made.add_argument("--dicom", type=path, metavar="PATH", help="ct100: the folder or ZIP of DICOM files")
    made.add_argument("--source", type=path, metavar="PATH",
                      help="urban100: the folder or ZIP of images; kspace: a complex array")  # fmt: skip
    made.add_argument("--counts", type=path, metavar="PATH", help="sinogram: counts [views, detectors] or [views, "
                      "rows, detectors] of the detector: .npy, .npz, .mat, .csv, or FILE.h5:NAME")  # fmt: skip
    made.add_argument("--flat", type=path, metavar="PATH", help="sinogram, noise: its counts without the object")
    made.add_argument("--dark", type=path, metavar="PATH", help="sinogram, noise: its counts without the beam")
    made.add_argument("--angles", type=path, metavar="PATH", help="sinogram: of the views, in degrees")
    made.add_argument("--repair", action="store_true", help="sinogram: interpolate defective detectors, views and "
                      "zingers, and remove stripes")  # fmt: skip
    made.add_argument("--axes", choices=("coils", "slices"), help="kspace: what the first of three axes counts")
    made.add_argument("--bin", type=int, metavar="N", help="average N neighbouring detectors (default: 1)")
    made.add_argument("--centre", type=float, metavar="BINS", help="sinogram: where the rotation axis falls on the "
                      "detector, in bins (of --bin) from its middle (default: found from the data)")  # fmt: skip
    made.add_argument("--axis-per-slice", action="store_true", help="sinogram: of a tilted detector, shift each row by "
                      "where the axis falls in it")  # fmt: skip
    made.add_argument("--out", type=path, metavar="PATH", help="where it goes, if not below dataset/")
    return made


def main(arguments: Sequence[str], prog: str = "ei prepare") -> None:
    options = vars(parser(prog).parse(arguments))
    what = WHAT[options["what"]]
    for name in what.needed:
        if name not in options:
            raise InputError(f"{options['what']} needs --{name}; --help has examples")
    for name in options:
        if name not in ("what", *what.needed, *what.others):
            raise InputError(f"{options['what']} does not use --{name.replace('_', '-')}; --help lists what does")
    options["bin"] = check_number("--bin", options.get("bin", 1), integer=True, least=1)
    if what.keys:
        _check_written(what, options)
    what.prepare(options)


def _check_written(what: What, options: Mapping[str, Any]) -> None:
    """Raise if a file that is written is one that is read, or an operator that has more than this command writes."""
    out = Path(options["out"])
    sources = [split_name(options[name])[0] for name in INPUTS if name in options]
    for ending in (out.suffix, *what.beside, ".yaml"):
        check_not_read("--out", out.with_name(out.stem + ending), sources)
    operator = out.with_suffix(".yaml")
    others = [key for key in (read_yaml(operator) if operator.exists() else {}) if key not in what.keys]
    if others:
        raise InputError(
            f"{operator} has {', '.join(others)} and would be overwritten: move it, or choose another --out"
        )


def _ct100(options: Mapping[str, Any]) -> None:
    out = Path(options.get("out", "dataset/CT/CT100_128x128.mat"))
    value = prepare_ct100(Path(options["dicom"]), out)
    print(f"{out}: 100 slices; FBP of 50 views on the 10 test slices: {value:.2f} dB (the paper's: 30.24)")


def _urban100(options: Mapping[str, Any]) -> None:
    out = Path(options.get("out", "dataset/Urban100"))
    prepare_urban100(Path(options["source"]), out)
    print(f"{out}: 90 training and 10 test images, each of which opens")


def _sinogram(options: Mapping[str, Any]) -> None:
    check_output(Path(options["out"]))
    with together(torch.device("cpu")):
        _write_sinograms(options)


def _write_sinograms(options: Mapping[str, Any]) -> None:
    out = Path(options["out"])
    centre = check_optional("--centre", options.get("centre"))
    per_slice = options.get("axis_per_slice", False)
    if per_slice and centre is not None:
        raise InputError("--centre and --axis-per-slice exclude each other: give one of them")
    with_repair = options.get("repair", False)
    flat, dark, angles = (options.get(name) for name in ("flat", "dark", "angles"))
    conversion = Conversion(options["counts"], flat, dark, angles, options["bin"], with_repair)
    most = most_varied(conversion.rows, conversion.sinogram)
    if centre is None:
        side = conversion.detectors
        scanner = Tomography((side, side), conversion.angles, side, engine=_engine())
        found = _axes_found(conversion, scanner)
        centre = _align(conversion, found) if per_slice else _one_axis(conversion, scanner, found, most)
    geometry = parallel_geometry(conversion.detectors, centre)
    physics = Tomography(**geometry, angles=conversion.angles, engine=_engine())  # raises for an axis that is far off
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        conversion.write(out, _call_of(options, conversion.angles))
    finally:  # also of a part that is kept
        for sentence in conversion.defects.sentences:
            print(sentence if with_repair else f"warning: {sentence}; --repair interpolates them")
    if not launched().first:
        return
    where = out.name if out.suffix.lower() == ".npz" else conversion.angles.tolist()
    write_geometry(out.with_suffix(".yaml"), **geometry, angles=where)
    shape = [conversion.rows, conversion.detectors, len(conversion.angles)]
    print(f"{out}: y {shape}, angles [{len(conversion.angles)}]; {out.with_suffix('.yaml')}: the geometry")
    print(check_sinogram(physics, torch.from_numpy(conversion.sinogram(most))))


def _call_of(options: Mapping[str, Any], angles: np.ndarray) -> dict[str, Any]:
    """What identifies a call: all that its sinograms depend on."""
    files = {f"--{name}": os.path.abspath(options[name]) for name in ("counts", "flat", "dark") if name in options}
    switches = {f"--{name.replace('_', '-')}": options.get(name, False) for name in ("repair", "axis_per_slice")}
    digest = hashlib.sha256(np.asarray(angles, np.float64).tobytes()).hexdigest()
    return {**files, "--bin": options["bin"], "--angles": digest, **switches}


def _engine() -> str:
    """For operators of which the geometry alone is used: ASTRA's needs no memory. Without it a matrix is made."""
    return "astra" if has_astra() else "auto"


def _axes_found(conversion: Conversion, scanner: Tomography) -> dict[int, float]:
    """Where the axis falls in those of up to `ROWS` rows of the detector in which it is found, in bins."""
    count = min(ROWS, conversion.rows)
    rows = sorted({round(place) for place in np.linspace(0, conversion.rows - 1, count).tolist()})
    reports = {row: check_sinogram(scanner, torch.from_numpy(conversion.sinogram(row))[None, None]) for row in rows}
    return {row: report.centre for row, report in reports.items() if report.centre is not None}


def _one_axis(conversion: Conversion, scanner: Tomography, found: Mapping[int, float], most: int) -> float:
    """The median of the axes of rows, whose spread is printed; where none is found, the axis in the row ``most``."""
    if not found:
        try:
            return check_sinogram(scanner, torch.from_numpy(conversion.sinogram(most))).require_centre()
        except InputError as error:
            raise InputError(f"{error} Give it with --centre") from error
    axes = found.values()
    spread = f"{min(axes):.2f} to {max(axes):.2f}"
    print(f"axis: {statistics.median(axes):.2f} bins from the middle, the median of {len(axes)} rows ({spread})")
    if max(axes) - min(axes) > APART:
        print("warning: the axis differs between rows; of a tilted detector --axis-per-slice shifts them onto one axis")
    return statistics.median(axes)


def _align(conversion: Conversion, found: Mapping[int, float]) -> float:
    """Shift each row onto the axis in the middle row, which is returned. The axis is straight: a line through those of
    rows gives all, by the median of the slopes (Theil-Sen), since some rows may see little of the object."""
    if len(found) < FEWEST:
        raise InputError(
            f"--axis-per-slice needs {FEWEST} rows in which the axis is found, got {len(found)} of {conversion.rows}; "
            "give --centre"
        )
    rows, axes = np.array(list(found)), np.array(list(found.values()))
    slope, intercept, *_ = theilslopes(axes, rows)
    line = intercept + slope * np.arange(conversion.rows)
    beside = float(np.abs(axes - line[rows]).max())
    print(
        f"axis: {line[0]:.2f} bins from the middle in the first row, {line[-1]:.2f} in the last; {len(found)} rows are "
        f"up to {beside:.2f} beside this line"
    )
    if beside > APART:
        print(f"warning: rows are more than {APART:g} bin beside the line: check them, or give --centre")
    middle = float(line.mean())
    conversion.shifts = middle - line
    return middle


def _noise(options: Mapping[str, Any]) -> None:
    each = options["bin"]
    flat, dark = (read_array(options[name], NAMES[name], name) for name in ("flat", "dark"))
    noise = detector_noise(flat, dark, each)
    what = f"a bin of {each} detectors, averaged" if each > 1 else "a pixel"
    print(f"gain                   {noise.gain:.4g} +- {noise.gain_error:.1g} counts a photon, of {what}")
    print(f"read-out noise         {noise.sigma:.4g} counts (standard deviation)")
    print(f"without an object      {noise.photons:.4g} photons; brightness varies by {noise.drift:.2%} between flats")
    print(f"of counts above dark   --noise {noise.of_counts}")
    print(f"of line integrals      --noise {noise.of_line_integrals}")


def _kspace(options: Mapping[str, Any]) -> None:
    out = Path(options["out"])
    y, mask, used = prepare_kspace(read_kspace(options["source"]), out, options.get("axes"))
    what = "columns" if mask.dim() == 1 else "points"
    print(f"{out}: y {list(y.shape)}; {int(mask.sum())} of {mask.numel()} {what} are measured")
    if used is None:
        print(f"{out.with_suffix('.yaml')}: the operator, of one coil")
        return
    several = f", of all {len(y)} images together, which must be of one slice" if len(y) > 1 else ""
    print(
        f"{out.with_suffix('.yaml')}: the operator; coil maps from the middle {used[0]} x {used[1]} of k-space{several}"
    )


class What(NamedTuple):
    """What is prepared: by which function, the options that it needs, and others that it takes; endings of what it
    writes beside --out, and the keys of the operator's file."""

    prepare: Callable[[Mapping[str, Any]], None]
    needed: tuple[str, ...]
    others: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


WHAT = {
    "ct100": What(_ct100, ("dicom",), ("out",)),
    "urban100": What(_urban100, ("source",), ("out",)),
    "sinogram": What(
        _sinogram,
        ("counts", "out"),
        ("flat", "dark", "angles", "repair", "bin", "centre", "axis_per_slice"),
        keys=("name", *parallel_geometry(1, 0), "angles"),
    ),
    "noise": What(_noise, ("flat", "dark"), ("bin",)),
    "kspace": What(_kspace, ("source", "out"), ("axes",), ("_mask.npy", "_maps.npy"), OF_KSPACE),
}
