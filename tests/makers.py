"""What several tests make: small data sets and files, scans, trainings."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from conftest import SmallNet, fill
from PIL import Image
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader

from ei.closure import AdversarialEIClosure, EIClosure
from ei.common.seeds import generator
from ei.datasets import line_integrals, make_loader
from ei.datasets.conversion import find_scan
from ei.datasets.defects import Defects, find_defects, repair
from ei.datasets.scans import bin_detectors
from ei.models import Reconstructor, UNet
from ei.physics import (
    MRI,
    GaussianNoise,
    Inpainting,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    Tomography,
    TransmissionNoise,
    pinv_cg,
)
from ei.training import Trainer
from ei.transforms import Shift


def write_mat(path: Path, n: int = 20, side: int = 16, **arrays: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    scipy.io.savemat(path, arrays or {"DATA": rng.random((n, side, side)).astype(np.float32)})
    return path


def sinograms_and_defects(
    counts: np.ndarray, flat: np.ndarray, dark: np.ndarray, n: int = 1, with_repair: bool = False
) -> tuple[np.ndarray, Defects]:
    """Sinograms ``[rows, D/n, V]``, float32, of whole arrays, and the defects of the detector: the reference of what is
    computed in parts."""
    flat, dark = (array.mean(0) if array.ndim == counts.ndim else array for array in (flat, dark))
    y = line_integrals(counts.astype(np.float64), flat, dark)
    y = (y[:, None] if y.ndim == 2 else y).transpose(1, 2, 0)
    defects = find_defects(y)
    y = repair(y, defects) if with_repair else y
    return bin_detectors(y, n, axis=-2).astype(np.float32), defects


def sinograms_of_counts(counts: np.ndarray, flat: np.ndarray, dark: np.ndarray, n: int = 1) -> np.ndarray:
    return sinograms_and_defects(counts, flat, dark, n)[0]


def read_scan(*files: str, **named: str) -> tuple[np.ndarray, ...]:
    """Counts, flats, darks and angles of a scan in files."""
    found, angles = find_scan(*files, **named)
    return (*(frames.read() for frames in found.values()), angles)


def write_folder(root: Path, n_train: int = 3, n_test: int = 2, side: int = 512) -> Path:
    rng = np.random.default_rng(0)
    for mode, n in (("train", n_train), ("test", n_test)):
        (root / mode / mode).mkdir(parents=True)
        for i in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((side, side)).save(root / mode / mode / f"img_{i:03d}.png")
    return root


def dicom(pixels: np.ndarray) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = pixels.astype(np.int16).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def phantom(side: int) -> Tensor:
    """An image with edges and a phase, ``[1, 2, side, side]``."""
    row, column = torch.meshgrid(*2 * [torch.linspace(-1, 1, side, dtype=torch.float64)], indexing="ij")
    size = ((row / 0.9) ** 2 + (column / 0.7) ** 2 < 1).double() - 0.5 * ((row - 0.2) ** 2 + column**2 < 0.1).double()
    phase = 0.5 * row + 0.3 * column
    return torch.stack([size * phase.cos(), size * phase.sin()])[None]


def smooth_maps(coils: int, side: int) -> Tensor:
    """Coils around the object, as a birdcage has them; their squares sum to one."""
    row, column = torch.meshgrid(*2 * [torch.linspace(-1, 1, side, dtype=torch.float64)], indexing="ij")
    turns = 2 * torch.pi * torch.arange(coils, dtype=torch.float64) / coils
    maps = torch.stack(
        [torch.exp(-((row - 1.2 * t.sin()) ** 2 + (column - 1.2 * t.cos()) ** 2) + 1j * (t + row - column))
         for t in turns]
    )  # fmt: skip
    return maps / maps.abs().square().sum(0).sqrt()


def scan(side: int = 32, coils: int = 4, count: int = 1) -> tuple[np.ndarray, Tensor]:
    """K-space ``[n, K, H, W]``, every second column and 11 in the middle, with a little noise; and the image."""
    mask = torch.zeros(side)
    mask[::2] = mask[side // 2 - 5 : side // 2 + 5] = 1
    physics, x = MRI(mask, smooth_maps(coils, side)), phantom(side)
    y = physics.A(x.expand(count, -1, -1, -1))
    y = y + 1e-3 * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0)) * mask
    return torch.complex(y[:, 0], y[:, 1]).numpy().astype(np.complex64), x


def counts_of_a_small_scan(rows: int = 12) -> None:
    """counts.npy, flat.npy, dark.npy, angles.txt: discs on a detector of 24, the axis 1.5 bins beside the middle."""
    rng = np.random.default_rng(0)
    angles = np.arange(0, 180, 6.0)
    physics = Tomography((24, 24), angles, 24, centre=1.5)
    axis = np.arange(24) - 11.5
    images = np.zeros((rows, 1, 24, 24))
    for image in images:
        for _ in range(4):
            x, y, radius = rng.uniform(-5, 5), rng.uniform(-5, 5), rng.uniform(1.5, 3.5)
            image[0] += 0.03 * ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2)
    integrals = physics.A(torch.from_numpy(images))[:, 0].numpy().transpose(2, 0, 1)  # [V, rows, D]
    gain, offset = rng.uniform(0.9, 1.1, (rows, 24)), rng.uniform(95, 105, (rows, 24))
    np.save("counts.npy", rng.poisson(2e4 * gain * np.exp(-integrals)) + offset)
    np.save("flat.npy", rng.poisson(2e4 * gain, (10, rows, 24)) + offset)
    np.save("dark.npy", np.tile(offset, (10, 1, 1)))
    np.savetxt("angles.txt", angles)


IMAGES = list(torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def loader(batch_size: int = 2) -> DataLoader:
    return make_loader(IMAGES, batch_size)


def make(
    out: Any, closure: Any = None, epochs: int = 3, lr: float = 1e-3, noise: Any = None, **options: Any
) -> Trainer:
    physics = Inpainting(16, 16, noise=noise)
    f = Reconstructor(fill(SmallNet(3)), physics)
    closure = closure or EIClosure(1.0)
    if isinstance(closure, AdversarialEIClosure):
        fill(closure.discriminator)
    others = closure.optimizers(f, 1e-4) if hasattr(closure, "optimizers") else {}
    optimizers = {"total": Adam(f.net.parameters(), lr=lr), **others}
    return Trainer(f, physics, Shift(2), closure, optimizers, epochs=epochs, out=out, progress=False, **options)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "training_loss.csv", newline="") as file:
        return list(csv.DictReader(file))


Disc = tuple[float, float, float, float]  # x, y, radius, value


def disc_sinogram(physics: Tomography, discs: Sequence[Disc]) -> Tensor:
    """The line integrals of discs, in closed form, of points and directions written from the definition."""
    scan = physics.scan
    y = np.zeros(physics.measurement_shape)
    s = (np.arange(scan.n_detectors) - (scan.n_detectors - 1) / 2 - scan.centre) * scan.detector_spacing
    for view, degrees in enumerate(scan.angles):
        t = math.radians(degrees)
        u, v = np.array([math.cos(t), -math.sin(t)]), np.array([math.sin(t), math.cos(t)])
        point, direction = s[:, None] * u, np.tile(v, (len(s), 1))
        if scan.source_origin is not None and scan.origin_detector is not None:
            point = s[:, None] * u - scan.origin_detector * v
            direction = point - scan.source_origin * v
            if scan.detector == "curved":
                fan = s / (scan.source_origin + scan.origin_detector)
                point = np.tile(scan.source_origin * v, (len(s), 1))
                direction = np.sin(fan)[:, None] * u - np.cos(fan)[:, None] * v
            direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        for x0, y0, radius, value in discs:
            to = np.array([x0, y0]) - point
            distance = np.abs(to[:, 0] * direction[:, 1] - to[:, 1] * direction[:, 0])
            y[:, view] += value * 2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None))
    return torch.from_numpy(y)[None, None]


def disc_image(shape: tuple[int, int], discs: Sequence[Disc], pixel: float = 1.0, fine: int = 8) -> Tensor:
    height, width = shape
    x, y = (((np.arange(n * fine) - (n * fine - 1) / 2) / fine * pixel) for n in (width, height))
    image = np.zeros((height * fine, width * fine))
    for x0, y0, radius, value in discs:
        image += value * ((x[None] - x0) ** 2 + (y[:, None] - y0) ** 2 < radius**2)
    return torch.from_numpy(image.reshape(height, fine, width, fine).mean((1, 3)))[None, None]


def scan_of(physics: Tomography, number: int) -> Tomography:
    """An operator of its own for one of the scans of ``physics``."""
    return Tomography(**{**physics.config, "angles": physics.config["angles"][number]})


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def matrix_of(physics: Any, *shape: int) -> Tensor:
    """A as a dense matrix ``[measurements, pixels]``, column by column."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).view(-1, *shape)
    return physics.A(units).flatten(1).T


def plain_cg(matrix: Tensor, y: Tensor, steps: int, weight: Tensor | None = None) -> Tensor:
    """The textbook's conjugate gradients on the normal equations of one image."""
    weighted = matrix if weight is None else weight @ matrix
    normal, r = matrix.T @ weighted, weighted.T @ y
    x, d = torch.zeros_like(r), r
    for _ in range(steps):
        step = (r @ r) / (d @ normal @ d)
        x, before, r = x + step * d, r, r - step * normal @ d
        d = r + (r @ r) / (before @ before) * d
    return x


class RandomMatrix:
    """``y = M x``; its adjoint is left to autograd."""

    image_shape = (1, 4, 5)

    def __init__(self, rows: int, dtype: torch.dtype = torch.float64) -> None:
        self.matrix = torch.randn(rows, 20, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1).to(self.matrix.dtype) @ self.matrix.T

    def A_dagger(self, y: Tensor) -> Tensor:
        return pinv_cg(self, y, steps=60, tol=1e-12)


GEOMETRIES = [
    # N, V, uniform, circle. D - N is odd for 2, 5, 16 and even for 24: both ways of padding.
    (1, 1, True, False),
    (1, 2, True, True),
    (2, 3, True, False),
    (5, 4, True, False),
    (5, 7, False, True),
    (16, 10, True, False),
    (17, 9, True, True),
    (24, 1, True, False),
    (33, 20, False, False),
]


MODELS = [
    GaussianNoise(0.1),
    PoissonNoise(0.05),
    PoissonGaussianNoise(0.05, 0.1),
    TransmissionNoise(1e5, 30, 0.0064),
]


def columns(width: int) -> Tensor:
    return (torch.arange(width) % 3 != 1).float()


def train(out: Path, closure: Any, noise: Noise, epochs: int = 2) -> Trainer:
    physics = Inpainting(16, 16, noise=noise)
    torch.manual_seed(0)
    net = UNet(1, 1, base_channels=2)
    optimizers = {"total": torch.optim.Adam(net.parameters(), lr=1e-3)}
    images = list(torch.rand(4, 1, 16, 16, generator=generator(1)))
    f = Reconstructor(net, physics)
    trainer = Trainer(f, physics, Shift(1), closure, optimizers, epochs=epochs, out=out, progress=False)
    trainer.fit(make_loader(images, batch_size=2))
    return trainer
