"""Several processes train as one does: the worker below is run once alone and once by torchrun as two."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SmallNet, fill, subprocess_run
from makers import write_mat
from torch import Tensor, nn
from torch.optim import SGD

from ei.closure import (
    AdversarialEIClosure,
    EIClosure,
    MCClosure,
    MOIClosure,
    SplittingClosure,
    SplittingEIClosure,
    SUREClosure,
    UNSUREClosure,
)
from ei.common.files import load_file
from ei.common.processes import Part, Processes, check_division, joined
from ei.datasets import make_loader
from ei.datasets.batches import Divided
from ei.errors import TrainingStoppedError
from ei.models import Reconstructor, Unrolled
from ei.physics import GaussianNoise, Inpainting, Tomography
from ei.training import Trainer
from ei.training.parallel import NoiseOfPart
from ei.transforms import Shift

# The closures of masks that differ by image, each in measurements and, where there is another, in images.
MASKED: dict[str, Any] = {
    "masked split": lambda: SplittingClosure(0.7),
    "masked split_ei": lambda: SplittingEIClosure(1.0),
    "masked split in images": lambda: SplittingClosure(0.7, mc_domain="image"),
    "masked sure": SUREClosure,
    "masked sure in images": lambda: SUREClosure(mc_domain="image"),
    "masked mc": MCClosure,
    "masked unsure": lambda: UNSUREClosure(0.02),
    "masked unsure in images": lambda: UNSUREClosure(0.02, mc_domain="image"),
}
CASES = ("ei", "adversarial", "clipped", "unknown", "frozen", "scans", *MASKED)


def masks_that_differ() -> Tensor:
    """``[5, 1, 16, 16]``: of the images of a batch one has five times as many pixels as the other."""
    random = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return (random < torch.tensor([0.9, 0.15, 0.8, 0.2, 0.5]).view(5, 1, 1, 1)).float()


class SignalToTheLast(EIClosure):
    """Process 1 gets a signal in the fifth step."""

    calls = 0

    def __call__(self, *args: Any) -> dict:
        self.calls += 1
        if self.calls == 5 and Processes.current().rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().__call__(*args)


def train_scans(out: Path) -> None:
    """Scans of two shapes, three and two of them, in batches of one shape; operators are drawn from the run's."""
    angles = [[0, 40, 80, 120], [10, 60, 130], [20, 60, 100, 140], [0, 70, 140], [5, 45, 85, 125]]
    physics = Tomography((16, 16), angles, 23)
    x = torch.rand(5, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    sinograms = [physics.of([n]).A(x[n])[0] for n in range(5)]
    net = fill(SmallNet(1))
    f, closure = Unrolled(net, physics, iterations=1, cg_steps=2), MOIClosure(1.0, n_operators=2)
    trainer = Trainer(f, physics, None, closure, {"total": SGD(net.parameters(), lr=1e-3)}, epochs=4, out=out,
                      progress=False)  # fmt: skip
    trainer.fit(make_loader(sinograms, batch_size=2, measured=True, shapes=physics.measurement_shapes))


def train(case: str, out: Path) -> None:
    """5 images in batches of 2: the last batch has one, so one of two processes has none."""
    if case == "scans":
        train_scans(out)
        return
    images = list(torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    physics = Inpainting(16, 16, noise=GaussianNoise(0.05))
    net = fill(SmallNet(3))
    closure: Any = EIClosure(1.0)
    # Plain gradient descent: Adam divides by the gradient's size and so magnifies what rounding does to tiny ones.
    optimizers = {"total": SGD(net.parameters(), lr=1.0 if case == "clipped" else 1e-2)}
    more: Any = {"clip_norm": 1e-3, "average": 0.5} if case == "clipped" else {}
    if case == "adversarial":
        discriminator = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)))
        closure = AdversarialEIClosure(discriminator, 1.0, 0.1)
        optimizers["D"] = SGD(discriminator.parameters(), lr=1e-2)
    if case == "unknown":  # with losses in units, and a level that goes its way beside clipped gradients
        closure = UNSUREClosure(0.02, alpha=1.0)
        closure.image_scale = 2.0
        optimizers["level"] = SGD(closure.noise_level.parameters(), lr=0.1)
        more = {"clip_norm": 1e-2}
    if case in MASKED:
        physics, closure = Inpainting(16, 16, mask=masks_that_differ(), noise=GaussianNoise(0.05)), MASKED[case]()
        optimizers |= closure.optimizers(None, 1e-2)
    f: Any = Reconstructor(net, physics)
    if case == "frozen":  # networks are called without gradient, then with one
        f, closure = Unrolled(net, physics, iterations=2, cg_steps=1), EIClosure(1.0, frozen_targets=True)
    trainer = Trainer(f, physics, Shift(2), closure, optimizers, epochs=4, out=out, progress=False, **more)
    trainer.fit(make_loader(images, batch_size=2))
    assert f.net is net


class Written(Shift):
    """Writes down the elements that it applies."""

    def __init__(self) -> None:
        super().__init__(2)
        self.applied: list[list[int]] = []

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        self.applied.append(element.tolist())
        return super().act(x, element)


def elements_under_dropout() -> list[list[int]]:
    """Of the 3 images in the last batch the processes have 2 and 1, so that dropout draws different numbers in them."""
    f = Reconstructor(nn.Sequential(fill(SmallNet(3)), nn.Dropout(0.5)), Inpainting(16, 16))
    group, optimizers = Written(), {"total": SGD(f.net.parameters(), lr=1e-2)}
    trainer = Trainer(f, f.physics, group, EIClosure(1.0), optimizers, epochs=2, out=False, progress=False)
    trainer.fit(make_loader(list(torch.rand(7, 3, 16, 16)), batch_size=4))
    return group.applied


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(torch.device("cpu")):
        (Path(sys.argv[1]) / f"elements{Processes.current().rank}").write_text(str(elements_under_dropout()))
        for name in CASES:
            train(name, Path(sys.argv[1]) / name)
        f = Reconstructor(fill(SmallNet(3)), Inpainting(16, 16))
        closure, optimizers = SignalToTheLast(1.0), {"total": SGD(f.net.parameters(), lr=1e-2)}
        trainer = Trainer(f, f.physics, Shift(2), closure, optimizers, epochs=9, out=Path(sys.argv[1]) / "stopped")
        try:
            trainer.fit(make_loader(list(torch.rand(4, 3, 16, 16)), batch_size=2))
        except TrainingStoppedError as error:
            (Path(sys.argv[1]) / f"rank{Processes.current().rank}").write_text(f"{error.signal} {trainer.step}")


def torchrun(*arguments: object, cwd: Path, processes: int = 2) -> Any:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess_run(*launcher, *arguments, cwd=cwd)


def weights_of(state: dict) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value for key in state if key.startswith("state_dict") for name, value in state[key].items()
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = torchrun("-m", "training.test_distributed", folder, cwd=ROOT / "tests")
    assert done.code == 0, done.err
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(two: Path, tmp_path: Path, case: str) -> None:
    """With noise, an uneven last batch and two optimisers."""
    train(case, tmp_path / case)
    alone, together = (load_file(folder / case / "ckp_last.pth.tar") for folder in (tmp_path, two))
    start = weights_of({"state_dict": fill(SmallNet(3)).state_dict()})
    for name, value in weights_of(alone).items():
        torch.testing.assert_close(weights_of(together)[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: n + m)
        assert name not in start or case == "adversarial" or not torch.equal(value, start[name]), name
    logs = []
    for folder in (tmp_path, two):
        with open(folder / case / "training_loss.csv", newline="") as file:
            logs.append([[float(value) for value in row.values()] for row in csv.DictReader(file)])
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-4)
    assert {path.name for path in (two / case).iterdir()} == {path.name for path in (tmp_path / case).iterdir()}


@pytest.mark.slow
def test_all_processes_apply_the_same_elements(two: Path) -> None:
    first, second = ((two / f"elements{rank}").read_text() for rank in range(2))
    assert first == second == str(elements_under_dropout())


@pytest.mark.slow
def test_all_processes_stop_at_the_same_step(two: Path) -> None:
    assert [(two / f"rank{rank}").read_text() for rank in range(2)] == [f"{signal.SIGUSR1:d} 5"] * 2
    assert load_file(two / "stopped" / "ckp_last.pth.tar")["step"] == 5


@pytest.mark.parametrize(("size", "count"), [(8, 2), (7, 3), (1, 4), (3, 2)])
def test_parts_cover_a_batch(size: int, count: int) -> None:
    parts = [Part.of(size, Processes(rank, count)) for rank in range(count)]
    covered = [image for part in parts if part.weight for image in range(part.start, part.stop)]
    assert covered == list(range(size))
    assert sum(part.weight for part in parts) == pytest.approx(1)
    assert all(part.stop > part.start for part in parts)


def test_batches_are_divided_by_their_order() -> None:
    whole = [batch for batch in Divided(range(7), 4)]
    divided = []
    for rank in range(2):
        batches = Divided(range(7), 4)
        batches.processes = Processes(rank, 2)
        divided.append(list(batches))
    assert whole == [[0, 1, 2, 3], [4, 5, 6]]
    assert divided == [[[0, 1], [4, 5]], [[2, 3], [6]]]


def test_noise_of_a_part_is_the_whole_batchs() -> None:
    noise, y = GaussianNoise(1.0), torch.rand(2 * 3, 1, 4, 4)  # 2 transforms of 3 images
    torch.manual_seed(1)
    whole = noise(y).view(2, 3, 1, 4, 4)
    for rank in range(2):
        part = Part.of(3, Processes(rank, 2))
        torch.manual_seed(1)
        ours = NoiseOfPart(noise, part)(y.view(2, 3, 1, 4, 4)[:, part.start : part.stop].flatten(0, 1))
        assert torch.equal(ours, whole[:, part.start : part.stop].flatten(0, 1))


def test_a_batch_that_cannot_be_divided_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"batch of 5 cannot be divided over 4 processes; choose --batch-size 8"):
        check_division(5, Processes(0, 4))
    with pytest.raises(ValueError, match="--batch-size 4"):
        check_division(2, Processes(0, 4))


@pytest.mark.slow
def test_the_command_line_with_two_processes_and_on_with_one(tmp_path: Path) -> None:
    """The run of two is continued by one, in the same folder; only process 0 speaks and writes."""
    write_mat(tmp_path / "ct.mat", n=9)  # 8 to train on: 4 steps an epoch
    run = [ROOT / "demo_train.py", "--task", "ct", "--data", "ct.mat", "--ct-views", 5, "--base-channels", 2,
           "--epochs", 4, "-b", 2, "--ei-trans", 1, "--out", "run"]  # fmt: skip
    done = torchrun(*run, "--max-steps", 5, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.out.count("run folder: run") == 1
    state = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    assert (state["step"], state["next_epoch"], state["next_batch"]) == (5, 1, 1)
    done = subprocess_run(sys.executable, ROOT / "demo_train.py", "--resume", "run/ckp_last.pth.tar", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "continuing run/ckp_last.pth.tar at epoch 2, step 5" in done.out
    rows = (tmp_path / "run" / "training_loss.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3", "4"]

    wrong = torchrun(*run[:-1], "other", "-b", 3, cwd=tmp_path)
    assert wrong.code != 0 and "choose --batch-size 4" in wrong.err and not (tmp_path / "other").exists()
