"""Data sets: the paper's two, generated stand-ins for them, and images and measurements in files."""

from ei.datasets.batches import image_of, images_of, make_loader, simulate
from ei.datasets.counts import line_integrals
from ei.datasets.cvdb import CVDB, CVDB_ICCV
from ei.datasets.measurements import Measurements, Pairs
from ei.datasets.stack import CTData, ImageStack, MRIData
from ei.datasets.synthetic import DeadLeaves, EllipsePhantoms, MagnitudePhantoms
from ei.datasets.tiles import Tiles
from ei.datasets.tree import ImageTree, dataset_for, split_images
from ei.datasets.validation import split_validation

__all__ = [
    "CVDB",
    "CVDB_ICCV",
    "CTData",
    "DeadLeaves",
    "EllipsePhantoms",
    "ImageStack",
    "ImageTree",
    "MRIData",
    "MagnitudePhantoms",
    "Measurements",
    "Pairs",
    "Tiles",
    "dataset_for",
    "image_of",
    "images_of",
    "line_integrals",
    "make_loader",
    "simulate",
    "split_images",
    "split_validation",
]
