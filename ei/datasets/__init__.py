"""Data sets: the paper's two, and generated stand-ins for them."""

from ei.datasets.batches import image_of, images_of, make_loader, simulate
from ei.datasets.ctdb import CTData
from ei.datasets.cvdb import CVDB, CVDB_ICCV
from ei.datasets.synthetic import DeadLeaves, EllipsePhantoms

__all__ = [
    "CVDB",
    "CVDB_ICCV",
    "CTData",
    "DeadLeaves",
    "EllipsePhantoms",
    "image_of",
    "images_of",
    "make_loader",
    "simulate",
]
