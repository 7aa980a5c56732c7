"""The commands, each a page of glue over the library; importing this puts them all into `app`."""

from . import demo, evaluate, info, sample, train
from .app import app

__all__ = ["app", "demo", "evaluate", "info", "sample", "train"]
