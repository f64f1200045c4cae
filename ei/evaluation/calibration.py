"""Are the error bars right? Coverage of the bootstrap's estimates, and what corrects them.

A bootstrap of a network is optimistic where the network makes the same error on every draw. Ground truth shows by how
much. So do measurements that are held out from f (`held_out_scores`), for the part of the error that they measure. The
correction is conformal: at each level, the factor that covers that share of the calibration images.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.common.checks import check_number
from ei.common.files import write_atomically
from ei.common.seeds import derive_seed, generator
from ei.errors import InputError, MissingFileError
from ei.evaluation.uncertainty import Bootstrap, Resampling, Sums, measure_with, stacked
from ei.models.base import require_of
from ei.physics.krylov import adjoint_of
from ei.physics.split import Split, entries_to_split

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
# Of each image at most so many pixels are kept for the quantiles of all.
PIXELS = 4096
# Errors below this part of the image's largest are rounding.
EXACT = 1e-5
# The part of the entries (views, pixels) of a held-out measurement that f is given; of each image others, drawn.
KEEP = 0.9
# Draws of the noise that held-out measurements have.
NOISE_DRAWS = 20


@dataclass
class Scores:
    """Errors beside the estimates of a bootstrap, of n images."""

    norms: Tensor  # the Euclidean norm of each image's error, [n]
    predicted: Tensor  # the root mean squared norm of the bootstrap's errors, [n]
    quantiles: Tensor  # of the norm of the bootstrap's errors at LEVELS, [n, 5]
    pixels: Tensor  # the error of pixels in units of Bootstrap.rmse there, of all images together

    @property
    def factors(self) -> Tensor:
        """The mean squared error of each image over the estimated one, ``[n]``."""
        return (self.norms / self.predicted).square()

    @property
    def correlation(self) -> float:
        """Of estimated and true mean squared error over the images; NaN for fewer than three."""
        if len(self.norms) < 3:
            return math.nan
        return statistics.correlation(self.norms.square().tolist(), self.predicted.square().tolist())


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of all images together."""
    return Scores(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Scores)})


def true_scores(result: Bootstrap, truth: Tensor) -> Scores:
    """The errors of the reconstructions of a bootstrap against the ground truth ``[B, C, H, W]``."""
    error = result.x - truth
    norms = torch.linalg.vector_norm(error.flatten(1), dim=1).double()
    return Scores(norms, *quantiles_of_norms(result.norms), _ratios(error.abs().double(), result.rmse.double()))


def quantiles_of_norms(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and quantiles of the norms of draws ``[draws, B]``."""
    levels = torch.tensor(LEVELS, dtype=norms.dtype, device=norms.device)
    return norms.square().mean(0).sqrt(), torch.quantile(norms, levels, dim=0).T


def _ratios(error: Tensor, scale: Tensor) -> Tensor:
    """``error / scale`` of evenly spaced pixels, without those that are exact: that is, to rounding, or where the scale
    is zero, too."""
    step = max(1, error[0].numel() // PIXELS)
    exact = EXACT * error.flatten(1).amax(1, keepdim=True).expand(-1, error[0].numel())
    error, scale, exact = (tensor.flatten(1)[:, ::step].flatten() for tensor in (error, scale, exact))
    return (error / scale)[error > exact]


# ---- from measurements that f was not given -------------------------------------------------------------------------


@torch.no_grad()
def held_out_scores(
    f: Any, physics: Any, transform: Any, y: Tensor, draws: int = 100, seed: int = 0, **how: Any
) -> Scores:
    """The scores of f without ground truth: it is given a part of the measurements, and errors are compared by what the
    rest sees of them.

    The held-out measurements show the residual ``r = (1 - m)(A x - y)`` of ``x = f_m(m y)``. Its norm is
    ``<r, F r>^(1/2)``, with F the ``filter`` of A where it has one: raw projections would weigh low frequencies too
    much. If A measures pixels by themselves, the held-out pixels are compared. Otherwise pixels of ``A^T F r`` are
    compared, by the shape of their distribution; its width is that of the norms. The errors of the draws are measured
    in the same way, by the held-out part of the operator of the draw: what lies between the views of A is compared with
    what lies between the views of ``A_g``. The contribution of the noise of the held-out measurements is subtracted.

    Args:
        f, physics, transform, y, draws: see `ei.evaluation.bootstrap`; f has ``of(physics)``.
        seed: of draws and of the parts.
        how: ``noise``, a noise model or None for none; ``move`` of the bootstrap; ``rounds``: over how many divisions
            of each measurement the scores are averaged (3).

    Raises:
        InputError: for an f without ``of``; measurements that cannot be divided; otherwise see `bootstrap`.
    """
    require_of(f, "held-out measurements need")
    rounds = check_number("rounds", how.get("rounds", 3), integer=True, least=1)
    entries = entries_to_split(physics, y)
    parts = []
    for k in range(rounds):
        seed_of_part = derive_seed(seed, "held out", k)
        part = Split(physics, draw_part(entries, len(y), KEEP, seed_of_part))
        resampling = Resampling(
            f.of(part), part, transform, part.kept * y, draws, how.get("noise"), seed_of_part, how.get("move")
        )
        parts.append(_scores_of_part(resampling, part, y))
    true, predicted = (torch.stack([p[k] for p in parts]).square().mean(0).sqrt() for k in (0, 1))
    if not bool((true > 0).any()):
        raise InputError("the held-out measurements are nothing but noise: they do not show how far off f is")
    pixels = torch.cat([p[3] for p in parts])
    if getattr(physics, "pixel_mask", None) is None:
        pixels = pixels * ((true / predicted).square().mean() / pixels.square().mean()).sqrt()
    return Scores(true, predicted, torch.stack([p[2] for p in parts]).mean(0), pixels)


def _scores_of_part(resampling: Resampling, part: Split, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Norms, root mean squares and quantiles of the draws' norms, and ratios of pixels, as the rest sees errors that
    ``part`` of the measurements leaves."""
    residual = _unseen(part, part.physics.A(resampling.x) - y)
    of_noise, noise_pixels = _noise_power(resampling, part)
    norms: dict[int, Tensor] = {}
    sums = Sums()
    for draw in resampling:
        seen = _unseen(draw.physics, draw.physics.physics.A(draw.error))
        norms[draw.number] = _power(draw.physics.physics, seen).sqrt()
        if part.pixel_mask is None:
            image = resampling.back(draw, _image(draw.physics.physics, seen))
            sums.add(image.abs().square(), resampling.back(draw, _is_seen(draw.physics, y)).clamp(min=0))
        else:
            sums.add(resampling.back(draw, draw.error).abs().square(), resampling.likeness(draw))
    predicted, quantiles = quantiles_of_norms(stacked(norms))
    true = (_power(part.physics, residual) - of_noise).clamp(min=0).sqrt()
    shown = _is_seen(part, y) * (sums.weight > 0)
    # With noise, a pixel is compared with both that and the error.
    factor = (true / predicted).square().mean()
    scale = (sums.mean * factor + noise_pixels).sqrt()
    ratios = _ratios(shown * _image(part.physics, residual).abs().double(), shown * scale)
    return true, predicted, quantiles, ratios * factor.sqrt()


def _unseen(part: Split, measured: Tensor) -> Tensor:
    """What of measurements ``part`` leaves out."""
    return (1 - part.kept) * (entries_to_split(part.physics, measured) > 0) * measured


def _filtered(physics: Any, y: Tensor) -> Tensor:
    apply_filter = getattr(physics, "filter", None)
    return apply_filter(y) if callable(apply_filter) else y


def _power(physics: Any, y: Tensor) -> Tensor:
    """``<y, F y>``, ``[B]``."""
    return (y.conj() * _filtered(physics, y)).real.flatten(1).double().sum(1).clamp(min=0)


def _image(physics: Any, y: Tensor) -> Tensor:
    """``A^T F y``."""
    return adjoint_of(physics)(_filtered(physics, y))


def _is_seen(part: Split, y: Tensor) -> Tensor:
    """Ones for the pixels of which the rest sees something."""
    return (_image(part.physics, _unseen(part, torch.ones_like(y))).abs() > 0).double()


def _noise_power(resampling: Resampling, part: Split) -> tuple[Tensor, Tensor]:
    """The mean of `_power` that noise has in the rest, and the mean squared part that it has in `_image`."""
    x, noise = resampling.x, resampling.noise
    power, pixels = torch.zeros(len(x), dtype=torch.float64, device=x.device), torch.zeros_like(x.real).double()
    if noise is None:
        return power, pixels
    clean = part.physics.A(x)
    for number in range(NOISE_DRAWS):
        noisy = measure_with(noise, part.physics, x, derive_seed(resampling.seed, "held-out noise", number))
        rest = _unseen(part, noisy - clean)
        power += _power(part.physics, rest) / NOISE_DRAWS
        pixels += _image(part.physics, rest).abs().square() / NOISE_DRAWS
    return power, pixels


def draw_part(entries: Tensor, images: int, keep: float, seed: int) -> Tensor:
    """Zeros and ones ``[images, ...]``: a part ``keep`` of the ``entries`` (`entries_to_split`), drawn for each image,
    at least one of them left out. Raises `InputError` for fewer than two entries."""
    uniform = torch.rand(images, *entries.shape[1:], generator=generator(seed, "held out")).to(entries)
    order = torch.where(entries > 0, uniform, math.inf).flatten(1)
    counts = (entries > 0).expand_as(uniform).flatten(1).sum(1)
    if int(counts.min()) < 2:
        raise InputError("measurements of fewer than two views (or pixels) cannot be divided to calibrate by a part")
    left_out = ((1 - keep) * counts).round().long().clamp(min=1)
    largest = order.sort(1).values.gather(1, (counts - left_out - 1)[:, None])
    return (order <= largest).to(entries.dtype).view_as(uniform)


# ---- the correction -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Factors that correct a bootstrap's estimates."""

    factor: float  # of the root mean squared error of images
    norm: Mapping[float, float]  # at each of LEVELS, of the quantile of the error's norm
    pixels: Mapping[float, float]  # at each of LEVELS, of the Gaussian interval of a pixel
    images: int  # how many they were found from
    source: str  # "ground truth", "held-out measurements" or "the power between the views"
    found_with: Mapping[str, Any] = field(default_factory=dict)  # plain values: what the factors hold for

    @property
    def map_factor(self) -> float:
        """Of maps of pixels: that of the 90 % interval, since the tails of errors are heavier than a Gaussian's."""
        return self.pixels[0.9]

    @classmethod
    def of(cls, scores: Scores, source: str, found_with: Mapping[str, Any] | None = None) -> Calibration:
        """The conformal correction by the scores of some images: at the level p the factor that covers
        ``ceil((n + 1) p)`` of n; all of them where n is too small for p.

        Raises:
            InputError: where there are errors and the bootstrap has none.
        """
        norm = {p: conformal(scores.norms / scores.quantiles[:, k], p) for k, p in enumerate(LEVELS)}
        pixels = {p: _smallest(scores.pixels, len(scores.pixels) * p) / gaussian_bound(p) for p in LEVELS}
        if not all(math.isfinite(factor) for factor in (*norm.values(), *pixels.values())):
            raise InputError(
                "the draws show no error where there is one, so that no factor corrects it: take more draws"
            )
        factor = float(scores.factors.mean().sqrt())
        return cls(factor, norm, pixels, len(scores.norms), source, dict(found_with or {}))

    def save(self, path: str | os.PathLike) -> None:
        """Write a small JSON file."""
        write_atomically(path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Calibration:
        """Read what `save` wrote; raises `InputError` for another file."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            levels = {
                name: {p: check_number(name, values[name][str(p)], above=0) for p in LEVELS}
                for name in ("norm", "pixels")
            }
            factor = check_number("factor", values["factor"], above=0)
            found_with = dict(values.get("found_with", {}))
            return cls(
                factor, **levels, images=int(values["images"]), source=str(values["source"]), found_with=found_with
            )
        except FileNotFoundError as error:
            raise MissingFileError(f"there is no calibration {path}: make one with ei test --calibrate") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no calibration of ei test --calibrate: {error}") from error


def conformal(ratios: Tensor, p: float) -> float:
    """The ``ceil((n + 1) p)``-th smallest of n ratios; the largest where n is too small for p."""
    return _smallest(ratios, (len(ratios) + 1) * p - 1e-9)


def _smallest(values: Tensor, rank: float) -> float:
    """The rank-th smallest value (`torch.quantile` takes 16 million at most)."""
    return float(values.kthvalue(max(1, min(len(values), math.ceil(rank)))).values)


def gaussian_bound(p: float) -> float:
    """z with ``P(|N| <= z) = p``."""
    return statistics.NormalDist().inv_cdf((1 + p) / 2)


def coverage(scores: Scores, calibration: Calibration | None = None) -> list[dict[str, float]]:
    """Nominal and empirical coverage, a row for each of `LEVELS`: the share of images whose error's norm is below the
    bootstrap's quantile (``norm``), and that of pixels whose error is within the Gaussian interval (``pixels``). With a
    calibration also both after it (``norm_calibrated``, ``pixels_calibrated``)."""

    def share(ratios: Tensor, bound: float) -> float:
        return float((ratios <= bound * (1 + 1e-9)).double().mean())

    rows = []
    for k, p in enumerate(LEVELS):
        ratios = scores.norms / scores.quantiles[:, k]
        bound = gaussian_bound(p)
        row = {"level": p, "norm": share(ratios, 1.0), "pixels": share(scores.pixels, bound)}
        if calibration is not None:
            row["norm_calibrated"] = share(ratios, calibration.norm[p])
            row["pixels_calibrated"] = share(scores.pixels, bound * calibration.pixels[p])
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """`coverage` as text, in per cent."""
    titles = {"level": "nominal", "norm": "error norm", "norm_calibrated": "norm, calibrated"}
    titles |= {"pixels_calibrated": "pixels, calibrated"}
    lines = ["  ".join(f"{titles.get(name, name):>18}" for name in rows[0])]
    lines += ["  ".join(f"{100 * value:>17.0f}%" for value in row.values()) for row in rows]
    return "\n".join(lines)


def remarks(scores: Scores) -> str:
    """The factor and the correlation, in a line."""
    factors = scores.factors
    low, high = (float(torch.quantile(factors, p)) for p in (0.1, 0.9))
    correlation = scores.correlation
    alike = "" if math.isnan(correlation) else f"; over {len(factors)} images the two correlate by {correlation:.2f}"
    return (
        f"true mean squared error / estimated: {float(factors.mean()):.2f} (10th to 90th percentile {low:.2f} to "
        f"{high:.2f}){alike}"
    )
