"""The file: what it says of itself, and chunks of images that are decoded each by itself.

In order, all numbers little-endian; a varint has 7 bits a byte, the lowest first, the last byte below 128::

    magic, 8 bytes; version, 1; mode, 1; instruction set, 1 (0 is none); fingerprint of the model, 16
    likelihood, 1; then varints: levels, components, C, H, W, images, images of a chunk, bytes of the code's settings
    version 2: varints: classes, bytes of the labels' settings
    the settings, which codes.py reads; version 2: those of labels, which labels.py reads
    of each chunk: varint of its bytes; CRC-32 of them, 4; CRC-32 of the levels of its images (lossy: its codes), then
        of its labels, 4
    CRC-32 of all that stands above, 4
    the chunks

Everything is compared with the bytes that are there before memory is taken for it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from ..plan import Emit

MAGIC = b"\x93VLAE\r\n\x1a"  # no text, and what a transfer as text would change
VERSIONS = (1, 2)  # without labels, and with them
MODES = ("mean", "bits_back", "lossy")  # the index is the byte
# likewise, as in csrc/cpu/isa.h; portable is any of them
ISAS = ("none", "baseline", "avx2", "avx512", "avx512_bf16", "neon", "avx2_unfused", "portable")
LIKELIHOODS = ("bernoulli", "categorical", "logistic_mixture")  # likewise
MOST_IN_CHUNK = 1 << 16
MOST_CLASSES = 1 << 16
MOST_NUMBERS = 1 << 28  # parameters of the pixels of a chunk: they are in memory at once
_SMALLEST_CHUNK = 9  # bytes that a chunk takes in the table


class FileError(ValueError):
    """A file that is no codec's, damaged, truncated or of another model: says where and what was found."""


class Chunk(NamedTuple):
    """Bytes of a chunk, their CRC-32 and that of what is decoded from them: levels of images, or lossy codes."""

    payload: bytes
    images_crc: int


class Header(NamedTuple):
    """What a file says of itself.

    mode: one of MODES. isa: instruction set, one of ISAS. fingerprint: of the model, 16 bytes. emit: the likelihood.
    shape: ``(C, H, W)``. images: how many. per_chunk: images of every chunk but the last, which may have fewer.
    settings: of the code z, which codes.py reads. classes: of the images' labels, 0 without labels. label_settings:
    which labels.py reads.
    """

    mode: str
    isa: str
    fingerprint: bytes
    emit: Emit
    shape: tuple[int, int, int]
    images: int
    per_chunk: int
    settings: bytes
    classes: int = 0
    label_settings: bytes = b""

    @property
    def n_chunks(self) -> int:
        """How many chunks hold the images."""
        return -(-self.images // self.per_chunk)

    def rows_of(self, chunk: int) -> range:
        """The images of a chunk."""
        return range(chunk * self.per_chunk, min(self.images, (chunk + 1) * self.per_chunk))


def varint(value: int) -> bytes:
    """A number that is not negative."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Takes numbers off the front of bytes; what is not there is an error that says at which byte."""

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self.data, self.at, self.where = memoryview(data), 0, where

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def fail(self, rule: str) -> FileError:
        return FileError(f"{self.where}: byte {self.at:,}: {rule}")

    def bytes(self, n: int, what: str) -> bytes:
        if n > self.left:
            raise self.fail(f"{what} must have {n:,} bytes, got {self.left:,}: the file is truncated or damaged")
        self.at += n
        return bytes(self.data[self.at - n : self.at])

    def byte(self, what: str) -> int:
        return self.bytes(1, what)[0]

    def word(self, what: str) -> int:
        value: int = struct.unpack("<I", self.bytes(4, what))[0]
        return value

    def varint(self, what: str, least: int = 0, most: int = 1 << 62) -> int:
        value, shift = 0, 0
        while True:
            byte = self.byte(what)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise self.fail(f"{what} must be a number of at most 63 bits")
        if not least <= value <= most:
            raise self.fail(f"{what} must be from {least:,} to {most:,}, got {value:,}")
        return value

    def name(self, what: str, names: Sequence[str]) -> str:
        value = self.byte(what)
        if value >= len(names):
            raise self.fail(f"{what} must be below {len(names)}, got {value}")
        return names[value]


def write(header: Header, chunks: Sequence[Chunk]) -> bytes:
    """The bytes of a file."""
    emit, table = header.emit, b""
    for chunk in chunks:
        table += varint(len(chunk.payload)) + struct.pack("<II", zlib.crc32(chunk.payload), chunk.images_crc)
    kinds = bytes([VERSIONS[header.classes > 0], MODES.index(header.mode), ISAS.index(header.isa)])
    numbers = [emit.levels, emit.components, *header.shape, header.images, header.per_chunk, len(header.settings)]
    if header.classes:
        numbers += [header.classes, len(header.label_settings)]
    head = MAGIC + kinds + header.fingerprint + bytes([LIKELIHOODS.index(emit.kind)])
    head += b"".join(map(varint, numbers)) + header.settings + header.label_settings + table
    return b"".join([head, struct.pack("<I", zlib.crc32(head)), *(chunk.payload for chunk in chunks)])


class File:
    """A file that was read: ``.header``, and its chunks, of which each is checked when it is asked for.

    data: the bytes. where: what errors call it.

    Raises:
        FileError: what is there is no such file, truncated, damaged, or of another version.
    """

    def __init__(self, data: bytes, where: str = "file") -> None:
        reader = Reader(data, where)
        if bytes(data[: len(MAGIC)]) != MAGIC:
            raise reader.fail(f"must start with {MAGIC.hex()}, got {bytes(data[: len(MAGIC)]).hex()}: no .vlae file")
        reader.at = len(MAGIC)
        self.where, self.header = where, _header(reader)
        self.table, self.payloads = self._table(reader)

    def _table(self, reader: Reader) -> tuple[list[tuple[int, int, int]], memoryview]:
        """(bytes, CRC, CRC of the images) of each chunk, and all bytes of chunks; nothing is copied."""
        n = self.header.n_chunks
        if n * _SMALLEST_CHUNK > reader.left:
            raise reader.fail(f"{n:,} chunks take at least {n * _SMALLEST_CHUNK:,} bytes, got {reader.left:,}")
        table = [
            (reader.varint("bytes of a chunk"), reader.word("CRC of a chunk"), reader.word("CRC of images"))
            for _ in range(n)
        ]
        crc, found = zlib.crc32(reader.data[: reader.at]), reader.word("CRC of the header")
        if crc != found:
            raise reader.fail(f"CRC of the header must be {crc:08x}, got {found:08x}: the file is damaged")
        total = sum(size for size, _, _ in table)
        if total != reader.left:
            raise reader.fail(f"chunks must have {total:,} bytes, got {reader.left:,}: truncated, or longer than it is")
        return table, reader.data[reader.at :]

    def payload(self, chunk: int) -> bytes:
        """The bytes of a chunk, whose CRC fits."""
        start = sum(size for size, _, _ in self.table[:chunk])
        size, crc, _ = self.table[chunk]
        payload = bytes(self.payloads[start : start + size])
        if zlib.crc32(payload) != crc:
            raise self.fail(chunk, f"CRC must be {crc:08x}, got {zlib.crc32(payload):08x}: the file is damaged")
        return payload

    def fail(self, chunk: int, rule: str) -> FileError:
        """The error of a chunk that breaks a rule."""
        rows = self.header.rows_of(chunk)
        return FileError(f"{self.where}: chunk {chunk} (images {rows.start} to {rows.stop - 1}): {rule}")


def _header(reader: Reader) -> Header:
    version = reader.byte("the version")
    if version not in VERSIONS:
        raise reader.fail(f"version must be {' or '.join(map(str, VERSIONS))}, got {version}: of another release")
    mode, isa = reader.name("the mode", MODES), reader.name("the instruction set", ISAS)
    fingerprint = reader.bytes(16, "the model's fingerprint")
    kind = reader.name("the likelihood", LIKELIHOODS)
    emit = Emit(kind, reader.varint("levels", 2, 1 << 16), reader.varint("components", 0, 1 << 10))
    shape = (
        reader.varint("channels", 1, 1 << 10),
        reader.varint("rows", 1, 1 << 16),
        reader.varint("columns", 1, 1 << 16),
    )
    images = reader.varint("images")
    per_chunk = reader.varint("images of a chunk", 1, MOST_IN_CHUNK)
    numbers = min(per_chunk, images) * emit.params(shape[0]) * shape[1] * shape[2]
    if numbers > MOST_NUMBERS:
        raise reader.fail(f"a chunk must have at most {MOST_NUMBERS:,} parameters, got {numbers:,}")
    n_settings, classes, n_of_labels = reader.varint("bytes of the code's settings"), 0, 0
    if version == VERSIONS[1]:
        classes = reader.varint("classes", 1, MOST_CLASSES)
        n_of_labels = reader.varint("bytes of the labels' settings")
    settings = reader.bytes(n_settings, "the code's settings")
    of_labels = reader.bytes(n_of_labels, "the labels' settings")
    return Header(mode, isa, fingerprint, emit, shape, images, per_chunk, settings, classes, of_labels)


def signed(data: bytes) -> bytes:
    """A file whose checksums are made right, as far as it has such: what checks find behind them is then reached."""
    reader, out = Reader(data, "file"), bytearray(data)
    try:
        reader.at = len(MAGIC)
        header, crcs, sizes = _header(reader), [], []
        for _ in range(min(header.n_chunks, len(data))):
            sizes.append(reader.varint("bytes of a chunk"))
            crcs.append(reader.at)
            reader.bytes(8, "CRCs")
        at = reader.at + 4
        for place, size in zip(crcs, sizes, strict=True):
            out[place : place + 4] = struct.pack("<I", zlib.crc32(data[at : at + size]))
            at += size
        reader.bytes(4, "CRC of the header")
        out[reader.at - 4 : reader.at] = struct.pack("<I", zlib.crc32(out[: reader.at - 4]))
    except FileError:
        return data
    return bytes(out)
