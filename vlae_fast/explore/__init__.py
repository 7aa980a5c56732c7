"""A page on this machine to touch a model with: `Explorer` answers, `Server` carries its answers to a browser."""

from .explorer import Explorer
from .server import Server

__all__ = ["Explorer", "Server"]
