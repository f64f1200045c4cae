"""Learning from noisy measurements: Stein's unbiased risk estimate in place of measurement consistency, which would fit
the noise; alone, and with equivariance (Chen, Tachella & Davies, "Robust Equivariant Imaging", CVPR 2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Equivariant, SelfSupervised, predict
from ei.common.checks import check_optional
from ei.common.processes import drawn, mean_over_batch
from ei.common.seeds import seeded
from ei.errors import InputError
from ei.physics.base import sampling_mask_for, where_sampled
from ei.physics.noise import random_signs
from ei.physics.noise_adapter import get_noise, noise_with_variance

# The default tau is at least this part of the root mean square of y, where differences are still far above float32's
# rounding.
TAU_OF_Y = 1e-3


class SUREClosure(SelfSupervised):
    """An estimate of ``||A f(y) - A x||^2 / m`` that needs no x. Keys: sure, total.

        sure = ||A f(y) - y||^2 / m - mean(v) + 2/(m tau) * sum b v (A f(y + tau b) - A f(y))

    with ``v = physics.noise.variance(y)``, random signs b, and m the number of measured entries; means and sums are
    over those. The last term is the divergence by finite differences (Ramani, Blu & Unser 2008). For Gaussian noise the
    estimate is unbiased up to terms of tau^2, for others to first order in the noise. It may be negative.

    In the domain "image" it is an estimate of ``||D (A f(y) - A x)||^2 / n``, with ``D = A_dagger``, which has to be
    linear, and n the number of entries of an image (Eldar 2009 weighs Stein's estimate in such a way)::

        sure = mean |D (A f(y) - y)|^2 - mean (D v b)(D b) + 2/tau * mean (D v b)(D (A f(y + tau b) - A f(y)))

    Use it where A is ill-conditioned, as in CT. Noise, and the details that f misses, are mostly in frequencies that A
    weakens. An error in measurements hardly counts them.

    The signs are drawn from torch's global generator. Nothing is detached. With one f(y) more than `MCClosure` it takes
    about twice its time.

    Args:
        tau: the step of the finite differences, in the units of y, > 0; None for ``(2 / m)^(1/4)`` of the noise's
            standard deviation (the root of mean v; at least 1e-3 of the root mean square of y), for each image its own.
            **Much larger steps are wrong after long trainings**: f notices that ``y + tau b`` is noisier than y.
        mc_domain: where the risk is estimated, "measurement" or "image".

    Raises:
        InputError: for a tau or domain out of range; when it is called, if the physics has no noise model with a
            ``variance``, f computes in bf16, which is too coarse for differences, or A_dagger is not linear where it
            has to be.

    >>> from ei.closure import SUREClosure
    >>> SUREClosure().mc_domain
    'measurement'
    """

    columns = {"loss_sure": "total"}

    def __init__(self, *, tau: float | None = None, mc_domain: str = "measurement") -> None:
        super().__init__(mc_domain=mc_domain)
        self.tau = check_optional("tau", tau, above=0)
        self._is_linear = False  # of A_dagger, which is checked once

    def check(self, f: Any, physics: Any) -> None:
        check_noise(physics)
        check_precision(f)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        self.check(f, physics)
        x1 = f(y)
        sure = self.risk(f, physics, y, x1)
        return {"sure": sure, "total": sure, "x1": x1.detach()}

    def risk(self, f: Any, physics: Any, y: Tensor, x1: Tensor) -> Tensor:
        """SURE of the reconstructions ``x1 = f(y)``, a scalar; one evaluation of f more."""
        variance = noise_with_variance(physics).variance(y)
        residual, noise, shared = self.stein(f, physics, y, predict(physics, x1), variance)
        return residual - noise + 2 * shared

    def stein(
        self, f: Any, physics: Any, y: Tensor, predicted: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of SURE, scalars in units of `image_scale`: the residual, the variance of the noise, and the
        covariance of residual and noise.

        In measurements these are ``||A f(y) - y||^2 / m``, ``mean(v)``, and ``1/m sum_i v_i d(A f(y))_i / dy_i``, the
        last by finite differences along random signs b; in images, the same of what A_dagger makes of ``A f(y) - y``,
        of ``v b`` and b, and of ``v b`` and the derivative along b.

        Args:
            f, physics, y: as of the closure.
            predicted: ``A f(y)``.
            variance: of the noise, of y's shape, real.
        """
        signs = drawn(lambda shape: random_signs(y.new_empty(shape)), tuple(y.shape))
        signs = where_sampled(physics, signs, torch.zeros_like(y))
        step = default_tau(physics, y, variance) if self.tau is None else self.tau
        derivative = (physics.A(f(y + step * signs)) - predicted) / step
        if self.mc_domain == "measurement":
            residual = mean_of_sampled(physics, (predicted - y).abs().square())
            noise = mean_of_sampled(physics, variance)
            shared = mean_of_sampled(physics, variance * (signs.conj() * derivative).real)
        else:
            D = physics.A_dagger
            difference = D(predicted - y)
            self._check_linear(difference, D, predicted, y)
            residual = difference.abs().square().mean()
            # No square root: the variance that is estimated from one y may be negative.
            weighted = D(variance * signs).conj()
            noise, shared = ((weighted * D(along)).real.mean() for along in (signs, derivative))
        if self.image_scale == 1:
            return residual, noise, shared
        return residual / self.image_scale**2, noise / self.image_scale**2, shared / self.image_scale**2

    def _check_linear(self, residual: Tensor, A_dagger: Any, predicted: Tensor, y: Tensor) -> None:
        """Raise unless ``residual = A_dagger(predicted - y)`` is also the difference of the two, to 5 % of itself."""
        if self._is_linear:
            return
        with torch.no_grad():
            image = A_dagger(y)
            off = torch.linalg.vector_norm(A_dagger(predicted) - image - residual)
            allowed = 0.05 * torch.linalg.vector_norm(residual) + 1e-4 * torch.linalg.vector_norm(image)
        if not off <= allowed:
            raise InputError(
                "SURE in the domain of images needs a linear A_dagger, and this one is not (conjugate gradients that "
                "stop early are not): set mc_domain to measurement"
            )
        self._is_linear = True


class RobustEIClosure(Equivariant, SUREClosure):
    """``sure + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2 + fresh noise)``: equivariant imaging with
    SURE (`SUREClosure`) for measurement consistency. Keys: sure, ei, total.

    Args:
        alpha, stop_gradient, move, operators: see `ei.closure.base.Equivariant`; alpha is tied also to the fraction of
            entries that a mask measures, as SURE is a mean over those.
        tau, mc_domain: see `SUREClosure`.

    Raises:
        InputError: as `SUREClosure`, and for an alpha out of range.

    >>> from ei.closure import RobustEIClosure
    >>> RobustEIClosure(alpha=1).columns
    {'loss_sure': 'sure', 'loss_ei': 'ei', 'loss_total': 'total'}
    """

    columns = {"loss_sure": "sure", "loss_ei": "ei", "loss_total": "total"}

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        self.check(f, physics)
        x1 = f(y)
        x2 = self.target(self.transformed(transform, x1))  # T_g x1
        x3 = self.reconstructed(f, physics, transform, x2, len(x1))  # f(A x2)
        ei = self.criterion(x3, x2)
        sure = self.risk(f, physics, y, x1)
        return {"sure": sure, "ei": ei, "total": sure + self.alpha * ei, "x1": x1.detach()}


def error_estimate(f: Any, physics: Any, y: Tensor) -> float:
    """SURE of a trained f: an estimate of ``||A f(y) - A x||^2 / m`` over measurements ``y`` ``[B, ...]``, in their
    units, under signs that are the same every time. It may be negative. Raises as `SUREClosure`."""
    closure = SUREClosure()
    closure.check(f, physics)
    with torch.no_grad(), seeded(0, y.device):
        return float(closure.risk(f, physics, y, f(y)))


def check_noise(physics: Any) -> None:
    """Raise `InputError` unless the physics has a noise model with a ``variance``."""
    if noise_with_variance(physics) is None:
        noise = get_noise(physics)
        lacks = "the physics has none" if noise is None else f"{noise} has no variance(y)"
        raise InputError(
            f"SURE needs a noise model with a variance, and {lacks}: set physics.noise, as GaussianNoise(0.1), or "
            "--noise gaussian:0.1 (or unknown)"
        )


def check_precision(f: Any) -> None:
    """Raise `InputError` if f computes too coarsely."""
    if not is_precise(f):
        raise InputError(f"SURE takes small differences, for which {f.precision} is too coarse: use the precision fp32")


def is_precise(f: Any) -> bool:
    """Whether f computes precisely enough for the small differences that SURE takes."""
    return getattr(f, "precision", None) in (None, "fp32")


def mean_of_sampled(physics: Any, values: Tensor) -> Tensor:
    """The mean of ``values``, of the shape of measurements, over the sampled entries: a scalar. With several processes
    it has the weight of the entries of this one, so that the mean over processes is the mean over all entries."""
    entries = sampling_mask_for(physics, values)
    if entries is None:
        return values.mean()
    fraction = mean_over_batch(entries.expand_as(values).mean())
    return where_sampled(physics, values, torch.zeros_like(values)).mean() / fraction


def default_tau(physics: Any, y: Tensor, variance: Tensor) -> Tensor:
    """The step for measurements ``y`` of this ``variance``, ``[B, 1, ...]``: for each image its own, so that nothing
    else in the batch matters."""
    count = _sum_of_each(physics, torch.ones_like(variance)).clamp(min=1)
    of_noise, of_y = ((_sum_of_each(physics, v) / count).clamp(min=0).sqrt() for v in (variance, y.abs().square()))
    numbers = count * (2 if y.is_complex() else 1)
    # In units of the noise, the signs raise its energy from m by m tau^2: here by one of the energy's own standard
    # deviations sqrt(2 m), which f hardly notices. In a long training with larger steps f learns to answer to the
    # higher level, and the estimate falls far below the true error (docs/results/mri.md). Smaller ones make the
    # gradient noisy, where f has kinks (ReLU, pooling): as 1 / sqrt(tau).
    step = torch.maximum((2 / numbers) ** 0.25 * of_noise, TAU_OF_Y * of_y)
    return torch.where(step > 0, step, TAU_OF_Y)


def _sum_of_each(physics: Any, values: Tensor) -> Tensor:
    """The sum over the sampled entries of each image, ``[B, 1, ...]``."""
    sampled = where_sampled(physics, values.detach(), torch.zeros_like(values))
    return sampled.sum(tuple(range(1, values.dim())), keepdim=True)
