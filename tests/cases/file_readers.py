"""Every reader of files that somebody else wrote, with valid files of each and the way from bytes to such a file."""

from __future__ import annotations

import gzip
import hashlib
import io
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cases.checkpoints import save
from cases.codec import images_of, labels_of, model_of
from cases.datasets import BINARY, FORMS, scipy_io
from vlae_fast import checkpoint, codec
from vlae_fast.codec import container
from vlae_fast.data import cifar_pickle, files, idx, layouts, pictures

KEYS = ("shape", *(f"{split}_bits" for split in BINARY))


def idx_bytes() -> bytes:
    return b"\0\0\x08\3" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(range(24))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0))
    return file.getvalue()


def written(form: str, name: str) -> bytes:
    """The file of that name of a small data set."""
    with tempfile.TemporaryDirectory() as folder:
        FORMS[form].write(Path(folder))
        return Path(folder, name).read_bytes()


class Reader:
    """A reader, the valid inputs of it, and where the file lies that an input becomes.

    pack: what makes the file of an input: checksums around it are right, so that what is behind them is reached.
    """

    def __init__(
        self,
        name: str,
        file: str,
        valid: Callable[[], list[bytes]],
        call: Callable[[Path], object],
        pack: Callable[[bytes], bytes] = bytes,
        around: Callable[[Path], object] = lambda folder: None,
    ) -> None:
        self.name, self.file, self._valid, self._call, self._pack, self._around = name, file, valid, call, pack, around
        self.valid: list[bytes] = []
        self.folder: Path | None = None

    def prepare(self, folder: Path) -> None:
        """Writes what lies beside the file."""
        folder.mkdir()
        self._around(folder)
        self.valid, self.folder = self._valid(), folder

    def read(self, data: bytes) -> None:
        assert self.folder is not None
        (self.folder / self.file).write_bytes(self._pack(data))
        self._call(self.folder)


def of_checkpoint(file: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "c"))
        return [Path(folder, "c", file).read_bytes()]


def save_all(folder: Path) -> None:
    save(folder / "c")


def load_all(folder: Path) -> None:
    found = checkpoint.load(folder / "c")
    checkpoint.load_optimizer(found, torch.optim.Adam(found.model.parameters()))


def npz_of(member: bytes) -> bytes:
    """A zip whose train_bits are the input, with the right checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for split, (images, _) in BINARY.items():
            bits = member if split == "train" else npy(np.packbits(images.reshape(len(images), -1), axis=1))
            archive.writestr(f"{split}_bits.npy", bits)
        archive.writestr("shape.npy", npy(np.array([28, 28])))
    return file.getvalue()


def train_bits() -> bytes:
    images = BINARY["train"][0]
    return npy(np.packbits(images.reshape(len(images), -1), axis=1))


def small_tar() -> bytes:
    """The first member of the archive, which is the test batch, unpacked."""
    return gzip.decompress(written("cifar tar", layouts.CIFAR_TAR))[: 512 + 4 * 3073 + 512]


def small_mat() -> bytes:
    """The same matrices as in the published file, not compressed."""
    file = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        FORMS["caltech mat"].write(Path(folder))
        arrays = scipy_io.loadmat(Path(folder, layouts.CALTECH_MAT))
    own = {key: array for key, array in arrays.items() if not key.startswith("__")}
    small = {key: array.astype(np.uint8) if key.endswith("_data") else array for key, array in own.items()}
    scipy_io.savemat(file, small)
    return file.getvalue()


def read_static(folder: Path) -> None:
    layouts.static_mnist_npz(folder, "static-mnist", "fixed")


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, "PNG")
    return file.getvalue()


def read_picture(folder: Path) -> None:
    for name in ("y.png", "z.png"):
        (folder / "c" / name).write_bytes(png())
    pictures.picture_folder(folder / "c", "c", image_size=(4, 4))


def codec_files(name: str = "bernoulli") -> list[bytes]:
    model = model_of(name)
    x, labels = images_of(model, 3), labels_of(model, 3)
    return [codec.encode(model, x, labels, mode=mode, per_chunk=2) for mode in container.MODES]


def read_codec(folder: Path, name: str = "bernoulli") -> None:
    codec.decode(model_of(name), (folder / "x.vlae").read_bytes(), limit=1 << 20)


READERS = [
    Reader("config", "c/config.json", lambda: of_checkpoint("config.json"), load_all, around=save_all),
    Reader("safetensors", "c/model.safetensors", lambda: of_checkpoint("model.safetensors"), load_all, around=save_all),
    Reader(
        "optimizer", "c/optimizer.safetensors", lambda: of_checkpoint("optimizer.safetensors"), load_all,
        around=save_all,
    ),
    Reader("idx", "x", lambda: [idx_bytes()], lambda folder: idx.read_idx(folder / "x")),
    Reader("idx-gz", "x.gz", lambda: [gzip.compress(idx_bytes())], lambda folder: idx.read_idx(folder / "x.gz")),
    Reader("npz", layouts.STATIC_MNIST_NPZ, lambda: [written("static npz", layouts.STATIC_MNIST_NPZ)], read_static),
    Reader("npz-member", layouts.STATIC_MNIST_NPZ, lambda: [train_bits()], read_static, pack=npz_of),
    Reader(
        "mat", layouts.CALTECH_MAT, lambda: [written("caltech mat", layouts.CALTECH_MAT), small_mat()],
        lambda folder: layouts.caltech_mat(folder, "caltech-silhouettes", "fixed"),
    ),
    Reader(
        "amat", "x.amat", lambda: [written("static amat", layouts.AMAT_FILES[2])],
        lambda folder: files.read_amat(folder / "x.amat"),
    ),
    Reader(
        "cifar", "x.bin", lambda: [bytes(3073) + b"\1" + bytes(3072)], lambda folder: files.read_cifar(folder / "x.bin")
    ),
    Reader(
        "cifar-pickle", "x", lambda: [written("cifar pickles", "test_batch")],
        lambda folder: cifar_pickle.cifar_of_pickle((folder / "x").read_bytes(), "x"),
    ),
    Reader("codec", "x.vlae", codec_files, read_codec),
    Reader("codec-behind-checksums", "x.vlae", codec_files, read_codec, pack=container.signed),
    Reader(
        "codec-labels", "x.vlae", lambda: codec_files("classes"), lambda folder: read_codec(folder, "classes"),
        pack=container.signed,
    ),
    Reader("picture", "c/x.png", lambda: [png()], read_picture, around=lambda folder: (folder / "c").mkdir()),
    Reader(
        "cifar-tar", layouts.CIFAR_TAR, lambda: [small_tar()],
        lambda folder: files.read_cifar_tar(folder / layouts.CIFAR_TAR, ["test_batch.bin"]),
        pack=lambda data: gzip.compress(data, 1),
    ),
]  # fmt: skip


class FailedError(Exception):
    """A reader raised what it must not."""


def try_input(reader: Reader, data: bytes, keep: Path) -> None:
    """Whatever the bytes are, the reader takes them or says what is wrong; else the input is printed and kept."""
    try:
        reader.read(data)
    except (ValueError, OSError):
        return
    except BaseException as error:
        keep.mkdir(parents=True, exist_ok=True)
        file = keep / f"{reader.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        file.write_bytes(data)
        traceback.print_exc()
        print(
            f"fuzz: {reader.name}: {type(error).__name__} for {data[:512].hex()} ({len(data):,} bytes, {file})",
            flush=True,
        )
        raise FailedError from error
