"""The training loop: what it writes, that it is a function of its seed, that it continues exactly."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from conftest import SmallNet, fill
from makers import IMAGES, loader, make, rows
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset

from ei.closure import (
    AdversarialEIClosure,
    DIPClosure,
    EIClosure,
    MCClosure,
    SplittingClosure,
    SupervisedClosure,
    SupervisedEIClosure,
)
from ei.common.files import load_file
from ei.common.seeds import generator
from ei.datasets import make_loader
from ei.errors import InputError
from ei.evaluation import evaluate
from ei.models import Discriminator, Reconstructor
from ei.models.base import evaluating
from ei.models.weights import generator_weights
from ei.physics import GaussianNoise, Inpainting
from ei.training import (
    RunFolder,
    Trainer,
    TrainingDivergedError,
    by_step,
    cosine_schedule,
    one_cycle_schedule,
    step_schedule,
)
from ei.transforms import Shift


def test_step_schedule() -> None:
    factor = step_schedule([2, 4])
    assert [factor(epoch) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert step_schedule()(1000) == 1


def test_cosine_schedule() -> None:
    factor = cosine_schedule(10)
    assert [factor(epoch) for epoch in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


def test_one_cycle_schedule() -> None:
    factor = one_cycle_schedule(10)
    assert [factor(epoch) for epoch in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1])
    fall = [factor(epoch) for epoch in range(3, 10)]
    assert fall == sorted(fall, reverse=True) and fall[-1] < 0.1


def test_learning_rates_are_set() -> None:
    seen = []

    class Watch(MCClosure):
        def __call__(self, *args: Any) -> dict:
            seen.append([group["lr"] for group in trainer.optimizers["total"].param_groups])
            return super().__call__(*args)

    trainer = make(False, Watch(), schedule=step_schedule([1]), lr=1e-2)
    trainer.fit(loader(7))
    assert [lr for (lr,) in seen] == pytest.approx([1e-2, 1e-3, 1e-3])


def test_a_schedule_may_be_a_function_of_the_step() -> None:
    seen = []

    class Watch(MCClosure):
        def __call__(self, *args: Any) -> dict:
            seen.append(trainer.optimizers["total"].param_groups[0]["lr"])
            return super().__call__(*args)

    trainer = make(False, Watch(), epochs=2, schedule=by_step(lambda step: 1 / (step + 1)), lr=1.0)
    trainer.fit(loader())  # 4 steps an epoch
    assert seen == pytest.approx([1 / (step + 1) for step in range(8)])


def test_the_hook_sees_every_finished_epoch(tmp_path: Path) -> None:
    seen = []

    def look(trainer: Trainer) -> None:
        written = len(rows(tmp_path))
        with evaluating(trainer.f):
            seen.append((trainer.epoch, trainer.step, len(trainer.history), written, trainer.f.training))

    make(tmp_path, epochs=3, average=0.5, on_epoch_end=look).fit(loader())
    assert seen == [(1, 4, 1, 1, False), (2, 8, 2, 2, False), (3, 12, 3, 3, False)]


def test_a_hook_cannot_change_the_training(tmp_path: Path) -> None:
    make(tmp_path / "plain", noise=GaussianNoise(0.1)).fit(loader())

    def meddle(trainer: Trainer) -> None:
        torch.rand(3)
        trainer.f.eval()

    make(tmp_path / "hooked", noise=GaussianNoise(0.1), on_epoch_end=meddle).fit(loader())
    for name in ("ckp_last.pth.tar", "training_loss.csv"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "hooked" / name).read_bytes()


def test_a_hook_that_evaluates_does_not_end_the_training_mode() -> None:
    modes = []

    class Watch(MCClosure):
        def __call__(self, f: Any, *args: Any) -> dict:
            modes.append(f.training and f.net.training)
            return super().__call__(f, *args)

    make(False, Watch(), on_epoch_end=lambda trainer: trainer.f.eval()).fit(loader(7))
    assert modes == [True] * 3


def test_a_run_folder_is_of_one_training(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    make(folder, epochs=1).fit(loader())
    with pytest.raises(ValueError, match="another one"):
        make(folder, epochs=1)


def test_run_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trainer = make(out, epochs=6, ckp_interval=2, config={"note": "kept", "lr": 1e-3})
    trainer.fit(loader())
    names = {path.name for path in out.iterdir()}
    assert names == {
        *(f"ckp_{epoch}.pth.tar" for epoch in (0, 2, 4, 5)),
        "ckp_last.pth.tar", "ckp_last-1.pth.tar", "training_loss.csv", "config.yaml", "loss.png",
    }  # fmt: skip
    assert [row["epoch"] for row in rows(out)] == ["1", "2", "3", "4", "5", "6"]
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["note"] == "kept" and config["versions"]["torch"] == torch.__version__
    state = torch.load(out / "ckp_4.pth.tar", weights_only=True)
    assert state["epoch"] == 4 and state["step"] == 5 * 4 and state["config"]["note"] == "kept"
    assert {"state_dict", "optimizer", "mask"} <= set(state)
    assert torch.equal(state["mask"], trainer.physics.mask)
    for rolling, kept in (("ckp_last", "ckp_5"), ("ckp_last-1", "ckp_4")):
        assert (out / f"{rolling}.pth.tar").read_bytes() == (out / f"{kept}.pth.tar").read_bytes()


@pytest.mark.parametrize(
    ("closure", "columns"),
    [
        (EIClosure(1.0), "epoch,loss_mc,loss_ei,loss_total,psnr,mse"),
        (MCClosure(), "epoch,loss_fc,psnr,mse"),
        (SupervisedClosure(), "epoch,loss,psnr,mse"),
        (SupervisedEIClosure(1.0), "epoch,loss_sup,loss_ei,loss_total,psnr,mse"),
        (
            AdversarialEIClosure(Discriminator((3, 16, 16)), 1.0, 0.1),
            "epoch,loss_mc,loss_ei,loss_g,loss_G,loss_D,psnr,mse",
        ),
    ],
)
def test_columns_of_the_log(tmp_path: Path, closure: Any, columns: str) -> None:
    make(tmp_path / "run", closure, epochs=1).fit(loader(7))
    assert (tmp_path / "run" / "training_loss.csv").read_text().splitlines()[0] == columns
    make(tmp_path / "blind", closure, epochs=1, report_psnr=False).fit(loader(7))
    assert (tmp_path / "blind" / "training_loss.csv").read_text().splitlines()[0] + ",psnr,mse" == columns


def test_a_users_closure_needs_nothing_but_a_call(tmp_path: Path) -> None:
    def closure(f: Any, physics: Any, transform: Any, y: Any, x: Any = None) -> dict:
        x1 = f(y)
        loss = (physics.A(x1) - y).abs().mean()
        return {"mine": loss, "total": loss, "x1": x1.detach()}

    make(tmp_path / "run", closure, epochs=2).fit(loader())
    assert list(rows(tmp_path / "run")[0]) == ["epoch", "loss_mine", "loss_total", "psnr", "mse"]


def test_adversarial_checkpoints_hold_both_networks(tmp_path: Path) -> None:
    make(tmp_path, AdversarialEIClosure(Discriminator((3, 16, 16)), 1.0, 0.1), epochs=1).fit(loader(7))
    state = load_file(tmp_path / "ckp_0.pth.tar")
    assert {"state_dict_G", "state_dict_D", "optimizer_G", "optimizer_D"} <= set(state)
    assert "state_dict" not in state


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """Bytes of the files and all, whatever the program drew before; and the program's random numbers go on as if no
    training had been."""
    runs = []
    for name, seed, drawn in (("a", 0, 0), ("b", 0, 5), ("c", 1, 0)):
        torch.manual_seed(42)
        torch.rand(drawn)
        trainer = make(tmp_path / name, seed=seed)
        before = torch.random.get_rng_state()
        trainer.fit(DataLoader(IMAGES, batch_size=2, shuffle=True))
        assert torch.equal(torch.random.get_rng_state(), before)
        runs.append([(tmp_path / name / file).read_bytes() for file in ("ckp_2.pth.tar", "training_loss.csv")])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 2):
        make(tmp_path / str(workers), noise=GaussianNoise(0.1), epochs=2).fit(make_loader(IMAGES, 2, workers=workers))
    files = [(tmp_path / name / "ckp_last.pth.tar").read_bytes() for name in ("0", "2")]
    assert files[0] == files[1]


class Drawn(Dataset):
    """Crops and noise, as people write them: from whatever global generator is at hand."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = IMAGES[index].roll(random.randrange(16), -1) * float(np.random.uniform(0.5, 1))
        seen.append((index, image + 0.1 * torch.rand(3, 16, 16)))
        return seen[-1][1]


seen: list[tuple[int, torch.Tensor]] = []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_data_set_draws_is_a_function_of_seed_epoch_and_index(tmp_path: Path, workers: int) -> None:
    """Neither workers nor an interruption in the middle of an epoch changes a byte."""
    seen.clear()
    np.random.seed(7), random.seed(7)
    trainer = make(tmp_path / "whole", epochs=2)
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    trainer.fit(make_loader(Drawn(), 2))
    kept = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()] == states
    assert kept  # not in one line: what differs is too long to be printed
    assert len(seen) == 14 and len({float(image.sum()) for _, image in seen}) == 14  # another image in every epoch
    random.seed(8), np.random.seed(8)
    make(tmp_path / "parts", epochs=2, max_steps=5).fit(make_loader(Drawn(), 2, workers=workers))
    again = make(tmp_path / "parts", epochs=2)
    again.resume(load_file(tmp_path / "parts" / "ckp_last.pth.tar"))
    again.fit(make_loader(Drawn(), 2, workers=workers))
    for name in ("ckp_last.pth.tar", "training_loss.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_a_torch_loader_of_a_set_that_draws_continues_exactly(tmp_path: Path) -> None:
    def of_torch() -> DataLoader:
        return DataLoader(Drawn(), batch_size=2, shuffle=True)

    make(tmp_path / "whole", epochs=2).fit(of_torch())
    make(tmp_path / "parts", epochs=2, max_steps=3).fit(of_torch())
    again = make(tmp_path / "parts", epochs=2)
    again.resume(load_file(tmp_path / "parts" / "ckp_last.pth.tar"))
    random.seed(3), np.random.seed(3)
    again.fit(of_torch())
    for name in ("ckp_last.pth.tar", "training_loss.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_validation_items_are_the_same_in_every_epoch() -> None:
    seen.clear()
    for validation in (make_loader(Drawn(), 3), DataLoader(Drawn(), batch_size=3)):
        make(False, MCClosure(), epochs=3, validation=validation).fit(loader())
        first, second, third = (dict(seen[7 * k : 7 * k + 7]) for k in range(3))
        assert all(torch.equal(first[k], second[k]) and torch.equal(first[k], third[k]) for k in range(7))
        seen.clear()


def test_a_loader_by_hand_seeds_nothing() -> None:
    """Who iterates by himself has the data set's own draws, and his random numbers."""
    batches = make_loader(Drawn(), 7)
    first, second = (next(iter(batches))["x"] for _ in range(2))
    assert not torch.equal(first, second)


CLOSURES: list[Any] = [
    lambda: EIClosure(1.0),
    pytest.param(lambda: AdversarialEIClosure(Discriminator((3, 16, 16)), 1.0, 0.1), marks=pytest.mark.slow),
    lambda: SupervisedEIClosure(1.0),
]


@pytest.mark.parametrize("steps", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("closure", CLOSURES)
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path: Path, closure: Any, steps: int) -> None:
    options: dict[str, Any] = {"schedule": cosine_schedule(4), "epochs": 4, "noise": GaussianNoise(0.05),
                               "clip_norm": 0.05, "average": 0.9}  # fmt: skip
    make(tmp_path / "whole", closure(), **options).fit(loader(4))
    make(tmp_path / "parts", closure(), max_steps=steps, **options).fit(loader(4))  # 2 steps an epoch
    state = load_file(tmp_path / "parts" / "ckp_last.pth.tar")
    assert state["step"] == steps
    again = make(tmp_path / "parts", closure(), **options)
    again.resume(state)
    assert again.step == steps
    again.fit(loader(4))
    for name in ("ckp_3.pth.tar", "ckp_last.pth.tar", "training_loss.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    assert (tmp_path / "parts" / "ckp_last-1.pth.tar").exists()


def test_a_resumed_optimiser_keeps_the_settings_it_is_made_with(tmp_path: Path) -> None:
    """Only what it has gathered comes from the checkpoint: so a run can go on with another weight decay."""
    make(tmp_path, epochs=1).fit(loader(7))
    again = make(False)
    optimizer = again.optimizers["total"]
    optimizer.param_groups[0]["weight_decay"] = 0.5
    again.resume(load_file(tmp_path / "ckp_last.pth.tar"))
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert all(float(held["step"]) == 1 for held in optimizer.state.values()) and len(optimizer.state) == 4


def flat(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().clone().flatten() for p in net.parameters()])


def test_frozen_parameters_stay() -> None:
    """Fine-tuning: they are in the optimiser, as `Adam(net.parameters())` puts them there."""
    for clip_norm in (None, 1e-3):
        trainer = make(False, epochs=1, clip_norm=clip_norm)
        net = trainer.networks["total"]
        net.a.requires_grad_(False)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        trainer.fit(loader())
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name]) == name.startswith("a."), name


def test_there_must_be_something_to_train() -> None:
    net = SmallNet(3).requires_grad_(False)
    f = Reconstructor(net, Inpainting(16, 16))
    with pytest.raises(ValueError, match="'total' are frozen"):
        Trainer(f, f.physics, None, MCClosure(), {"total": Adam(net.parameters())}, epochs=1, out=False)
    net.requires_grad_(True)
    both = {"total": Adam(net.parameters()), "other": Adam(net.b.parameters())}
    with pytest.raises(ValueError, match="'total' and 'other' share a parameter of the shape"):
        Trainer(f, f.physics, None, MCClosure(), both, epochs=1, out=False)


def test_the_order_of_the_optimizers_does_not_matter(tmp_path: Path) -> None:
    """The discriminator's step must not change what the generator's gradient is computed of."""
    finals = []
    for keys in (("total", "D"), ("D", "total")):
        trainer = make(False, AdversarialEIClosure(Discriminator((3, 16, 16)), 1.0, 0.1), epochs=1)
        trainer.optimizers = {key: trainer.optimizers[key] for key in keys}
        trainer.fit(loader(4))
        finals.append([flat(network) for network in (trainer.networks["total"], trainer.networks["D"])])
    for ours, theirs in zip(*finals, strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_are_clipped() -> None:
    """Plain gradient descent shows them: a step of lr 1 moves the weights by the gradient. Twice the limit, twice the
    way; a limit above the norm changes nothing."""
    ways = []
    for limit in (1e-3, 2e-3, 1e3, None):
        trainer = make(False, epochs=1, max_steps=1, clip_norm=limit)
        net = trainer.networks["total"]
        trainer.optimizers["total"] = torch.optim.SGD(net.parameters(), lr=1.0)
        trainer.base_lr["total"] = [1.0]
        before = flat(net)
        trainer.fit(loader(7))
        ways.append(flat(net) - before)
    assert [float(way.norm()) for way in ways[:2]] == pytest.approx([1e-3, 2e-3], rel=1e-3)
    torch.testing.assert_close(2 * ways[0], ways[1], rtol=1e-3, atol=1e-6)
    assert torch.equal(ways[2], ways[3]) and float(ways[3].norm()) > 4e-3
    with pytest.raises(ValueError, match="clip_norm"):
        make(False, clip_norm=0.0)


def test_the_moving_average(tmp_path: Path) -> None:
    """Weights and statistics, from the first step on: a_1 = w_1, a_n = d a_(n-1) + (1 - d) w_n."""
    decay, seen = 0.75, []
    net = torch.nn.Sequential(fill(SmallNet(3)), torch.nn.BatchNorm2d(3))
    optimizer = Adam(net.parameters(), lr=1e-2)
    optimizer.register_step_post_hook(lambda *_: seen.append({k: v.clone() for k, v in net.state_dict().items()}))
    physics = Inpainting(16, 16)
    trainer = Trainer(Reconstructor(net, physics), physics, Shift(2), EIClosure(1.0), {"total": optimizer}, epochs=2,
                      out=tmp_path, progress=False, average=decay)  # fmt: skip
    trainer.fit(loader(4))
    assert len(seen) == 4
    state = load_file(tmp_path / "ckp_last.pth.tar")
    for name in ("0.a.weight", "0.b.bias", "1.weight", "1.running_mean", "1.running_var"):
        expected = seen[0][name]
        for later in seen[1:]:
            expected = decay * expected + (1 - decay) * later[name]
        torch.testing.assert_close(state["state_dict_averaged"][name], expected)
        assert torch.equal(state["state_dict"][name], seen[-1][name])
        assert torch.equal(generator_weights(state, "it")[name], state["state_dict_averaged"][name])
    with pytest.raises(ValueError, match="average"):
        make(False, average=1.0)


def test_the_moving_average_is_validated(tmp_path: Path) -> None:
    images = list(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    trainer = make(tmp_path, MCClosure(), epochs=2, lr=1e-2, average=0.9, validation=make_loader(images, 1, seed=5))
    trainer.fit(loader())
    f = Reconstructor(trainer.averaged.module, trainer.physics).eval()
    with torch.no_grad():
        losses = [float(MCClosure()(f, f.physics, None, f.physics.A(x[None]))["total"]) for x in images]
    assert trainer.history[-1]["validation_loss_fc"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert trainer.f.net is trainer.networks["total"]


class Listed(MCClosure):
    """The losses of the validation set are those in a list, epoch by epoch."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = list(losses)

    def __call__(self, f: Any, *args: Any) -> dict:
        losses = super().__call__(f, *args)
        if f.training:
            return losses
        return {**losses, "total": torch.tensor(self.losses.pop(0))}


def measurements() -> list[torch.Tensor]:
    return [Inpainting(16, 16).A(x[None])[0] for x in IMAGES]


@pytest.mark.parametrize(("losses", "best"), [([math.nan, 3.0, 2.0, 4.0], 2), ([3.0, math.nan, math.inf, 4.0], 0)])
def test_a_validation_loss_that_is_no_number_selects_no_epoch(
    tmp_path: Path, losses: list[float], best: int, capsys: pytest.CaptureFixture
) -> None:
    validation = make_loader(measurements(), 7, shuffle=False, measured=True)
    make(tmp_path, Listed(losses), epochs=4, validation=validation, ckp_interval=1).fit(loader())
    assert load_file(tmp_path / "ckp_best.pth.tar")["epoch"] == best
    assert "validation_loss_fc is nan after epoch" in capsys.readouterr().err


def test_patience(tmp_path: Path) -> None:
    """It ends when as many epochs were no better, also those of before an interruption, and it is finished then."""
    losses = [5.0, 3.0, 4.0, 3.0, 3.5, 1.0, 1.0]
    options: dict[str, Any] = {"epochs": 9, "patience": 3, "ckp_interval": 9}
    validation = make_loader(measurements(), 7, shuffle=False, measured=True)
    whole = make(tmp_path / "whole", Listed(losses), validation=validation, **options)
    assert len(whole.fit(loader())) == 5 and whole.finished
    assert (tmp_path / "whole" / "ckp_4.pth.tar").exists()
    assert load_file(tmp_path / "whole" / "ckp_best.pth.tar")["epoch"] == 3  # of equal ones the later
    make(tmp_path / "parts", Listed(losses[:3]), validation=validation, max_steps=14, **options).fit(loader())
    again = make(tmp_path / "parts", Listed(losses[3:]), validation=validation, **options)
    again.resume(load_file(tmp_path / "parts" / "ckp_last.pth.tar"))
    again.fit(loader())
    for name in ("ckp_last.pth.tar", "training_loss.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    assert len(make(False, Listed([math.nan] * 9), validation=validation, **options).fit(loader())) == 3
    with pytest.raises(ValueError, match="patience needs a validation set"):
        make(False, patience=3)


def test_the_validation_psnr_is_that_of_the_tables(tmp_path: Path) -> None:
    """As the tables do, one by one, whatever the batches; the best epoch is that of the highest."""
    test = list(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    histories = []
    for size in (1, 2):
        trainer = make(tmp_path / str(size), epochs=4, lr=3e-2, validation=make_loader(test, size, shuffle=False))
        trainer.fit(loader())
        histories.append([row["validation_psnr"] for row in trainer.history])
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    table = evaluate(trainer.f, trainer.physics, test)
    assert histories[0][-1] == pytest.approx(sum(row["psnr_paper_net"] for row in table) / 3, rel=1e-5)
    best = max(range(4), key=lambda epoch: histories[0][epoch])
    assert load_file(tmp_path / "1" / "ckp_best.pth.tar")["epoch"] == best
    assert list(rows(tmp_path / "1")[0])[-2:] == ["validation_loss_total", "validation_psnr"]
    blind = make(False, validation=make_loader(test, 1), report_psnr=False, epochs=1).fit(loader())
    assert "validation_psnr" not in blind[0]


def test_the_validation_psnr_is_that_of_f() -> None:
    """Not of what a closure reconstructs, from a part of the measurements as splitting does: tables judge f(y)."""
    test = list(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    trainer = make(False, SplittingClosure(0.5), epochs=1, validation=make_loader(test, 2, shuffle=False))
    history = trainer.fit(loader(7))
    table = evaluate(trainer.f, trainer.physics, test)
    assert history[0]["validation_psnr"] == pytest.approx(sum(row["psnr_paper_net"] for row in table) / 2, rel=1e-5)


def test_the_validation_mean_is_over_images() -> None:
    """Batches of 3 and 1 weigh as they should: as all in one batch."""
    validation = measurements()[:4]
    logs = [
        make(False, MCClosure(), epochs=1, validation=make_loader(validation, size, shuffle=False, measured=True)).fit(
            loader()
        )
        for size in (3, 4)
    ]
    assert logs[0][0]["validation_loss_fc"] == pytest.approx(logs[1][0]["validation_loss_fc"], rel=1e-5)


def test_resume_rejects_another_kind_of_run(tmp_path: Path) -> None:
    make(tmp_path / "a", epochs=1).fit(loader())
    state = load_file(tmp_path / "a" / "ckp_last.pth.tar")
    adversarial = make(tmp_path / "b", AdversarialEIClosure(Discriminator((3, 16, 16)), 1.0, 0.1))
    with pytest.raises(ValueError, match="not of this kind"):
        adversarial.resume(state)


class Dropping(SmallNet):
    """Draws so many numbers, as dropout does, before the group acts."""

    def __init__(self, draws: int) -> None:
        super().__init__(3)
        self.draws = draws

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(self.draws), np.random.rand(self.draws)
        return super().forward(x)


def elements_of(draws: int, group: Any, closure: Any = None, **options: Any) -> list[list[int]]:
    """The elements that ``group``, which writes them down, applies in a training with a network that draws."""
    group.applied.clear()
    physics = Inpainting(16, 16)
    f = Reconstructor(fill(Dropping(draws)), physics)
    trainer = Trainer(f, physics, group, closure or EIClosure(1.0), {"total": Adam(f.net.parameters())}, epochs=2,
                      out=False, progress=False, **options)  # fmt: skip
    trainer.fit(loader())
    return list(group.applied)


class Written(Shift):
    applied: ClassVar[list[list[int]]] = []

    def act(self, x: torch.Tensor, element: torch.Tensor) -> torch.Tensor:
        self.applied.append(element.tolist())
        return super().act(x, element)


class OfNumPy:
    """A group of somebody's own: nothing but apply(x)."""

    applied: ClassVar[list[list[int]]] = []

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        self.applied.append([int(np.random.randint(1, 16)), int(torch.randint(1, 16, ()))])
        return x.roll(self.applied[-1], (-2, -1))


def test_group_elements_do_not_depend_on_what_the_network_draws() -> None:
    """So all processes apply the same, dropout or not; and they are what the seed and the step say."""
    for group in (Written(2), OfNumPy()):
        assert elements_of(0, group) == elements_of(5, group) and len(group.applied) >= 8
    ours = elements_of(3, Written(2), seed=4)
    said = [Shift(2).draw(torch.zeros(1, 3, 16, 16), generator(4, "group", step)).tolist() for step in range(8)]
    assert ours == [element for elements in said for element in elements]
    validation = {"validation": make_loader(IMAGES[:2], 1, shuffle=False)}
    both = elements_of(0, Written(2), **validation)
    assert both == elements_of(1, Written(2), **validation)
    first, second = both[8:12], both[20:24]  # after the four steps of an epoch
    assert first == second and first[:2] != first[2:]


def test_draws_differ_by_step_and_by_validation_batch_but_not_by_epoch() -> None:
    """Noise, signs and parts come from the global generator: a step of the second epoch must not repeat one of the
    first, and epochs can be compared only if they are validated with the same draws."""
    drawn: dict[bool, list[float]] = {True: [], False: []}
    images = []

    class Draws(MCClosure):
        def __call__(self, f: Any, physics: Any, transform: Any, y: Any, x: Any = None) -> dict:
            drawn[f.training].append(float(torch.rand(())))
            images.extend([] if f.training else [y])
            return super().__call__(f, physics, transform, y, x)

    validation = make_loader(IMAGES[:2], 1, shuffle=False)
    make(False, Draws(), epochs=2, noise=GaussianNoise(0.1), validation=validation).fit(loader())
    assert torch.equal(images[0], images[2]) and torch.equal(images[1], images[3])  # with the same noise
    assert len(drawn[True]) == len(set(drawn[True])) == 8
    assert drawn[False][:2] == drawn[False][2:] and drawn[False][0] != drawn[False][1]


def test_a_closure_that_draws_twice_gets_two_draws() -> None:
    class Twice(EIClosure):
        def __call__(self, f: Any, physics: Any, transform: Any, y: Any, x: Any = None) -> dict:
            assert (transform.n_trans, transform.max_offset) == (1, 0)
            one, other = transform.sample(y), transform.draw(y)
            transform.apply(y, other)
            assert not torch.equal(one, other)
            return super().__call__(f, physics, transform, y, x)

    assert len({tuple(element) for element in elements_of(0, Written(1), Twice(1.0))}) > 8


def test_max_steps(tmp_path: Path) -> None:
    make(tmp_path / "run", max_steps=5).fit(loader())
    assert len(rows(tmp_path / "run")) == 1  # 4 steps an epoch: the second is open
    assert not (tmp_path / "run" / "ckp_2.pth.tar").exists()
    whole = make(tmp_path / "exact", max_steps=8)
    whole.fit(loader())
    assert len(rows(tmp_path / "exact")) == 2 and whole.batch == 0


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Bad(MCClosure):
        def __call__(self, *args: Any) -> dict:
            losses = super().__call__(*args)
            if trainer.step == 5:
                losses["total"] = losses["total"] * math.nan
            return losses

    trainer = make(tmp_path / "run", Bad(), ckp_interval=1)
    with pytest.raises(TrainingDivergedError, match=r"loss_fc became nan in epoch 2, step 6"):
        trainer.fit(loader())
    newest = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    assert newest["step"] == 4 and all(v.isfinite().all() for v in newest["state_dict"].values())


def test_two_runs_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ei.training.folder.time.strftime", lambda _: "2026-01-01_00-00-00")
    folders = []
    for _ in range(3):
        trainer = make(None, epochs=1, method="ei", task="inpainting")
        trainer.fit(loader(7))
        folders.append(str(trainer.folder))
    base = str(Path("ckp") / "2026-01-01_00-00-00_ei_inpainting")
    assert folders == [base, f"{base}-2", f"{base}-3"]
    make(tmp_path / "run", epochs=1).fit(loader(7))
    with pytest.raises(ValueError, match="already holds a run"):
        make(tmp_path / "run", epochs=1).fit(loader(7))


@pytest.mark.parametrize(
    "batches",
    [
        [torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16)],
        [[torch.rand(2, 3, 16, 16), torch.zeros(2)]],
        [torch.rand(2, 3, 16, 16).double()],
    ],
)
def test_batches_of_any_kind(batches: list) -> None:
    trainer = make(False, epochs=2)
    trainer.fit(batches)
    assert trainer.step == 2 * len(batches)


def test_a_stream_without_length() -> None:
    class Stream:
        def __iter__(self):
            return iter(torch.stack(IMAGES).split(3))

    trainer = make(False, epochs=2)
    assert [row["epoch"] for row in trainer.fit(Stream())] == [1, 2]
    assert trainer.step == 6


@pytest.mark.figures
def test_measurements_alone(tmp_path: Path) -> None:
    """The journey in Python: no truth, so no PSNR in the log, which is drawn as it is. The weights are those of the
    same measurements simulated."""
    for report_psnr, name in ((True, "default"), (False, "said")):
        trainer = make(tmp_path / name, epochs=2, report_psnr=report_psnr)
        ys = [trainer.physics.A(x[None])[0] for x in IMAGES]
        trainer.fit(make_loader(ys, 2, measured=True))
        assert list(rows(tmp_path / name)[0]) == ["epoch", "loss_mc", "loss_ei", "loss_total"]
        assert (tmp_path / name / "loss.png").stat().st_size > 5000
    simulated = make(False, epochs=2)
    simulated.fit(loader())
    assert torch.equal(flat(simulated.f.net), flat(trainer.f.net))


def test_batches_of_pairs(tmp_path: Path) -> None:
    """Real measurements with their truth: the truth is learned from and logged."""
    x = torch.stack(IMAGES[:4])
    trainer = make(tmp_path, SupervisedClosure(), epochs=2)
    y = trainer.physics.A(x)
    trainer.fit([{"y": y[:2], "x": x[:2]}, {"y": y[2:], "x": x[2:]}])
    simulated = make(False, SupervisedClosure(), epochs=2)
    simulated.fit(list(x.split(2)))
    assert trainer.history == simulated.history and "psnr" in trainer.history[0]
    assert torch.equal(flat(simulated.f.net), flat(trainer.f.net))
    with pytest.raises(ValueError, match="must be pairs, got 2 images and 4 measurements"):
        make(False).fit([{"y": y, "x": x[:2]}])
    with pytest.raises(ValueError, match=r"must have images .x. or measurements .y., got \['z'\]"):
        make(False).fit([{"z": x}])


def test_what_only_some_batches_have_is_an_error() -> None:
    x = torch.stack(IMAGES[:2])
    trainer = make(False)
    with pytest.raises(ValueError, match=r"step 2 gives loss_mc.*All batches must have ground truth, or none"):
        trainer.fit([x, {"y": trainer.physics.A(x)}])


def test_an_empty_loader_is_an_error() -> None:
    class Nothing:
        def __iter__(self):
            return iter(())

    for empty in ([], Nothing()):
        with pytest.raises(ValueError, match="no batches"):
            make(False).fit(empty)


def test_training_fits(tmp_path: Path) -> None:
    history = make(False, SupervisedClosure(), epochs=40, lr=1e-2).fit(loader())
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["psnr"] > history[0]["psnr"] + 2


def test_deep_image_prior_trains(tmp_path: Path) -> None:
    history = make(False, DIPClosure(), epochs=30, lr=1e-2).fit([torch.stack(IMAGES[:2])])
    assert history[-1]["loss_mc"] < 0.7 * history[0]["loss_mc"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu(tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    trainer.f.cuda()
    trainer.fit(loader())
    assert load_file(tmp_path / "run" / "ckp_last.pth.tar")["state_dict"]["a.weight"].device.type == "cpu"


@pytest.mark.parametrize(
    ("physics", "transform", "message"),
    [
        ((lambda x: x, lambda y: y), Shift(1), r"physics must have a method A\(x\), got a tuple; two functions are"),
        (Inpainting(8, 8), lambda x: x.flip(-1), r"transform must have a method apply\(x\), got a function; derive it"),
    ],
)
def test_parts_without_their_methods_are_named(physics: Any, transform: Any, message: str) -> None:
    f = Reconstructor(SmallNet(1), Inpainting(8, 8))
    with pytest.raises(InputError, match=message):
        Trainer(f, physics, transform, EIClosure(alpha=1), {"total": Adam(f.net.parameters())}, epochs=1, out=False)
