"""Images to the bytes of a file and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Literal, overload

import torch
from torch import Tensor

from ..arguments import check_kind, whole
from ..backends import cpu
from ..models.mode import evaluating
from ..models.vlae import VLAE
from . import chain, codes, lossy, stack
from .bits_back import Latent, precision_of
from .checks import check_images, check_model, images_of_chunk
from .container import MODES, Chunk, File, FileError, Header, write
from .fingerprint import fingerprint
from .labels import Batch, Classes, check, fit, joined, read
from .labels import crc_of as labels_crc
from .pixels import Pixels, levels_of
from .portable import PORTABLE, kernels_of, plain
from .stack import Stack

LOSSLESS = ("mean", "bits_back")
_MOST_PRECISION = 16
MOST_VALUES = 1 << 30  # pixels times channels that `decode` gives, unless it is told another limit


@torch.no_grad()
def encode(
    model: VLAE,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    mode: str = "mean",
    per_chunk: int | None = None,
    isa: str | None = None,
    portable: bool = False,
    share: float = codes.SHARE,
    bits: float | None = None,
) -> bytes:
    """The bytes of a file from which `decode` gives x again: every pixel of it, unless the mode is ``lossy``.

    Args:
        model: with an autoregressive decoder, on the CPU, in float32.
        x: ``[B, C, H, W]``, float32, levels ``k / (levels - 1)`` of the model's likelihood.
        labels: ``[B]`` integers, of a class-conditional model. They are in the file, under a uniform distribution over
            the classes or one that is fitted to them, whichever takes fewer bytes.
        mode: ``mean``: each image has a code z, the posterior's mean on a grid, and its pixels under p(x | z).
            ``bits_back``: z is drawn by bits of the images before it, which gives them back: fewer bytes, and an image
            is decoded with all of its chunk that come after it. ``lossy``: z alone, see `decode`.
        per_chunk: images that are coded together, from 1 to 65,536: one of them is decoded with all the others of its
            chunk. More take fewer bytes. None: 256 (4,096 of ``bits_back``), fewer where they have many parameters.
        isa: instruction set that the file is decoded by; None: the best one of this machine.
        portable: the file is decoded on any machine: no multiply-add is fused, which takes longer; isa must be None.
        share: of ``mean`` and ``lossy``: step of the grid over the posterior's standard deviation.
        bits: of ``lossy``: bits of z an image, on average, which the file's header and table of chunks come on top of.
            The grid is the finest, down to 1/8 of that deviation, that takes no more, by at most 1,024 of the images.
            None: that of the share.

    Raises:
        ValueError: x has another shape or values that are no levels, labels are missing, out of range or of a model
            without classes, the model is of another kind, isa is none of this machine's, or an argument is of another
            mode.
        TypeError: x is not float32, or labels are no integers.
    """
    check_model(model)
    check_images(model, x)
    batch = Batch(x, check(model.n_classes, x, labels))
    classes = fit(batch.labels, model.n_classes)
    if not 0 < share < 1e3:
        raise ValueError(f"codec.encode: share must be above 0 and below 1,000, got {share}")
    if mode not in MODES:
        raise ValueError(f"codec.encode: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if bits is not None and not (mode == "lossy" and 0 < bits < float("inf")):
        raise ValueError(f"codec.encode: bits must be above 0, and of mode lossy, got {bits} of mode {mode}")
    if portable and isa is not None:
        raise ValueError(f"codec.encode: isa must be None where portable is set, got {isa!r}")
    own = plain(model) if portable else model
    with evaluating(own):
        pixels = Pixels(own, PORTABLE if portable else isa)
        per_chunk = images_of_chunk(per_chunk, pixels, mode)
        if mode == "mean":
            settings, payloads = _mean_code(own, batch, pixels, classes, per_chunk, share)
        elif mode == "bits_back":
            latent = Latent(own, pixels.isa)
            settings, payloads = (
                bytes([precision_of(own)]),
                [chain.push(part, pixels, latent, classes) for part in batch.split(per_chunk)],
            )
        if mode == "lossy":
            settings, payloads, crcs = lossy.encode(own, batch, classes, kernels_of(pixels.isa), per_chunk, share, bits)
        else:
            crcs = [crc_of(part, pixels.emit.levels) for part in batch.split(per_chunk)]
    of_model = fingerprint(model, pixels.sampler.plan)
    of_labels = model.n_classes, classes.settings
    header = Header(mode, pixels.isa, of_model, pixels.emit, pixels.shape, len(x), per_chunk, settings, *of_labels)
    return write(header, [Chunk(*chunk) for chunk in zip(payloads, crcs, strict=True)])


def _mean_code(
    model: VLAE, batch: Batch, pixels: Pixels, classes: Classes, per_chunk: int, share: float
) -> tuple[bytes, list[bytes]]:
    """The code's settings, and the bytes of each chunk."""
    levels, steps = codes.levels_on_grid(codes.posterior_of(model, *batch), share)
    tables = codes.fit(levels, steps)
    z, payloads = codes.z_of(levels, tables), []
    for i, (images, labels) in enumerate(batch.split(per_chunk)):
        rows, own = slice(i * per_chunk, (i + 1) * per_chunk), Stack()
        pixels.push(own, images, pixels.given(z[rows], labels))
        codes.push(own, levels[rows], tables)
        classes.push(own, labels)
        payloads.append(stack.to_bytes(own.words))
    return codes.write(tables), payloads


@overload
def decode(
    model: VLAE,
    data: bytes,
    *,
    chunks: Iterable[int] | None = None,
    limit: int = MOST_VALUES,
    where: str = "file",
    pixels: str | None = None,
    return_labels: Literal[False] = False,
) -> Tensor: ...
@overload
def decode(
    model: VLAE,
    data: bytes,
    *,
    chunks: Iterable[int] | None = None,
    limit: int = MOST_VALUES,
    where: str = "file",
    pixels: str | None = None,
    return_labels: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def decode(
    model: VLAE,
    data: bytes,
    *,
    chunks: Iterable[int] | None = None,
    limit: int = MOST_VALUES,
    where: str = "file",
    pixels: str | None = None,
    return_labels: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The images ``[B, C, H, W]``, float32, that `encode` was given, of the bytes that it gave.

    A lossy file has of an image the code z, and its pixels are made anew; a file gives the same ones each time.

    Args:
        model: the one that the file was made with.
        chunks: those wanted, from 0, in the order of the images that come; None: all.
        limit: pixels times channels of all images, above which nothing is decoded. where: what errors call the file.
        pixels: of a lossy file. ``draw``, which None is too: from p(x | z), by noise that is a function of the image's
            number in the file. ``mean``: that of 16 such draws, in [0, 1], no levels. ``likeliest``: pixel after pixel
            in the decoder's order, the likeliest level given z and the pixels before it; of a mixture of logistics, the
            level at the mean of its heaviest component. That is not the likeliest image, which no one pass finds.
        return_labels: gives (images, labels ``[B]``, int64), of a class-conditional model's file.

    Raises:
        FileError: the file is damaged, truncated, of another release or another model, or larger than the limit.
        ValueError: the file's instruction set is not one of this machine's; there is no such chunk; pixels is given
            for a lossless file; return_labels is set for a file without labels.
    """
    opened = Opened(model, data, limit=limit, where=where, pixels=pixels)
    if return_labels and not opened.header.classes:
        raise ValueError(f"codec.decode: {where}: return_labels must be False, for the file has no labels")
    wanted = range(opened.header.n_chunks) if chunks is None else [whole("codec.decode", "a chunk", n) for n in chunks]
    none = Batch(torch.zeros(0, *opened.header.shape), torch.zeros(0, dtype=torch.int64) if return_labels else None)
    images, labels = joined([none, *map(opened.labelled_chunk, wanted)])
    return images if labels is None or not return_labels else (images, labels)


class Opened:
    """A file's data and the model that decodes it, chunk by chunk. Arguments and errors are those of `decode`."""

    def __init__(
        self, model: VLAE, data: bytes, *, limit: int = MOST_VALUES, where: str = "file", pixels: str | None = None
    ) -> None:
        check_model(model)
        check_kind("codec.decode", "data", data, (bytes, bytearray, memoryview), "bytes")
        self.file, self.where = File(data, where), where
        self.header = header = self.file.header
        self.way = lossy.check_way(pixels, header.mode)
        shape = (model.likelihood.channels, *model.decoder.image_size)
        if header.shape != shape or header.emit != model.likelihood.emit:
            rule = f"images must be {shape} of {model.likelihood.emit}, as the model's are"
            raise FileError(f"{where}: {rule}, got {header.shape} of {header.emit}")
        values = header.images * shape[0] * shape[1] * shape[2]
        if values > limit:
            raise FileError(f"{where}: images must have at most limit = {limit:,} values, got {values:,}")
        if header.isa not in (PORTABLE, *cpu.isas()):
            rule = f"the instruction set must be one of this machine's, {', '.join(cpu.isas())}"
            raise ValueError(f"codec.decode: {where}: {rule}, got {header.isa}")
        self.model = plain(model) if header.isa == PORTABLE else model
        with evaluating(self.model):
            self.pixels = Pixels(self.model, header.isa)
        found = fingerprint(model, self.pixels.sampler.plan)
        if found != header.fingerprint:
            rule = f"the model must be the one of the file, {header.fingerprint.hex()}"
            raise FileError(f"{where}: {rule}, got {found.hex()}")
        if header.classes != model.n_classes:
            raise FileError(f"{where}: classes must be {model.n_classes}, as the model's are, got {header.classes}")
        self.classes = read(header.label_settings, header.classes, where)
        if header.mode == "mean":
            self.tables = codes.read(header.settings, model.latent_dim, where)
        elif header.mode == "lossy":
            steps = lossy.read_steps(header.settings, model.latent_dim, where)
            self.code = lossy.Code(self.model, kernels_of(header.isa), steps)
        else:
            self.latent = Latent(self.model, header.isa, _precision(header.settings, where))

    def chunk(self, i: int) -> Tensor:
        """The images of chunk i."""
        return self.labelled_chunk(i).images

    @torch.no_grad()
    def labelled_chunk(self, i: int) -> Batch:
        """The images of chunk i, and their labels, None where the file has none."""
        if not 0 <= i < self.header.n_chunks:
            raise ValueError(f"codec.decode: chunks must be from 0 to {self.header.n_chunks - 1}, got {i}")
        rows, payload = self.header.rows_of(i), self.file.payload(i)
        decoded = {"mean": self._mean_code, "bits_back": self._chain, "lossy": self._lossy_code}[self.header.mode]
        try:
            with evaluating(self.model):
                found = decoded(payload, len(rows))
        except FileError as error:
            raise self.file.fail(i, str(error)) from None
        is_lossy = self.header.mode == "lossy"
        crc, expected = self.crc_of(found), self.file.table[i][2]
        if crc != expected:
            rule = f"CRC of its {'codes' if is_lossy else 'images'} must be {expected:08x}, got {crc:08x}"
            raise self.file.fail(i, f"{rule}: this machine computes other bits than the one that wrote it")
        if is_lossy:
            given = self.pixels.model.condition(*found)
            images = lossy.images_of(self.pixels.sampler, given, rows.start, self.way, self.pixels.shape)
            return Batch(images, found.labels)
        return found

    def crc_of(self, decoded: Batch) -> int:
        """CRC-32 of what a chunk's bytes are: images, or lossy codes, then labels."""
        return lossy.crc_of(decoded) if self.header.mode == "lossy" else crc_of(decoded, self.header.emit.levels)

    def _mean_code(self, payload: bytes, n: int) -> Batch:
        own = Stack(stack.from_bytes(payload))
        labels = self.classes.pop(own, n)
        z = codes.z_of(codes.pop(own, n, self.tables), self.tables)
        return Batch(self.pixels.pop(own, n, self.pixels.given(z, labels)), labels)

    def _lossy_code(self, payload: bytes, n: int) -> Batch:
        return self.code.pop(payload, n, self.classes)

    def _chain(self, payload: bytes, n: int) -> Batch:
        return chain.pop(payload, n, self.pixels, self.latent, self.classes)


def _precision(settings: bytes, where: str) -> int:
    """Bits behind the point of a code of bits back."""
    if len(settings) != 1 or settings[0] > _MOST_PRECISION:
        raise FileError(f"{where}: the precision must be a byte up to {_MOST_PRECISION}, got {settings[:4].hex()!r}")
    return settings[0]


def crc_of(batch: Batch, levels: int) -> int:
    """CRC-32 of the levels of images, two bytes each, then of their labels."""
    of_images = zlib.crc32(levels_of(batch.images, levels).numpy().astype("<u2").tobytes())
    return labels_crc(batch.labels, of_images)
