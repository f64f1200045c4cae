"""Training: the one loop, and what keeps a run alive."""

from ei.errors import TrainingDivergedError, TrainingStoppedError
from ei.training.folder import RunFolder
from ei.training.schedules import LearningRate, by_step, cosine_schedule, one_cycle_schedule, step_schedule
from ei.training.trainer import Trainer

__all__ = [
    "LearningRate",
    "RunFolder",
    "Trainer",
    "TrainingDivergedError",
    "TrainingStoppedError",
    "by_step",
    "cosine_schedule",
    "one_cycle_schedule",
    "step_schedule",
]
