"""Why EI's own images lack detail, where it can be computed: Gaussian signals, circular shifts, a random A.

    python benchmarks/mean_or_draw.py

f is the best linear reconstruction for the spectrum that is believed. EI believes next the shift-averaged spectrum of
its means x1 = f(A x); expectation maximisation that of draws of x given A x, the means and what they miss. Prints the
mean squared error of f after some rounds beside that of the true spectrum.
"""

from __future__ import annotations

import numpy as np

SIZE, ROUNDS = 64, (1, 3, 10, 30, 100, 1000)
FOURIER = np.fft.fft(np.eye(SIZE)) / np.sqrt(SIZE)


def circulant(spectrum: np.ndarray) -> np.ndarray:
    return np.real(FOURIER.conj().T @ np.diag(spectrum) @ FOURIER)


def spectrum_of(covariance: np.ndarray) -> np.ndarray:
    """Of the covariance averaged over all shifts."""
    return np.real(np.diag(FOURIER @ covariance @ FOURIER.conj().T))


def main() -> None:
    rng = np.random.default_rng(0)
    frequency = np.minimum(np.arange(SIZE), SIZE - np.arange(SIZE))
    true = circulant(1 / (1 + frequency) ** 2.0)
    for measurements in (20, 32, 48):
        A = rng.standard_normal((measurements, SIZE))

        def reconstruction(believed: np.ndarray, A: np.ndarray = A) -> np.ndarray:
            return believed @ A.T @ np.linalg.pinv(A @ believed @ A.T, rcond=1e-10)

        def error(believed: np.ndarray, A: np.ndarray = A) -> float:
            missed = np.eye(SIZE) - reconstruction(believed) @ A
            return float(np.trace(missed @ true @ missed.T) / SIZE)

        print(f"{measurements} of {SIZE} measured, true spectrum: {error(true):.5f}")
        for name in ("means (EI)", "draws (EM)"):
            believed, errors = np.eye(SIZE), []
            for count in range(1, max(ROUNDS) + 1):
                f = reconstruction(believed)
                covariance = f @ A @ true @ A.T @ f.T
                if name == "draws (EM)":
                    covariance += believed - f @ A @ believed
                believed = circulant(spectrum_of(covariance).clip(1e-12))
                if count in ROUNDS:
                    errors.append(f"{count}: {error(believed):.5f}")
            print(f"  {name}, after rounds  {'  '.join(errors)}")


if __name__ == "__main__":
    main()
