"""Splitting the measurements, and operators that differ by image."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, SmallNet, fill
from PIL import Image
from torch.optim import Adam

from ei.closure import EIClosure, MCClosure, SplittingClosure, SplittingEIClosure
from ei.closure.splitting import mean_over_parts, reconstruct_from_part
from ei.common.files import load_file
from ei.common.processes import Part, drawing_for
from ei.common.seeds import generator
from ei.datasets import make_loader
from ei.errors import InputError
from ei.evaluation import evaluate
from ei.evaluation.classical import harmonic_fill
from ei.models import Reconstructor, UNet, Unrolled
from ei.physics import CT, Inpainting, Split, Tomography, pinv_cg
from ei.physics.split import draw_kept, entries_to_split
from ei.training import Trainer
from ei.transforms import Shift


def masks_for(n: int, side: int = 8, channels: int = 1) -> torch.Tensor:
    return (torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(3)) < 0.6).float()


class Rows:
    """Some weighted rows of an image, and neither pseudo-inverse nor anything about what is measured."""

    image_shape = (1, 6, 6)

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, ::2].flatten(1) * 2


@pytest.mark.parametrize("physics", [CT(8, 6), Inpainting(8, 8), Inpainting(8, 8, mask=masks_for(3))], ids=str)
def test_a_split_operator_has_its_exact_adjoint(physics: Any) -> None:
    y = physics.A(torch.rand(3, 1, 8, 8, dtype=torch.float64))
    measured = entries_to_split(physics, y)
    kept = draw_kept(measured, torch.rand(3, *measured.shape[1:], dtype=torch.float64), 0.5)
    split = Split(physics, kept)
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64, requires_grad=True)  # two transforms of three images
    y = torch.randn(6, *y.shape[1:], dtype=torch.float64)
    left, right = (split.A(x) * y).sum(), (x * split.A_adjoint(y)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(left, x)[0], split.A_adjoint(y), rtol=1e-12)
    # Of each image that part of the measurements, and nothing else.
    for image in range(3):
        assert torch.equal(split.A(x)[image], (kept[image] * physics.of([0, 1, 2]).A(x))[image])


def test_parts_are_of_what_is_measured_with_the_right_probability_and_never_empty() -> None:
    measured = torch.tensor([1.0, 1.0, 0.0, 1.0]).expand(1, 4)
    kept = draw_kept(measured, torch.rand(20_000, 4), 0.3)
    assert kept[:, 2].sum() == 0
    # Of three at 0.3 each, none is kept with the probability 0.7^3, and then one of them at random is.
    expected = 0.3 + 0.7**3 / 3
    assert kept[:, [0, 1, 3]].mean(0).tolist() == pytest.approx([expected] * 3, abs=4 * (0.25 / 20_000) ** 0.5)
    assert (kept.sum(1) >= 1).all()
    assert len(torch.unique(kept, dim=0)) == 7  # every part but the empty one


def test_views_of_ct_are_kept_whole_and_the_fbp_keeps_its_amplitude() -> None:
    physics = CT(64, 60)
    axis = torch.linspace(-1, 1, 64)
    disc = (axis[:, None] ** 2 + axis**2 < 0.6).float()[None, None]
    y = physics.A(disc)
    measured = entries_to_split(physics, y)
    assert measured.shape == (1, 1, 1, 60)
    kept = draw_kept(measured, torch.rand(1, 1, 1, 60, generator=torch.Generator().manual_seed(0)), 0.7)
    inside = axis[:, None] ** 2 + axis**2 < 0.3
    whole, part = (p.A_dagger(s)[0, 0][inside].mean() for p, s in ((physics, y), (Split(physics, kept), kept * y)))
    assert float(part) == pytest.approx(float(whole), rel=0.03)  # 0.7 of it without the weight of a view


def test_kept_views_are_weighed_for_each_image_and_by_the_angles_they_stand_for() -> None:
    """Of 1 degree steps every second view is left out, of 5 degree ones none: 3 quarters of the turn, not 63 views of
    108, are kept. A batch is its images one by one."""
    axis = torch.linspace(-1, 1, 32)
    distance = axis[:, None] ** 2 + axis**2
    disc, angles = (distance < 0.6).float()[None, None], [*range(90), *range(90, 180, 5)]
    kept = torch.ones(2, 1, 1, 108)
    kept[0, ..., :90:2] = 0
    for physics in (Tomography((32, 32), angles, 46), CT(32, 108)):
        y = kept * physics.A(disc)
        both = Split(physics, kept).A_dagger(y)
        for k in range(2):
            assert torch.allclose(both[k : k + 1], Split(physics, kept[k : k + 1]).A_dagger(y[k : k + 1]), atol=1e-5)
        values = both[..., distance < 0.3].mean((1, 2))
        assert float(values[0]) == pytest.approx(float(values[1]), rel=0.03)


@pytest.mark.parametrize("mask", [None, masks_for(3)], ids=["one mask", "a mask for each image"])
@pytest.mark.parametrize("of", [Reconstructor, Unrolled])
def test_splitting_is_its_formula(of: Any, mask: torch.Tensor | None) -> None:
    physics = Inpainting(8, 8, mask_rate=0.4, mask=mask)
    f = of(fill(SmallNet(2)), physics)
    y = physics.A(torch.rand(3, 2, 8, 8))
    torch.manual_seed(5)
    losses = SplittingClosure(0.7)(f, physics, None, y)
    torch.manual_seed(5)
    uniform = torch.rand(3, 1, 8, 8)
    kept = (uniform < 0.7) * physics.mask
    x1 = f.of(Inpainting(8, 8, mask=kept))(kept * y)
    error = ((physics.A(x1) - y) ** 2)[physics.mask.expand_as(y) > 0].mean()
    assert set(losses) == {"split", "total", "x1"}
    assert float(losses["split"]) == pytest.approx(float(error), rel=1e-5) == float(losses["total"])
    assert torch.allclose(losses["x1"], x1, atol=1e-6)
    assert f.physics is physics  # f itself is left alone


@pytest.mark.parametrize("closure", [SplittingClosure, lambda keep, **more: SplittingEIClosure(0.0, keep, **more)])
def test_splitting_compared_in_images_is_its_formula(closure: Any) -> None:
    physics = CT(12, 7)
    f = Unrolled(fill(SmallNet(1)), physics, iterations=1)
    y = physics.A(torch.rand(2, 1, 12, 12))
    torch.manual_seed(5)
    losses = closure(0.7, mc_domain="image")(f, physics, Shift(1), y)
    torch.manual_seed(5)
    x1 = reconstruct_from_part(f, physics, y, 0.7)
    expected = (physics.A_dagger(physics.A(x1)) - physics.A_dagger(y)).square().mean()
    torch.testing.assert_close(losses["total"], expected)


def test_splitting_with_equivariance_is_the_sum_of_both() -> None:
    physics, group = Inpainting(8, 8), Shift(2)
    f = Reconstructor(fill(SmallNet(1)), physics)
    y = physics.A(torch.rand(2, 1, 8, 8))
    torch.manual_seed(7)
    losses = SplittingEIClosure(0.5, 0.8)(f, physics, group, y)
    torch.manual_seed(7)
    x1 = reconstruct_from_part(f, physics, y, 0.8)
    x2 = group.apply(x1)
    ei = (f(physics.A(x2)) - x2).square().mean()
    assert set(losses) == {"split", "ei", "total", "x1"}
    assert float(losses["ei"]) == pytest.approx(float(ei), rel=1e-5)
    assert float(losses["total"]) == pytest.approx(float(losses["split"] + 0.5 * ei), rel=1e-5)


def test_splitting_serves_operators_that_tell_nothing() -> None:
    physics = Rows()
    f = Unrolled(fill(SmallNet(1)), physics, iterations=1)
    losses = SplittingClosure(0.5)(f, physics, None, physics.A(torch.rand(2, 1, 6, 6)))
    losses["total"].backward()
    assert all(p.grad is not None for p in f.net.parameters())
    y = physics.A(torch.rand(2, 1, 6, 6))
    assert torch.allclose(Split(physics, torch.ones(2, 18)).A_dagger(y), pinv_cg(physics, y), atol=1e-5)


def test_processes_draw_the_parts_of_the_whole_batch() -> None:
    physics = Inpainting(8, 8)
    f = Reconstructor(torch.nn.Identity(), physics)
    y = torch.ones(4, 1, 8, 8) * physics.mask
    torch.manual_seed(1)
    whole = reconstruct_from_part(f, physics, y, 0.5)
    for start, stop in ((0, 3), (3, 4)):
        torch.manual_seed(1)
        with drawing_for(Part(start, stop, 4, 0.5)):
            assert torch.equal(reconstruct_from_part(f, physics, y[start:stop], 0.5), whole[start:stop])


def test_the_mean_over_parts_is_one_and_the_same_every_time() -> None:
    physics = Inpainting(8, 8)
    f, y = Reconstructor(fill(SmallNet(1)), physics), torch.rand(1, 1, 8, 8) * physics.mask
    one, again, more = (mean_over_parts(f, physics, y, 0.6, n) for n in (2, 2, 200))
    assert torch.equal(one, again) and not torch.equal(one, more)
    # Other parts each time: of a mean of one and the same part nothing but rounding would differ.
    random = generator(0, "parts")
    parts = [reconstruct_from_part(f, physics, y, 0.6, random=random) for _ in range(2)]
    assert torch.allclose(one, (parts[0] + parts[1]) / 2) and float((parts[0] - parts[1]).abs().max()) > 0.01


def test_the_mean_over_parts_fits_all_data_where_f_ends_with_them() -> None:
    """Each part leaves out measured pixels that the network then fills: the mean of these is not what was measured."""
    physics = Inpainting(8, 8)
    y = torch.rand(2, 1, 8, 8) * physics.mask
    for last in ("data", "net"):
        f = Unrolled(fill(SmallNet(1)), physics, iterations=1, last=last)
        error = float((physics.A(mean_over_parts(f, physics, y, 0.6, 3)) - y).abs().max())
        assert error < 1e-6 if last == "data" else error > 0.01


def test_the_mean_over_parts_fits_the_data_of_the_operator_that_is_given() -> None:
    """And not that of f, which may have been trained with another mask."""
    physics, other = (Inpainting(8, 8, seed=seed) for seed in (0, 1))
    y = torch.rand(2, 1, 8, 8) * physics.mask
    f = Unrolled(fill(SmallNet(1)), other, iterations=1, last="data")
    assert float((physics.A(mean_over_parts(f, physics, y, 0.6, 3)) - y).detach().abs().max()) < 1e-6


def test_each_image_has_its_mask() -> None:
    masks = masks_for(4)
    physics = Inpainting(8, 8, mask=masks)
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(physics.A(x), x * masks)
    some = physics.of(torch.tensor([2, 0]))
    assert torch.equal(some.A(x[:2]), x[:2] * masks[[2, 0]])
    assert torch.equal(some.A(torch.cat([x[:2], x[2:]])), torch.cat([x[:2], x[2:]]) * masks[[2, 0, 2, 0]])
    assert physics.count == 4 and some.count == 2 and Inpainting(8, 8).of([5]).count == 1
    assert torch.equal(physics.of([1]).A(x), x * masks[1])  # one mask serves all
    colours = Inpainting(8, 8, mask=masks_for(1, channels=3))
    assert torch.equal(colours.of([9]).A(x), x * masks_for(1, channels=3))
    copied = copy.deepcopy(some)
    assert torch.equal(copied.mask, some.mask)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Inpainting(8, 8, mask=masks_for(3)).A(torch.zeros(4, 1, 8, 8)), ["3 images", "4", "of(indices)"]),
        (lambda: Inpainting(8, 8, mask=masks_for(3)).of([0, 3]), ["3 images", "3"]),
        (lambda: Inpainting(8, 8, mask=masks_for(3)).of(None), ["3 images", "make_loader"]),
        (lambda: Inpainting(8, 8, mask=torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])), ["no pixel"]),
        (lambda: Inpainting(8, 8, mask=torch.ones(3, 8, 8)), ["[n, 1 or C, 8, 8]", "[3, 8, 8]"]),
        (lambda: SplittingClosure(1.0), ["keep", "1.0"]),
        (lambda: SplittingEIClosure(-1.0), ["alpha"]),
        (lambda: SplittingClosure()(torch.nn.Identity(), Inpainting(4, 4), None, torch.ones(1, 1, 4, 4)), ["of("]),
    ],
)
def test_wrong_use(wrong: Any, said: list[str]) -> None:
    with pytest.raises(InputError) as error:
        wrong()
    assert all(part in str(error.value) for part in said) and "\n" not in str(error.value)


@pytest.mark.parametrize("closure", [EIClosure(1.0), SplittingClosure(), SplittingEIClosure(1.0)], ids=type)
def test_training_takes_the_operator_of_each_image(closure: Any) -> None:
    """Images that are all one value, and masks that differ: f is asked with the mask of its image, in any order."""
    masks = masks_for(6, 16)
    physics = Inpainting(16, 16, mask=masks)
    asked = []

    class Watched(Reconstructor):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            asked.append((y, self.physics))
            return super().forward(y)

    images = [torch.full((16, 16), float(index + 1)) for index in range(6)]
    f = Watched(fill(SmallNet(1)), physics)
    trainer = Trainer(f, physics, Shift(2), closure, {"total": Adam(f.net.parameters())}, epochs=1, out=False,
                      progress=False)  # fmt: skip
    trainer.fit(make_loader(images, 2))
    seen = []
    for y, own in asked:
        if len(y) == 2 and not isinstance(own, Split):
            numbers = [round(float(image.max())) - 1 for image in y]
        elif isinstance(own, Split):
            numbers, own = [round(float(image.max())) - 1 for image in y], own.physics
        else:
            continue
        assert torch.equal(own.mask, masks[numbers])
        seen += numbers
    assert sorted(seen) == list(range(6))


def test_batches_that_do_not_tell_their_images_are_refused() -> None:
    physics = Inpainting(8, 8, mask=masks_for(2))  # as many as a batch has: nothing else would notice
    f = Reconstructor(fill(SmallNet(1)), physics)
    trainer = Trainer(f, physics, None, MCClosure(), {"total": Adam(f.net.parameters())}, epochs=1, out=False,
                      progress=False)  # fmt: skip
    with pytest.raises(InputError, match="make_loader"):
        trainer.fit([torch.rand(2, 1, 8, 8)])


def test_evaluation_and_the_fill_take_the_mask_of_each_image() -> None:
    masks, images = masks_for(3, 16), torch.rand(3, 16, 16)
    physics = Inpainting(16, 16, mask=masks)
    f = Reconstructor(torch.nn.Conv2d(1, 1, 1), physics)
    together = evaluate(f, physics, images, {"fill": harmonic_fill})
    for index, row in enumerate(together):
        own = Inpainting(16, 16, mask=masks[index])
        alone = evaluate(f.of(own), own, images[index : index + 1], {"fill": harmonic_fill})[0]
        assert {**alone, "index": index} == pytest.approx(row)
    y = physics.A(images[:, None])
    each = [harmonic_fill(physics.of([i]), y[i : i + 1]) for i in range(3)]
    assert torch.allclose(harmonic_fill(physics, y), torch.cat(each))


def test_the_commands_with_a_mask_for_each_measurement(script: Callable[..., Result]) -> None:
    masks = masks_for(12, 16)
    torch.save(masks, "masks.pt")
    images = torch.rand(12, 1, 16, 16)
    np.save("y.npy", (images * masks).numpy())
    small = ("--base-channels", 2, "--epochs", 2, "--device", "cpu")
    problem = ("--task", "inpainting", "--mask", "masks.pt", "--measurements")
    train = ("--method", "split_ei", *small, *problem, "y.npy")
    done = script("ei train", *train, "--out", "run")
    assert done.code == 0, done.err
    stopped = script("ei train", *train, "--max-steps", 7, "--out", "again")
    assert stopped.code == 0, stopped.err
    resumed = script("ei train", "--resume", "again/ckp_last.pth.tar", "--device", "cpu", "--max-steps", 99)
    assert resumed.code == 0, resumed.err
    first, second = (load_file(f"{name}/ckp_last.pth.tar")["state_dict"] for name in ("run", "again"))
    assert all(torch.equal(first[key], value) for key, value in second.items())

    # The same measurements take the masks of the checkpoint, others need their own.
    reconstruct = ("ei reconstruct", "--ckp", "run/ckp_best.pth.tar", "--input")
    done = script(*reconstruct, "y.npy", "--output", "x.npy")
    assert done.code == 0, done.err
    order = [3, 1, 4, 0, 5]
    np.save("five.npy", (images * masks).numpy()[order])
    refused = script(*reconstruct, "five.npy", "--output", "five_x.npy")
    assert refused.code == 2 and "12" in refused.err and "--mask" in refused.err
    torch.save(masks[order], "five.pt")
    done = script(*reconstruct, "five.npy", "--output", "five_x.npy", "--mask", "five.pt")
    assert done.code == 0, done.err
    assert np.allclose(np.load("five_x.npy"), np.load("x.npy")[order], atol=1e-5)

    refused = script("ei train", "--method", "split", *small, *problem, "five.npy", "--out", "no")
    assert refused.code == 2 and "12 images" in refused.err and not Path("no").exists()
    done = script("ei diagnose", *problem, "y.npy")
    assert done.code == 0 and "12 operators: one sees" in done.out, done


def test_test_shows_the_mean_over_parts_of_a_split_run(script: Callable[..., Result], tmp_path: Path) -> None:
    for mode in ("train", "test"):
        (tmp_path / "images" / mode).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / mode / f"{index}.png")
    done = script("ei train", "--task", "inpainting", "data.train={name: ImageTree, folder: images, resize: 16}",
                  "--method", "split", "closure.keep=0.6",
                  "--base-channels", 2, "--epochs", 1, "--out", "run", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "training_loss.csv").read_text().splitlines()[0] == "epoch,loss_split,psnr,mse"
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--draws", 3, "--out", "test")
    assert done.code == 0, done.err
    assert "mean of 3 parts" in done.out
    header = (tmp_path / "test" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "psnr_net" in header and "psnr_parts" in header


@pytest.mark.slow
def test_splitting_learns_more_than_measurement_consistency() -> None:
    """Smooth images under one random mask: what is kept predicts what is not, and MC alone learns nothing."""
    physics = Inpainting(16, 16, mask_rate=0.4)
    axis = torch.linspace(0, 3, 16)
    phases = torch.rand(24, 2, generator=torch.Generator().manual_seed(0)) * 6
    images = [0.5 + 0.4 * torch.sin(axis[:, None] + a) * torch.cos(axis + b) for a, b in phases.tolist()]
    quality = {}
    for name, closure in (("split", SplittingClosure()), ("mc", MCClosure())):
        torch.manual_seed(0)
        f = Unrolled(UNet(1, 1, base_channels=8, norm="none"), physics, iterations=1)
        Trainer(f, physics, None, closure, {"total": Adam(f.net.parameters(), lr=2e-3)}, epochs=12, out=False,
                progress=False).fit(make_loader(images, 4))  # fmt: skip
        quality[name] = float(np.mean([row["psnr_net"] for row in evaluate(f, physics, images)]))
    assert quality["split"] > quality["mc"] + 5
