"""Learning from noisy measurements: Stein's unbiased risk estimate in place of measurement consistency, which would fit
the noise; alone, and with equivariance (Chen, Tachella & Davies, "Robust Equivariant Imaging", CVPR 2022).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Closure, Consistency, equivariance, loss_weight
from ei.common.processes import drawn
from ei.errors import InputError
from ei.physics.base import sampling_mask_for, where_sampled
from ei.physics.noise import random_signs
from ei.physics.noise_adapter import get_noise, noise_with_variance

# The default tau, in units of the noise: f is to be differentiated on the scale on which noise moves y. The estimate is
# flat below: a tenth of this changes it by 0.1 % or less, three times as much biases it by up to 1 %. The gradient is
# not: where f has kinks (ReLU, pooling) it is the noisier the smaller tau is, as 1 / sqrt(tau).
TAU_OF_NOISE = 0.3
# And at least this part of the root mean square of y, where differences are still far above float32's rounding.
TAU_OF_Y = 1e-3


class SUREClosure(Closure):
    """An estimate of ``||A f(y) - A x||^2 / m`` that needs no x. Keys: sure, total.

        sure = ||A f(y) - y||^2 / m - mean(v) + 2/(m tau) * sum b v (A f(y + tau b) - A f(y))

    with ``v = physics.noise.variance(y)``, random signs b, and m the number of measured entries; means and sums are
    over those. The last term is the divergence by finite differences (Ramani, Blu & Unser 2008). For Gaussian noise the
    estimate is unbiased up to terms of tau^2, for others to first order in the noise. It may be negative.

    In the domain "image" it is an estimate of ``||D (A f(y) - A x)||^2 / n``, with ``D = A_dagger``, which has to be
    linear, and n the number of entries of an image (Eldar 2009 weighs Stein's estimate in such a way):

        sure = mean |D (A f(y) - y)|^2 - mean (D v b)(D b) + 2/tau * mean (D v b)(D (A f(y + tau b) - A f(y)))

    Where A is ill-conditioned, as in CT, noise and what f misses are mostly in frequencies that A weakens, which an
    error in measurements hardly counts.

    The signs are drawn from torch's global generator. Nothing is detached. With one f(y) more than `MCClosure` it takes
    about twice its time.

    Args:
        tau: the step of the finite differences, in the units of y; None for 0.3 of the noise's standard deviation (the
            root of mean v; at least 1e-3 of the root mean square of y), for each image its own.
        mc_domain: where the risk is measured, "measurement" or "image".

    Raises:
        InputError: for a tau that is not above zero or another domain; when it is called, if the physics has no noise
            model with a ``variance``, f computes in bf16, which is too coarse for differences, or A_dagger is not
            linear where it has to be.
    """

    columns = {"loss_sure": "total"}

    def __init__(self, *, tau: float | None = None, mc_domain: str = "measurement") -> None:
        super().__init__()
        self.tau, self.compared = checked_tau(tau), Consistency(mc_domain)

    def check(self, f: Any, physics: Any) -> None:
        check_sure(f, physics)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        self.check(f, physics)
        x1 = f(y)
        sure = unbiased_risk(f, physics, y, x1, self.tau, self.compared)
        return {"sure": sure, "total": sure, "x1": x1.detach()}


class RobustEIClosure(Closure):
    """``sure + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2 + fresh noise)``: equivariant imaging with
    SURE (`SUREClosure`) for measurement consistency. Keys: sure, ei, total.

    Args:
        alpha: weight of the equivariance loss; tied to the units of A, and to the fraction of entries that a mask
            measures, as SURE is a mean over those.
        stop_gradient: treat x2 as data, as in `EIClosure`.
        tau, mc_domain: as of `SUREClosure`.

    Raises:
        InputError: as `SUREClosure`, and for an impossible alpha.
    """

    columns = {"loss_sure": "sure", "loss_ei": "ei", "loss_total": "total"}

    def __init__(
        self,
        alpha: float,
        stop_gradient: bool = False,
        *,
        tau: float | None = None,
        mc_domain: str = "measurement",
    ) -> None:
        super().__init__()
        self.alpha, self.stop_gradient = loss_weight("alpha", alpha), stop_gradient
        self.tau, self.compared = checked_tau(tau), Consistency(mc_domain)

    def check(self, f: Any, physics: Any) -> None:
        check_sure(f, physics)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        self.check(f, physics)
        x1 = f(y)
        _, ei = equivariance(f, physics, transform, x1, self.criterion, self.stop_gradient)
        sure = unbiased_risk(f, physics, y, x1, self.tau, self.compared)
        return {"sure": sure, "ei": ei, "total": sure + self.alpha * ei, "x1": x1.detach()}


def check_sure(f: Any, physics: Any) -> None:
    """Raise unless SURE can be computed.

    Raises:
        InputError: if the physics has no noise model with a ``variance``, or f computes in bf16.
    """
    if noise_with_variance(physics) is None:
        noise = get_noise(physics)
        lacks = "the physics has none" if noise is None else f"{noise} has no variance(y)"
        raise InputError(
            f"SURE needs a noise model that knows its variance, and {lacks}: set physics.noise, as GaussianNoise(0.1), "
            "or --noise gaussian:0.1 (or unknown)"
        )
    check_precision(f)


def check_precision(f: Any) -> None:
    """Raise if f computes too coarsely."""
    if not fine_enough(f):
        raise InputError(f"SURE takes small differences, for which {f.precision} is too coarse: use the precision fp32")


def fine_enough(f: Any) -> bool:
    """Whether f computes finely enough for the small differences that SURE takes."""
    return getattr(f, "precision", None) in (None, "fp32")


def unbiased_risk(
    f: Any, physics: Any, y: Tensor, x1: Tensor, tau: float | None = None, compared: Consistency | None = None
) -> Tensor:
    """SURE (see `SUREClosure`) of the reconstructions ``x1 = f(y)``, a scalar; one evaluation of f more.

    Args:
        f: the reconstruction function.
        physics: with a noise model.
        y: measurements ``[B, ...]``, real or complex.
        x1: ``f(y)``.
        tau: the step; None for the default.
        compared: where the risk is measured; None for measurements.
    """
    variance = noise_with_variance(physics).variance(y)
    residual, noise, shared = stein(f, physics, y, physics.A(x1), variance, tau, compared or Consistency())
    return residual - noise + 2 * shared


def stein(
    f: Any, physics: Any, y: Tensor, measured: Tensor, variance: Tensor, tau: float | None, compared: Consistency
) -> tuple[Tensor, Tensor, Tensor]:
    """The three parts of SURE, scalars: the residual, what of it is noise, and what residual and noise share.

    In measurements these are ``||A f(y) - y||^2 / m``, ``mean(v)``, and ``1/m sum_i v_i d(A f(y))_i / dy_i``, the last
    by finite differences along random signs b; in images, the same of what A_dagger makes of ``A f(y) - y``, of
    ``v b`` and b, and of ``v b`` and the derivative along b.

    Args:
        f, physics, y, tau: see `unbiased_risk`.
        measured: ``A f(y)``.
        variance: of the noise, of y's shape, real.
        compared: where the risk is measured.
    """
    signs = drawn(lambda shape: random_signs(y.new_empty(shape)), tuple(y.shape))
    signs = where_sampled(physics, signs, torch.zeros_like(y))
    step = default_tau(physics, y, variance) if tau is None else tau
    derivative = (physics.A(f(y + step * signs)) - measured) / step
    if compared.domain == "measurement":
        residual = mean_of_measured(physics, (measured - y).abs().square())
        shared = mean_of_measured(physics, variance * (signs.conj() * derivative).real)
        return residual, mean_of_measured(physics, variance), shared
    D = physics.A_dagger
    residual = D(measured - y)
    if not compared.linear:
        check_linear(residual, D, measured, y)
        compared.linear = True
    # No square root: the variance that is estimated from one y may be negative.
    weighted = D(variance * signs).conj()
    noise, shared = ((weighted * D(along)).real.mean() for along in (signs, derivative))
    return residual.abs().square().mean(), noise, shared


def check_linear(residual: Tensor, A_dagger: Any, measured: Tensor, y: Tensor) -> None:
    """Raise unless ``residual = A_dagger(measured - y)`` is also the difference of the two, to 5 % of itself.

    Raises:
        InputError: if it is not, as of conjugate gradients that are stopped early.
    """
    with torch.no_grad():
        image = A_dagger(y)
        off = torch.linalg.vector_norm(A_dagger(measured) - image - residual)
        allowed = 0.05 * torch.linalg.vector_norm(residual) + 1e-4 * torch.linalg.vector_norm(image)
    if not off <= allowed:
        raise InputError(
            "SURE in the domain of images needs an A_dagger that is linear, and this one is not (conjugate gradients "
            'that stop early are not): use the domain "measurement" (--mc-domain measurement)'
        )


def mean_of_measured(physics: Any, values: Tensor) -> Tensor:
    """The mean of ``values``, of the shape of measurements, over what is measured: a scalar."""
    entries = sampling_mask_for(physics, values)
    if entries is None:
        return values.mean()
    return where_sampled(physics, values, torch.zeros_like(values)).sum() / entries.expand_as(values).sum()


def default_tau(physics: Any, y: Tensor, variance: Tensor) -> Tensor:
    """The step for measurements ``y`` of this ``variance``, ``[B, 1, ...]``: for each image its own, so that nothing
    else in the batch matters."""
    of_noise, of_y = (_mean_of_each(physics, values).clamp(min=0).sqrt() for values in (variance, y.abs().square()))
    step = torch.maximum(TAU_OF_NOISE * of_noise, TAU_OF_Y * of_y)
    return torch.where(step > 0, step, TAU_OF_Y)


def _mean_of_each(physics: Any, values: Tensor) -> Tensor:
    """The mean over what is measured of each image, ``[B, 1, ...]``."""
    entries, axes = sampling_mask_for(physics, values), tuple(range(1, values.dim()))
    values = values.detach()
    if entries is None:
        return values.mean(axes, keepdim=True)
    share = entries.to(values.dtype).expand_as(values).sum(axes, keepdim=True).clamp(min=1)
    return where_sampled(physics, values, torch.zeros_like(values)).sum(axes, keepdim=True) / share


def checked_tau(tau: float | None) -> float | None:
    """A step that was given: finite and above zero; or None.

    Raises:
        InputError: for another one.
    """
    if tau is not None and (not math.isfinite(tau) or tau <= 0):
        raise InputError(f"tau, the step of SURE's finite differences, must be a finite number > 0, not {tau}")
    return None if tau is None else float(tau)
