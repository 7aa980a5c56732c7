"""Checkpoints: folders that training writes and every command reads; folder.py says what is in one."""

from .folder import MNIST, check_replaceable, exists, prepare
from .reading import Checkpoint, build, load, load_optimizer
from .writing import check_loadable, save

__all__ = [
    "MNIST",
    "Checkpoint",
    "build",
    "check_loadable",
    "check_replaceable",
    "exists",
    "load",
    "load_optimizer",
    "prepare",
    "save",
]
