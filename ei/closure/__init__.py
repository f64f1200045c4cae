"""Closures: what one optimisation step computes, one file a method."""

from ei.closure.adversarial import AdversarialEIClosure
from ei.closure.base import Closure
from ei.closure.dip import DIPClosure
from ei.closure.ei import EIClosure
from ei.closure.mc import MCClosure
from ei.closure.moi import MOIClosure
from ei.closure.splitting import SplittingClosure, SplittingEIClosure
from ei.closure.supervised import SupervisedClosure, SupervisedEIClosure
from ei.closure.sure import RobustEIClosure, SUREClosure
from ei.closure.unsure import UNSUREClosure

__all__ = [
    "AdversarialEIClosure",
    "Closure",
    "DIPClosure",
    "EIClosure",
    "MCClosure",
    "MOIClosure",
    "RobustEIClosure",
    "SUREClosure",
    "SplittingClosure",
    "SplittingEIClosure",
    "SupervisedClosure",
    "SupervisedEIClosure",
    "UNSUREClosure",
]
