"""The lossy code: z alone, on a grid whose step follows what is known of z; the pixels are drawn anew.

A dimension's step is a share of the standard deviation that the posterior has there, in the variable u of `prior`. One
share for all dimensions is reverse water-filling: all lose alike, measured in what the image tells about each, and a
dimension of which the image tells nothing has one level, which costs nothing. A file has of each dimension the step, a
byte, and of each chunk the levels under the model's prior.

Source: Cover and Thomas 2006, section 10.3.3.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.vlae import VLAE
from ..plan import TEMPERATURES
from ..sampling import PixelCNNSampler
from ..sampling.numbered import numbered_noise
from .codes import Posterior, posterior_of, step_of, width_of
from .container import FileError
from .labels import Batch, Classes
from .labels import crc_of as labels_crc
from .numbers import Floats, exp
from .prior import Cells, Prior
from .stack import Stack, Symbols, from_bytes, to_bytes
from .steps import floats, walk

PIXELS = ("draw", "mean", "likeliest")  # ways to make the pixels, the default first
DRAWS = 16  # that a mean is of
_SEED = 0
_OCTAVE = 8  # steps that double a grid's width
_FINEST, _COARSEST = -3 * _OCTAVE, 6 * _OCTAVE  # shares of the posterior's standard deviation: 1/8 to 64
_MIDDLE, _MOST = 1 << 12, (1 << 12) + 128  # levels on either side of 0: of means, and all
_ASKED = 1024  # images at most by which a grid is chosen


class Code:
    """z of a model on a grid of the steps, bytes as of `codes.width_of`, by kernels of an instruction set."""

    def __init__(self, model: VLAE, isa: str, steps: Sequence[int]) -> None:
        self.steps = bytes(steps)
        widths = np.array([width_of(step) for step in steps], np.float64)
        self.prior = Prior(model, isa, Cells(widths, _MIDDLE, _MOST))

    def levels_of(self, mu: Tensor) -> Symbols:
        """The levels ``[B, D]`` whose z is near mu.

        A dimension is rounded given those before it as they are decoded, so that no error adds up over the first step.
        """
        prior, target = self.prior, mu[:, self.prior.order]
        for i, step in enumerate(prior.steps[:-2]):
            target = _forward(step, target.flip(1) if i else target)
        target = target.flip(1) if len(prior.steps) > 2 else target
        wanted, levels = target.double().numpy(), np.zeros(mu.shape, np.int32)

        def rounded(i: int, shift: Floats, factor: Floats) -> Floats:
            step = prior.cells.step[i]
            found = np.rint((wanted[:, i] - shift) / factor / step)
            levels[:, i] = np.clip(found, -_MIDDLE, _MIDDLE).astype(np.int32)
            return levels[:, i] * step

        if len(prior.steps) > 1:
            walk(prior.steps[-2], len(mu), rounded)
        else:
            for i in range(prior.dims):
                rounded(i, np.zeros(len(mu)), np.ones(len(mu)))
        return levels

    def bits(self, levels: Symbols) -> int:
        """That the levels take together, up to a word."""
        stack = Stack()
        self.prior.push(stack, levels)
        return stack.bits

    def push(self, levels: Symbols, labels: Tensor | None, classes: Classes) -> bytes:
        """The chunk of levels ``[B, D]`` and labels ``[B]``."""
        stack = Stack()
        self.prior.push(stack, levels)
        classes.push(stack, labels)
        return to_bytes(stack.words)

    def pop(self, payload: bytes, n: int, classes: Classes) -> Batch:
        """z ``[n, D]`` and labels of the bytes of a chunk."""
        stack = Stack(from_bytes(payload))
        labels = classes.pop(stack, n)
        return Batch(self.z_of(self.prior.pop(stack, n)), labels)

    def z_of(self, levels: Symbols) -> Tensor:
        """z ``[B, D]``; FileError where it is none that a grid has."""
        z = self.prior.z_of(levels)
        if not z.isfinite().all():
            raise FileError("codes must be finite: the file is damaged")
        return z


def encode(
    model: VLAE, batch: Batch, classes: Classes, isa: str, per_chunk: int, share: float, bits: float | None
) -> tuple[bytes, list[bytes], list[int]]:
    """The code's settings, and of each chunk the bytes and the CRC of its codes and labels."""
    if not model.latent_dim:
        raise ValueError("codec.encode: mode lossy must have a z to code, got a model of latent_dim 0")
    of = posterior_of(model, *batch)
    if not (of.mu.isfinite().all() and of.scale.isfinite().all()):
        raise ValueError("codec: the model must give finite codes, got nan or inf")
    code = code_for(model, isa, of, share, bits)
    payloads, crcs = [], []
    for mu, labels in Batch(of.mu, batch.labels).split(per_chunk):
        levels = code.levels_of(mu)
        payloads.append(code.push(levels, labels, classes))
        crcs.append(crc_of(Batch(code.z_of(levels), labels)))
    return code.steps, payloads, crcs


def check_way(pixels: str | None, mode: str) -> str:
    """How pixels are made; ValueError where that is no way, or there is nothing to make."""
    if pixels is not None and mode != "lossy":
        raise ValueError(f"codec.decode: pixels must be None, for this file has them all, got {pixels!r}")
    if pixels is not None and pixels not in PIXELS:
        raise ValueError(f"codec.decode: pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
    return pixels or PIXELS[0]


def code_for(model: VLAE, isa: str, of: Posterior, share: float, bits: float | None) -> Code:
    """The code of a share; where bits are given, the finest whose images take no more of them, on average.

    It is asked of at most 1,024 of the images.
    """
    scale = _scale_of_u(model, isa, of)

    def code(share: float) -> Code:
        return Code(model, isa, [step_of(share * s) for s in scale])

    if bits is None:
        return code(share)
    mu = of.mu[:: max(1, -(-len(of.mu) // _ASKED))]

    def fits(i: int) -> bool:
        made = code(2 ** (i / _OCTAVE))
        return made.bits(made.levels_of(mu)) <= bits * len(mu)

    return code(2 ** (first_that(fits, _FINEST, _COARSEST) / _OCTAVE))


def first_that(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The least whole number from low on that fits, where those above it do; high where none below it does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def _scale_of_u(model: VLAE, isa: str, of: Posterior) -> list[float]:
    """Standard deviation of u in each dimension, given an image: the root of the mean of its variances."""
    prior = Prior(model, isa, Cells(np.ones(model.latent_dim), _MIDDLE, _MOST))
    x, scale = of.mu[:, prior.order], of.scale.double().numpy()[:, prior.order]
    for i, step in enumerate(prior.steps[:-1]):
        x, scale = (x.flip(1), scale[:, ::-1]) if i else (x, scale)
        scale = scale * exp(-step(x)[1])
        x = _forward(step, x)
    return np.sqrt(np.square(scale).mean(0)).tolist() if len(scale) else [1.0] * model.latent_dim


def _forward(step: Callable[[Tensor], tuple[Floats, Floats]], x: Tensor) -> Tensor:
    shift, log_scale = step(x)
    return floats((x.double().numpy() - shift) * exp(-log_scale))


def read_steps(settings: bytes, dims: int, where: str) -> bytes:
    """The step of each dimension, of the bytes that a file has of them."""
    if len(settings) != dims:
        raise FileError(f"{where}: the code's settings must be {dims} steps, a byte each, got {len(settings):,} bytes")
    return settings


def crc_of(codes: Batch) -> int:
    """CRC-32 of codes, as float32, then of labels."""
    z, labels = codes
    return labels_crc(labels, zlib.crc32(z.numpy().astype("<f4").tobytes()))


def images_of(sampler: PixelCNNSampler, given: Tensor, first: int, pixels: str, shape: tuple[int, int, int]) -> Tensor:
    """Images ``[B, C, H, W]`` of codes ``[B, D]``, those of a file from the number `first` on.

    given: the codes, joined with one-hot labels where the model has classes. pixels: one of PIXELS. Noise is a function
    of an image's number, so that a file gives the same images each time, whatever is decoded beside them.
    """
    planes = (sampler.plan.emit.noises(shape[0]), *shape[1:])
    if pixels == "likeliest":
        return sampler.sample(given, noise=torch.full((len(given), *planes), 0.5), temperature=TEMPERATURES[0])
    total = torch.zeros(len(given), *shape)
    for stream in range(DRAWS if pixels == "mean" else 1):
        noise = numbered_noise(_SEED, first, len(given), planes, torch.float32, stream=stream)
        total += sampler.sample(given, noise=noise)
    return total / DRAWS if pixels == "mean" else total
