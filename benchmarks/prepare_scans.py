"""Real scans at few views, in the form that the commands take: sinograms, geometry, and references from all views.

    python benchmarks/prepare_scans.py htc2022 --source FOLDER --views 60 --arc 120
        fan beam, the Helsinki Tomography Challenge 2022: dataset/HTC2022/60_over_120 with train.npy, test.npy,
        geometry.yaml, train_reference.npy, test_reference.npy
    python benchmarks/prepare_scans.py tooth --source tooth.h5
        parallel beam, tomopy's tooth: dataset/tooth/y.npz, y.yaml, y_reference.npy

--bin N averages N neighbouring detectors (4 by default).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch

from ei.common.arrays import read_array
from ei.common.files import complete_folder, writing
from ei.datasets import line_integrals
from ei.datasets.scans import bin_detectors, parallel_geometry, write_geometry
from ei.diagnosis.sinograms import check_sinogram
from ei.errors import InputError, MissingFileError
from ei.physics import Tomography, pinv_cg

# One disc of each of four levels of difficulty is left for testing.
HELSINKI_TEST = ("02c", "03c", "04c", "05c")
REFERENCE_STEPS = 40


def reference_of(y: np.ndarray, geometry: dict[str, Any]) -> np.ndarray:
    """Images ``[n, 1, H, W]``, float32, of sinograms of all views: 40 steps of conjugate gradients."""
    physics = Tomography(**geometry)
    with torch.no_grad():
        x = pinv_cg(physics, torch.from_numpy(y)[:, None], REFERENCE_STEPS, tol=0, orthogonal=True)
    return x.numpy()


def read_helsinki(path: Path, n: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The sinogram ``[D, V]`` of one full scan in bins of ``n`` detectors, its angles, and its geometry."""
    full = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["CtDataFull"]
    settings = full.parameters
    sinogram = bin_detectors(np.asarray(full.sinogram, dtype=np.float64).T, n, axis=-2).astype(np.float32)
    return sinogram, np.asarray(settings.angles, dtype=float), geometry_of_helsinki(settings, len(sinogram), n)


def geometry_of_helsinki(settings: Any, detectors: int, n: int) -> dict[str, Any]:
    """The arguments of `Tomography`, but for the angles, from the parameters in a scan's file, for bins of ``n``."""
    spacing = float(settings.pixelSizePost)
    source_origin = float(settings.distanceSourceOrigin)
    source_detector = float(settings.distanceSourceDetector)
    side = 512 // n
    return {
        "image_shape": [side, side],
        "n_detectors": detectors,
        "detector_spacing": spacing * n,
        "pixel_size": spacing * n * source_origin / source_detector,
        "source_origin": source_origin,
        "origin_detector": source_detector - source_origin,
    }


def prepare_helsinki(source: Path, out: Path, views: int, arc: float, n: int = 4) -> dict[str, list[str]]:
    """The full scans of the Helsinki Tomography Challenge 2022 (fan beam, 720 views of 560 detectors) at fewer views:
    the folder ``out`` with ``train.npy`` and ``test.npy`` ``[n, D, V]``, ``geometry.yaml``, and the reconstructions of
    360 views as ``train_reference.npy`` and ``test_reference.npy`` ``[n, 1, N, N]``, N = 512 / n.

    Args:
        source: the folder of ``htc2022_*_full.mat``.
        out: must not exist yet.
        views: how many.
        arc: degrees that they are spread over, from 0.
        n: detectors in a bin, which are averaged.

    Returns:
        The names of the scans of the training and the test set.

    Raises:
        InputError: if there are no scans, or not so many views in the arc.
    """
    files = {re.sub(r"htc2022_|_full", "", path.stem): path for path in sorted(source.glob("htc2022_*_full.mat"))}
    if not files:
        raise MissingFileError(f"there is no htc2022_*_full.mat in {source}; check the path")
    if out.exists():
        raise InputError(f"{out} exists already; move it away, or choose another --out")
    if not 0 < arc <= 360 or not 1 <= views <= 2 * arc:
        raise InputError(f"the scans have 2 views a degree over 360 degrees, got {views} views over {arc:g} degrees")
    out.parent.mkdir(parents=True, exist_ok=True)
    scans = {name: read_helsinki(path, n) for name, path in files.items()}
    _, angles, geometry = list(scans.values())[-1]
    few_views = np.floor(np.arange(views) * (2 * arc / views) + 1e-9).astype(int)
    all_views = np.arange(0, 720, 2)
    parts = {
        "train": [name for name in files if name not in HELSINKI_TEST],
        "test": [name for name in files if name in HELSINKI_TEST],
    }
    with complete_folder(out) as unfinished:
        for part, names in parts.items():
            if names:
                stack = np.stack([scans[name][0] for name in names])
                np.save(unfinished / f"{part}.npy", stack[..., few_views])
                reference = reference_of(stack[..., all_views].copy(), {**geometry, "angles": angles[all_views]})
                np.save(unfinished / f"{part}_reference.npy", reference)
        write_geometry(unfinished / "geometry.yaml", **geometry, angles=angles[few_views].tolist())
        (unfinished / "scans.txt").write_text("".join(f"{part}: {' '.join(names)}\n" for part, names in parts.items()))
    return parts


def prepare_tooth(source: str, out: Path, n: int = 4) -> str:
    """Two rows of tomopy's tooth, a parallel scan of 181 views of 640 detectors: ``out`` (``.npz``), its geometry, and
    the reconstruction of all views.

    Returns:
        The report of `check_sinogram`.

    Raises:
        InputError: if the file does not hold such a scan.
    """
    if out.suffix != ".npz":
        raise InputError(f"--out must be a .npz file, got {out}")
    names = ("data", "data_white", "data_dark", "theta")
    counts, flat, dark, angles = (read_array(f"{source}:exchange/{name}") for name in names)
    y = line_integrals(counts.astype(np.float64), flat.mean(0), dark.mean(0)).transpose(1, 2, 0)
    y = bin_detectors(y, n, axis=-2).astype(np.float32)
    measured = torch.from_numpy(y)[:, None]
    side = y.shape[-2]
    centre = check_sinogram(Tomography((side, side), angles, side), measured).require_centre()
    out.parent.mkdir(parents=True, exist_ok=True)
    geometry = parallel_geometry(side, centre)
    with writing(out):
        np.savez(out, y=y, angles=angles.astype(np.float64))
    write_geometry(out.with_suffix(".yaml"), **geometry, angles=out.name)
    reference = out.with_name(f"{out.stem}_reference.npy")
    with writing(reference):
        np.save(reference, reference_of(y, {**geometry, "angles": angles}))
    return str(check_sinogram(Tomography(**geometry, angles=angles), measured))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", choices=("htc2022", "tooth"))
    parser.add_argument("--source", required=True, help="folder of the .mat files, or tooth.h5")
    parser.add_argument("--views", type=int, default=30, help="htc2022: how many (30)")
    parser.add_argument("--arc", type=float, default=360.0, help="htc2022: degrees that they are spread over (360)")
    parser.add_argument("--bin", type=int, default=4, help="detectors that are averaged (4)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.scan == "htc2022":
        out = options.out or Path(f"dataset/HTC2022/{options.views}_over_{options.arc:g}")
        parts = prepare_helsinki(Path(options.source), out, options.views, options.arc, options.bin)
        scans = "; ".join(f"{part}.npy: {len(names)} scans ({', '.join(names)})" for part, names in parts.items())
        print(f"{out}: geometry.yaml; {scans}; references from 360 views beside them")
    else:
        out = options.out or Path("dataset/tooth/y.npz")
        report = prepare_tooth(options.source, out, options.bin)
        print(f"{out}, {out.with_suffix('.yaml')}, {out.with_name(f'{out.stem}_reference.npy')}\n{report}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"prepare_scans.py: {error}", file=sys.stderr)
        sys.exit(2)
