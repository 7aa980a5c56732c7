"""Images to the bytes of a file and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from ..backends import cpu
from ..models.mode import evaluating
from ..models.vlae import VLAE
from . import chain, codes, lossy, stack
from .bits_back import Latent, precision_of
from .container import LIKELIHOODS, MODES, MOST_IN_CHUNK, MOST_NUMBERS, Chunk, File, FileError, Header, write
from .fingerprint import fingerprint
from .pixels import Pixels, levels_of
from .portable import PORTABLE, plain
from .stack import Stack

PER_CHUNK = {"mean": 256, "bits_back": 4096, "lossy": 256}  # images, unless their parameters take too much memory
LOSSLESS = ("mean", "bits_back")
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
    portable: bool = False,
    share: float = codes.SHARE,
    bits: float | None = None,
) -> bytes:
    """The bytes of a file from which `decode` gives x again: every pixel of it, unless the mode is ``lossy``.

    Args:
        model: with an autoregressive decoder, on the CPU, in float32.
        x: ``[B, C, H, W]``, float32, levels ``k / (levels - 1)`` of the model's likelihood.
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
        ValueError: x has another shape or values that are no levels, the model is of another kind, isa is none of
            this machine's, or an argument is of another mode.
        TypeError: x is not float32.
    """
    check_model(model)
    _check_images(model, x)
    if not 0 < share < 1e3:
        raise ValueError(f"codec.encode: share must be above 0 and below 1,000, got {share}")
    if mode not in MODES:
        raise ValueError(f"codec.encode: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if bits is not None and not (mode == "lossy" and 0 < bits < float("inf")):
        raise ValueError(f"codec.encode: bits must be above 0, and of mode lossy, got {bits} of mode {mode}")
    if portable and mode not in LOSSLESS:
        raise ValueError(f"codec.encode: portable must be of mode {' or '.join(LOSSLESS)}, got {mode!r}")
    if portable and isa is not None:
        raise ValueError(f"codec.encode: isa must be None where portable is set, got {isa!r}")
    own = plain(model) if portable else model
    with evaluating(own):
        pixels = Pixels(own, PORTABLE if portable else isa)
        per_chunk = _per_chunk(per_chunk, pixels, mode)
        parts = x.split(per_chunk) if len(x) else ()
        if mode == "mean":
            settings, payloads = _mean_code(own, x, pixels, per_chunk, share)
        elif mode == "bits_back":
            latent = Latent(own, pixels.isa)
            settings, payloads = bytes([precision_of(own)]), [chain.push(part, pixels, latent) for part in parts]
        if mode == "lossy":
            settings, payloads, crcs = lossy.encode(own, x, pixels.isa, per_chunk, share, bits)
        else:
            crcs = [crc_of(part, pixels.emit.levels) for part in parts]
    of_model = fingerprint(model, pixels.sampler.plan)
    header = Header(mode, pixels.isa, of_model, pixels.emit, pixels.shape, len(x), per_chunk, settings)
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
    pixels: str | None = None,
) -> Tensor:
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

    Raises:
        FileError: the file is damaged, truncated, of another release or another model, or larger than the limit.
        ValueError: the file's instruction set is not one of this machine's; there is no such chunk; pixels is given
            for a lossless file.
    """
    opened = Opened(model, data, limit=limit, where=where, pixels=pixels)
    wanted = range(opened.header.n_chunks) if chunks is None else list(chunks)
    images = [opened.chunk(i) for i in wanted]
    return torch.cat(images) if images else torch.zeros(0, *opened.header.shape)


class Opened:
    """A file's data and the model that decodes it, chunk by chunk. Arguments and errors are those of `decode`."""

    def __init__(
        self, model: VLAE, data: bytes, *, limit: int = MOST_VALUES, where: str = "file", pixels: str | None = None
    ) -> None:
        check_model(model)
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
        if header.isa == PORTABLE and header.mode not in LOSSLESS:
            raise FileError(f"{where}: a portable file must be of a lossless mode, got mode {header.mode}")
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
        if header.mode == "mean":
            self.tables = codes.read(header.settings, model.latent_dim, where)
        elif header.mode == "lossy":
            steps = lossy.read_steps(header.settings, model.latent_dim, where)
            self.code = lossy.Code(model, header.isa, steps)
        else:
            self.latent = Latent(self.model, header.isa, _precision(header.settings, where))

    @torch.no_grad()
    def chunk(self, i: int) -> Tensor:
        """The images of chunk i."""
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
            return lossy.images_of(self.pixels.sampler, found, rows.start, self.way, self.pixels.shape)
        return found

    def crc_of(self, decoded: Tensor) -> int:
        """CRC-32 of what a chunk's bytes are: images, or lossy codes."""
        return lossy.crc_of(decoded) if self.header.mode == "lossy" else crc_of(decoded, self.header.emit.levels)

    def _mean_code(self, payload: bytes, n: int) -> Tensor:
        own = Stack(stack.from_bytes(payload))
        z = codes.z_of(codes.pop(own, n, self.tables), self.tables)
        return self.pixels.pop(own, n, z if self.model.latent_dim else None)

    def _lossy_code(self, payload: bytes, n: int) -> Tensor:
        return self.code.pop(payload, n)

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
        raise ValueError(f"codec: n_classes must be 0, for a file has no labels of its images, got {model.n_classes}")
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
        most = MOST_NUMBERS if mode == "bits_back" else _NUMBERS_OF_CHUNK
        return max(1, min(PER_CHUNK[mode], most // each))
    if not 1 <= asked <= MOST_IN_CHUNK:
        raise ValueError(f"codec.encode: per_chunk must be from 1 to {MOST_IN_CHUNK:,}, got {asked}")
    return asked
