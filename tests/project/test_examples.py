"""The gallery: every script of examples/ is short, imports the public API alone, and runs."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT
from PIL import Image

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
FIGURES = ROOT / "docs" / "gallery_figures"
NEEDS = {"plot_deepinv_operator": "deepinv"}


def test_there_are_twelve() -> None:
    assert len(SCRIPTS) == 12 and all(path.name.startswith("plot_") for path in SCRIPTS)


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_script(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    stated = re.search(r'short = "EI_EXAMPLES_SHORT" in os.environ  # .* takes ([\d.]+) minutes? on one core', text)
    assert stated and float(stated[1]) <= 3, f"{path.name} does not state its minutes, or takes more than three"
    for node in ast.walk(ast.parse(text)):
        assert not (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "ei" for name in node.names))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ei":
            public = importlib.import_module(str(node.module)).__all__
            assert {name.name for name in node.names} <= set(public), f"{path.name} imports {ast.unparse(node)}"


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_short_form(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS.get(path.stem, "torch"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EI_EXAMPLES_SHORT", "1")
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    try:
        runpy.run_path(str(path), run_name="__main__")
        assert len(plt.get_fignums()) == 1
    finally:
        plt.close("all")
    assert not list(tmp_path.iterdir())


def test_committed_figures() -> None:
    figures = sorted(FIGURES.glob("*.png"))
    assert {path.stem for path in figures} == {path.stem for path in SCRIPTS}
    assert sum(path.stat().st_size for path in figures) < 3e6
    for path in figures:
        with Image.open(path) as image:
            assert min(image.size) > 150, path.name
