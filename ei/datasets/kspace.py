"""Measured k-space in the form that the commands take: complex arrays, mask, coil maps, and a file of the operator."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from ei.common.arrays import FileArray
from ei.common.checks import check_choice
from ei.common.files import writing
from ei.errors import InputError
from ei.physics.mri import inverse_fourier

# Coil maps are estimated from so many lines about the middle of k-space, at least and at most, either way.
LEAST_LINES, MOST_LINES = 6, 24
# Of the conjugate gradients: more put more of the noise into the image (tried on SigPy's brain, 8 coils, an eighth of
# k-space: 3 steps blur, 20 are noisy).
STEPS = 8
KEYS = ("name", "mask", "height", "coil_maps", "cg_steps")  # of the operator's file


def read_kspace(path: str | os.PathLike) -> np.ndarray:
    """The k-space of a file, complex (`ei.common.arrays.FileArray`; of several arrays the one called "kspace", "ksp"
    or "y"). The array "kspace" of HDF5, as fastMRI has it, is ``[slices, H, W]`` for one coil: it becomes ``[slices, 1,
    H, W]``."""
    array = FileArray(path, ("kspace", "ksp", "y"), "k-space")
    is_of_fastmri = array.path.suffix.lower() in (".h5", ".hdf5") and array.name == "kspace"
    values = np.array(array[...])
    return values[:, None] if is_of_fastmri and values.ndim == 3 else values


def kspace_of(array: np.ndarray, axes: str | None = None) -> tuple[Tensor, Tensor]:
    """K-space ``[n, K, H, W]``, complex64, and the mask ``[H, W]`` of what is measured: all but zeros.

    Args:
        array: complex, the middle at ``[H//2, W//2]``: ``[n, K, H, W]``, or ``[n, H, W]`` or ``[K, H, W]``.
        axes: what the first of three axes counts: "coils" of one slice, as in SigPy, or "slices" of one coil. If None,
            coils, with a warning.

    Raises:
        InputError: for another array, or if images or coils differ in what is measured.
    """
    if array.ndim not in (3, 4) or array.dtype.kind != "c" or 0 in array.shape:
        raise InputError(
            "k-space must be complex, of shape [coils, rows, columns] or [n, coils, rows, columns] (one coil: [n, 1, "
            f"rows, columns]), got {array.dtype} {list(array.shape)}"
        )
    y = torch.from_numpy(np.array(array, dtype=np.complex64))
    if axes is not None:
        check_choice("the first axis of k-space", axes, ("coils", "slices"))
    elif y.dim() == 3 and len(y) > 1:
        warnings.warn(
            f"k-space {list(array.shape)} is read as {len(y)} coils of one slice; slices of one coil must have "
            f"shape {[len(y), 1, *y.shape[1:]]}",
            stacklevel=2,
        )
    if y.dim() == 3:
        y = y[:, None] if axes == "slices" else y[None]
    if not bool(torch.isfinite(torch.view_as_real(y)).all()):
        raise InputError("k-space has values that are not finite; correct or remove them")
    if not bool(y.any()):
        raise InputError("k-space is zero everywhere: nothing is measured")
    check_centred(y)
    sampled = (y != 0).flatten(0, 1)
    mask = sampled.any(0)
    share = float((sampled & mask).sum() / (mask.sum() * len(sampled)))
    if share < 0.99:  # a sampled value may be zero by chance
        raise InputError(
            f"images or coils differ in where k-space is not zero (on average {share:.0%} of where any is): one mask "
            "must serve all; and the axes are [n, coils, rows, columns]"
        )
    return y, mask.float()


def check_centred(y: Tensor) -> None:
    """Raise `InputError` if k-space ``[..., H, W]`` has its middle in the corner, as an FFT without shifts leaves it.
    The outer half of its rows, or of its columns, then has ten times the energy of the middle half."""
    energy = y.abs().square().reshape(-1, *y.shape[-2:]).sum(0)
    for axis, name in ((-2, "rows"), (-1, "columns")):
        lines = energy.sum(-3 - axis)
        middle = float(lines[len(lines) // 4 : -(-3 * len(lines) // 4)].sum())
        if float(lines.sum()) - middle > 10 * middle:
            raise InputError(
                f"k-space has its middle at the ends of its {name}: it must be at [H // 2, W // 2]; "
                f"numpy.fft.fftshift(k, axes={axis}) brings it there"
            )


def low_resolution_maps(y: Tensor, mask: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Coil maps ``[K, H, W]`` from the middle of k-space that is measured without gaps: each coil's image of low
    resolution, divided by the root of the sum of squares of all (Pruessmann et al. 1999, section "sensitivity maps").

    Args:
        y: ``[n, K, H, W]``, complex; the n images are averaged, so they must be of one slice.
        mask: ``[H, W]``.

    Returns:
        The maps, complex64, of squares that sum to one; and the number of rows and columns that were used.
    """
    rows, columns = _gapless_middle(mask)
    used = rows.stop - rows.start, columns.stop - columns.start
    if min(used) < LEAST_LINES:
        raise InputError(
            f"only {used[0]} x {used[1]} points about the middle of k-space are measured without a gap, too few for "
            "coil maps: write a file for --physics with other maps (name: MRI, mask, coil_maps)"
        )
    # The middle of k-space is one past the middle of an even number of lines; the window tapers to both ends.
    window = torch.zeros(mask.shape)
    window[rows, columns] = torch.outer(*(torch.hann_window(n + 2, periodic=False)[1:-1] for n in used))
    low = inverse_fourier(y.mean(0) * window)
    size = torch.linalg.vector_norm(low, dim=0)
    return low / size.clamp(min=torch.finfo(torch.float32).tiny), used


def _gapless_middle(mask: Tensor) -> tuple[slice, slice]:
    """The rows and columns about the middle that are all measured: grown on all sides as long as nothing is missing."""
    row, column = (n // 2 for n in mask.shape)
    box = [slice(row, row + 1), slice(column, column + 1)]
    if not bool(mask[row, column]):
        return slice(row, row), slice(column, column)
    grown = True
    while grown:
        grown = False
        for axis, before, behind in ((0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)):
            wider = list(box)
            wider[axis] = slice(box[axis].start - before, box[axis].stop + behind)
            start, stop = wider[axis].start, wider[axis].stop
            fits = start >= 0 and stop <= mask.shape[axis] and stop - start <= MOST_LINES
            if fits and bool(mask[wider[0], wider[1]].all()):
                box = wider
                grown = True
    return box[0], box[1]


def prepare_kspace(
    array: np.ndarray, out: Path, axes: str | None = None
) -> tuple[Tensor, Tensor, tuple[int, int] | None]:
    """Write k-space to ``out`` (``.npz``: y), its mask and coil maps beside it (``_mask.npy``, ``_maps.npy``), and the
    operator for ``--physics`` (``.yaml``).

    Returns:
        K-space ``[n, (K,) H, W]``, the mask (``[W]`` where columns are measured as wholes), and the lines that maps
        were estimated from (None for one coil).
    """
    if out.suffix != ".npz":
        raise InputError(f"--out must be a .npz file, got {out}")
    y, mask = kspace_of(array, axes)
    arguments: dict[str, object] = {"name": "MRI", "mask": f"{out.stem}_mask.npy"}
    maps, used = (None, None) if y.shape[1] == 1 else low_resolution_maps(y, mask)
    if bool((mask == mask[:1]).all()):
        mask = mask[0]
        arguments |= {} if maps is not None else {"height": y.shape[-2]}
    y = y[:, 0] if maps is None else y
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, y=y.numpy())
        np.save(out.with_name(f"{out.stem}_mask.npy"), mask.numpy())
        if maps is not None:
            arguments |= {"coil_maps": f"{out.stem}_maps.npy", "cg_steps": STEPS}
            np.save(out.with_name(f"{out.stem}_maps.npy"), maps.numpy())
        out.with_suffix(".yaml").write_text(yaml.safe_dump(arguments, sort_keys=False))
    return y, mask, used
