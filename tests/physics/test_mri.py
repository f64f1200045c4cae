"""MRI: the trio of a linear operator, the convention of the Fourier transform, CG-SENSE, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import phantom, smooth_maps
from torch import Tensor

import ei
import ei.physics
from ei.closure import EIClosure
from ei.common.files import load_file
from ei.common.parts import Context, build, classes_of, describe
from ei.common.seeds import generator
from ei.datasets import make_loader
from ei.errors import InputError
from ei.models import Reconstructor, UNet
from ei.physics import MRI, GaussianNoise, Split, mask_for, random_columns
from ei.training import Trainer
from ei.transforms import Rotate


def _rebuilt(physics: MRI, **tensors: Tensor) -> MRI:
    classes = classes_of(ei.physics, ei.physics.Physics)
    return build(describe(physics), classes, "physics", Context(objects=tensors)).object


def random_mask(*shape: int) -> Tensor:
    mask = (torch.rand(shape, generator=generator(1, *shape)) > 0.4).float()
    mask.view(-1)[0] = 1
    return mask


def random_maps(coils: int, height: int, width: int) -> Tensor:
    return torch.randn(coils, height, width, dtype=torch.complex128, generator=generator(2, coils, height, width))


CASES = [
    MRI(random_mask(6, 6)),
    MRI(random_mask(5, 8)),
    MRI(random_mask(7, 7)),
    MRI(random_mask(1, 3), height=2),
    MRI(random_mask(9), height=9),
    MRI(random_mask(6, 5), random_maps(3, 6, 5)),
    MRI(random_mask(8), random_maps(4, 5, 8)),
    MRI(random_mask(4, 4), random_maps(1, 4, 4)),
]


@pytest.mark.parametrize("physics", CASES, ids=str)
def test_adjoint(physics: MRI) -> None:
    """The inner products agree, and autograd's derivative is the adjoint, both ways."""
    x = torch.randn(2, *physics.image_shape, dtype=torch.float64, requires_grad=True)
    y = torch.randn_like(physics.A(x), requires_grad=True)
    a, b = (physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum()
    size = torch.linalg.vector_norm(physics.A(x)) * torch.linalg.vector_norm(y)
    assert float((a - b).detach().abs()) < 1e-13 * float(size.detach())
    torch.testing.assert_close(torch.autograd.grad(physics.A(x), x, y)[0], physics.A_adjoint(y))
    torch.testing.assert_close(torch.autograd.grad(physics.A_adjoint(y), y, x)[0], physics.A(x))


@pytest.mark.slow
@pytest.mark.parametrize("physics", [CASES[1], CASES[5]], ids=str)
def test_gradients_numerically(physics: MRI) -> None:
    physics = MRI(physics.mask, physics.coil_maps, cg_steps=3)
    x = torch.randn(1, *physics.image_shape, dtype=torch.float64, requires_grad=True)
    y = physics.A(x).detach().requires_grad_()
    for function, at in ((physics.A, x), (physics.A_dagger, y), (physics.A_adjoint, y)):
        assert torch.autograd.gradcheck(function, (at,))
    assert torch.autograd.gradgradcheck(lambda v: physics.A(v).square(), (x,))


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7), (4, 9)])
def test_the_fourier_transform_is_numpys(height: int, width: int) -> None:
    image = np.random.default_rng(0).normal(size=(2, 2, height, width))
    z, maps = image[0] + 1j * image[1], random_maps(3, height, width)

    def transformed(z: np.ndarray) -> np.ndarray:
        return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(z, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))

    x, mask = torch.from_numpy(image).transpose(0, 1), random_mask(height, width)
    k = mask.numpy() * transformed(z)
    torch.testing.assert_close(MRI(mask).A(x), torch.from_numpy(np.stack([k.real, k.imag], 1)))
    k = mask.numpy() * transformed(z[:, None] * maps.numpy())
    torch.testing.assert_close(MRI(mask, maps).A(x), torch.from_numpy(np.stack([k.real, k.imag], 1)))
    # A constant image is one point, in the middle of k-space.
    x = torch.stack([torch.ones(height, width), torch.zeros(height, width)])[None]
    k = MRI(torch.ones(height, width)).A(x)
    assert float(k[0, 0, height // 2, width // 2]) == pytest.approx((height * width) ** 0.5, rel=1e-6)
    assert float(k.abs().sum()) == pytest.approx((height * width) ** 0.5, rel=1e-5)


def test_columns() -> None:
    """A mask of columns is that mask in every row, of images of any height; Robust EI's is [1, W, 1]."""
    columns, x = random_mask(7), torch.randn(2, 2, 6, 7)
    whole = MRI(columns.expand(6, 7))
    for mask in (columns, columns[None], columns[None, :, None], columns.bool(), columns.numpy(), columns.long()):
        physics = MRI(mask)
        assert torch.equal(physics.A(x), whole.A(x)) and physics.image_shape is None
        assert torch.equal(physics.mask, columns)
    assert whole.image_shape == (2, 6, 7)
    assert torch.equal(MRI(columns, random_maps(2, 6, 7)).A_adjoint(torch.ones(1, 2, 2, 6, 7)).isfinite().all(),
                       torch.tensor(True))  # fmt: skip


def test_the_height_of_a_mask_of_columns() -> None:
    """Images need not be square; a given height is that of the images, and checkpoints keep it."""
    physics = MRI(random_mask(7), height=6)
    assert physics.image_shape == (2, 6, 7)
    assert describe(physics) == {"name": "MRI", "cg_steps": 20, "height": 6}
    assert _rebuilt(physics, mask=physics.mask).image_shape == (2, 6, 7)
    with pytest.raises(InputError, match="6, 7"):
        physics.A(torch.zeros(1, 2, 7, 7))
    assert MRI(random_mask(7), random_maps(2, 6, 7), height=6).image_shape == (2, 6, 7)
    for wrong in (lambda: MRI(random_mask(6, 7), height=7), lambda: MRI(random_mask(7), random_maps(2, 6, 7), height=7),
                  lambda: MRI(random_mask(7), height=0), lambda: MRI(random_mask(7), height=2.5)):  # fmt: skip
        with pytest.raises(InputError, match="height"):
            wrong()


def test_random_columns_and_the_middle_of_a_mask(tmp_path: Path) -> None:
    mask = random_columns(64, 4)
    assert mask.shape == (64,) and int(mask.sum()) == 16 and bool(mask[31:34].all())
    assert torch.equal(mask, random_columns(64, 4)) and not torch.equal(mask, random_columns(64, 4, seed=1))
    assert bool(random_columns(8, 1).all()) and int(random_columns(8, 100).sum()) == 1
    np.save(tmp_path / "mask.npy", mask.numpy())
    # The middle of k-space, at W // 2, stays there, whatever is even or odd.
    assert torch.equal(mask_for(tmp_path / "mask.npy", 64), mask)
    for width in (63, 40, 33):
        with pytest.warns(UserWarning, match=rf"mask.npy has 64 columns.* its middle {width} are used"):
            cut = mask_for(tmp_path / "mask.npy", width)
        assert len(cut) == width and torch.equal(cut[width // 2 - 3 : width // 2 + 3], mask[29:35])
    for call, message in (
        (lambda: mask_for(mask, 100), "must have the 100 columns of the images, got 64"),
        (lambda: mask_for(torch.ones(8, 6), 4), "must have the 4 columns of the images, got 6"),
        (lambda: random_columns(8, 0.5), "acceleration must be finite and >= 1, got 0.5"),
        (lambda: random_columns(0), "width must be a whole number >= 1, got 0"),
        (lambda: random_columns(8, seed="x"), "seed must be a whole number, got 'x'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_sizes_from_measurements() -> None:
    """A run from measurements alone derives the missing sizes from their shape, and needs their mask."""
    assert MRI.sizes_from_measurement((2, 6, 7), mask="mask.pt") == {"height": 6, "width": 7}
    assert MRI.sizes_from_measurement((2, 3, 6, 7), mask="mask.pt", coil_maps="maps.pt") == {"height": 6, "width": 7}
    for arguments in ({}, {"mask": None}, {"mask": {"name": "random_columns", "acceleration": 4}}):
        with pytest.raises(InputError, match="need the mask they were made with"):
            MRI.sizes_from_measurement((2, 6, 7), **arguments)
    for shape in ((1, 6, 7), (3, 2, 6, 7), (2, 3, 6, 7)):
        with pytest.raises(InputError, match=rf"got measurements of shape \[{', '.join(map(str, shape))}\]"):
            MRI.sizes_from_measurement(shape, mask="mask.pt")


def test_the_pseudo_inverse() -> None:
    x = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    full = MRI(torch.ones(9, 8))
    torch.testing.assert_close(full.A_dagger(full.A(x)), x)
    maps = smooth_maps(4, 8)
    torch.testing.assert_close(MRI(torch.ones(8), maps).A_dagger(MRI(torch.ones(8), maps).A(x[:, :, :8])), x[:, :, :8])
    half = MRI(random_mask(9, 8))
    y = half.A(x)
    torch.testing.assert_close(half.A(half.A_dagger(y)), y)
    torch.testing.assert_close(half.A_dagger(y), half.A_adjoint(y))
    uneven = MRI(torch.ones(6, 6), random_maps(3, 6, 6) + 2, cg_steps=60)
    torch.testing.assert_close(uneven.A_dagger(uneven.A(x[..., :6, :6])), x[..., :6, :6])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_cg_sense_recovers_twofold_undersampling(dtype: torch.dtype, bound: float) -> None:
    """Every second column, 8 coils: what the columns lack the coils know (SENSE's known result)."""
    mask = torch.zeros(64)
    mask[::2] = 1
    x = phantom(64).to(dtype)
    physics = MRI(mask, smooth_maps(8, 64), cg_steps=40)
    found = physics.A_dagger(physics.A(x))

    def error(image: Tensor) -> float:
        return float(torch.linalg.vector_norm(image - x) / torch.linalg.vector_norm(x))

    assert found.dtype == dtype and error(found) < bound
    assert error(physics.A_adjoint(physics.A(x))) > 0.3
    single = MRI(mask)
    assert error(single.A_dagger(single.A(x))) > 0.3


@pytest.mark.parametrize("physics", [CASES[1], CASES[5]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(physics: MRI, dtype: torch.dtype) -> None:
    x = torch.rand(2, *physics.image_shape).to(dtype)
    y = physics.A(x)
    assert y.dtype == physics.A_dagger(y).dtype == physics.A_adjoint(y).dtype == dtype
    exact = physics.A(x.double())
    error = torch.linalg.vector_norm(y.double() - exact) / torch.linalg.vector_norm(exact)
    assert float(error) < {8: 1e-14, 4: 1e-6, 2: 8e-3}[dtype.itemsize]
    assert physics.A(x[:0]).shape == (0, *y.shape[1:]) and physics.A_dagger(y[:0]).shape == (0, *x.shape[1:])


def test_moved_and_converted() -> None:
    """``.to(dtype)`` leaves the maps complex: the input's dtype decides."""
    physics = MRI(random_mask(6, 5), random_maps(3, 6, 5))
    x = torch.rand(1, 2, 6, 5, dtype=torch.float64)
    before = physics.A(x)
    assert torch.equal(physics.to(torch.float16).double().A(x), before) and physics.state_dict() == {}
    assert torch.equal(physics.to("cpu").A(x), before)


def test_deepinv_agrees() -> None:
    deepinv = pytest.importorskip("deepinv")
    mask, x = random_mask(8, 9), torch.randn(2, 2, 8, 9)
    theirs = deepinv.physics.MRI(mask=mask, img_size=(2, 8, 9))
    torch.testing.assert_close(MRI(mask).A(x), theirs.A(x))
    maps = random_maps(3, 8, 9).to(torch.complex64)
    theirs = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps[None], img_size=(2, 8, 9))
    y = theirs.A(x)
    torch.testing.assert_close(MRI(mask, maps).A(x), y)
    torch.testing.assert_close(MRI(mask, maps).A_adjoint(y), theirs.A_adjoint(y))


def test_masks_and_maps_from_files(tmp_path: Path) -> None:
    mask, maps = random_mask(6, 5), random_maps(3, 6, 5)
    np.save(tmp_path / "mask.npy", mask.numpy())
    np.save(tmp_path / "maps.npy", maps.numpy())
    torch.save({"mask": mask[None]}, tmp_path / "mask.pth.tar")
    torch.save(maps[None], tmp_path / "maps.pt")
    for where, sensitivities in (("mask.npy", "maps.npy"), ("mask.pth.tar", "maps.pt")):
        physics = MRI(tmp_path / where, str(tmp_path / sensitivities))
        assert torch.equal(physics.mask, mask) and torch.equal(physics.coil_maps, maps)
    (tmp_path / "broken.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    torch.save({"other": mask, "more": mask}, tmp_path / "other.pt")
    for name, word in (("broken.npy", "damaged"), ("objects.npy", "damaged"), ("words.npy", "must hold numbers"),
                       ("other.pt", "'mask'"), ("none.npy", "there is no mask"),
                       ("none.pt", "there is no mask")):  # fmt: skip
        with pytest.raises(InputError, match=word) as error:
            MRI(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MRI(torch.full((4, 5), 0.5)), ["mask", "zeros", "ones"]),
        (lambda: MRI(torch.full((4,), float("nan"))), ["mask", "zeros", "ones"]),
        (lambda: MRI(torch.zeros(4, 5)), ["mask", "nothing"]),
        (lambda: MRI(torch.zeros(0)), ["[H, W]", "[0]"]),
        (lambda: MRI(torch.ones(2, 2, 4, 5)), ["[H, W]", "[W]", "[n, H, W]", "[2, 2, 4, 5]"]),
        (lambda: MRI(torch.ones(4, 5), random_maps(3, 5, 4)), ["coil maps", "[3, 5, 4]", "[4, 5]"]),
        (lambda: MRI(torch.ones(5), random_maps(3, 5, 4)), ["coil maps", "[3, 5, 4]", "[5]"]),
        (lambda: MRI(torch.ones(4, 5), torch.ones(3, 4, 5)), ["coil maps", "complex", "[K, H, W]"]),
        (lambda: MRI(torch.ones(4, 5), random_maps(3, 4, 5)[0]), ["[K, H, W]", "[4, 5]"]),
        (lambda: MRI(torch.ones(4, 5), 0 * random_maps(3, 4, 5)), ["zero"]),
        (lambda: MRI(torch.ones(4, 5), random_maps(3, 4, 5) / 0), ["finite"]),
        (lambda: MRI(torch.ones(4, 5), cg_steps=0), ["cg_steps", "0"]),
        (lambda: MRI(torch.ones(4, 5)).A(torch.zeros(1, 1, 4, 5)), ["images", "[B, 2, 4, 5]", "[1, 1, 4, 5]"]),
        (lambda: MRI(torch.ones(5)).A(torch.zeros(1, 2, 4, 6)), ["images", "[B, 2, H, 5]", "[1, 2, 4, 6]"]),
        (lambda: MRI(torch.ones(4, 5)).A(torch.zeros(4, 5)), ["[B, 2, 4, 5]", "[4, 5]"]),
        (
            lambda: MRI(torch.ones(4, 5)).A_dagger(torch.zeros(1, 4, 5, dtype=torch.complex64)),
            ["k-space", "[B, 2, 4, 5]", "real, imaginary", "torch.complex64 [1, 4, 5]"],
        ),
        # Whole numbers would be rounded to whole numbers.
        (lambda: MRI(torch.ones(4, 5)).A(torch.ones(1, 2, 4, 5).int()), ["images", "real", "torch.int32 [1, 2, 4, 5]"]),
        (
            lambda: MRI(torch.ones(4, 5), random_maps(3, 4, 5)).A_dagger(torch.zeros(1, 3, 2, 4, 5)),
            ["k-space", "[B, 2, 3, 4, 5]", "coil", "[1, 3, 2, 4, 5]"],
        ),
        (
            lambda: MRI(torch.ones(4, 5), random_maps(3, 4, 5)).A_adjoint(torch.zeros(1, 2, 4, 5)),
            ["k-space", "[B, 2, 3, 4, 5]", "[1, 2, 4, 5]"],
        ),
    ],
)
def test_bad_input_is_one_line(call: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), str(error.value)


@pytest.mark.parametrize("maps", [None, random_maps(3, 16, 16).to(torch.complex64)], ids=["one coil", "coils"])
def test_a_checkpoint_carries_mask_and_maps(tmp_path: Path, maps: Tensor | None) -> None:
    physics = MRI(random_mask(16), maps, cg_steps=3, noise=GaussianNoise(0.05))
    net = UNet(2, 2, base_channels=2)
    trainer = Trainer(
        Reconstructor(net, physics), physics, Rotate(1), EIClosure(1.0), {"total": torch.optim.Adam(net.parameters())},
        epochs=1, out=tmp_path / "run", progress=False,
    )  # fmt: skip
    trainer.fit(make_loader(list(torch.rand(2, 2, 16, 16)), batch_size=2))
    path = tmp_path / "run" / "ckp_last.pth.tar"
    assert load_file(path)["physics"] == {"name": "MRI", "cg_steps": 3}
    found = ei.load(path)
    assert torch.equal(found.physics.mask, physics.mask) and found.physics.noise.sigma == 0.05
    assert (found.physics.coil_maps is None) if maps is None else torch.equal(found.physics.coil_maps, maps)
    y = physics.A(torch.rand(1, 2, 16, 16))
    with torch.no_grad():
        assert torch.equal(found(y), trainer.f.eval()(y))
    again = _rebuilt(physics, mask=physics.mask, coil_maps=physics.coil_maps)
    assert describe(again) == describe(physics)


def test_robust_eis_mask(shared_data: Path) -> None:
    physics = MRI(shared_data / "rei_mask_4x.pth.tar")
    assert physics.image_shape is None and int(physics.mask.sum()) == 82
    assert torch.equal(mask_for(shared_data / "rei_mask_4x.pth.tar", 256), physics.mask[32:-32])
    assert int(physics.mask[32:-32].sum()) == 69


def test_a_part_of_k_space_is_reconstructed_from_itself() -> None:
    """With maps, splitting solves for what is kept, and does not take what is left out for zeros."""
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 8, 8, dtype=torch.complex128, generator=rng)
    physics = MRI(torch.ones(8, 8), maps, cg_steps=60)
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64, generator=rng)
    y = physics.A(x)
    assert physics.sampling_mask.shape == (1, 1, 1, 8, 8)
    kept = (torch.rand(2, 1, 1, 8, 8, generator=rng) < 0.7).double()
    torch.testing.assert_close(Split(physics, kept).A_dagger(kept * y), x, rtol=1e-3, atol=1e-3)
    assert MRI(torch.ones(8)).sampling_mask.shape == (1, 1, 1, 8)  # columns are sampling_mask, and split, as wholes


def test_a_mask_of_rows_is_not_taken_for_one_of_columns() -> None:
    rows = (torch.arange(8) % 2).float()[:, None]
    with pytest.raises(InputError, match=r"mask \[8, 1\] may be of rows or of columns"):
        MRI(rows)
    assert MRI(rows[None]).mask.shape == (8,)  # Robust EI's, and fastMRI's, of columns


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_coil_maps_of_any_size(size: float) -> None:
    """Maps that are not normalised gave images that were 18 times off, or zero."""
    maps = torch.randn(3, 12, 12, dtype=torch.complex64, generator=generator(0, "maps"))
    physics = MRI(torch.ones(12, 12), size * maps, cg_steps=60)
    x = torch.randn(1, 2, 12, 12, generator=generator(0, "image"))
    torch.testing.assert_close(physics.A_dagger(physics.A(x)), x, atol=0.05, rtol=0.05)


def test_masks_in_another_order_of_bytes(tmp_path: Path) -> None:
    mask = np.arange(20).reshape(4, 5) % 3 > 0
    np.save(tmp_path / "mask.npy", mask.astype(">f4"))
    for source in (mask.astype(">u2"), mask.astype("g"), tmp_path / "mask.npy"):
        assert np.array_equal(MRI(source).mask.numpy(), mask)
