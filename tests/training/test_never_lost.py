"""What a run survives: signals, kills, damaged and half-written files, full disks, a second process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Result, subprocess_run
from makers import loader, make, rows, write_mat
from training.kill import stress

from ei.closure import EIClosure, MCClosure
from ei.common.files import complete_folder, load_file, save_file, write_atomically
from ei.errors import StorageError, TrainingDivergedError, TrainingStoppedError
from ei.training.folder import RunLock
from ei.training.state import newest_checkpoint

Script = Callable[..., Result]


@pytest.fixture
def ct(tmp_path: Path) -> tuple:
    """Options of a small training in ``tmp_path``; 9 images, 3 steps an epoch."""
    write_mat(tmp_path / "ct.mat", n=10, side=16)
    return ("--task", "ct", "--data", "ct.mat", "--ct-views", 5, "--base-channels", 2, "-b", 3, "--ei-trans", 1)


def bytes_of(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), complete_folder(tmp_path / "pngs") as unfinished:
        (unfinished / "1.png").write_bytes(b"half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with complete_folder(tmp_path / "pngs") as unfinished:
        (unfinished / "1.png").write_bytes(b"whole")
        assert not (tmp_path / "pngs").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["pngs", "pngs/1.png"]
    (tmp_path / "full").write_bytes(b"a file")
    with pytest.raises(StorageError), complete_folder(tmp_path / "full" / "pngs"):
        pass


# ---- signals ------------------------------------------------------------------------------------------------------


class SignalAt(EIClosure):
    """Sends a signal to its own process in the middle of a step."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(1.0)
        self.calls, self.step, self.number = 0, step, number

    def __call__(self, *args: Any) -> dict:
        self.calls += 1
        if self.calls == self.step:
            os.kill(os.getpid(), self.number)
        return super().__call__(*args)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STEPS = (1, 4, 6)


@pytest.mark.parametrize(
    ("number", "step"),
    [
        pytest.param(number, step, marks=[pytest.mark.slow] * (SIGNALS.index(number) != STEPS.index(step)))
        for number in SIGNALS
        for step in STEPS
    ],
)
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: int, step: int) -> None:
    """4 steps an epoch: after the first, at the end of an epoch, inside one."""
    before = signal.getsignal(number)
    trainer = make(tmp_path / "parts", SignalAt(step, number))
    with pytest.raises(TrainingStoppedError, match=f"after step {step}.*--resume") as stopped:
        trainer.fit(loader())
    assert stopped.value.signal == number and signal.getsignal(number) == before
    state = load_file(tmp_path / "parts" / "ckp_last.pth.tar")
    assert state["step"] == step and len(rows(tmp_path / "parts")) == step // 4
    again = make(tmp_path / "parts", EIClosure(1.0))
    again.resume(state)
    again.fit(loader())
    make(tmp_path / "whole", EIClosure(1.0)).fit(loader())
    names = ("ckp_2.pth.tar", "ckp_last.pth.tar", "training_loss.csv")
    assert bytes_of(tmp_path / "whole", *names) == bytes_of(tmp_path / "parts", *names)


def test_a_signal_in_the_last_step_is_too_late(tmp_path: Path) -> None:
    assert len(make(tmp_path / "run", SignalAt(12, signal.SIGTERM)).fit(loader())) == 3


def start(*arguments: object, cwd: Path, until: Callable[[], bool]) -> subprocess.Popen:
    """A process of its own process group, once it is as far as ``until`` says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not until():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def has_rows(log: Path, n: int) -> Callable[[], bool]:
    return lambda: log.exists() and len(log.read_text().splitlines()) > n


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_signals_to_the_script_and_its_workers(tmp_path: Path, ct: tuple, number: int, code: int) -> None:
    """As a terminal's Ctrl-C or Slurm sends them: to all processes of the group."""
    run = (ROOT / "demo_train.py", *ct, "--epochs", 5000, "--out", "run", "--workers", 2)
    process = start(*run, cwd=tmp_path, until=has_rows(tmp_path / "run" / "training_loss.csv", 2))
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert err.count("\n") == 1 and f"stopped by {signal.Signals(number).name} after step" in err
    state = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    assert f"after step {state['step']}," in err and state["step"] > 6
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    program = """
import sys, time
sys.path[:0] = [sys.argv[1]]
from makers import loader, make
from ei.closure import MCClosure
class Slow(MCClosure):
    def __call__(self, *args):
        open("begun", "w").close()
        while True:
            time.sleep(0.1)
make(False, Slow()).fit(loader())
"""
    process = start("-c", program, ROOT / "tests", cwd=tmp_path, until=(tmp_path / "begun").exists)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ei", "mc", "sup", "ei_sup", "ei_adv"])
def test_every_method_continues_exactly(script: Script, tmp_path: Path, ct: tuple, method: str) -> None:
    """In bf16, with processes that load data, a cosine schedule, and two interruptions."""
    run = ("demo_train.py", *ct, "--method", method, "--cos", "--epochs", 3, "--precision", "bf16", "--workers", 1)
    assert script(*run, "--out", "whole").code == 0
    for steps in (2, 6, 100):
        assert script(*run, "--out", "parts", "--resume", "auto", "--max-steps", steps).code == 0
    names = ("ckp_0.pth.tar", "ckp_2.pth.tar", "ckp_last.pth.tar", "training_loss.csv", "loss.png")
    assert bytes_of(tmp_path / "whole", *names) == bytes_of(tmp_path / "parts", *names)


# ---- kills, locks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_in_use_and_a_killed_run(script: Script, tmp_path: Path, ct: tuple) -> None:
    """A living process keeps its folder; a killed one leaves nothing that is in the way, and its run goes on."""
    run = ("demo_train.py", *ct, "--out", "run", "--resume", "auto", "--save-every", 1e-3)
    process = start(ROOT / run[0], *run[1:], "--epochs", 5000, cwd=tmp_path,
                    until=(tmp_path / "run" / "ckp_last-1.pth.tar").exists)  # fmt: skip
    done = script(*run)
    assert done.code == 2 and f"in use by process {process.pid} on" in done.err and done.err.count("\n") == 1
    process.kill()
    process.communicate()
    (tmp_path / "run" / ".ckp_last.pth.tar.x.tmp").write_bytes(b"half")
    step = newest_checkpoint(tmp_path / "run")[1]["step"]
    done = script(*run, "--max-steps", step + 2)
    assert done.code == 0 and f"step {step}\n" in done.out, done
    assert load_file(tmp_path / "run" / "ckp_last.pth.tar")["step"] == step + 2
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_a_lock_is_of_this_process_alone(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    other = (
        f"from ei.training.folder import RunLock; from pathlib import Path; RunLock(Path({str(tmp_path)!r})).release()"
    )
    assert "in use by process" in subprocess_run("python", "-c", other, cwd=tmp_path).err
    lock.release()
    assert subprocess_run("python", "-c", other, cwd=tmp_path).code == 0


@pytest.mark.slow
def test_kills_change_nothing(tmp_path: Path) -> None:
    """The short form of tests/training/kill.py."""
    counts = stress(tmp_path, kills=3, epochs=21, patience=0.5)
    # On a busy machine a training may end before it is killed a third time.
    assert counts["differences"] == 0 and 1 <= counts["kills"] == counts["resumed"] and counts["files compared"] == 5


# ---- damaged files ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "code"])
@pytest.mark.parametrize("resume", ["auto", "run/ckp_last.pth.tar"])
def test_the_checkpoint_before_a_damaged_one_is_used(
    script: Script, tmp_path: Path, ct: tuple, damage: str, resume: str
) -> None:
    run = ("demo_train.py", *ct, "--epochs", 4, "--ckp-interval", 100)
    script(*run, "--out", "whole")
    for steps in (4, 8):
        script(*run, "--out", "run", "--resume", "auto", "--max-steps", steps)
    newest = tmp_path / "run" / "ckp_last.pth.tar"
    {
        "cut": lambda: newest.write_bytes(newest.read_bytes()[:-100]),
        "empty": lambda: newest.write_bytes(b""),
        "missing": newest.unlink,
        "code": lambda: torch.save({"next_epoch": Path("x")}, newest),
    }[damage]()
    done = script("demo_train.py", "--resume", resume, *(("--out", "run") if resume == "auto" else ()))
    assert done.code == 0 and "ckp_last-1.pth.tar at epoch 2, step 4" in done.out, done
    assert "warning" in done.err or damage == "missing"
    names = ("ckp_3.pth.tar", "training_loss.csv")
    assert bytes_of(tmp_path / "whole", *names) == bytes_of(tmp_path / "run", *names)


def test_resume_auto(script: Script, tmp_path: Path, ct: tuple) -> None:
    run = ("demo_train.py", *ct, "--epochs", 2, "--resume", "auto")
    assert "needs --out" in script(*run).err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training_loss.csv").write_text("epoch\n1\n")  # killed before its first checkpoint
    assert script(*run, "--out", "run").code == 0
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1", "2"]
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir())
    done = script(*run, "--out", "run")
    assert done.code == 0 and "nothing is left to do" in done.out
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir())
    for path in (tmp_path / "run").glob("ckp_*"):
        path.write_bytes(b"damaged")
    done = script(*run, "--out", "run")
    assert done.code == 2 and "no checkpoint in run can be used" in done.err


def test_what_a_resumed_run_may_change(script: Script, tmp_path: Path, ct: tuple) -> None:
    run = ("demo_train.py", *ct, "--cos", "--epochs", 3)
    script(*run, "--out", "run", "--max-steps", 4)
    resume = ("demo_train.py", "--resume", "run/ckp_last.pth.tar")
    done = script(*resume, "-b", 2)
    assert done.code == 2 and "middle of an epoch" in done.err
    done = script(*resume, "--epochs", 4)
    assert done.code == 0 and "cosine_schedule" in done.err and len(rows(tmp_path / "run")) == 4


# ---- the disk -----------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous = tmp_path / "ckp_last.pth.tar", tmp_path / "ckp_last-1.pth.tar"
    save_file({"step": 1}, path)
    save_file({"step": 2}, path, previous=previous)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ei.common.files.os.fsync", full)
    with pytest.raises(StorageError, match=r"ckp_last.pth.tar could not be written: No space left on device"):
        save_file({"step": 3}, path, previous=previous)
    monkeypatch.undo()
    assert load_file(path)["step"] == 2 and load_file(previous)["step"] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("ei.common.files.os.link", refused)
    for content in (b"1", b"2"):
        write_atomically(tmp_path / "new", content, previous=tmp_path / "old")
    assert bytes_of(tmp_path, "new", "old") == [b"2", b"1"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs limits on the size of files")
def test_a_full_disk_stops_the_run(script: Script, tmp_path: Path, ct: tuple) -> None:
    """The system refuses to write more than 40 kB into a file: too few for a checkpoint."""
    run = ("demo_train.py", *ct, "--epochs", 3, "--out", "run")
    script(*run, "--max-steps", 3)
    good = (tmp_path / "run" / "ckp_last.pth.tar").read_bytes()
    program = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000));"
        "sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = (ROOT / "demo_train.py", "--resume", "run/ckp_last.pth.tar")
    done = subprocess_run("python", "-c", program, *arguments, cwd=tmp_path)
    assert done.code == 1 and done.err.count("\n") == 1, done
    assert "training stopped" in done.err and "could not be written: File too large" in done.err
    assert (tmp_path / "run" / "ckp_last.pth.tar").read_bytes() == good
    assert script("demo_train.py", "--resume", "auto", "--out", "run").code == 0


@pytest.mark.parametrize("name", ["mit Leerzeichen und Ümläuten", "深/深", "run"])
def test_names_of_run_folders(script: Script, tmp_path: Path, ct: tuple, name: str) -> None:
    assert script("demo_train.py", *ct, "--epochs", 1, "--out", name).code == 0
    done = script("demo_train.py", "--out", name, "--resume", "auto", "--epochs", 2)
    assert done.code == 0 and len(rows(tmp_path / name)) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(script: Script, tmp_path: Path, ct: tuple) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    done = script("demo_train.py", *ct, "--out", "run")
    assert done.code == 2 and "permission" in done.err


# ---- numbers that are none ----------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """A gradient can overflow while the losses are finite: no later loss has shown it yet."""

    class Overflow(MCClosure):
        def __call__(self, *args: Any) -> dict:
            losses = super().__call__(*args)
            if trainer.step == 7:  # the last step of an epoch
                losses["total"].register_hook(lambda gradient: gradient * math.inf)
            return losses

    trainer = make(tmp_path / "run", Overflow(), ckp_interval=1)
    with pytest.raises(TrainingDivergedError, match=r"a.weight became NaN or infinite in epoch 3, by step 8"):
        trainer.fit(loader())
    assert load_file(tmp_path / "run" / "ckp_last.pth.tar")["step"] == 4
    assert not (tmp_path / "run" / "ckp_1.pth.tar").exists()


def test_the_first_bad_step_is_named_however_seldom_losses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where they are read every 20 steps."""

    class Bad(MCClosure):
        def __call__(self, *args: Any) -> dict:
            losses = super().__call__(*args)
            if trainer.step >= 6:
                losses["total"] = losses["total"] * math.inf
            return losses

    trainer = make(False, Bad(), epochs=20)
    read = trainer.tally.read
    monkeypatch.setattr(trainer.tally, "read", lambda: read() if trainer.step % 20 == 0 else {})
    with pytest.raises(TrainingDivergedError, match=r"loss_fc became inf in epoch 2, step 7"):
        trainer.fit(loader())
