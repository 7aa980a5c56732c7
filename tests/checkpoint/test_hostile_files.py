"""Files of an attacker: an error names file and rule before memory is taken for what they claim."""

from __future__ import annotations

import gzip
import json
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.datasets import FORMS, packed

from vlae_fast import VLAE, checkpoint, data
from vlae_fast.data import files, layouts, mat

pytest.importorskip("safetensors")
MEBIBYTES = 512  # beside what is in use
ZEROS = gzip.compress(bytes(1 << 24))  # members of a .gz may follow one another: 10 GiB of these are 10 MB
BIG = {"flow_hidden": 1 << 16, "latent_dim": 1 << 16, "hidden_dim": 1 << 16}


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Limits memory: taking more is a MemoryError, not the ValueError that the tests expect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEBIBYTES << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "c"
    model = VLAE(1, 2, 4, 1, image_size=(6, 6), flow_hidden=8)
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    (tmp_path / "c").mkdir()
    for path in saved.iterdir():
        (tmp_path / "c" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "c"


HEAD = '{"format": "vlae_fast.checkpoint", "version": 1, "epoch": 0, "history": [], '
CONFIGS = {
    "large": (" " * (17 << 20), "must be at most 16,777,216 bytes, got more"),
    "many values": ("[" + "{}," * (5 << 20) + "{}]", "format must be 'vlae_fast.checkpoint', got 'list'"),
    "deep": (HEAD + '"model": {}, "training": ' + '{"a":' * 900 + "1" + "}" * 900 + "}", "a must be a string"),
    "deeper": (HEAD + '"model": ' + "[" * (1 << 20), "not valid JSON"),
    "digits": (HEAD + '"model": {"latent_dim": ' + "9" * 5000 + "}}", "not valid JSON: Exceeds the limit"),
    "long name": (HEAD + '"training": {}, "model": {"' + "x" * (1 << 20) + '": 1}}', "does not build a VLAE: .{,500}$"),
    "long format": ('{"format": "' + "x" * (1 << 20) + '"}', "format must be 'vlae_fast.checkpoint', got .{60}$"),
    "infinite": (HEAD + '"training": {}, "model": {"latent_dim": Infinity}}', "latent_dim must be .*, got inf"),
    "not UTF-8": ('{"\udcff": 1}', "not valid JSON: 'utf-8' codec can't decode"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), CONFIGS.values(), ids=CONFIGS)
def test_config(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        BIG,
        BIG | {"flow_steps": 256},
        BIG | {"flow_steps": 256, "flow_layers": 64},
        BIG | {"flow_steps": 256, "flow_layers": 64, "use_flow": False, "posterior": "iaf"},
        {"flow_steps": 256, "flow_layers": 64, "flow_hidden": 1},
        {"latent_map": [1, 2], "latent_dim": 1 << 16, "flow_steps": 256},
        {"hidden_dim": 1 << 16, "kernel_size": 63, "n_layers": 1024},
        {"likelihood": "logistic_mixture", "components": 1024, "input_dim": 512},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_model_that_is_not_in_the_file(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.safetensors: .* config\.json"):
        checkpoint.load(folder)


def tensors(header: object, body: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def entry(shape: list[int], first: int, last: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def named(*names: str) -> bytes:
    """A tensor file with 64 numbers under each name."""
    return tensors({name: entry([64], 256 * i, 256 * i + 256) for i, name in enumerate(names)}, 256 * len(names))


DAMAGED = "damaged or truncated safetensors file: .{,200}$"
FILES = {
    "header of an exabyte": (struct.pack("<Q", 1 << 60) + b"{}", "header must be at most 16,777,216 bytes, found"),
    "header longer than the file": (struct.pack("<Q", 1 << 20) + b"{}", DAMAGED),
    "no JSON": (tensors(b"{" * 99), DAMAGED),
    "deep": (tensors(b'{"a":' + b"[" * (1 << 20)), DAMAGED),
    "name twice": (tensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                           b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'), DAMAGED),
    "overflow": (tensors({"a": entry([1 << 32, 1 << 32], 0, 8)}), DAMAGED),
    "overflow to the right size": (tensors({"a": entry([(1 << 62) + 1, 2], 0, 8)}), DAMAGED),
    "2^40 numbers": (tensors({"a": entry([1 << 40], 0, 1 << 42)}), DAMAGED),
    "negative": (tensors({"a": entry([-2], 0, 8)}), DAMAGED),
    "overlap": (tensors({"a": entry([1], 0, 4), "b": entry([2], 0, 8)}), DAMAGED),
    "hole": (tensors({"a": entry([1], 4, 8)}), DAMAGED),
    "backwards": (tensors({"a": entry([2], 8, 0)}), DAMAGED),
    "more bytes": (tensors({"a": entry([1], 0, 4)}), DAMAGED),
    "type unknown": (tensors({"a": entry([1], 0, 8, "PICKLE")}), DAMAGED),
    "outside": (named(*"abc", "../../etc/passwd"), r"extra \.\./\.\./etc/passwd, a, b, c$"),
    "many": (named(*map(str, range(1 << 16))), "missing decoder.* more, extra 0, 1, 10, 100 and 65532 more$"),
    "long name": (named(*"abc", "x" * (1 << 20)), r"missing decoder.* more, extra a, b, c, x{100}$"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), FILES.values(), ids=FILES)
def test_tensors(folder: Path, body: bytes, message: str) -> None:
    for name, load in (("model", checkpoint.load), ("optimizer", load_optimizer)):
        whole = (folder / f"{name}.safetensors").read_bytes()
        (folder / f"{name}.safetensors").write_bytes(body)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors: .*{message if name == 'model' else ''}"):
            load(folder)
        (folder / f"{name}.safetensors").write_bytes(whole)


def load_optimizer(folder: Path) -> None:
    found = checkpoint.load(folder)
    checkpoint.load_optimizer(found, torch.optim.Adam(found.model.parameters()))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_tensors_of_another_type(folder: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(load_file(path) | {"decoder.final_conv.bias": torch.zeros(1, dtype=dtype)}, path)
    with pytest.raises(ValueError, match=r"final_conv\.bias must be of type F16, BF16, F32, F64, found "):
        checkpoint.load(folder)


def test_a_pickle_is_not_unpickled(folder: Path) -> None:
    torch.save({"model": print}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        checkpoint.load(folder)


def mnist(folder: Path, header: bytes, members: int) -> None:
    body = gzip.compress(header) + ZEROS * members
    (folder / "train-images-idx3-ubyte.gz").write_bytes(body)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(body)


def mat_bomb(folder: Path, shape: tuple[int, int], name: bytes = b"data") -> None:
    """One matrix, compressed: zeros, and as many as it says."""
    n = 8 * shape[0] * shape[1]
    flags = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, *shape)
    head = flags + struct.pack("<HH4s", 1, len(name), name) + struct.pack("<II", 9, n)
    element = zlib.compress(struct.pack("<II", 14, len(head) + n) + head + bytes(n))
    matrix = struct.pack("<II", 15, len(element)) + element
    (folder / "chardata.mat").write_bytes(bytes(124) + b"\x00\x01IM" + matrix * 2)


def tar_bomb(folder: Path, kind: bytes) -> None:
    """A member, or a name, of 8 GiB - 1."""
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.size, info.type = (1 << 33) - 1, kind
    (folder / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(info.tobuf()) + ZEROS * 640)


def sparse_tar(folder: Path) -> None:
    """A member of 106 bytes in a .gz that claims to be 3 GiB of holes."""
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (3 << 30)  # its size with the holes; no piece of data is listed
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    (folder / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))


def zip_directory(folder: Path, *, wide: bool = False) -> None:
    """Entries without a file: each has 46 bytes in the directory and ten times that in memory."""
    entry = b"PK\1\2" + bytes(24) + struct.pack("<HHHHHII", 1, 0, 0, 0, 0, 0, 0) + b"a"
    entries = entry * (1 if wide else 60_000)
    size, count = len(entries), len(entries) // len(entry)
    end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, 0) if wide else b""
    end += b"PK\6\7" + struct.pack("<IQI", 0, size, 1) if wide else b""
    end += b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count % 65536, count % 65536, size, 0, 0)
    (folder / "binarized_mnist.npz").write_bytes(entries + end)


def zip_bomb(folder: Path, rows: int, method: int = zipfile.ZIP_DEFLATED, **change: np.ndarray) -> None:
    FORMS["static npz"].write(folder)
    path = folder / "binarized_mnist.npz"
    packed(path, train_bits=None, **change)
    with zipfile.ZipFile(path, "a", method) as archive, archive.open("train_bits.npy", "w") as file:
        np.save(file, np.zeros((rows, 98), np.uint8))


MANY = np.zeros(1 << 25, np.uint8)
IDX = b"\0\0\x08\x03"
IMAGES_OF = "must hold 1 to 1,073,741,824 bytes of images"
LONG = "must be at most 67,108,864 bytes when unpacked, got more"
BOMBS: dict[str, tuple[str | None, Callable[[Path], object], str]] = {
    "idx, 10 GiB behind it": (None, lambda f: mnist(f, IDX + struct.pack(">3I", 9, 28, 28), 640), "too long"),
    "idx, 10 GiB as it says": (None, lambda f: mnist(f, IDX + struct.pack(">3I", 640, *[4096] * 2), 640), IMAGES_OF),
    "idx, product": (None, lambda f: mnist(f, IDX + b"\xff" * 12, 0), IMAGES_OF),
    "mat": ("omniglot", lambda f: mat_bomb(f, (784, 6000)), "data must be a real 784 x N matrix of at most"),
    "mat, twice": ("omniglot", lambda f: mat_bomb(f, (784, 3000)), "data must be a real .* with all before it"),
    "tar, a member": ("cifar10", lambda f: tar_bomb(f, tarfile.REGTYPE), "got a plain one of 8,589,934,591"),
    "tar, a name": ("cifar10", lambda f: tar_bomb(f, tarfile.GNUTYPE_LONGNAME), LONG),
    "tar, attributes": ("cifar10", lambda f: tar_bomb(f, tarfile.XHDTYPE), LONG),
    "tar, sparse": ("cifar10", sparse_tar, "at most .* bytes, got a sparse one of 3,221,225,472"),
    "zip, directory": ("static-mnist", zip_directory, "directory of at most 1,048,576 bytes, got 2,820,000"),
    "zip, wide": ("static-mnist", lambda f: zip_directory(f, wide=True), "must have no 64-bit directory"),
    "zip": ("static-mnist", lambda f: zip_bomb(f, 1 << 20), "train_bits.npy: must hold 1 to .* with all arrays"),
    "zip, bits": ("static-mnist", lambda f: zip_bomb(f, 1 << 17), "images must be at most .* bytes, got 102,760,448"),
    "zip, LZMA": ("static-mnist", lambda f: zip_bomb(f, 4, zipfile.ZIP_LZMA), "must be stored or deflated, got"),
    "zip, labels": ("static-mnist", lambda f: zip_bomb(f, 4, train_labels=MANY), "labels must be one per image"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "message"), BOMBS.values(), ids=BOMBS)
def test_what_unpacks_to_more_than_it_may(
    name: str | None, write: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are of a few megabytes each. The bound is lowered where reaching it would take seconds."""
    for module in (files, layouts):
        monkeypatch.setattr(module, "MAX_BYTES", 1 << 26)
    monkeypatch.setattr(mat, "_MAX_NUMBERS", 1 << 22)
    write(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
