"""Training: the objective (settings.py, objective.py), the epochs (loop.py), averaged weights (average.py), resuming
(resume.py), the process's memory (memory.py)."""

from .loop import History, train
from .memory import keep_freed_memory
from .resume import Interrupted
from .settings import Settings

__all__ = ["History", "Interrupted", "Settings", "keep_freed_memory", "train"]
