"""The commands, each a page of glue over the library; importing this puts them all into `app`."""

from . import (
    card,
    check,
    collapse,
    compress,
    consolidate,
    curves,
    demo,
    detect,
    evaluate,
    explore,
    info,
    latent,
    models,
    pack,
    reconstruct,
    sample,
    train,
)
from .app import app

__all__ = [
    "app",
    "card",
    "check",
    "collapse",
    "compress",
    "consolidate",
    "curves",
    "demo",
    "detect",
    "evaluate",
    "explore",
    "info",
    "latent",
    "models",
    "pack",
    "reconstruct",
    "sample",
    "train",
]
