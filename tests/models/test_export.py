"""What is exported computes the same: the snippets of docs/guides/export.md, and operators of CT in graphs."""

from __future__ import annotations

import importlib
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import nn

import ei
from ei.models import Reconstructor, UNet
from ei.physics import CT, Tomography


def snippets() -> list[str]:
    """The indented blocks of the page, in order."""
    blocks, block = [], ""
    for line in [*(ROOT / "docs" / "guides" / "export.md").read_text().splitlines(), "end"]:
        if line.startswith("    ") or (block and not line):
            block += line + "\n"
        elif block:
            blocks.append(textwrap.dedent(block))
            block = ""
    return blocks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch.export", "torch.jit", "torch.onnx"])
def test_the_snippets_of_the_page(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a function that stands for the one of a checkpoint; on other measurements than it was exported with."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    f = Reconstructor(UNet(1, 1, compact=4, base_channels=2), CT(32, 6), image_scale=2.0).eval()
    monkeypatch.setattr(ei, "load", lambda path, device: f)
    first, *others = snippets()
    names: dict[str, Any] = {}
    exec(first, names)
    (snippet,) = [block for block in others if f"{kind}." in block]
    if kind == "torch.onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"export to ONNX needs the package {package}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace takes for constant, and that it is deprecated
        exec(snippet, names)
    other = torch.rand_like(names["y"])
    with torch.no_grad():
        if kind == "torch.export":
            found = torch.export.load("f.pt2").module()(other)
        elif kind == "torch.jit":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.jit.load("f.pt")(other)
        else:
            runtime = importlib.import_module("onnxruntime").InferenceSession("net.onnx")
            image = f.physics.A_dagger(other) / f.image_scale
            (values,) = runtime.run(None, {runtime.get_inputs()[0].name: image.numpy()})
            found = torch.from_numpy(values) * f.image_scale
        torch.testing.assert_close(found, f(other), rtol=1e-4, atol=1e-5)


class Applied(nn.Module):
    """A method of an operator as a module."""

    def __init__(self, physics: Any, name: str) -> None:
        super().__init__()
        self.physics, self.name = physics, name

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return getattr(self.physics, self.name)(tensor)


@pytest.mark.parametrize("physics", [CT(12, 5), Tomography((12, 12), range(0, 180, 30), 18)], ids=["CT", "Tomography"])
@pytest.mark.parametrize("name", ["A", "A_adjoint", "A_dagger", "filter"])
def test_an_exported_graph_has_the_values_of_the_operator(physics: Any, name: str) -> None:
    """Of two images at once, and of a matrix that was made before."""
    x = torch.rand(2, 1, 12, 12)
    tensor = x if name == "A" else physics.A(x)
    expected = getattr(physics, name)(tensor)
    module = torch.export.export(Applied(physics, name), (tensor,), strict=False).module()
    torch.testing.assert_close(module(tensor), expected)
    assert not any("csr" in str(node.target) for node in module.graph.nodes)


def test_an_operator_is_traced_in_autocast() -> None:
    physics = Tomography((16, 16), [0, 17, 33, 71], 24)
    y = physics.A(torch.rand(2, 1, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        traced = torch.jit.trace(lambda y: physics.A_dagger(y), y, check_trace=False)(y)
    torch.testing.assert_close(traced, physics.A_dagger(y), rtol=0.05, atol=0.05)
