"""Training: what is minimised (settings.py, step.py), epoch after epoch (loop.py), to be gone on with (resume.py)."""

from .loop import History, train
from .resume import Interrupted
from .settings import Settings

__all__ = ["History", "Interrupted", "Settings", "train"]
