"""Which data set reads a path."""

from __future__ import annotations

from ei.common.arrays import SUFFIXES, split_name
from ei.datasets.pictures import PICTURES
from ei.datasets.tree import holds_images
from ei.errors import InputError, MissingFileError


def dataset_for(path: str) -> dict[str, str]:
    """The part of a configuration that reads the images at a path: ``{"name": class, argument: path}``, of
    `ImageTree` for a folder, of `CTData` for a Matlab file, of `ImageStack` for another file of an array.

    Raises:
        MissingFileError: if nothing is there, or a folder holds no images.
        InputError: for a file of another kind.

    >>> np.save("images.npy", np.zeros((10, 16, 16), np.uint8))
    >>> dataset_for("images.npy")["name"]
    'ImageStack'
    """
    file, _ = split_name(path)
    accepted = f"give a folder of images, or one array in a file ({', '.join(SUFFIXES)})"
    if not file.exists():
        raise MissingFileError(f"there are no images at {path}; {accepted}")
    if file.is_dir():
        if not holds_images(file):
            raise MissingFileError(f"there are no images in the folder {path}; {accepted}")
        return {"name": "ImageTree", "folder": str(path)}
    if file.suffix.lower() == ".mat":
        return {"name": "CTData", "root_dir": str(path)}
    if file.suffix.lower() in SUFFIXES:
        return {"name": "ImageStack", "path": str(path)}
    one = " (a single picture: give its folder)" if file.suffix.lower() in PICTURES else ""
    raise InputError(f"{path} is no data set of images{one}; {accepted}")
