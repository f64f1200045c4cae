"""What a release consists of: one version, metadata that stand alone, and modules that import quickly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, subprocess_run

import ei


@pytest.mark.parametrize("code", ["import ei, ei.commands", "import runpy; runpy.run_module('ei', alter_sys=True)"])
def test_neither_the_package_nor_its_help_imports_torch(code: str, tmp_path: Path) -> None:
    at_exit = "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules))"
    check = f"{at_exit}\nsys.argv = ['ei', '--help']\n{code}"
    done = subprocess_run(sys.executable, "-c", check, cwd=tmp_path)
    assert (done.code, done.err) == (0, "") and done.out.splitlines()[-1] == "False"


def test_rooms_are_attributes_of_the_package() -> None:
    assert ei.physics.CT.__name__ == "CT" and {"physics", "load"} <= set(dir(ei))
    with pytest.raises(AttributeError, match="no attribute 'phisics'"):
        ei.phisics  # noqa: B018


def test_the_version_is_in_one_place() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ei.__version__
    assert not re.search(r'^version *= *"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"## {ei.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    """It is built without the network where the build's requirements are installed."""
    for module in ("build", "hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(module, reason=f"{module} is not installed (pip install build hatchling ...)")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
        assert {"ei/py.typed", "ei/commands/problems/ct.yaml"} <= set(archive.namelist())
        assert all(name.startswith(("ei/", f"equivariant_imaging-{ei.__version__}")) for name in archive.namelist())
    assert f"Version: {ei.__version__}\n" in text
    relative = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("https://", "#"))]
    assert not relative and "![" in text
