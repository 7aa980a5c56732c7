"""Images to the bytes of a file and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from ..backends import cpu
from ..models.mode import evaluating
from ..models.vlae import VLAE
from . import chain, codes, stack
from .bits_back import PRECISION, Latent
from .container import LIKELIHOODS, MOST_IN_CHUNK, MOST_NUMBERS, Chunk, File, FileError, Header, write
from .fingerprint import fingerprint
from .pixels import Pixels, levels_of
from .stack import Stack

PER_CHUNK = {"mean": 256, "bits_back": 4096}  # images, unless their parameters would take too much memory
LOSSLESS = tuple(PER_CHUNK)
_MOST_PRECISION = 16
_NUMBERS_OF_CHUNK = 1 << 23  # parameters
MOST_VALUES = 1 << 30  # pixels times channels that `decode` gives, unless it is told another limit


@torch.no_grad()
def encode(
    model: VLAE,
    x: Tensor,
    *,
    mode: str = "mean",
    per_chunk: int | None = None,
    isa: str | None = None,
    share: float = codes.SHARE,
) -> bytes:
    """The bytes of a file from which `decode` gives x again, every pixel of it.

    Args:
        model: with an autoregressive decoder, on the CPU, in float32.
        x: ``[B, C, H, W]``, float32, levels ``k / (levels - 1)`` of the model's likelihood.
        mode: ``mean``: each image has a code z, the posterior's mean on a grid, and its pixels under p(x | z).
            ``bits_back``: z is drawn by bits of the images before it, which gives them back: fewer bytes, and an image
            is decoded with all of its chunk that come after it.
        per_chunk: images that are coded together, from 1 to 65,536: one of them is decoded with all the others of its
            chunk. More take fewer bytes. None: 256 (4,096 of ``bits_back``), fewer where they have many parameters.
        isa: instruction set that the file is decoded by; None: the best one of this machine.
        share: of ``mean``: step of the grid over the posterior's standard deviation.

    Raises:
        ValueError: x has another shape or values that are no levels, the model is of another kind, or isa is none of
            this machine's.
        TypeError: x is not float32.
    """
    check_model(model)
    _check_images(model, x)
    if not 0 < share < 1e3:
        raise ValueError(f"codec.encode: share must be above 0 and below 1,000, got {share}")
    if mode not in LOSSLESS:
        raise ValueError(f"codec.encode: mode must be one of {', '.join(LOSSLESS)}, got {mode!r}")
    with evaluating(model):
        pixels = Pixels(model, isa)
        per_chunk = _per_chunk(per_chunk, pixels, mode)
        parts = x.split(per_chunk) if len(x) else ()
        if mode == "mean":
            settings, payloads = _mean_code(model, x, pixels, per_chunk, share)
        else:
            latent = Latent(model, pixels.isa)
            settings, payloads = bytes([PRECISION]), [chain.push(part, pixels, latent) for part in parts]
        of_model = fingerprint(model, pixels.sampler.plan)
    header = Header(mode, pixels.isa, of_model, pixels.emit, pixels.shape, len(x), per_chunk, settings)
    crcs = [crc_of(part, pixels.emit.levels) for part in parts]
    return write(header, [Chunk(*chunk) for chunk in zip(payloads, crcs, strict=True)])


def _mean_code(model: VLAE, x: Tensor, pixels: Pixels, per_chunk: int, share: float) -> tuple[bytes, list[bytes]]:
    """The code's settings, and the bytes of each chunk."""
    levels, steps = codes.levels_on_grid(codes.posterior_of(model, x), share)
    tables = codes.fit(levels, steps)
    z, payloads = codes.z_of(levels, tables), []
    for start in range(0, len(x), per_chunk):
        rows, own = slice(start, start + per_chunk), Stack()
        pixels.push(own, x[rows], z[rows] if model.latent_dim else None)
        codes.push(own, levels[rows], tables)
        payloads.append(stack.to_bytes(own.words))
    return codes.write(tables), payloads


def decode(
    model: VLAE,
    data: bytes,
    *,
    chunks: Iterable[int] | None = None,
    limit: int = MOST_VALUES,
    where: str = "file",
) -> Tensor:
    """The images ``[B, C, H, W]``, float32, that `encode` was given, of the bytes that it gave.

    Args:
        model: the one that the file was made with.
        chunks: those wanted, from 0, in the order of the images that come; None: all.
        limit: pixels times channels of all images, above which nothing is decoded. where: what errors call the file.

    Raises:
        FileError: the file is damaged, truncated, of another release or another model, or larger than the limit.
        ValueError: the file's instruction set is not one of this machine's; there is no such chunk.
    """
    opened = Opened(model, data, limit=limit, where=where)
    wanted = range(opened.header.n_chunks) if chunks is None else list(chunks)
    images = [opened.chunk(i) for i in wanted]
    return torch.cat(images) if images else torch.zeros(0, *opened.header.shape)


class Opened:
    """A file's data and the model that decodes it, chunk by chunk. Arguments and errors are those of `decode`."""

    def __init__(self, model: VLAE, data: bytes, *, limit: int = MOST_VALUES, where: str = "file") -> None:
        check_model(model)
        self.model, self.file, self.where = model, File(data, where), where
        self.header = header = self.file.header
        shape = (model.likelihood.channels, *model.decoder.image_size)
        if header.shape != shape or header.emit != model.likelihood.emit:
            rule = f"images must be {shape} of {model.likelihood.emit}, as the model's are"
            raise FileError(f"{where}: {rule}, got {header.shape} of {header.emit}")
        values = header.images * shape[0] * shape[1] * shape[2]
        if values > limit:
            raise FileError(f"{where}: images must have at most limit = {limit:,} values, got {values:,}")
        if header.isa not in cpu.isas():
            rule = f"the instruction set must be one of this machine's, {', '.join(cpu.isas())}"
            raise ValueError(f"codec.decode: {where}: {rule}, got {header.isa}")
        with evaluating(model):
            self.pixels = Pixels(model, header.isa)
            own = fingerprint(model, self.pixels.sampler.plan)
        if own != header.fingerprint:
            rule = f"the model must be the one of the file, {header.fingerprint.hex()}"
            raise FileError(f"{where}: {rule}, got {own.hex()}")
        if header.mode == "mean":
            self.tables = codes.read(header.settings, model.latent_dim, where)
        else:
            self.latent = Latent(model, header.isa, _precision(header.settings, where))

    @torch.no_grad()
    def chunk(self, i: int) -> Tensor:
        """The images of chunk i."""
        if not 0 <= i < self.header.n_chunks:
            raise ValueError(f"codec.decode: chunks must be from 0 to {self.header.n_chunks - 1}, got {i}")
        n, payload = len(self.header.rows_of(i)), self.file.payload(i)
        try:
            with evaluating(self.model):
                images = self._mean_code(payload, n) if self.header.mode == "mean" else self._chain(payload, n)
        except FileError as error:
            raise self.file.fail(i, str(error)) from None
        found, expected = crc_of(images, self.header.emit.levels), self.file.table[i][2]
        if found != expected:
            rule = f"CRC of its images must be {expected:08x}, got {found:08x}"
            raise self.file.fail(i, f"{rule}: this machine computes other bits than the one that wrote it")
        return images

    def _mean_code(self, payload: bytes, n: int) -> Tensor:
        own = Stack(stack.from_bytes(payload))
        z = codes.z_of(codes.pop(own, n, self.tables), self.tables)
        return self.pixels.pop(own, n, z if self.model.latent_dim else None)

    def _chain(self, payload: bytes, n: int) -> Tensor:
        return chain.pop(payload, n, self.pixels, self.latent)


def _precision(settings: bytes, where: str) -> int:
    """Bits behind the point of a code of bits back."""
    if len(settings) != 1 or settings[0] > _MOST_PRECISION:
        raise FileError(f"{where}: the precision must be a byte up to {_MOST_PRECISION}, got {settings[:4].hex()!r}")
    return settings[0]


def crc_of(images: Tensor, levels: int) -> int:
    """CRC-32 of the levels of images, two bytes each."""
    return zlib.crc32(levels_of(images, levels).numpy().astype("<u2").tobytes())


def check_model(model: VLAE) -> None:
    """Raises ValueError unless the codec has a way for a model of this kind."""
    emit = model.likelihood.emit
    if emit.kind not in LIKELIHOODS or not emit.levels:
        rule = f"likelihood must be one of levels ({', '.join(LIKELIHOODS)})"
        raise ValueError(f"codec: {rule}, got {emit.kind} of {emit.levels} levels")
    if not model.decoder.autoregressive:
        raise ValueError(
            "codec: decoder must draw a pixel after the other, got one whose pixels are independent given z"
        )
    if model.n_classes:
        raise ValueError(f"codec: model must have no labels, got one of {model.n_classes} classes")
    weight = next(model.decoder.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"codec: model must be on the CPU in float32, got {weight.device} {weight.dtype}")
    if why := cpu.why_not():
        raise RuntimeError(f"codec: the backend cpu must be there, for its bits do not depend on the batch: {why}")


def _check_images(model: VLAE, x: Tensor) -> None:
    shape = (model.likelihood.channels, *model.decoder.image_size)
    if x.dim() != 4 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"codec.encode: x must be [B, {', '.join(map(str, shape))}], got {list(x.shape)}")
    if x.dtype != torch.float32:
        raise TypeError(f"codec.encode: x must be float32, got {x.dtype}")
    model.likelihood.check(x)


def _per_chunk(asked: int | None, pixels: Pixels, mode: str) -> int:
    channels, height, width = pixels.shape
    each = pixels.emit.params(channels) * height * width
    if asked is None:
        most = _NUMBERS_OF_CHUNK if mode == "mean" else MOST_NUMBERS
        return max(1, min(PER_CHUNK[mode], most // each))
    if not 1 <= asked <= MOST_IN_CHUNK:
        raise ValueError(f"codec.encode: per_chunk must be from 1 to {MOST_IN_CHUNK:,}, got {asked}")
    return asked
