"""Every group: its laws, where it is exact, the order of the result, elements for every image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ei.errors import InputError
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Scale, Shift, Shift1D, Transform

EXACT: list[tuple[Transform, Tensor, Tensor, Tensor]] = [  # with two elements and their product
    (Shift(2), torch.tensor([1, -2]), torch.tensor([3, 4]), torch.tensor([4, 2])),
    (Shift1D(2), torch.tensor(2), torch.tensor(5), torch.tensor(7)),
    (Rotate90(2), torch.tensor(1), torch.tensor(2), torch.tensor(3)),
    (Reflect(2), torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([0, 1])),
]


ALL = [*(case[0] for case in EXACT), Rotate(2), Scale(2), Compose(Shift(2), Rotate90(2), Reflect(2))]


name_of = lambda value: type(value).__name__ if isinstance(value, Transform) else ""  # noqa: E731


@pytest.mark.parametrize(("transform", "first", "second", "product"), EXACT, ids=name_of)
def test_group_law_and_orthogonality(transform: Transform, first: Tensor, second: Tensor, product: Tensor) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    one_after_the_other = transform.act(transform.act(x, first), second)
    assert torch.equal(one_after_the_other, transform.act(x, product))
    assert torch.equal(transform.act(transform.act(x, first), transform.inverse(first)), x)
    y = torch.rand_like(x)
    inner = float((transform.act(x, first) * y).sum())
    assert inner == pytest.approx(float((x * transform.act(y, transform.inverse(first))).sum()), rel=1e-12)
    assert float(transform.act(x, second).norm()) == pytest.approx(float(x.norm()), rel=1e-12)


@pytest.mark.parametrize("transform", ALL, ids=name_of)
def test_order_seed_dtype_and_gradient(transform: Transform) -> None:
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    elements = transform.sample(x, torch.Generator().manual_seed(1))
    assert elements.shape == (2, *transform.element_shape)
    assert torch.equal(elements, transform.sample(x, torch.Generator().manual_seed(1)))
    out = transform.apply(x, elements)
    assert out.shape == (6, 2, 8, 8) and out.dtype == x.dtype
    for k, element in enumerate(elements):  # transform-major
        torch.testing.assert_close(out[3 * k : 3 * k + 3], transform.act(x, element))
    out.square().sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("transform", ALL, ids=name_of)
def test_elements_for_every_image(transform: Transform) -> None:
    x = torch.rand(5, 1, 8, 8)
    transform.per_image = True
    try:
        elements = transform.sample(x, torch.Generator().manual_seed(0))
        out = transform.apply(x, elements)
    finally:
        transform.per_image = False
    assert elements.shape == (2, 5, *transform.element_shape)
    assert any(not torch.equal(elements[:, 0], elements[:, b]) for b in range(1, 5))
    for k in range(2):
        for b in range(5):
            torch.testing.assert_close(out[5 * k + b], transform.act(x[b : b + 1], elements[k, b])[0])


def test_what_is_drawn() -> None:
    x = torch.empty(1, 1, 6, 6)
    assert sorted(Rotate90(3).sample(x).tolist()) == [1, 2, 3]
    assert sorted(map(tuple, Reflect(3).sample(x).tolist())) == [(0, 1), (1, 0), (1, 1)]
    assert sorted(Shift1D(5).sample(x).tolist()) == [1, 2, 3, 4, 5]
    assert set(Scale(50).sample(x)[:, 0].tolist()) == {0.5, 0.75}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rotate90(4), "n_trans must be a whole number >= 1 and <= 3, got 4"),
        (lambda: Reflect(4), "n_trans must be a whole number >= 1 and <= 3, got 4"),
        (lambda: Rotate(359), "n_trans must be a whole number >= 1 and <= 358, got 359"),
        (lambda: Shift("1"), "n_trans must be a whole number >= 1, got '1'"),
        (lambda: Shift(1, per_image="no"), "per_image must be true or false, got 'no'"),
        (lambda: Rotate90(1).apply(torch.zeros(1, 1, 4, 6), [1]), "square"),
        (lambda: Scale(1, factors=[]), "factors"),
        (lambda: Scale(1, factors=[1.5]), "every factor of Scale must be finite and > 0 and <= 1, got 1.5"),
        (lambda: Shift1D(9).apply(torch.zeros(1, 1, 4, 9)), "n_trans must be at most 8"),
        (lambda: Compose(Shift(2)), "two or more"),
        (lambda: Compose(Shift, Rotate), r"Compose needs objects as Shift\(3\), got <class"),
        (lambda: Compose(Shift(2), Rotate(3)), "same n_trans"),
        (lambda: Shift(1).apply(torch.zeros(2, 1, 8, 8), [1, 2]), "shape"),
        (lambda: Shift(1).apply(torch.zeros(2, 1, 8, 8), torch.zeros(1, 3, 2)), "every image"),
    ],
)
def test_wrong_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("transform", [*ALL, FourierRotate(2)], ids=name_of)
def test_complex_images_are_moved_part_by_part(transform: Transform) -> None:
    z = torch.randn(3, 1, 8, 8, dtype=torch.complex128)
    elements = transform.sample(z, torch.Generator().manual_seed(1))
    moved = transform.apply(z, elements)
    assert moved.dtype == z.dtype and moved.shape == (6, 1, 8, 8)
    assert torch.equal(moved, torch.complex(transform.apply(z.real, elements), transform.apply(z.imag, elements)))


@pytest.mark.parametrize("transform", [Shift(4), Rotate(4)])
def test_sampling(transform: Transform) -> None:
    x = torch.rand(2, 1, 6, 9)
    seeded = [transform.sample(x, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*seeded)
    torch.manual_seed(0)
    first, second = transform.sample(x), transform.sample(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(transform.apply(x), transform.apply(x, first))
    torch.manual_seed(0)
    assert torch.equal(transform(x), transform.apply(x, first))


@pytest.mark.parametrize(
    "call",
    [
        lambda: Shift(0),
        lambda: Shift(1.5),
        lambda: Shift(3, max_offset=-1),
        lambda: Shift(3, max_offset=1),
        lambda: Shift(6).apply(torch.zeros(1, 1, 6, 9)),
        lambda: Shift(3, max_offset=2).apply(torch.zeros(1, 1, 6, 9)),
        lambda: Shift(1).apply(torch.zeros(1, 1, 1, 1)),
        lambda: Rotate(0),
        lambda: Rotate(359),
        lambda: Rotate(1).apply(torch.zeros(6, 6)),
        lambda: Rotate(1).apply(torch.zeros(1, 1, 6, 6), []),
    ],
)
def test_impossible_requests(call) -> None:
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transform", [Shift(2), Rotate(2)])
def test_dtype_is_kept_and_gradients_flow(transform: Transform, dtype: torch.dtype) -> None:
    x = torch.rand(1, 2, 8, 8).to(dtype).requires_grad_()
    out = transform.apply(x)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == dtype


def test_a_new_group_is_two_methods() -> None:
    """``act``, and ``draw`` or ``every``."""

    class Quarter(Transform):
        def every(self, x):
            return torch.arange(1, 3)

        def act(self, x, element):
            return torch.rot90(x, int(element), dims=(-2, -1))

    assert sorted(Quarter(2).sample(torch.rand(1, 1, 4, 4)).tolist()) == [1, 2]
    with pytest.raises(InputError, match="n_trans must be at most 2, the number of elements of Quarter"):
        Quarter(3).sample(torch.rand(1, 1, 4, 4))

    class Flip(Transform):
        def draw(self, x, generator=None):
            return torch.ones(self.n_trans)

        def act(self, x, element):
            return x.flip(-1)

    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(Flip(2).apply(x), torch.cat([x.flip(-1)] * 2))


def test_arrays_of_numpy_are_rejected() -> None:
    with pytest.raises(InputError, match="images for a transform must be a torch tensor, got ndarray"):
        Shift(1).apply(torch.zeros(1, 1, 8, 8).numpy())  # type: ignore[arg-type]
