"""The commands, each a page of glue over the library; importing this puts them all into `app`."""

from . import collapse, curves, demo, detect, evaluate, info, latent, reconstruct, sample, train
from .app import app

__all__ = [
    "app",
    "collapse",
    "curves",
    "demo",
    "detect",
    "evaluate",
    "info",
    "latent",
    "reconstruct",
    "sample",
    "train",
]
