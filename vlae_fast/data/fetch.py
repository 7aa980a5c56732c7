"""Downloads: each file once, into the user's cache folder, and never without a published checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from .._extras import require
from .files import read_bytes


class Download(NamedTuple):
    """`checksum` is "sha256:...", "md5:...", or "git:...", the name that git gives to a file of this content."""

    url: str
    checksum: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(name: str, downloads: tuple[Download, ...]) -> Path:
    """The folder in the user's cache with these files of the data set `name`; missing files are downloaded.

    Raises: OSError without a network, ValueError for a file that has not the checksum.
    """
    pooch = require("pooch")
    folder = Path(pooch.os_cache("vlae_fast")) / name
    for download in downloads:
        kind, _, digest = download.checksum.partition(":")
        try:
            known = None if kind == "git" else download.checksum
            path = pooch.retrieve(download.url, known, download.file, folder, progressbar=True)
            if kind == "git":
                _check_git_name(Path(path), digest)
        except (OSError, ValueError) as error:
            files = ", ".join(d.file for d in downloads)
            raise (OSError if isinstance(error, OSError) else ValueError)(
                f"data: {name!r} was not fetched from {download.url}: {error}; "
                f"or put {files} into a folder and name it with data_dir"
            ) from error
    return folder


def cached(name: str, downloads: tuple[Download, ...]) -> Path | None:
    """The folder in the user's cache that `fetch` filled before; nothing is downloaded.

    None where a file is missing or is not the published one.
    """
    try:
        pooch = require("pooch")
    except ImportError:  # then nothing was fetched either
        return None
    folder = Path(pooch.os_cache("vlae_fast")) / name
    return folder if all(_is_published(folder / download.file, download.checksum) for download in downloads) else None


def _is_published(path: Path, checksum: str) -> bool:
    kind, _, digest = checksum.partition(":")
    if not path.is_file():
        return False
    return _git_name(path) == digest if kind == "git" else require("pooch").file_hash(str(path), kind) == digest


def _check_git_name(path: Path, expected: str) -> None:
    found = _git_name(path)
    if found != expected:
        path.unlink()
        raise ValueError(f"git's name for {path.name} must be {expected}, got {found}")


def _git_name(path: Path) -> str:
    body = read_bytes(path)
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
