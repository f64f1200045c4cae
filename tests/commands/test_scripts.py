"""The scripts as a user runs them: the three journeys, and what they say to wrong input."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from conftest import ROOT, Result, subprocess_run
from makers import write_folder, write_mat

from ei.common.files import load_file
from ei.models import UNet

Script = Callable[..., Result]
SMALL = ("--base-channels", 2)


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """A small CT data set where the scripts look for CT100."""
    path = tmp_path / "dataset" / "CT" / "CT100_128x128.mat"
    path.parent.mkdir(parents=True)
    return write_mat(path, n=10, side=16)


@pytest.fixture
def urban(tmp_path: Path) -> Path:
    """A small image folder where the scripts look for Urban100."""
    return write_folder(tmp_path / "dataset" / "Urban100", n_train=2, n_test=2)


def log_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "training_loss.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---- journey 1: training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ei", "mc", "sup", "ei_sup", "ei_adv"])
def test_every_method_trains(script: Script, ct: Path, tmp_path: Path, method: str) -> None:
    options = ("--task", "ct", "--method", method, "--epochs", 1, "-b", 3, "--ct-views", 5, *SMALL)
    done = script("demo_train.py", *options, "--out", "run")
    assert done.code == 0, done.err
    assert "epoch 1/1" in done.out and "left" in done.out
    assert len(log_of(tmp_path / "run")) == 1
    tested = script("demo_test_ct.py", "--ckp", "run/ckp_0.pth.tar", "--out", "test")
    assert tested.code == 0, tested.err


PAPERS = {
    "ct": {
        "physics": {"name": "CT", "radon_view": 50, "img_width": 16},
        "transform": {"name": "Rotate", "n_trans": 5},
        "closure": {"name": "EIClosure", "alpha": 100},
        "schedule": {"name": "step_schedule", "milestones": [2000, 3000, 4000]},
        "optimizer": {"name": "Adam", "lr": 5e-4, "weight_decay": 1e-8},
        "data": {"train": "dataset/CT/CT100_128x128.mat", "batch_size": 2},
        "trainer": {"epochs": 5000, "ckp_interval": 1000},
    },
    "inpainting": {
        "physics": {"name": "Inpainting", "mask_rate": 0.3, "img_height": 256, "img_width": 256},
        "transform": {"name": "Shift", "n_trans": 3},
        "closure": {"name": "EIClosure", "alpha": 1},
        "schedule": {"name": "step_schedule", "milestones": [500, 1000, 1500]},
        "optimizer": {"name": "Adam", "lr": 1e-3, "weight_decay": 1e-8},
        "data": {"train": "dataset/Urban100", "batch_size": 1},
        "trainer": {"epochs": 2000, "ckp_interval": 500},
    },
}


@pytest.mark.parametrize("task", PAPERS)
def test_the_papers_settings_are_the_defaults(script: Script, ct: Path, urban: Path, tmp_path: Path, task: str) -> None:
    assert script("demo_train.py", "--task", task, "--max-steps", 1, *SMALL).code == 0
    (folder,) = (tmp_path / "ckp").glob(f"*_ei_{task}")
    tree = yaml.safe_load((folder / "config.yaml").read_text().replace("1e-08", "1.0e-08"))
    expected = PAPERS[task]
    for key in ("physics", "transform", "closure", "schedule", "optimizer"):
        assert tree[key] == expected[key]
    paths = [value for key, value in tree["data"]["train"].items() if key in ("root", "root_dir")]
    assert paths == [str(tmp_path / expected["data"]["train"])]
    assert tree["data"]["batch_size"] == expected["data"]["batch_size"]
    assert tree["trainer"].items() >= {**expected["trainer"], "task": task}.items()
    assert tree["network"]["base_channels"] == 2 and tree["reconstructor"]["name"] == "Reconstructor"
    assert "torch" in tree["versions"]
    assert load_file(folder / "ckp_last.pth.tar")["step"] == 1


@pytest.mark.slow
def test_train_as_a_subprocess(ct: Path, tmp_path: Path) -> None:
    """A name with a space and an accent; nothing on stderr."""
    done = subprocess_run(
        "python", ROOT / "demo_train.py", "--task", "ct", "--epochs", 2, "--out", "mes résultats", *SMALL, cwd=tmp_path
    )
    assert (done.code, done.err) == (0, "")
    assert len(log_of(tmp_path / "mes résultats")) == 2


@pytest.mark.slow
def test_the_papers_bash_script(ct: Path, urban: Path, tmp_path: Path) -> None:
    for name in ("demo_train.py", "train_paper_bash.sh"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for steps in (1, 3):  # run again, it continues
        done = subprocess_run("bash", tmp_path / "train_paper_bash.sh", "--max-steps", steps, *SMALL, cwd=tmp_path)
        assert done.code == 0, done.err
        for name in ("paper_ei_ct", "paper_ei_inpainting"):
            assert load_file(tmp_path / "ckp" / name / "ckp_last.pth.tar")["step"] == steps
    assert "continuing ckp/paper_ei_inpainting/ckp_last.pth.tar at epoch 1, step 1" in done.out
    for task in ("ct", "inpainting"):
        (checkpoint,) = (tmp_path / "ckp").glob(f"*{task}/ckp_last.pth.tar")
        done = subprocess_run("python", ROOT / f"demo_test_{task}.py", "--ckp", checkpoint, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        assert "A_dagger y" in done.out and len(list((tmp_path / "evaluations").glob(f"*{task}/*.png"))) == 1


def test_synthetic_data(script: Script, tmp_path: Path) -> None:
    for task in ("ct", "inpainting"):
        arguments = ("--task", task, "--data", "synthetic", "--max-steps", 1, "--out", task, *SMALL)
        assert script("demo_train.py", *arguments).code == 0
        done = script(f"demo_test_{task}.py", "--ckp", f"{task}/ckp_last.pth.tar", "--data", "synthetic")
        assert done.code == 0 and "10 test images of" in done.out


def test_config_files(script: Script, ct: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "network: {base_channels: 2}\noptimizer: {lr: 1e-3}\nschedule: {name: cosine_schedule}\ntrainer: {epochs: 9}\n"
    )
    done = script("demo_train.py", "--task", "ct", "--config", "my.yaml", "--epochs", 1, "--out", "a")
    assert done.code == 0, done.err
    tree = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert (tree["trainer"]["epochs"], tree["optimizer"]["lr"]) == (1, 1e-3)
    assert tree["schedule"] == {"name": "cosine_schedule"}
    # A run's own configuration repeats the run.
    assert script("demo_train.py", "--config", "a/config.yaml", "--out", "b").code == 0
    assert (tmp_path / "a" / "ckp_0.pth.tar").read_bytes() == (tmp_path / "b" / "ckp_0.pth.tar").read_bytes()


def test_the_gradient_is_stopped(script: Script, ct: Path, tmp_path: Path) -> None:
    """The first losses are the same; what the network learns from them is not."""
    for name, more in (("plain", []), ("stopped", ["closure.stop_gradient=true"])):
        arguments = ("--task", "ct", "--ct-views", 5, "-b", 9, "--epochs", 1, *SMALL, *more, "--out", name)
        assert script("demo_train.py", *arguments).code == 0
    assert log_of(tmp_path / "plain") == log_of(tmp_path / "stopped")
    states = [load_file(tmp_path / name / "ckp_last.pth.tar") for name in ("plain", "stopped")]
    assert [state["config"]["closure"].get("stop_gradient") for state in states] == [None, True]
    first, second = (torch.cat([w.flatten().float() for w in state["state_dict"].values()]) for state in states)
    assert not torch.equal(first, second)


def test_clipping_and_averaging(script: Script, ct: Path, tmp_path: Path) -> None:
    """What is evaluated is the average, which the report says; averaging does not change the training."""
    states = {}
    for name, more in (("plain", []), ("averaged", ["trainer.average=0.5"]), ("clipped", ["trainer.clip_norm=1e-3"])):
        assert script("demo_train.py", "--task", "ct", "--epochs", 1, *SMALL, *more, "--out", name).code == 0
        states[name] = load_file(tmp_path / name / "ckp_last.pth.tar")
    weights = {name: state["state_dict"]["Conv_1x1.weight"] for name, state in states.items()}
    assert torch.equal(weights["plain"], weights["averaged"]) and not torch.equal(weights["plain"], weights["clipped"])
    assert not torch.equal(states["averaged"]["state_dict_averaged"]["Conv_1x1.weight"], weights["averaged"])
    tests = {name: script("demo_test_ct.py", "--ckp", f"{name}/ckp_last.pth.tar") for name in ("plain", "averaged")}
    assert all(done.code == 0 for done in tests.values()), tests
    assert "(averaged weights)" in tests["averaged"].out and "averaged" not in tests["plain"].out
    ei = {name: next(line for line in done.out.splitlines() if line.startswith("EI ")) for name, done in tests.items()}
    assert ei["plain"] != ei["averaged"]

    done = script("demo_train.py", "--resume", "plain/ckp_last.pth.tar", "--epochs", 2, "trainer.average=0.5")
    assert done.code == 0 and "continues with trainer.average 0.5" in done.out
    for wrong in ("trainer.average=1", "trainer.clip_norm=0"):
        done = script("demo_train.py", "--task", "ct", wrong)
        assert done.code == 2 and wrong.split("=")[0] in done.err and done.err.count("\n") == 1


def test_resume(script: Script, ct: Path, tmp_path: Path) -> None:
    common = ("--task", "ct", "--epochs", 3, *SMALL)
    script("demo_train.py", *common, "--out", "whole")
    script("demo_train.py", *common, "--out", "parts", "--max-steps", 7)
    done = script("demo_train.py", "--resume", "parts/ckp_last.pth.tar")
    assert done.code == 0 and "epoch 2, step 7" in done.out, done
    for name in ("ckp_2.pth.tar", "training_loss.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    done = script("demo_train.py", "--resume", "parts/ckp_last.pth.tar")
    assert done.code == 2 and "finished" in done.err
    done = script("demo_train.py", "--resume", "parts/ckp_last.pth.tar", "--epochs", 4, "--out", "longer")
    assert done.code == 0 and [row["epoch"] for row in log_of(tmp_path / "longer")] == ["1", "2", "3", "4"]
    for contradiction in (("--task", "inpainting"), ("--method", "mc"), ("--ct-views", 9), ("--base-channels", 4)):
        done = script("demo_train.py", "--resume", "parts/ckp_last.pth.tar", "--epochs", 5, *contradiction)
        assert done.code == 2 and "contradicts" in done.err


def test_bf16(script: Script, ct: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        arguments = ("--task", "ct", "--epochs", 1, "--precision", precision, "--out", precision, *SMALL)
        assert script("demo_train.py", *arguments).code == 0
    fp32, bf16 = (load_file(tmp_path / precision / "ckp_0.pth.tar") for precision in ("fp32", "bf16"))
    assert bf16["config"]["reconstructor"]["precision"] == "bf16"
    assert {value.dtype for value in bf16["state_dict"].values()} == {torch.float32, torch.int64}
    ours, theirs = (state["state_dict"]["Conv1.conv.0.weight"] for state in (bf16, fp32))
    assert 0 < float((ours - theirs).norm() / theirs.norm()) < 0.1
    done = script("demo_train.py", "--resume", "bf16/ckp_last.pth.tar", "--epochs", 2, "--precision", "fp32")
    assert done.code == 0 and "reconstructor.precision fp32; it had bf16" in done.out
    assert script("demo_test_ct.py", "--ckp", "bf16/ckp_last.pth.tar").code == 0


def test_resume_from_the_authors_checkpoint(script: Script, ct: Path, tmp_path: Path) -> None:
    net = UNet(1, 1, compact=5, base_channels=2)
    torch.save({"epoch": 1, "state_dict": net.state_dict(), "optimizer": {}}, tmp_path / "theirs.pth.tar")
    done = script(
        "demo_train.py", "--task", "ct", "--resume", "theirs.pth.tar", "--max-steps", 1, "--lr", 1e-12, *SMALL
    )
    assert done.code == 0 and "weights are taken" in done.out
    (folder,) = (tmp_path / "ckp").iterdir()
    ours = load_file(folder / "ckp_last.pth.tar")["state_dict"]
    torch.testing.assert_close(ours["Conv1.conv.0.weight"], net.state_dict()["Conv1.conv.0.weight"])


def test_help(script: Script) -> None:
    for name in ("demo_train.py", "demo_test_ct.py", "demo_test_inpainting.py"):
        for option in ("--h", "-h", "--help"):
            done = script(name, option)
            assert done.code == 0 and "usage" in done.out and "--device" in done.out


# ---- journey 2: evaluation ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("key", ["state_dict", "state_dict_G"])
def test_an_authors_checkpoint_is_evaluated(tmp_path: Path, ct: Path, key: str) -> None:
    """34.5 M parameters, in the default place, as a subprocess."""
    net = UNet(1, 1, compact=5)
    assert 34.4e6 < sum(p.numel() for p in net.parameters()) < 34.6e6
    (tmp_path / "ckp" / "ct").mkdir(parents=True)
    torch.save({"epoch": 4999, key: net.state_dict()}, tmp_path / "ckp" / "ct" / "ckp_ei_final.pth.tar")
    done = subprocess_run("python", ROOT / "demo_test_ct.py", "--sample-to-show", 0, "--out", "test", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "paper PSNR" in done.out and "A_dagger y" in done.out
    assert (tmp_path / "test" / "sample_0.png").stat().st_size > 1000
    with open(tmp_path / "test" / "metrics.csv", newline="") as file:
        assert file.readline().strip() == "index,psnr_paper_pinv,psnr_paper_net,psnr_pinv,psnr_net,ssim_pinv,ssim_net"
        assert len(file.readlines()) == 1


def test_inpainting_is_evaluated_with_the_mask_of_the_checkpoint(script: Script, urban: Path, tmp_path: Path) -> None:
    mask = (torch.rand(256, 256) > 0.3).float()
    torch.save(mask, tmp_path / "mask.pt")
    torch.save(1 - mask, tmp_path / "other.pt")
    done = script(
        "demo_train.py", "--task", "inpainting", "--mask", "mask.pt", "--max-steps", 1, "--out", "run", *SMALL
    )
    assert done.code == 0, done.err
    (tmp_path / "mask.pt").rename(tmp_path / "kept.pt")
    ours = ("--ckp", "run/ckp_last.pth.tar")
    done = script("demo_test_inpainting.py", *ours, "--sample-to-show", 0, 1, "--model-name", "mine", "--out", "test")
    assert done.code == 0 and "mine" in done.out, done.err
    assert {p.name for p in (tmp_path / "test").iterdir()} == {"metrics.csv", "sample_0.png", "sample_1.png"}
    assert script("demo_test_inpainting.py", *ours, "--mask", "kept.pt").code == 0
    done = script("demo_test_inpainting.py", *ours, "--mask", "other.pt")
    assert done.code == 2 and "contradicts" in done.err

    theirs = UNet(3, 3, compact=5, base_channels=2).state_dict()
    torch.save({"state_dict": {k: v for k, v in theirs.items()}}, tmp_path / "theirs.pth.tar")
    done = script("demo_test_inpainting.py", "--ckp", "theirs.pth.tar")
    assert done.code == 2 and "another network" in done.err  # theirs have 64 channels


def test_metrics_are_those_of_the_functions(script: Script, ct: Path, tmp_path: Path) -> None:
    from ei.metrics import cal_psnr, psnr, ssim
    from ei.physics import CT

    script("demo_train.py", "--task", "ct", "--ct-views", 7, "--max-steps", 2, "--out", "run", *SMALL)
    assert script("demo_test_ct.py", "--ckp", "run/ckp_last.pth.tar", "--out", "test").code == 0
    with open(tmp_path / "test" / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    x = torch.from_numpy(scipy.io.loadmat(ct)["DATA"][9:])[None]
    physics = CT(16, 7)
    net = UNet(1, 1, base_channels=2)
    net.load_state_dict(load_file(tmp_path / "run" / "ckp_last.pth.tar")["state_dict"])
    fbp = physics.A_dagger(physics.A(x))
    with torch.no_grad():
        outputs = {"pinv": fbp, "net": net.eval()(fbp)}
    for name, output in outputs.items():
        for metric, function in (("psnr_paper", cal_psnr), ("psnr", psnr), ("ssim", ssim)):
            assert float(row[f"{metric}_{name}"]) == pytest.approx(float(function(output, x)), rel=1e-4)


# ---- journey 3: get_started.py and what a user makes of it --------------------------------------------------------

EDITS = {
    "as it is": [],
    "another operator": [
        ("Inpainting(size, size, mask_rate=0.3)", "CT(size, 10)"),
        ("import Inpainting", "import CT"),
        ("DeadLeaves", "EllipsePhantoms"),
        ("UNet(3, 3", "UNet(1, 1"),
        ("Shift(n_trans=1)", "Rotate(5)"),
        ("import Shift", "import Rotate"),
    ],
    "a user-defined operator": [
        (
            "physics = Inpainting(size, size, mask_rate=0.3)",
            "class Mine:\n    def A(self, x):\n        return x[..., ::2]\n\n    def A_dagger(self, y):\n"
            "        return y.repeat_interleave(2, dim=-1)\n\nphysics = Mine()",
        ),
        ("from ei.physics import Inpainting\n", ""),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("edits", EDITS.values(), ids=list(EDITS))
def test_get_started(tmp_path: Path, edits: list[tuple[str, str]]) -> None:
    text = (ROOT / "get_started.py").read_text()
    assert len(text.splitlines()) <= 35
    for old, new in [*edits, ("size, epochs = 64, 13", "size, epochs = 16, 1")]:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "get_started.py").write_text(text)
    done = subprocess_run("python", tmp_path / "get_started.py", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "A_dagger y" in done.out and ("harmonic fill" in done.out) == (not edits)
    (folder,) = (tmp_path / "ckp").iterdir()
    assert {"reconstructions.png", "loss.png", "metrics.csv"} <= {path.name for path in folder.iterdir()}


# ---- wrong input --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    state = {"epoch": 0, "state_dict": UNet(1, 1, base_channels=2).state_dict()}
    torch.save(state, folder / "good.pth.tar")
    (folder / "cut.pth.tar").write_bytes((folder / "good.pth.tar").read_bytes()[:3000])
    (folder / "empty.pth.tar").write_bytes(b"")
    torch.save({"epoch": 0, "path": Path("x")}, folder / "code.pth.tar")
    torch.save([1, 2], folder / "list.pth.tar")
    torch.save(torch.ones(5, 5), folder / "mask.pt")
    (folder / "unknown.yaml").write_text("trainr: {epochs: 3}\n")
    (folder / "wrong.yaml").write_text("trainer: {epochs: many}\n")
    (folder / "list.yaml").write_text("- physics\n")
    (folder / "broken.yaml").write_text("physics: {name: CT\n")
    (folder / "flag.yaml").write_text("closure: {stop_gradient: 3}\n")
    (folder / "run").mkdir()
    (folder / "run" / "training_loss.csv").write_text("epoch\n")
    (folder / "file").write_text("")
    scipy.io.savemat(folder / "other.mat", {"OTHER": np.zeros((4, 4))})
    write_mat(folder / "odd.mat", side=20)
    write_mat(folder / "small.mat", side=3)
    scipy.io.savemat(folder / "oblong.mat", {"DATA": np.random.rand(10, 16, 24)})
    write_folder(folder / "unreadable")
    (folder / "unreadable" / "train" / "train" / "img_001.png").write_bytes(b"no image")
    for name in ("zero", "cut"):
        write_folder(folder / name)
        picture = folder / name / "train" / "train" / "img_001.png"
        picture.write_bytes(picture.read_bytes()[: 0 if name == "zero" else 5000])
    write_folder(folder / "small", side=100)
    (folder / "bare" / "train").mkdir(parents=True)
    (folder / "hollow" / "train" / "train").mkdir(parents=True)
    bad = np.random.rand(10, 16, 16)
    bad[3, 4, 5] = np.nan
    for name, array in {
        "nan": bad, "flat": np.random.rand(16, 16), "complex": np.random.rand(10, 16, 16) * 1j,
        "pixel": np.ones((10, 1, 1)), "none": np.zeros((0, 16, 16)), "one": np.random.rand(1, 16, 16),
        "text": "no numbers",
    }.items():  # fmt: skip
        scipy.io.savemat(folder / f"{name}.mat", {"DATA": array})
    (folder / "cut.mat").write_bytes((folder / "odd.mat").read_bytes()[:2000])
    (folder / "empty.mat").write_bytes(b"")
    for name, text in {
        "nested": "physics: {name: {CT: 1}}", "schedule": "schedule: soon", "views": "physics: {radon_view: 2.5}",
        "nolr": "optimizer: {lr: .nan}", "number": "3", "bytes": "trainer: \x00", "twice": "data: {}\ndata: {}",
    }.items():  # fmt: skip
        (folder / f"{name}.yaml").write_text(text)
    return folder


CT_TRAIN = ("demo_train.py", "--task", "ct")
WRONG = [
    (("demo_train.py",), ["physics is missing", "--task"]),
    (("demo_train.py", "--task", "pet"), ["--task", "pet"]),
    ((*CT_TRAIN, "--data", "nowhere.mat"), ["nowhere.mat"]),
    (("demo_train.py", "--task", "inpainting"), ["dataset/Urban100", "train"]),
    (("demo_train.py", "--task", "inpainting", "--data", "unreadable"), ["img_001.png"]),
    ((*CT_TRAIN, "--data", "other.mat"), ["other.mat must have shape [n, H, W], got [4, 4]"]),
    ((*CT_TRAIN, "--data", "small.mat"), ["3 x 3", "multiples of 8"]),
    ((*CT_TRAIN, "--data", "oblong.mat"), ["16 x 24"]),
    ((*CT_TRAIN, "--data", "file"), ["file"]),
    ((*CT_TRAIN, "--ei-trans", 359), ["359", "358"]),
    ((*CT_TRAIN, "--ei-trans", 0), ["transform.n_trans must be", "got 0"]),
    ((*CT_TRAIN, "-b", 10), ["10", "9"]),
    ((*CT_TRAIN, "--lr", "nan"), ["optimizer.lr must be", "got nan"]),
    ((*CT_TRAIN, "--lr", 0), ["optimizer.lr must be", "got 0.0"]),
    ((*CT_TRAIN, "--lr", "fast"), ["--lr", "fast"]),
    ((*CT_TRAIN, "--wd", -1), ["optimizer.weight_decay must be", "got -1.0"]),
    ((*CT_TRAIN, "--ei-alpha", "inf"), ["closure.alpha must be", "got inf"]),
    ((*CT_TRAIN, "--method", "ei_adv", "closure.alpha_adv=-1"), ["closure.alpha_adv", "-1"]),
    ((*CT_TRAIN, "--epochs", 0), ["trainer.epochs must be", "got 0"]),
    ((*CT_TRAIN, "--epochs", 1.5), ["--epochs", "1.5"]),
    ((*CT_TRAIN, "--ct-views", 0), ["physics.radon_view must be", "got 0"]),
    ((*CT_TRAIN, "--max-steps", 0), ["trainer.max_steps must be", "got 0"]),
    ((*CT_TRAIN, "--schedule", "-3"), ["-3"]),
    (
        ("demo_train.py", "--task", "inpainting", "--data", "synthetic", "--mask-rate", 1),
        ["physics.mask_rate", "got 1.0"],
    ),
    (
        ("demo_train.py", "--task", "inpainting", "--data", "synthetic", "--mask-rate", -0.1),
        ["physics.mask_rate", "-0.1"],
    ),
    (("demo_train.py", "--task", "inpainting", "--data", "synthetic", "--mask", "mask.pt"), ["[128, 128]", "[5, 5]"]),
    (("demo_train.py", "--task", "inpainting", "--data", "synthetic", "--mask", "no.pt"), ["no.pt"]),
    (("demo_train.py", "--task", "inpainting", "--data", "synthetic", "--ei-trans", 128), ["128", "127"]),
    ((*CT_TRAIN, "--epoch", 3), ["--epoch", "--epochs"]),
    ((*CT_TRAIN, "--method", "magic"), ["--method", "magic"]),
    ((*CT_TRAIN, "--gpu", 0, "--device", "cpu"), ["--gpu 0", "--device cpu"]),
    ((*CT_TRAIN, "--device", "tpu"), ["--device", "tpu"]),
    ((*CT_TRAIN, "--device", "cuda:99"), ["cuda:99"]),
    ((*CT_TRAIN, "--out", "run"), ["run", "already holds"]),
    ((*CT_TRAIN, "--out", "file"), ["file"]),
    ((*CT_TRAIN, "--out", "file/run"), ["file"]),
    ((*CT_TRAIN, "--config", "no.yaml"), ["no.yaml"]),
    ((*CT_TRAIN, "--config", "unknown.yaml"), ["unknown.yaml", "trainr is unknown", "did you mean trainer"]),
    ((*CT_TRAIN, "--config", "wrong.yaml"), ["trainer.epochs", "many"]),
    ((*CT_TRAIN, "--config", "list.yaml"), ["list.yaml"]),
    ((*CT_TRAIN, "--config", "broken.yaml"), ["broken.yaml"]),
    ((*CT_TRAIN, "--config", "flag.yaml"), ["closure.stop_gradient", "3"]),
    ((*CT_TRAIN, "--config", "twice.yaml"), ["twice.yaml", "line 2", "'data' stands twice"]),
    ((*CT_TRAIN, "--resume", "no.pth.tar"), ["no.pth.tar"]),
    ((*CT_TRAIN, "--resume", "cut.pth.tar"), ["cut.pth.tar", "damaged"]),
    ((*CT_TRAIN, "--resume", "good.pth.tar"), ["good.pth.tar", "another network"]),
    ((*CT_TRAIN, "--data", "nan.mat"), ["image 3", "nan.mat", "not finite"]),
    ((*CT_TRAIN, "--data", "flat.mat"), ["flat.mat", "[n, H, W]", "[16, 16]"]),
    ((*CT_TRAIN, "--data", "complex.mat"), ["complex.mat", "complex128"]),
    ((*CT_TRAIN, "--data", "pixel.mat"), ["1 x 1"]),
    ((*CT_TRAIN, "--data", "none.mat"), ["none.mat", "[0, 16, 16]"]),
    ((*CT_TRAIN, "--data", "one.mat"), ["one.mat", "at least 2"]),
    ((*CT_TRAIN, "--data", "text.mat"), ["text.mat"]),
    ((*CT_TRAIN, "--data", "cut.mat"), ["cut.mat", "damaged"]),
    ((*CT_TRAIN, "--data", "empty.mat"), ["empty.mat", "damaged"]),
    ((*CT_TRAIN, "--data", "run"), ["run", "folder"]),
    (("demo_train.py", "--task", "inpainting", "--data", "zero"), ["img_001.png"]),
    (("demo_train.py", "--task", "inpainting", "--data", "cut"), ["img_001.png"]),
    (("demo_train.py", "--task", "inpainting", "--data", "small"), ["100 x 100", "512 x 512"]),
    (("demo_train.py", "--task", "inpainting", "--data", "bare"), ["bare/train"]),
    (("demo_train.py", "--task", "inpainting", "--data", "hollow"), ["hollow/train"]),
    (("demo_train.py", "--task", "inpainting", "--data", "file"), ["file is no data set of images"]),
    ((*CT_TRAIN, "--config", "nested.yaml"), ["physics.name"]),
    ((*CT_TRAIN, "--config", "schedule.yaml"), ["schedule.name", "soon", "step_schedule"]),
    ((*CT_TRAIN, "--config", "views.yaml"), ["physics.radon_view", "2.5"]),
    ((*CT_TRAIN, "--config", "nolr.yaml"), ["optimizer.lr", "nan"]),
    ((*CT_TRAIN, "--config", "number.yaml"), ["number.yaml", "keys and values"]),
    ((*CT_TRAIN, "--config", "bytes.yaml"), ["bytes.yaml"]),
    ((*CT_TRAIN, "--config", "run"), ["run", ".yaml"]),
    ((*CT_TRAIN, "--seed", -1), ["trainer.seed must be", "got -1"]),
    ((*CT_TRAIN, "--workers", -1), ["data.workers must be", "got -1"]),
    ((*CT_TRAIN, "--save-every", 0), ["trainer.save_every must be", "got 0.0"]),
    ((*CT_TRAIN, "--base-channels", 0), ["network.base_channels must be", "got 0"]),
    ((*CT_TRAIN, "--precision", "fp16"), ["reconstructor.precision must be one of", "fp16"]),
    ((*CT_TRAIN, "trainer.cuda_graphs=true", "--device", "cpu"), ["trainer.cuda_graphs", "CUDA"]),
    ((*CT_TRAIN, "--ct-views", 10**6), ["CT(16, 1000000)", "GB"]),
    ((*CT_TRAIN, "--resume", "auto"), ["--out"]),
    ((*CT_TRAIN, "--resume", "auto", "--out", "file"), ["file"]),
    ((*CT_TRAIN, "--resume", "run"), ["run", "folder"]),
    ((*CT_TRAIN, "--resume", "code.pth.tar"), ["code.pth.tar was rejected"]),
    ((*CT_TRAIN, "--resume", "list.pth.tar"), ["list.pth.tar"]),
    ((*CT_TRAIN, "surplus"), ["surplus"]),
    ((*CT_TRAIN, "--epochs"), ["--epochs"]),
    ((*CT_TRAIN, "--out", ""), ["--out"]),
    (("demo_test_ct.py",), ["ckp/ct/ckp_ei_final.pth.tar"]),
    (("demo_test_ct.py", "--ckp", "run"), ["run", "folder"]),
    (("demo_test_ct.py", "--ckp", "cut.pth.tar"), ["cut.pth.tar", "damaged"]),
    (("demo_test_ct.py", "--ckp", "empty.pth.tar"), ["empty.pth.tar", "damaged"]),
    (("demo_test_ct.py", "--ckp", "code.pth.tar"), ["code.pth.tar was rejected", "pathlib.PosixPath"]),
    (("demo_test_ct.py", "--ckp", "list.pth.tar"), ["list.pth.tar", "state_dict"]),
    (("demo_test_ct.py", "--ckp", "file"), ["file", "damaged"]),
    (("demo_test_ct.py", "--ckp", "good.pth.tar"), ["good.pth.tar", "another network"]),
    (("demo_test_ct.py", "--ckp", "good.pth.tar", "--network-compact", 3), ["3"]),
    (
        ("demo_test_ct.py", "--ckp", "good.pth.tar", "network.base_channels=2", "--sample-to-show", 1),
        ["--sample-to-show must be", "got 1"],
    ),
    (("demo_test_ct.py", "--ckp", "good.pth.tar", "--data", "no.mat"), ["no.mat"]),
    (("demo_test_inpainting.py", "--ckp", "good.pth.tar"), ["dataset/Urban100"]),
    (("demo_test_inpainting.py", "--ckp", "good.pth.tar", "--data", "synthetic"), ["another network"]),
    (("demo_test_inpainting.py", "--color"), ["--color"]),
]


@pytest.mark.parametrize(("arguments", "names"), WRONG, ids=lambda value: " ".join(map(str, value))[-60:])
def test_wrong_input_is_one_line(
    script: Script, ct: Path, damaged_files: Path, tmp_path: Path, arguments: tuple, names: list[str]
) -> None:
    shutil.copytree(damaged_files, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    done = script(*arguments)
    assert done.code == 2, done
    assert done.err.count("\n") == 1 and done.err.startswith(f"{arguments[0]}: error: ")
    assert all(name in done.err for name in names), done.err
    assert sorted(tmp_path.rglob("*")) == before  # no run folder, nothing half made


@pytest.mark.parametrize(
    "arguments", [("--ct-views", 1), ("--mask-rate", 0.5), ("--data", "wide.mat"), ("-b", 9)], ids=str
)
def test_odd_but_possible_input(script: Script, ct: Path, tmp_path: Path, arguments: tuple) -> None:
    """One view, an option of the other task, values far beyond [0, 1], one batch of everything."""
    scipy.io.savemat(tmp_path / "wide.mat", {"DATA": 4000 * np.random.rand(10, 16, 16) - 1000})
    done = script(*CT_TRAIN, *arguments, "--max-steps", 1, "--out", "odd", *SMALL)
    assert done.code == 0, done.err
    assert ("no effect" in done.out) == ("--mask-rate" in arguments)
    wide = f"demo_train.py: warning: DATA in {tmp_path}/wide.mat has values from -"
    assert done.err.startswith(wide) if "wide.mat" in arguments else not done.err


@pytest.mark.parametrize(
    "more", [(), ("--reconstructor", "unrolled", "reconstructor.iterations=1")], ids=["direct", "unrolled"]
)
def test_sides_that_are_no_multiples(script: Script, ct: Path, tmp_path: Path, more: tuple) -> None:
    write_mat(tmp_path / "odd.mat", side=20)
    done = script(*CT_TRAIN, "--data", "odd.mat", "--ct-views", 7, "--max-steps", 2, "--out", "odd", *more, *SMALL)
    said = "warning: images of 20 x 20 are padded by reflection to 24 x 24 for the network, and cropped after it\n"
    assert done.code == 0 and done.err.endswith(said), done.err
    done = script("ei test", "--ckp", "odd/ckp_last.pth.tar", "--average-over", "rotate90", "--out", "test")
    assert done.code == 0 and "averaged" in done.out, done.err
    np.save("y.npy", np.random.default_rng(0).random((2, 29, 7), dtype=np.float32))
    done = script("ei reconstruct", "--ckp", "odd/ckp_last.pth.tar", "--input", "y.npy", "--output", "x.npy")
    assert done.code == 0 and np.load("x.npy").shape == (2, 20, 20), done.err


def test_flags_of_other_methods(script: Script, ct: Path) -> None:
    for method, expected in {"ei": False, "mc": True, "sup": True, "ei_adv": False}.items():
        given = ("--method", method, "--ei-alpha", 5, "-b", 9, "--max-steps", 1, "--out", method)
        done = script(*CT_TRAIN, *given, *SMALL)
        assert done.code == 0, done.err
        assert ("note: --ei-alpha has no effect on " in done.out) == expected, method
    assert load_file("ei_adv/ckp_last.pth.tar")["config"]["closure"]["alpha_ei"] == 5


LEFT_OUT = {
    "ct_ei": {"keep"},
    "ct_mc": {"alpha", "stop_gradient", "keep"},
    "ct_ei_adv": {"alpha", "keep"},
    "inpainting_split": {"alpha", "stop_gradient"},
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", LEFT_OUT)
def test_a_recipe_gives_its_arguments_to_whatever_part_is_there(script: Script, tmp_path: Path, cell: str) -> None:
    """In a file, arguments of other methods are left out with a note; typed, they are an error."""
    (tmp_path / "recipe.yaml").write_text("closure: {alpha: 3, stop_gradient: true, mc_domain: image, keep: 0.5}\n")
    files = (ROOT / "configs" / f"{cell}.yaml", "recipe.yaml")
    done = script("demo_train.py", *files, "--data", "synthetic", "--max-steps", 1, "--out", "run", *SMALL)
    assert done.code == 0, done.err
    notes = {line.split(".")[1].split()[0] for line in done.out.splitlines() if line.startswith("note: closure.")}
    assert notes == LEFT_OUT[cell]
    assert load_file("run/ckp_last.pth.tar")["config"]["closure"]["mc_domain"] == "image"


@pytest.mark.slow
def test_wrong_input_as_a_subprocess(tmp_path: Path) -> None:
    done = subprocess_run("python", ROOT / "demo_train.py", "--task", "ct", cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1 and "dataset/CT/CT100_128x128.mat" in done.err
    assert not list(tmp_path.iterdir())


def test_a_diverging_run_ends_with_code_1(script: Script, ct: Path) -> None:
    done = script("demo_train.py", "--task", "ct", "--lr", 1e30, "--epochs", 3, "--out", "run", *SMALL)
    assert done.code == 1 and "training stopped" in done.err and done.err.count("\n") == 1


# ---- real data ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_figures(script: Script, shared_data: Path, tmp_path: Path) -> None:
    """A_dagger y over the test sets, as in the paper's table."""
    torch.save({"state_dict": UNet(1, 1).state_dict()}, tmp_path / "ct.pth.tar")
    torch.save({"state_dict": UNet(3, 3).state_dict()}, tmp_path / "inpainting.pth.tar")
    done = script("demo_test_ct.py", "--ckp", "ct.pth.tar", "--data", shared_data / "CT100_128x128.mat")
    assert "30.24 +- 1.26" in done.out
    data = ("--data", shared_data / "Urban100", "--mask", shared_data / "mask_random0.3.pt")
    done = script("demo_test_inpainting.py", "--ckp", "inpainting.pth.tar", "--out", "test", *data)
    assert "5.84 +- 1.49" in done.out and "10.79" in done.out
    with open(tmp_path / "test" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[6]["psnr_paper_pinv"]) == pytest.approx(6.33, abs=5e-3)
