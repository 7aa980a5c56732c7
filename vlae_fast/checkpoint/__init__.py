"""Checkpoints: folders that training writes and every command reads; folder.py says what is in one."""

from .card import card_of
from .folder import MNIST, check_replaceable, exists, prepare
from .hub import from_pretrained, push_to_hub, save_pretrained
from .reading import Checkpoint, build, load, load_optimizer
from .shipped import Shipped, shipped
from .writing import check_loadable, save

__all__ = [
    "MNIST",
    "Checkpoint",
    "Shipped",
    "build",
    "card_of",
    "check_loadable",
    "check_replaceable",
    "exists",
    "from_pretrained",
    "load",
    "load_optimizer",
    "prepare",
    "push_to_hub",
    "save",
    "save_pretrained",
    "shipped",
]
