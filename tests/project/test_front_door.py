"""A script of 2021 works after its imports are changed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ROOT, subprocess_run
from makers import write_folder, write_mat
from torch.utils.data import DataLoader

from ei.common.files import load_file
from ei.ei import EI
from ei.physics import CT, GaussianNoise, Inpainting
from ei.transforms import Rotate, Shift

CT_SCRIPT = """
import torch
from ei.ei import EI
from ei.physics import CT
from ei.transforms import Rotate
from ei.datasets import CTData

device = 'cpu'
dataloader = torch.utils.data.DataLoader(dataset=CTData(mode='train'), batch_size=2, shuffle=True)
transform = Rotate(n_trans=5)
physics = CT(img_width=16, radon_view=5, circle=False, device=device)
ei = EI(in_channels=1, out_channels=1, img_width=16, img_height=16, dtype=torch.float, device=device)
lr = {'G': 5e-4, 'WD': 1e-8}
alpha = {'ei': 100}
ei.train_ei(dataloader, physics, transform, 1, lr, alpha, 1, [2000, 3000, 4000], residual=True, pretrained=None,
            task='ct', loss_type='l2', cat=True, report_psnr=True, lr_cos=False)
"""

INPAINTING_SCRIPT = """
import torch
from ei.ei import EI
from ei.physics import Inpainting
from ei.transforms import Shift
from ei.datasets import CVDB_ICCV

device = 'cpu'
dataloader = CVDB_ICCV(dataset_name='Urban100', mode='train', batch_size=1, shuffle=True,
                       crop_size=(32, 32), resize=False)
transform = Shift(n_trans=3)
physics = Inpainting(img_heigth=32, img_width=32, mode='random', mask_rate=0.3, device=device)
ei = EI(in_channels=3, out_channels=3, img_width=32, img_height=32, dtype=torch.float, device=device)
ei.train_mc(dataloader, physics, epochs=1, lr={'G': 1e-3, 'WD': 1e-8}, ckp_interval=500, schedule=[500, 1000, 1500],
            residual=True, pretrained=None, task='inpainting', loss_type='l2', cat=True, report_psnr=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "method", "task", "header"),
    [
        (CT_SCRIPT, "ei", "ct", "epoch,loss_mc,loss_ei,loss_total,psnr,mse"),
        (INPAINTING_SCRIPT, "mc", "inpainting", "epoch,loss_fc"),
    ],
)
def test_a_script_of_2021(tmp_path: Path, text: str, method: str, task: str, header: str) -> None:
    (tmp_path / "dataset" / "CT").mkdir(parents=True)
    write_mat(tmp_path / "dataset" / "CT" / "CT100_128x128.mat", n=6, side=16)
    write_folder(tmp_path / "dataset" / "Urban100")
    (tmp_path / "script.py").write_text(text)
    done = subprocess_run("python", "script.py", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    (folder,) = (tmp_path / "ckp").iterdir()
    assert folder.name.endswith(f"_{method}_{task}")
    assert (folder / "training_loss.csv").read_text().splitlines()[0] == header
    state = load_file(folder / "ckp_0.pth.tar")
    assert {"epoch", "state_dict", "optimizer"} <= set(state)
    channels = {"ct": 1, "inpainting": 3}[task]
    assert state["state_dict"]["Conv1.conv.0.weight"].shape == (64, channels, 3, 3)
    tested = subprocess_run(
        "python", ROOT / f"demo_test_{task}.py", "--ckp", folder / "ckp_0.pth.tar", "--out", "test", cwd=tmp_path
    )
    # The test script reads Urban100 at 256 x 256, the checkpoint is for 32 x 32: it says so.
    assert (tested.code, "32 x 32" in tested.err) == ((0, False) if task == "ct" else (2, True))


IMAGES = list(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
COMMON = {"epochs": 1, "lr": {"G": 1e-3, "WD": 0}, "ckp_interval": 1, "schedule": []}


def door(**options) -> EI:
    return EI(1, 1, 16, 16, **options)


@pytest.mark.parametrize(
    "method", ["ei", *(pytest.param(one, marks=pytest.mark.slow) for one in ("ei_adv", "ei_sup", "sup", "mc"))]
)
def test_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.chdir(tmp_path)
    physics, loader = Inpainting(16, 16), DataLoader(IMAGES, batch_size=2)
    alpha = {"ei": 1.0, "adv": 0.1}
    calls = {
        "ei": lambda: door().train_ei(loader, physics, Shift(2), alpha=alpha, loss_type="l1", **COMMON),
        "ei_adv": lambda: door().train_ei_adv(loader, physics, Shift(2), alpha=alpha, **COMMON),
        "ei_sup": lambda: door().train_supervised_ei(loader, physics, Shift(2), alpha=alpha, lr_cos=True, **COMMON),
        "sup": lambda: door().train_supervised(loader, physics, cat=False, **COMMON),
        "mc": lambda: door().train_mc(loader, physics, residual=False, **COMMON),
    }
    trainer = calls[method]()
    assert trainer.folder.name.endswith(f"_{method}") and trainer.step == 1
    key = "state_dict_G" if method == "ei_adv" else "state_dict"
    assert key in load_file(trainer.folder / "ckp_0.pth.tar")


def test_pretrained_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    physics, loader = CT(16, 5), DataLoader(IMAGES, batch_size=2, shuffle=True)
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        trainer = door().train_ei(loader, physics, Rotate(2), alpha={"ei": 1}, **COMMON)
        weights.append(trainer.f.net.state_dict()["Conv_1x1.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    frozen = {**COMMON, "lr": {"G": 0.0, "WD": 0.0}}
    path = str(trainer.folder / "ckp_0.pth.tar")
    again = door().train_mc(loader, physics, pretrained=path, **frozen)
    assert torch.equal(again.f.net.state_dict()["Conv_1x1.weight"], weights[2])


def test_noise_and_double_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    physics = Inpainting(16, 16, noise=GaussianNoise(0.1))
    trainer = door(dtype=torch.float64).train_mc(DataLoader(IMAGES, batch_size=2), physics, report_psnr=True, **COMMON)
    assert next(trainer.f.parameters()).dtype == torch.float64


@pytest.mark.parametrize(
    "change",
    [
        {"lr": {"WD": 0}},
        {"lr": {"G": float("nan")}},
        {"alpha": {}},
        {"alpha": {"ei": -1}},
        {"loss_type": "l3"},
        {"pretrained": "missing.pth.tar"},
        {"epochs": 0},
    ],
)
def test_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {**COMMON, "alpha": {"ei": 1}, **change}
    with pytest.raises(ValueError):
        door().train_ei(DataLoader(IMAGES, batch_size=2), Inpainting(16, 16), Shift(2), **arguments)
    assert not list(tmp_path.iterdir())
