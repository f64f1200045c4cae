"""Generated images."""

from __future__ import annotations

import pytest
import torch

from ei.datasets import (
    DeadLeaves,
    EllipsePhantoms,
)


@pytest.mark.parametrize(("kind", "shape"), [(DeadLeaves, (3, 24, 24)), (EllipsePhantoms, (24, 24))])
def test_generated_images(kind: type, shape: tuple[int, ...]) -> None:
    train, test = kind("train", 24, n_images=10), kind("test", 24, n_images=10)
    assert (len(train), len(test)) == (9, 1)
    images = [*train, *test]
    assert all(image.shape == shape and image.dtype == torch.float32 for image in images)
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 and float(image.std()) > 0.02 for image in images)
    assert not torch.equal(images[0], images[1])
    assert torch.equal(kind("train", 24, n_images=10)[5], train[5])  # whatever was drawn before
    assert not torch.equal(kind("train", 24, n_images=10, seed=1)[5], train[5])
    with pytest.raises(IndexError):
        train[9]
    with pytest.raises(ValueError, match="img_size"):
        kind("train", 2)


def test_dead_leaves_are_shift_invariant_and_rougher_than_blurred() -> None:
    """Statistics do not depend on the place, and wrap around: neighbours across the border are like any others."""
    images = torch.stack(list(DeadLeaves("train", 32, n_images=60)))
    down = (images - images.roll(1, dims=-2)).abs().mean(dim=(0, 1, 3))
    assert float(down[0]) == pytest.approx(float(down[1:].mean()), rel=0.25)


def test_phantoms_stay_inside_the_circle() -> None:
    axis = torch.arange(32) - 15.5
    outside = axis[:, None].square() + axis.square() > 16**2
    assert max(float(image[outside].max()) for image in EllipsePhantoms("train", 32, n_images=20)) == 0
