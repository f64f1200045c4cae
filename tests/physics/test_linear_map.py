"""Matrices: the layout for GPUs against the one for CPUs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from ei.physics import linear_map


@pytest.mark.parametrize("gathered", [2**27, 60])
@pytest.mark.parametrize("count", [1, 3])
def test_the_sparse_product_of_gpus_is_that_of_cpus(count: int, gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of many lengths, empty ones and a matrix without entries; also where a product is made part by part."""
    monkeypatch.setattr(linear_map, "GATHERED", gathered)
    dense = np.random.default_rng(0).random((11, 7)) * (np.random.default_rng(1).random((11, 7)) < 0.4)
    dense[[0, 5, 10]] = 0
    vectors = torch.rand(count, 7, dtype=torch.float64).mT
    for matrix in (dense, 0 * dense):
        sparse = scipy.sparse.csr_array(matrix)
        cpu, gpu = (
            form.from_scipy(sparse, torch.device("cpu"), torch.float64)
            for form in (linear_map.CSR, linear_map.PaddedRows)
        )
        torch.testing.assert_close(gpu.multiply(vectors), torch.from_numpy(matrix) @ vectors)
        torch.testing.assert_close(gpu.multiply(vectors), cpu.multiply(vectors))
    vectors[3] = torch.nan  # a pixel without a value: only what sees it has none
    blind = torch.from_numpy(dense[:, 3] == 0)
    blind[[0, 5, 10]] = False
    padded = linear_map.PaddedRows.from_scipy(scipy.sparse.csr_array(dense), torch.device("cpu"), torch.float64)
    assert bool(padded.multiply(vectors)[blind].isfinite().all())
