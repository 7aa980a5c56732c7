"""EMNIST (Cohen et al. 2017, arXiv 1702.05373): six data sets of handwritten letters and digits, as IDX files or in the
archive that they are published in."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

from torch import Tensor

from .files import MAX_BYTES, check_zip
from .idx import idx_images, read_idx, read_idx_stream, spellings
from .images import Images

ARCHIVE = "gzip.zip"  # of all six
_PARTS = {
    f"{split} {what}": f"{{name}}-{split}-{what}-idx{rank}-ubyte"
    for split in ("train", "test")
    for what, rank in (("images", 3), ("labels", 1))
}


def first_files(name: str) -> tuple[str, ...]:
    """The names that the training images of a data set may have."""
    return spellings(_PARTS["train images"].format(name=name))


def emnist_files(folder: Path, name: str, binarization: str) -> Images:
    """The four IDX files of a data set in a folder, .gz or not."""
    found: dict[str, Tensor] = {}
    for part, stem in _PARTS.items():
        names = spellings(stem.format(name=name))
        path = next((folder / file for file in names if (folder / file).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"data_dir: no {part} of {name} in {folder}: looked for {names[0]}[.gz]")
        found[part] = read_idx(path)
    return _upright(folder, name, binarization, found)


def emnist_archive(folder: Path, name: str, binarization: str) -> Images:
    """The four files of a data set in the archive of all, which is not unpacked."""
    path = folder / ARCHIVE
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            members = {Path(info.filename).name: info for info in archive.infolist()}
            found = {}
            for part, stem in _PARTS.items():
                file = f"{stem.format(name=name)}.gz"
                if (info := members.get(file)) is None:
                    raise ValueError(f"must hold {file}")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > MAX_BYTES:
                    raise ValueError(f"{file}: must be stored or deflated, and at most {MAX_BYTES:,} bytes")
                with archive.open(info) as inner, gzip.open(inner) as unpacked:
                    found[part] = read_idx_stream(unpacked, path / file)
    except (ValueError, RuntimeError, NotImplementedError, EOFError, zlib.error, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from error
    return _upright(path, name, binarization, found)


def _upright(where: Path, name: str, binarization: str, found: dict[str, Tensor]) -> Images:
    """The files have the columns of an image one after the other, and count letters from 1."""
    for part in found:
        if part.endswith("images") and found[part].dim() == 3:
            found[part] = found[part].transpose(1, 2).contiguous()
        elif name == "emnist-letters":
            if (found[part] < 1).any():
                raise ValueError(f"{where}: {part} of {name} must be from 1 to 26, got 0")
            found[part] = found[part] - 1
    return idx_images(where, name, binarization, found)
