"""Learning from noisy measurements: Stein's unbiased risk estimate in place of measurement consistency, which would fit
the noise; alone, and with equivariance (Chen, Tachella & Davies, "Robust Equivariant Imaging", CVPR 2022).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Closure, loss_weight, measure
from ei.errors import InputError
from ei.physics.base import measured_entries, only_measured
from ei.physics.noise import random_signs

# tau of the default, in units of the root mean square of an image's measurements.
RELATIVE_TAU = 1e-3


class SUREClosure(Closure):
    """An estimate of ``||A f(y) - A x||^2 / m`` that needs no x. Keys: sure, total.

        sure = ||A f(y) - y||^2 / m - mean(v) + 2/(m tau) * sum b v (A f(y + tau b) - A f(y))

    with ``v = physics.noise.variance(y)``, random signs b, and m the number of measured entries; means and sums are
    over those. The last term is the divergence by finite differences (Ramani, Blu & Unser 2008). For Gaussian noise the
    estimate is unbiased up to terms of tau^2, for others to first order in the noise. It may be negative.

    The signs are drawn from torch's global generator. Nothing is detached. With one f(y) more than `MCClosure` it takes
    about twice its time.

    Args:
        tau: the step of the finite differences, in the units of y; None for 1e-3 of the root mean square of what is
            measured, for each image its own.

    Raises:
        InputError: for a tau that is not above zero; when it is called, if the physics has no noise model with a
            ``variance``, or f computes in bf16, which is too coarse for differences.
    """

    columns = {"loss_sure": "total"}

    def __init__(self, *, tau: float | None = None) -> None:
        super().__init__()
        self.tau = _checked_tau(tau)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        check_sure(f, physics)
        x1 = f(y)
        sure = unbiased_risk(f, physics, y, x1, self.tau)
        return {"sure": sure, "total": sure, "x1": x1.detach()}


class RobustEIClosure(Closure):
    """``sure + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2 + fresh noise)``: equivariant imaging with
    SURE (`SUREClosure`) for measurement consistency. Keys: sure, ei, total.

    Args:
        alpha: weight of the equivariance loss; tied to the units of A, and to the fraction of entries that a mask
            measures, as SURE is a mean over those.
        stop_gradient: treat x2 as data, as in `EIClosure`.
        tau: as of `SUREClosure`.

    Raises:
        InputError: as `SUREClosure`, and for an impossible alpha.
    """

    columns = {"loss_sure": "sure", "loss_ei": "ei", "loss_total": "total"}

    def __init__(self, alpha: float, stop_gradient: bool = False, *, tau: float | None = None) -> None:
        super().__init__()
        self.alpha, self.stop_gradient, self.tau = loss_weight("alpha", alpha), stop_gradient, _checked_tau(tau)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        check_sure(f, physics)
        x1 = f(y)
        x2 = transform.apply(x1.detach() if self.stop_gradient else x1)
        x3 = f(measure(physics, x2))
        sure = unbiased_risk(f, physics, y, x1, self.tau)
        ei = self.criterion(x3, x2)
        return {"sure": sure, "ei": ei, "total": sure + self.alpha * ei, "x1": x1.detach()}


def check_sure(f: Any, physics: Any) -> None:
    """Raise unless SURE can be computed.

    Raises:
        InputError: if the physics has no noise model with a ``variance``, or f computes in bf16.
    """
    noise = getattr(physics, "noise", None)
    if not callable(getattr(noise, "variance", None)):
        lacks = "the physics has none" if noise is None else f"{noise} has no variance(y)"
        raise InputError(
            f"SURE needs a noise model that knows its variance, and {lacks}: set physics.noise, as GaussianNoise(0.1)"
        )
    if getattr(f, "precision", None) == "bf16":
        raise InputError("SURE takes small differences, for which bf16 is too coarse: use the precision fp32")


def unbiased_risk(f: Any, physics: Any, y: Tensor, x1: Tensor, tau: float | None = None) -> Tensor:
    """SURE (see `SUREClosure`) of the reconstructions ``x1 = f(y)``, a scalar; one evaluation of f more.

    Args:
        f: the reconstruction function.
        physics: with a noise model.
        y: measurements ``[B, ...]``, real or complex.
        x1: ``f(y)``.
        tau: the step; None for the default.
    """
    zero = torch.zeros_like(y.real)
    variance = only_measured(physics, physics.noise.variance(y), zero)
    signs = only_measured(physics, getattr(physics.noise, "signs", random_signs)(y), torch.zeros_like(y))
    count = number_of_measured(physics, y)
    step = default_tau(physics, y) if tau is None else tau
    measured = physics.A(x1)
    moved = physics.A(f(y + step * signs))
    residual = only_measured(physics, (measured - y).abs().square(), zero)
    derivative = (signs.conj() * (moved - measured)).real / step
    return (residual - variance + 2 * variance * derivative).sum() / count


def number_of_measured(physics: Any, y: Tensor) -> int | Tensor:
    """How many entries of ``y`` are measured."""
    entries = measured_entries(physics, y)
    return y.numel() if entries is None else entries.expand_as(y).sum()


def default_tau(physics: Any, y: Tensor) -> Tensor:
    """`RELATIVE_TAU` of the root mean square of each image's measured entries, ``[B, 1, ...]``; 1 of it for an image of
    zeros."""
    power = only_measured(physics, y.detach().abs().square(), torch.zeros_like(y.real))
    entries = measured_entries(physics, y)
    share = torch.ones_like(power) if entries is None else entries.to(power.dtype).expand_as(power)
    axes = tuple(range(1, y.dim()))
    scale = (power.sum(axes, keepdim=True) / share.sum(axes, keepdim=True).clamp(min=1)).sqrt()
    return RELATIVE_TAU * torch.where(scale > 0, scale, 1)


def _checked_tau(tau: float | None) -> float | None:
    if tau is not None and (not math.isfinite(tau) or tau <= 0):
        raise InputError(f"tau, the step of SURE's finite differences, must be a finite number > 0, not {tau}")
    return None if tau is None else float(tau)
