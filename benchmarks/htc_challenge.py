"""The Helsinki Tomography Challenge 2022 by its own rules: limited arcs of 90 to 30 degrees, scored at 512 x 512.

    python benchmarks/htc_challenge.py prepare --source FOLDER --out dataset/HTC2022/challenge_128 --side 128
        21 limited test scans and the 5 full training scans, all measurements alone: y/*.npy, geometry.yaml
    ei train benchmarks/htc_challenge.yaml --physics dataset/HTC2022/challenge_128/geometry.yaml \
        --measurements dataset/HTC2022/challenge_128/y --out ckp/htc_128
    ei reconstruct --ckp ckp/htc_128/ckp_last.pth.tar --input dataset/HTC2022/challenge_128/y --output x.npy
    python benchmarks/htc_challenge.py score --source FOLDER --images x.npy --csv results/htc_challenge/ei.csv

FOLDER has ``challenge/limited``, ``challenge/seg`` (for scoring alone) and the training scans ``htc2022_t?_full.mat``.
``score --images cgls`` scores 40 steps of conjugate gradients on ``--data``, the folder of `prepare`.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
import torch
from prepare_scans import geometry_of_helsinki
from skimage.filters import threshold_otsu

from ei.common.drawing import new_figure
from ei.common.files import complete_folder
from ei.common.yaml_text import read_yaml
from ei.datasets.scans import bin_detectors, write_geometry
from ei.errors import InputError, MissingFileError
from ei.physics import Tomography, pinv_cg

FULL = 512  # pixels a side, at which entries are scored
CGLS_STEPS = 40
DEGREES = (90, 80, 70, 60, 50, 40, 30)  # of levels 1 to 7, three discs each


def files_of(source: Path) -> dict[str, tuple[Path, str]]:
    """The scans by name, with the key of their struct: the limited ones by level, then the full ones."""
    limited = {
        re.sub(r"htc2022_|_limited", "", path.stem): (path, "CtDataLimited")
        for path in sorted((source / "challenge" / "limited").glob("*_limited.mat"))
    }
    full = [*sorted(source.glob("htc2022_t?_full.mat")), *sorted((source / "challenge").glob("*_full.mat"))]
    if len(limited) != 3 * len(DEGREES) or not full:
        raise MissingFileError(
            f"{source} must have challenge/limited with {3 * len(DEGREES)} scans and full scans, got {len(limited)} "
            f"and {len(full)}; check the path"
        )
    return limited | {"full_" + re.sub(r"htc2022_|_full", "", path.stem): (path, "CtDataFull") for path in full}


def prepare(source: Path, out: Path, side: int, degrees: float) -> int:
    """Write the measurements of all scans and their geometry.

    Args:
        source: see the head of this file.
        out: must not exist yet; gets ``y/NAME.npy`` ``[D, V]`` and ``geometry.yaml`` with the angles of each.
        side: of the images; detectors are averaged in bins of ``512 / side``.
        degrees: between views of the limited scans, a multiple of 0.5; between those of the full ones twice as many.

    Returns:
        The number of scans.
    """
    if FULL % side or round(2 * degrees) != 2 * degrees or degrees < 0.5:
        raise InputError(f"side must divide {FULL} and degrees be a multiple of 0.5, got {side} and {degrees}")
    if out.exists():
        raise InputError(f"{out} exists already; move it away, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    angles, geometry = [], {}
    with complete_folder(out) as unfinished:
        (unfinished / "y").mkdir()
        for name, (path, key) in files_of(source).items():
            scan = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)[key]
            sinogram = bin_detectors(np.asarray(scan.sinogram, dtype=np.float64).T, FULL // side, axis=-2)
            of_scan = np.asarray(scan.parameters.angles, dtype=float)
            # Half a degree a view; the last view of a full scan is its first.
            step, last = (round(2 * degrees), None) if key == "CtDataLimited" else (round(4 * degrees), 720)
            np.save(unfinished / "y" / f"{name}.npy", sinogram[:, :last:step].astype(np.float32))
            angles.append(of_scan[:last:step].tolist())
            geometry = geometry_of_helsinki(scan.parameters, len(sinogram), FULL // side)
        write_geometry(unfinished / "geometry.yaml", **geometry, angles=angles)
    return len(angles)


def cgls(data: Path) -> np.ndarray:
    """Least squares of the scans of `prepare`: ``[n, N, N]``."""
    physics = Tomography(**{k: v for k, v in read_yaml(data / "geometry.yaml").items() if k != "name"})
    images = []
    for number in range(3 * len(DEGREES)):
        y = torch.from_numpy(np.load(sorted((data / "y").glob("*.npy"))[number]))[None, None]
        images.append(pinv_cg(physics.of([number]), y, CGLS_STEPS)[0, 0].numpy())
    return np.stack(images)


def matthews(image: np.ndarray, truth: np.ndarray) -> float:
    """Matthews' correlation of an image ``[N, N]``, enlarged to 512 x 512 and thresholded by Otsu's method, with the
    ground truth."""
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None], (FULL, FULL), mode="bicubic"
    )[0, 0].numpy()
    return float(np.corrcoef((enlarged > threshold_otsu(enlarged)).ravel(), truth.ravel())[0, 1])


def score(images: np.ndarray, source: Path) -> list[dict[str, float | str]]:
    """The correlation of each limited scan: rows with ``scan``, ``degrees``, ``correlation``."""
    images = images.reshape(len(images), *images.shape[-2:])
    names = list(files_of(source))[: 3 * len(DEGREES)]
    if len(images) < len(names):
        raise InputError(f"there must be an image of each of {len(names)} limited scans, got {len(images)}")
    rows: list[dict[str, float | str]] = []
    for number, name in enumerate(names):
        truth = scipy.io.loadmat(source / "challenge" / "seg" / f"{name}.mat", squeeze_me=True)["reconFullFbpSeg"] > 0
        degrees = DEGREES[number // 3]
        rows.append({"scan": name, "degrees": degrees, "correlation": round(matthews(images[number], truth), 4)})
    return rows


def draw(images: dict[str, np.ndarray], source: Path, path: Path) -> None:
    """The first disc of each level: a row for each reconstruction, and the ground truth."""
    names = list(files_of(source))[: 3 * len(DEGREES) : 3]
    truth = [scipy.io.loadmat(source / "challenge" / "seg" / f"{name}.mat")["reconFullFbpSeg"] for name in names]
    rows = {
        **{title: list(stack.reshape(len(stack), *stack.shape[-2:])[::3]) for title, stack in images.items()},
        "ground truth": truth,
    }
    figure = new_figure(figsize=(1.5 * len(DEGREES), 1.6 * len(rows)))
    grid = figure.subplots(len(rows), len(DEGREES))
    for row, (title, pictures) in zip(grid, rows.items(), strict=True):
        for axes, picture, degrees in zip(row, pictures[: len(DEGREES)], DEGREES, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=np.quantile(picture, 0.995))
            axes.set(xticks=[], yticks=[], title=f"{degrees} degrees" if row is grid[0] else "")
        row[0].set_ylabel(title, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "score"))
    parser.add_argument("--source", type=Path, required=True, help="folder of the challenge's files")
    parser.add_argument("--out", type=Path, help="prepare: folder to write")
    parser.add_argument("--side", type=int, default=128, help="prepare: pixels a side (128)")
    parser.add_argument("--degrees", type=float, default=1.0, help="prepare: degrees between views (1)")
    parser.add_argument("--images", help="score: file.npy of ei reconstruct, or cgls")
    parser.add_argument("--data", type=Path, help="score: the folder of prepare, for cgls")
    parser.add_argument("--csv", type=Path, help="score: file to write")
    parser.add_argument("--png", type=Path, help="score: picture to write, with least squares on --data if it is given")
    options = parser.parse_args(arguments)
    if options.action == "prepare":
        if options.out is None:
            raise InputError("prepare needs --out")
        print(f"{options.out}: {prepare(options.source, options.out, options.side, options.degrees)} scans")
        return
    if options.images is None or (options.images == "cgls" and options.data is None):
        raise InputError("score needs --images FILE.npy, or --images cgls --data FOLDER")
    images = cgls(options.data) if options.images == "cgls" else np.load(options.images)
    rows = score(images, options.source)
    if options.png is not None:
        least_squares = {} if options.data is None else {"least squares": cgls(options.data)}
        draw({**least_squares, Path(options.images).stem: images}, options.source, options.png)
    for degrees in DEGREES:
        each = [float(row["correlation"]) for row in rows if row["degrees"] == degrees]
        print(f"{degrees} degrees: {sum(each):.2f} ({', '.join(f'{value:.3f}' for value in each)})")
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
