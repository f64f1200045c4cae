"""Files: names and paths."""

from __future__ import annotations

from ei.common.files import natural_order


def test_natural_order() -> None:
    names = ["y_10.npy", "y_2.npy", "y_1.npy", "y_02.npy", "x.npy", "9.npy", "y.npy", "y_2b.npy", "10.npy"]
    wanted = ["9.npy", "10.npy", "x.npy", "y.npy", "y_1.npy", "y_02.npy", "y_2.npy", "y_2b.npy", "y_10.npy"]
    assert sorted(names, key=natural_order) == wanted
    padded = [f"y_{number:03d}.npy" for number in range(12)]
    assert sorted(padded, key=natural_order) == padded  # what was in order stays in it
