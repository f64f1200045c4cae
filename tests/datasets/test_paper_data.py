"""The preparation of the paper's data."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ei.datasets.paper_data import files_of
from ei.errors import InputError


def test_prepare_the_real_ct100(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from ei.datasets.paper_data import prepare_ct100

    assert prepare_ct100(shared_data / "CT100_dicom.zip", tmp_path / "x.mat") == pytest.approx(30.24, abs=0.01)
    wanted = scipy.io.loadmat(shared_data / "CT100_128x128.mat")["DATA"]
    np.testing.assert_allclose(scipy.io.loadmat(tmp_path / "x.mat")["DATA"], wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "C:\\evil.png", "a/..\\..\\evil.png"])
def test_archives_that_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:

    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(InputError, match="rejected"), files_of(tmp_path / "evil.zip", (".png",)):
        pass
