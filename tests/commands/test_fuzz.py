"""Files with anything in them: the loaders give what they promise or raise the documented error, nothing else.

EI_FUZZ=500 python -m pytest tests/commands/test_fuzz.py        500 cases for each of the four loaders
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from makers import write_mat
from PIL import Image

from ei.commands import train
from ei.commands.build import build_training
from ei.commands.tree import read_tree
from ei.commands.typed import read_typed
from ei.common.files import load_file, save_file
from ei.datasets.pictures import header_of, read_image
from ei.datasets.stack import read_stack
from ei.errors import InputError
from ei.models import UNet
from ei.models.weights import generator_weights, load_weights
from ei.training.state import is_run_state

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

CASES = int(os.environ.get("EI_FUZZ", "50"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,  # the same cases in every run
    database=None,
    suppress_health_check=list(HealthCheck),
)


ACCIDENTS = ("cut", "change", "take", "put", "zero", "noise")


@st.composite
def damaged(draw: Any, originals: list[bytes], accidents: tuple[str, ...] = ACCIDENTS) -> bytes:
    """A good file after a few accidents: cut, bytes changed, taken out or put in, or nothing but noise."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        accident = draw(st.sampled_from(accidents))
        if accident == "cut":
            content = content[:at]
        elif accident == "change" and at < len(content):
            content[at] ^= draw(st.integers(1, 255))
        elif accident == "take":
            del content[at : at + draw(st.integers(1, 64))]
        elif accident == "put":
            content[at:at] = draw(st.binary(max_size=16))
        elif accident == "zero":
            length = min(512, len(content) - at)
            content[at : at + length] = bytes(length)
        elif accident == "noise":
            content = bytearray(draw(st.binary(max_size=200)))
    return bytes(content)


def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for mode, kind in (("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("P", "GIF")):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@pytest.mark.slow
@fuzz
@given(content=damaged(pictures()))
def test_images(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.png"
    path.write_bytes(content)
    try:
        header_of(path)
        assert read_image(path).mode == "RGB"
    except InputError as error:
        assert "fuzz.png" in str(error)


def matlab_files() -> list[bytes]:
    found = []
    for compressed in (False, True):
        buffer = io.BytesIO()
        arrays = {"DATA": np.random.default_rng(0).random((4, 6, 6)).astype(np.float32), "name": "text"}
        scipy.io.savemat(buffer, arrays, do_compression=compressed)
        found.append(buffer.getvalue())
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file["DATA"] = np.zeros((6, 6, 4), np.float32)
    found.append(b"MATLAB 7.3 MAT-file".ljust(124, b" ") + b"\x00\x02IM" + buffer.getvalue()[128:])
    return found


# What becomes of downloads and disks. On some files with single bytes changed inside, scipy (and, for version 7.3, the
# HDF5 library) itself crashes, so that no program could say anything.
@pytest.mark.slow
@fuzz
@given(content=damaged(matlab_files(), ("cut", "take", "zero", "noise")))
def test_matlab_files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.mat"
    path.write_bytes(content)
    try:
        images = read_stack(path, "DATA", "")
        assert images.dim() == 3 and images.dtype == torch.float32 and bool(images.isfinite().all())
    except InputError as error:
        assert "fuzz.mat" in str(error)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(), st.text(max_size=8), st.dates(),
    st.lists(st.one_of(st.integers(-3, 9), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=3), st.sampled_from(["name", "start", "step", "count", "train"])),
                    st.one_of(st.integers(), st.text(max_size=8), st.dates()), max_size=3),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(["physics", "noise", "closure", "data", "schedule", "trainer", "train", "name", "batch_size"]),
    st.text(max_size=6),
    st.integers(),
)
CONFIGS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=4).map(lambda content: yaml.safe_dump(content).encode()),
    damaged(
        [
            b"physics: {name: CT, angles: {start: 0, step: 1, count: 3}}\ndata: {train: 'a b', batch_size: 2}\n"
            b"optimizer: {lr: 5e-4}\ntrainer: {epochs: 3}\n"
        ]
    ),
)


@pytest.mark.slow
@fuzz
@given(content=CONFIGS)
def test_configurations(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    try:
        read_tree(str(path))
    except InputError as error:
        assert "fuzz.yaml" in str(error)


@pytest.fixture(scope="module")
def run_state(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """The tree of a training, and the content of a checkpoint of it."""
    folder = tmp_path_factory.mktemp("run")
    data = str(write_mat(folder / "ct.mat", n=10))
    words = ["--task", "ct", "--data", data, "--base-channels", "2", "--ct-views", "3", "--max-steps", "1"]
    tree = read_typed(train.parser("ei train"), words).tree()
    trainer, loader = build_training(tree, torch.device("cpu"), folder / "run")
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(loader)
    return tree, load_file(folder / "run" / "ckp_last.pth.tar")


@pytest.mark.slow
@fuzz
@given(data=st.data())
def test_checkpoints(data: Any, run_state: tuple[dict, dict], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Damaged bytes never become weights; other content is rejected with the documented error."""
    tree, state = run_state
    path = tmp_path_factory.getbasetemp() / "fuzz.pth.tar"
    state = dict(state)
    intact = data.draw(st.booleans())  # its content; then its bytes are not
    if intact:
        save_file(state, path)
        path.write_bytes(data.draw(damaged([path.read_bytes()])))
    else:
        key = data.draw(st.sampled_from(sorted(state)))
        inner = state[key] if isinstance(state[key], dict) and data.draw(st.booleans()) else None
        if inner is not None and inner:
            part = data.draw(st.sampled_from(sorted(map(str, inner))))
            state[key] = {name: value for name, value in inner.items() if str(name) != part}
            if data.draw(st.booleans()):
                state[key][part] = data.draw(st.one_of(st.integers(), st.text(max_size=3), st.just(torch.zeros(2))))
        elif data.draw(st.booleans()):
            del state[key]
        else:
            state[key] = data.draw(
                st.one_of(st.none(), st.integers(-3, 3), st.text(max_size=3), st.just({}), st.just([1]))
            )
        save_file(state, path)
    try:
        loaded = load_file(path, "checkpoint")
        net = UNet(1, 1, base_channels=2)
        load_weights(net, generator_weights(loaded, path), path)
        state = loaded if is_run_state(loaded, path) else None
        trainer, _ = build_training(tree, torch.device("cpu"), False, state)
    except InputError:
        return
    # Whatever else was changed, what loads has the weights of the run, all of them, and goes on where the file says.
    weights = run_state[1]["state_dict"]
    for found in (net, trainer.f.net) if state is not None else (net,):
        assert found.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())
    if state is not None:
        assert (trainer.epoch, trainer.step) == (loaded["next_epoch"], loaded["step"])
