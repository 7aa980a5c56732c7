"""Training: what is minimised (settings.py, objective.py), epoch after epoch (loop.py), what is kept (average.py), and
how it is gone on with (resume.py)."""

from .loop import History, train
from .resume import Interrupted
from .settings import Settings

__all__ = ["History", "Interrupted", "Settings", "train"]
