"""What a stack of views sees: by a matrix for small images, by random probes and Lanczos' method for larger ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ei.errors import InputError

if TYPE_CHECKING:
    from ei.diagnosis.views import Problem

LANCZOS_STEPS = 80


class Stack:
    """The operator ``M = sum_g T_g^T A^T A T_g`` restricted to the support: what a stack of views ``A T_g`` sees are
    the eigenvectors of M whose eigenvalues exceed (tol * largest singular value of A)^2."""

    def __init__(
        self,
        problem: Problem,
        elements: Sequence[Tensor],
        identity: bool,
        function: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.problem, self.elements, self.identity = problem, list(elements), identity
        self.function = function or (lambda x: x)
        self._limit: float | None = None
        self._decomposed: tuple[Tensor, Tensor] | None = None
        self._quadratures: list[tuple[Tensor, Tensor]] = []

    def apply(self, columns: Tensor) -> Tensor:
        """``M`` times columns ``[size, count]``."""
        problem = self.problem
        result = torch.zeros_like(columns)
        views: list[list[Tensor]] = [[]] if self.identity else []
        # A few elements at a time bound the memory.
        views += [self.elements[k : k + 8] for k in range(0, len(self.elements), 8)]
        for elements in views:
            with torch.enable_grad():
                x = problem.images(columns).requires_grad_()
                y = problem.physics.A(problem.transformed(x, elements) if elements else self.function(x))
                if not y.requires_grad:
                    raise InputError("diagnose needs an A of differentiable torch operations")
                (gradient,) = torch.autograd.grad(y, x, y.detach())
            result += problem.columns(gradient)
        return result * problem.support[:, None]

    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(max(theta.max() for theta, _ in self._spectrum()))

    def see(self, share: float) -> None:
        """Move the threshold so that this share of image space is seen, where matrices were formed and the eigenvalues
        let it: between the two on either side."""
        values, _ = self._decompose()
        hidden = len(values) - round(share * len(values))
        if 0 < hidden < len(values):
            below, above = values[hidden - 1 : hidden + 1].clamp(min=1e-12 * float(values[-1])).tolist()
            self._limit = (below * above) ** 0.5

    def threshold(self) -> float:
        if self._limit is not None:
            return self._limit
        assert self.problem.top is not None
        return self.problem.tol**2 * self.problem.top

    def seen(self) -> float:
        """The share of image space (inside the support) that is seen."""
        return statistics.fmean(
            float(weight[theta > self.threshold()].sum() / weight.sum()) for theta, weight in self._spectrum()
        )

    def project(self, columns: Tensor) -> Tensor:
        """The part of images (columns) that is seen."""
        columns = columns * self.problem.support[:, None]
        if self.problem.exact:
            values, vectors = self._decompose()
            seen = vectors[:, values > self.threshold()]
            return seen @ (seen.T @ columns)
        return self._lanczos(columns)[1]

    def unseen(self) -> tuple[Tensor, Tensor]:
        """The mean power of the unseen part of white images, by pixel and by frequency."""
        white = self.problem.white(256 if self.problem.exact else 8 if not self.elements else 2)
        left = (white - self.project(white)).T.reshape(-1, *self.problem.shape)
        spectrum = torch.fft.fftshift(torch.fft.fft2(left, norm="ortho").abs().square().mean((0, 1)), dim=(-2, -1))
        return left.square().mean((0, 1)).cpu(), spectrum.cpu()

    def _spectrum(self) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and their weights: all, or a quadrature for each of two random probes."""
        if self.problem.exact:
            values, _ = self._decompose()
            return [(values, torch.ones_like(values))]
        self._quadratures = self._quadratures or self._lanczos(self.problem.white(2))[0]
        return self._quadratures

    def _decompose(self) -> tuple[Tensor, Tensor]:
        if self._decomposed is None:
            support = self.problem.support.nonzero().flatten()
            matrix = torch.zeros(self.problem.n, self.problem.n, dtype=torch.float64, device=self.problem.device)
            for start in range(0, self.problem.n, 256):
                block = torch.zeros(self.problem.size, min(256, self.problem.n - start), dtype=torch.float64)
                block[support[start : start + 256], torch.arange(block.shape[1])] = 1
                matrix[:, start : start + 256] = self.apply(block.to(self.problem.device))[support]
            values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
            whole = torch.zeros(self.problem.size, self.problem.n, dtype=torch.float64, device=self.problem.device)
            whole[support] = vectors
            self._decomposed = values, whole
        return self._decomposed

    def _lanczos(self, columns: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Lanczos' method from each column, with full reorthogonalisation: its quadrature (nodes, weights), and the
        column projected on what is seen."""
        steps, norms = min(LANCZOS_STEPS, self.problem.n), columns.norm(dim=0)
        # Memory is what this takes time for: the vectors of a column lie behind each other.
        basis = columns.new_empty(columns.shape[1], steps, columns.shape[0])
        diagonal, beside = columns.new_zeros(2, steps, columns.shape[1])
        basis[:, 0] = (columns / norms.clamp(min=1e-300)).T
        running, scale = norms > 0, self.problem.top or 0.0
        for step in range(steps):
            rest = self.apply(basis[:, step].T)
            diagonal[step] = (basis[:, step].T * rest).sum(0)
            for _ in range(2):  # twice is enough (Kahan and Parlett)
                known = basis[:, : step + 1] @ rest.T[:, :, None]
                rest = rest - (known.mT @ basis[:, : step + 1])[:, 0].T
            length = rest.norm(dim=0)
            scale = max(scale, float(diagonal[step].max()))
            running = running & (length > 1e-6 * scale)  # float32 has been left behind: nothing new is there
            if step + 1 == steps or not bool(running.any()):
                break
            beside[step] = torch.where(running, length, 0)
            basis[:, step + 1] = torch.where(running, rest / length.clamp(min=1e-300), 0).T
        quadratures, projected = [], torch.zeros_like(columns)
        threshold = self.threshold() if self.problem.top is not None else 0.0
        for k in range(columns.shape[1]):
            ends = (beside[:, k] == 0).nonzero()
            size = int(ends[0]) + 1
            off = torch.diag(beside[: size - 1, k], 1)
            theta, vectors = torch.linalg.eigh(torch.diag(diagonal[:size, k]) + off + off.T)
            quadratures.append((theta, vectors[0].square()))
            coefficients = vectors @ ((theta > threshold) * vectors[0]) * norms[k]
            projected[:, k] = coefficients @ basis[k, :size]
        return quadratures, projected


def energy_of(columns: Tensor) -> float:
    return float(columns.square().sum())
