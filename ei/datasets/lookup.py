"""Which data set reads a path."""

from __future__ import annotations

from pathlib import Path

from ei.datasets.tree import holds_images
from ei.errors import InputError, MissingFileError


def dataset_for(path: str) -> dict[str, str]:
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"there are no images at {path}")
    if file.is_dir():
        if not holds_images(file):
            raise MissingFileError(f"there are no images in the folder {path}")
        return {"name": "ImageTree", "folder": str(path)}
    if file.suffix.lower() == ".mat":
        return {"name": "CTData", "root_dir": str(path)}
    if file.suffix.lower() in (".npy", ".npz"):
        return {"name": "ImageStack", "path": str(path)}
    raise InputError(f"{path} is no data set of images")
