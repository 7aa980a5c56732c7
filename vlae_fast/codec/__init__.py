"""Images as files: lossless under a model's distribution, by an entropy coder, or its code alone; `docs/codec.md`."""

from .coder import Opened, decode, encode
from .container import File, FileError, Header

__all__ = ["File", "FileError", "Header", "Opened", "decode", "encode"]
