"""Checkpoints: folders that training writes and every command reads, see folder.py."""

from .folder import MNIST, Checkpoint, build, check_replaceable, exists, load, load_optimizer, prepare, save

__all__ = ["MNIST", "Checkpoint", "build", "check_replaceable", "exists", "load", "load_optimizer", "prepare", "save"]
