"""Training: the objective (settings.py, objective.py), the epochs (loop.py), averaged weights (average.py), resuming
(resume.py)."""

from .loop import History, train
from .resume import Interrupted
from .settings import Settings

__all__ = ["History", "Interrupted", "Settings", "train"]
