"""Error bars for ``ei test`` and ``ei reconstruct``: their options, the group of a run, what is printed and drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ei.closure.sure import error_estimate, is_precise
from ei.commands.flags import path as path_type
from ei.commands.tree import Tree, build_group, check_code_is_typed
from ei.commands.typed import Parser
from ei.common.checks import check_number
from ei.common.complex import magnitude
from ei.common.drawing import coverage_curves, error_maps
from ei.common.parts import describe, normalized
from ei.common.seeds import derive_seed
from ei.datasets import Measurements, simulate
from ei.datasets.batches import index_in_whole
from ei.diagnosis.user_defined import Shape
from ei.errors import InputError
from ei.evaluation.calibration import (
    LEVELS,
    Calibration,
    Scores,
    coverage,
    held_out_scores,
    joined,
    remarks,
    table,
    true_scores,
)
from ei.evaluation.missing_power import missing_power_scores
from ei.evaluation.quality import image_and_measurement, write_metrics
from ei.evaluation.uncertainty import Bootstrap, Resampling, noise_for
from ei.models.base import select_function
from ei.physics.noise_adapter import noise_with_variance

# SURE is estimated from about so many measurements: one reconstruction more of each.
SURE_MEASUREMENTS = 64
# So many images are drawn with their errors.
DRAWN = 4


@dataclass(frozen=True)
class ErrorBars:
    """How error bars are found: by a group, in so many draws, corrected by a calibration."""

    transform: Any
    draws: int
    calibration: Calibration | None = None
    found_with: Mapping[str, Any] = field(default_factory=dict)  # what the factors hold for (`_found_with`)

    @property
    def factor(self) -> float:
        """Of maps of pixels."""
        return 1.0 if self.calibration is None else self.calibration.map_factor

    def bootstrap(self, f: Any, physics: Any, y: Tensor) -> Bootstrap:
        """`ei.evaluation.bootstrap`, the same for an image alone and in a batch, with a bar."""
        resampling = Resampling(f, physics, self.transform, y, self.draws, noise_for(physics), 0, None)
        return Bootstrap(resampling, tqdm(resampling, unit="draw", leave=False))

    def pixels(self, f: Any, physics: Any, y: Tensor) -> Tensor:
        """The error of every pixel, in the image's units, ``[B, C, H, W]``."""
        return self.factor * self.bootstrap(f, physics, y).rmse


def add_options(parser: Parser, calibrate: bool) -> None:
    group = parser.add_argument_group("error bars")
    group.add_argument("--uncertainty", type=int, metavar="N", help="estimate errors by a bootstrap of N draws (100)")
    group.add_argument("--calibration", type=path_type, metavar="FILE", help="correct them by a file of --calibrate")
    if calibrate:
        group.add_argument("--calibrate", type=path_type, metavar="FILE",
                           help="find the correction from the measurements")  # fmt: skip
        group.add_argument("--calibrate-by", choices=["measurements", "truth"],
                           help="truth: find it from the ground truth of the test images instead")  # fmt: skip


def read_options(options: Mapping[str, Any], tree: Tree, f: Any, shape: Shape, code: set[str]) -> ErrorBars | None:
    """What the options of a command ask for; None where they do not. The tree, of the checkpoint with what was typed
    over it, names the group for images of ``shape`` (C, H, W); ``code`` is the user-defined code that was typed. Warns
    of a calibration that was found with another one of what `_found_with` has.
    """
    if "uncertainty" not in options:
        for name in ("calibration", "calibrate", "calibrate_by"):
            if name in options:
                raise InputError(f"--{name.replace('_', '-')} needs error bars: give --uncertainty 100, too")
        return None
    if options.get("calibrate_by") and "calibrate" not in options:
        raise InputError("--calibrate-by needs the file to write: give --calibrate FILE, too")
    if "calibrate" in options:
        _check_calibration_file(Path(options["calibrate"]))
    draws = check_number("--uncertainty", options["uncertainty"], integer=True, least=2)
    if tree.get("transform") is None:
        raise InputError("--uncertainty needs a group, and the run has none: give --group")
    check_code_is_typed({"transform": tree["transform"]}, code, str(options.get("ckp")))
    transform = build_group(tree, shape)
    found_with = _found_with(options, tree, f.physics)
    calibration = None if "calibration" not in options else _read_calibration(options["calibration"], found_with)
    if draws < 20:
        print(f"warning: {draws} draws are too few for the 95 % quantile, which needs 20; the 99 % one needs 100")
    return ErrorBars(transform, draws, calibration, found_with)


def _found_with(options: Mapping[str, Any], tree: Tree, physics: Any) -> dict[str, Any]:
    """What the factors of a calibration hold for, as plain values. Scans differ in their angles where a run has
    several, and in their axis."""
    ckp = options.get("ckp")
    group = {key: value for key, value in normalized(tree["transform"], "transform").items() if key != "n_trans"}
    own = {"centre", physics.own_argument if getattr(physics, "count", 1) > 1 else None}
    found_with = {
        "checkpoint": None if ckp is None else hashlib.sha256(Path(ckp).read_bytes()).hexdigest(),
        "group": group,
        "noise": describe(noise_for(physics)),
        "operator": {key: value for key, value in (describe(physics) or {}).items() if key not in own},
        "average": options.get("average_over"),
    }
    return json.loads(json.dumps(found_with, default=str))


def _read_calibration(path: str, found_with: Mapping[str, Any]) -> Calibration:
    """A calibration, with a warning where it was not ``found_with`` the same."""
    calibration = Calibration.load(path)
    before = calibration.found_with
    others = [name for name in found_with if name in before and before[name] != found_with[name]]
    if others:
        another = ", ".join(f"another {name}" for name in others)
        print(f"warning: {path} was found with {another}: its factors need not hold here")
    return calibration


def _check_calibration_file(path: Path) -> None:
    """Raise if the file of ``--calibrate`` cannot be made, or would overwrite one of another kind."""
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} of --calibrate does not exist; make it first")
    if path.exists():
        try:
            Calibration.load(path)
        except InputError as error:
            raise InputError(f"--calibrate would overwrite {path}, which is no calibration; choose another") from error


# ---- ei test --------------------------------------------------------------------------------------------------------


def measurements_of(f: Any, data: Any) -> Iterator[tuple[Any, Any, Tensor, Any]]:
    """f, its operator, the measurement (of images as `ei.evaluation.reconstruct_all` has it), and the image, None of
    measurements alone, of each item of a data set."""
    device = next(f.parameters()).device
    for index in range(len(data)):
        own, physics = select_function(f, f.physics, [index_in_whole(data, index)])
        if isinstance(data, Measurements):
            yield own, physics, data[index][None].to(device), None
            continue
        x, y, _ = image_and_measurement(data, index, device)
        yield own, physics, simulate(physics, x, [index], derive_seed(0, "test")) if y is None else y, x


def report_error_bars(f: Any, images: Any, bars: ErrorBars, folder: Path, samples: list[int]) -> Scores:
    """Print the coverage of error bars on test images, and write ``errors.csv``, ``coverage.csv``, ``coverage.png`` and
    for each sample ``sample_<i>_errors.png`` into the folder."""
    parts: list[Scores] = []
    for index, (own, physics, y, x) in enumerate(measurements_of(f, images)):
        result = bars.bootstrap(own, physics, y)
        parts.append(true_scores(result, x))
        if index in samples:
            error_maps([_maps(result, bars.factor, x)], folder / f"sample_{index}_errors.png")
    scores = joined(parts)
    rows = coverage(scores, bars.calibration)
    print(f"\nerror bars of {bars.draws} draws: how often the error is within them, over {len(images)} images")
    print(f"{table(rows)}\n{remarks(scores)}")
    write_metrics(rows, folder / "coverage.csv")
    errors = [
        {"index": index, "estimated": float(predicted), "true": float(norm)}
        for index, (predicted, norm) in enumerate(zip(scores.predicted, scores.norms, strict=True))
    ]
    write_metrics(errors, folder / "errors.csv")
    coverage_curves(rows, folder / "coverage.png")
    print(f"figures of error bars: {folder} (coverage.png, sample_*_errors.png)")
    return scores


def _maps(result: Bootstrap, factor: float, x: Tensor) -> dict[str, Tensor]:
    return {
        "x": magnitude(result.x[0]),
        "estimated error": factor * _of_channels(result.rmse[0]),
        "true error": _of_channels((result.x - x)[0].abs()),
    }


def _of_channels(error: Tensor) -> Tensor:
    """The root mean square over channels, ``[1, H, W]``; of a real and an imaginary part, of both."""
    power = error.square().sum(0, keepdim=True)
    return (power if len(error) == 2 else power / len(error)).sqrt()


def calibrate(f: Any, measurements: Iterable[tuple[Any, ...]], bars: ErrorBars, path: Path) -> Calibration:
    """Find the correction of error bars from measurements alone (`measurements_of`), print it, and write it to a
    file."""
    shown = tqdm([item[:3] for item in measurements], unit="measurement", desc="calibration")
    if getattr(f.physics, "step_between_views", None) is not None:
        source, how = "the power between the views", "the power that x lacks between the views"
        scores = missing_power_scores(shown, bars.transform, bars.draws)
    else:
        source, how = "held-out measurements", "a tenth of each measurement, which f was not given"
        scores = joined([
            held_out_scores(own, physics, bars.transform, y, bars.draws, seed=index, noise=noise_for(physics))
            for index, (own, physics, y) in enumerate(shown)
        ])  # fmt: skip
    print(f"\ncalibration of {len(scores.norms)} measurements, from {how}")
    print(f"{table(coverage(scores))}\n{remarks(scores)}")
    return write_calibration(scores, source, bars, path)


def write_calibration(scores: Scores, source: str, bars: ErrorBars, path: Path) -> Calibration:
    """Write the correction that follows from the scores of some images to a file, and print it."""
    calibration = Calibration.of(scores, source, bars.found_with)
    calibration.save(path)
    count = len(scores.norms)
    needed = [p for p in LEVELS if count < p / (1 - p) - 1e-9]
    if needed:
        levels = ", ".join(f"{100 * p:g}" for p in needed)
        print(f"warning: {count} images are too few for {levels} %: there the largest factor is taken")
    print(
        f"{path}: errors of images are {calibration.factor:.2f} times as large as the bootstrap's, those of pixels "
        f"{calibration.map_factor:.2f} times, by {source}"
    )
    return calibration


# ---- ei reconstruct -------------------------------------------------------------------------------------------------


def beside(output: Path) -> Path:
    """The file of error bars beside that of the images."""
    return output.with_name(f"{output.stem}_std{output.suffix}")


class Watch:
    """Watches `ei.evaluation.reconstruction.reconstruct_file`: finds error bars of every batch (None for none), and
    SURE's estimate of the first measurements where the noise is known."""

    def __init__(self, f: Any, bars: ErrorBars | None) -> None:
        self.bars = bars
        self.has_sure = noise_with_variance(f.physics) is not None and is_precise(f)
        self.risk = 0.0
        self.count = 0
        self.drawn: list[dict[str, Tensor]] = []
        self.power = 0.0
        self.pixels = 0

    def __call__(self, f: Any, physics: Any, y: Tensor, x: Tensor) -> Tensor | None:
        if self.has_sure and self.count < SURE_MEASUREMENTS:
            self.risk += error_estimate(f, physics, y) * len(y)
            self.count += len(y)
        if self.bars is None:
            return None
        errors = self.bars.pixels(f, physics, y)
        self.power += float(errors.double().square().sum())
        self.pixels += errors.numel()
        for image, error in zip(x, errors, strict=True):
            if len(self.drawn) < DRAWN:
                self.drawn.append({"x": magnitude(image), "estimated error": _of_channels(error)})
        return errors

    def lines(self, output: Path) -> list[str]:
        """What is printed in the end; draws the figure of error bars beside the output."""
        lines = []
        if self.count:
            risk = self.risk / self.count
            lines.append(f"SURE: ||A f(y) - A x||^2 / m is estimated as {risk:.3g}, from {self.count} measurements")
        if self.bars is not None and self.pixels:  # of a call that was continued, for the images that were left
            figure = beside(output).with_suffix(".png")
            error_maps(self.drawn, figure)
            calibrated = "not calibrated" if self.bars.calibration is None else f"times {self.bars.factor:.3g}"
            mean = (self.power / self.pixels) ** 0.5
            lines.append(
                f"{beside(output)}: root mean squared error of every pixel by {self.bars.draws} draws, {calibrated}; "
                f"{mean:.3g} over all. {figure}: {len(self.drawn)} of them"
            )
        return lines
