"""Measured scans in the form that the commands take: sinograms ``[n, D, V]``, and a file of the geometry."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
import yaml

from ei.common.files import complete_folder, writing
from ei.datasets.counts import line_integrals
from ei.errors import InputError, MissingExtraError, MissingFileError
from ei.physics import Tomography, pinv_cg

# Of the Helsinki Tomography Challenge 2022: one disc of each of four levels of difficulty is left for testing.
HELSINKI_TEST = ("02c", "03c", "04c", "05c")
REFERENCE_STEPS = 40


def read_array(text: str) -> np.ndarray:
    """The array of a file: ``.npy``, ``.npz`` (its only array), ``.mat`` (its only array), text, or ``FILE.h5:NAME``.

    Raises:
        MissingFileError, MissingExtraError, InputError: if it cannot be read.
    """
    path, _, name = text.partition(":") if re.search(r"\.(h5|hdf5|npz|mat):", text) else (text, "", "")
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"there is no file {path}; check the path")
    try:
        if file.suffix in (".h5", ".hdf5"):
            return _read_hdf5(file, name)
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        if file.suffix in (".npz", ".mat"):
            content = dict(np.load(file)) if file.suffix == ".npz" else scipy.io.loadmat(file, squeeze_me=True)
            arrays = {key: value for key, value in content.items() if not key.startswith("__")}
            if name not in arrays and len(arrays) != 1:
                raise InputError(f"{path} holds {', '.join(arrays)}: name one, as {path}:{next(iter(arrays))}")
            return np.asarray(arrays[name] if name in arrays else next(iter(arrays.values())))
        return np.loadtxt(file, delimiter="," if file.suffix == ".csv" else None)
    except (InputError, MissingExtraError):
        raise
    except Exception as error:  # the readers raise whatever the bytes lead them to
        raise InputError(f"{text} cannot be read as an array: {error}") from error


def _read_hdf5(file: Path, name: str) -> np.ndarray:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("HDF5 needs h5py: pip install h5py") from error
    with h5py.File(file) as content:
        names: list[str] = []
        content.visititems(lambda key, item: names.append(key) if hasattr(item, "shape") else None)
        if name not in names:
            raise InputError(f"{file} holds {', '.join(names)}: name one, as {file}:{names[0] if names else 'NAME'}")
        return np.asarray(content[name])


def binned(y: np.ndarray, each: int) -> np.ndarray:
    """Means of ``each`` neighbouring detectors of ``y`` ``[..., D, V]``; the rest is cut off at both ends.

    Raises:
        InputError: if there are fewer detectors.
    """
    detectors = y.shape[-2]
    if each > detectors:
        raise InputError(f"bins of {each} detectors are more than the {detectors} that there are")
    number = detectors // each
    left = (detectors - number * each) // 2
    kept = y[..., left : left + number * each, :]
    return kept.reshape(*y.shape[:-2], number, each, y.shape[-1]).mean(-2)


def sinograms_of_counts(counts: np.ndarray, flat: np.ndarray, dark: np.ndarray, each: int = 1) -> np.ndarray:
    """Sinograms ``[n, D, V]``, float32, of what a detector of n rows counted.

    Args:
        counts: ``[V, D]`` or ``[V, n, D]``.
        flat, dark: without object, and without beam: ``[D]`` or ``[n, D]``, or several of them, which are averaged
            (also where there are as many as views).
        each: detectors that are averaged.

    Raises:
        InputError: for arrays that do not fit.
    """
    if counts.ndim not in (2, 3):
        raise InputError(f"counts must be [views, detectors] or [views, rows, detectors], not {list(counts.shape)}")
    # As many exposures as views would else be taken as one for each view.
    flat, dark = (array.mean(0) if array.ndim == counts.ndim else array for array in map(np.asarray, (flat, dark)))
    y = line_integrals(counts.astype(np.float64), flat, dark)
    y = (y[:, None] if y.ndim == 2 else y).transpose(1, 2, 0)
    return binned(y, each).astype(np.float32)


def write_geometry(path: Path, **arguments: Any) -> None:
    """A file for ``--physics`` with the arguments of `Tomography`."""
    with writing(path):
        path.write_text(yaml.safe_dump({"name": "Tomography", **arguments}, sort_keys=False, default_flow_style=None))


def reference_of(y: np.ndarray, geometry: dict[str, Any]) -> np.ndarray:
    """Images ``[n, 1, H, W]``, float32, of sinograms of all views: 40 steps of conjugate gradients."""
    physics = Tomography(**geometry)
    with torch.no_grad():
        x = pinv_cg(physics, torch.from_numpy(y)[:, None], REFERENCE_STEPS, tol=0, orthogonal=True)
    return x.numpy()


def prepare_helsinki(source: Path, out: Path, views: int, arc: float, each: int = 4) -> dict[str, list[str]]:
    """The full scans of the Helsinki Tomography Challenge 2022 (fan beam, 720 views of 560 detectors) at fewer views:
    the folder ``out`` with ``train.npy`` and ``test.npy`` ``[n, D, V]``, ``geometry.yaml``, and the reconstructions of
    360 views as ``train_reference.npy`` and ``test_reference.npy`` ``[n, 1, N, N]``, N = 512 / each.

    Args:
        source: the folder of ``htc2022_*_full.mat``.
        out: must not be there yet.
        views: how many.
        arc: degrees that they are spread over, from 0.
        each: detectors that are averaged.

    Returns:
        The names of the scans that train and test.

    Raises:
        InputError: if there are no scans, or not so many views in the arc.
    """
    files = {re.sub(r"htc2022_|_full", "", path.stem): path for path in sorted(source.glob("htc2022_*_full.mat"))}
    if not files:
        raise MissingFileError(f"there is no htc2022_*_full.mat in {source}; check the path")
    if out.exists():
        raise InputError(f"{out} is there already; move it away, or choose another --out")
    if not 0 < arc <= 360 or not 1 <= views <= 2 * arc:
        raise InputError(f"{views} views over {arc:g} degrees: the scans have 2 a degree, over 360 degrees")
    chosen = np.floor(np.arange(views) * (2 * arc / views) + 1e-9).astype(int)
    sinograms, geometry, angles = {}, {}, np.zeros(0)
    for name, path in files.items():
        full = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["CtDataFull"]
        known = full.parameters
        sinograms[name] = binned(np.asarray(full.sinogram, dtype=np.float64).T, each).astype(np.float32)
        angles, bin_ = np.asarray(known.angles, dtype=float), float(known.pixelSizePost)
        source_origin, whole = float(known.distanceSourceOrigin), float(known.distanceSourceDetector)
        side = 512 // each
        geometry = {
            "image_shape": [side, side],
            "n_detectors": len(sinograms[name]),
            "detector_spacing": bin_ * each,
            "pixel_size": bin_ * each * source_origin / whole,
            "source_origin": source_origin,
            "origin_detector": whole - source_origin,
        }
    parts = {
        "train": [name for name in files if name not in HELSINKI_TEST],
        "test": [name for name in files if name in HELSINKI_TEST],
    }
    every = np.arange(0, 720, 2)
    with complete_folder(out) as unfinished:
        for part, names in parts.items():
            if names:
                stack = np.stack([sinograms[name] for name in names])
                np.save(unfinished / f"{part}.npy", stack[..., chosen])
                full_views = {**geometry, "angles": angles[every]}
                np.save(unfinished / f"{part}_reference.npy", reference_of(stack[..., every].copy(), full_views))
        write_geometry(unfinished / "geometry.yaml", **geometry, angles=angles[chosen].tolist())
        (unfinished / "scans.txt").write_text("".join(f"{part}: {' '.join(names)}\n" for part, names in parts.items()))
    return parts


def prepare_scan(
    out: Path, y: np.ndarray, angles: Sequence[float], centre: float | None, spacing: float = 1.0
) -> dict[str, Any]:
    """Write sinograms ``[n, D, V]`` of a parallel beam and their angles to ``out`` (``.npz``: y, angles), and beside it
    the geometry (``.yaml``): square images of D pixels.

    Returns:
        The geometry.

    Raises:
        InputError: if ``out`` is no ``.npz`` file, or the angles do not match the views.
    """
    if out.suffix != ".npz":
        raise InputError(f"--out must be a .npz file, not {out}")
    if len(angles) != y.shape[-1]:
        raise InputError(f"there are {len(angles)} angles, and counts of {y.shape[-1]} views")
    side = y.shape[-2]
    geometry = {
        "image_shape": [side, side],
        "n_detectors": side,
        "detector_spacing": spacing,
        "pixel_size": spacing,
        "centre": round(centre or 0.0, 3),
    }
    with writing(out):
        np.savez(out, y=y, angles=np.asarray(angles, dtype=np.float64))
    write_geometry(out.with_suffix(".yaml"), **geometry, angles=out.name)
    return geometry
