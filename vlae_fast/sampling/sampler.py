"""Drawing images from a decoder: one forward pass per pixel, or every activation computed exactly once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backends, reference
from ..backends import cpu
from ..layers.conv import is_expanded, without_expansion
from ..masks import Offset
from ..ops import pixelcnn_pack, pixelcnn_sample
from ..ops.pixelcnn_sample import check_noise
from ..plan import Plan
from .agreement import largest_excess
from .emit import Known, emit_of, emit_of_plan, emit_params, expand_known, likelihood_with_head, make_noise
from .fixed_order import Spread
from .known import warn_unless_fits
from .levels import in_turn
from .program import Decoder, build_program
from .schedule import derive
from .window import offsets_seen


class Samples(NamedTuple):
    """Images ``[B, C, H, W]`` and the parameters ``[B, P, H, W]`` they were drawn from (logits of Bernoulli pixels)."""

    images: Tensor
    logits: Tensor


class PixelCNNSampler:
    """Cached wavefront sampler of a decoder's current weights; they are packed once, here.

    Args:
        decoder: `PixelCNNDecoder`, or a module of the same parts built of layers that a program can express.
        backend: ``auto`` or a name of `vlae_fast.backends.report`; chosen once, see ``.backend``.
        order: ``wavefront`` draws every pixel whose dependencies are known in one step; ``raster`` one pixel a
            step. The images are the same.
        isa: instruction set of the backend ``cpu``, one of those that `vlae_fast.backends.report` names; None: the
            best one of this machine. Logits have the same bits on one set only: store ``.isa`` with what must be
            decoded later, elsewhere.

    ``.steps`` is the number of steps an image takes, ``.plan`` what a backend is told, ``.isa`` the instruction
    set, None where the backend has no choice.

    Raises:
        ValueError: a layer cannot be expressed (named by its path), a weight is not finite, ``decoder.forward`` does
            something else than its parts in turn, or the instruction set is none of the backend's on this machine.
        RuntimeError: the named backend cannot run this; says why.
    """

    def __init__(
        self, decoder: Decoder, backend: str = "auto", *, order: str = "wavefront", isa: str | None = None
    ) -> None:
        self.decoder = decoder
        self.program = build_program(decoder)
        emit = emit_of_plan(decoder)
        if (likelihood := likelihood_with_head(decoder)) is not None:
            likelihood.write_head(self.program)
        self._size = (int(decoder.image_size[0]), int(decoder.image_size[1]))
        parts = in_turn(self.program, emit, self._size)
        schedule = derive(parts.stages, self._size, order=order, draws=parts.draws)
        channels, weights = self.program.image_channels, parts.weights
        self.plan = Plan(channels, schedule.slope, parts.stages, schedule.leads, emit, parts.draws)
        self.steps = schedule.steps
        self.backend = backends.pick("pixelcnn_sample", weights[0], backend, self.plan).name
        self._dtype, self._device = weights[0].dtype, weights[0].device
        self.isa = isa_of(self.backend, isa)
        self._packed = pixelcnn_pack(weights, self.plan, backend=self.backend, isa=self.isa)
        # a copy: training goes on, and a sampler stays what it was, as the packed weights do
        code_map = getattr(decoder, "code_map", None)
        self._spread = None if code_map is None else Spread(code_map, self.backend, self.isa)
        self._check_forward()

    def __repr__(self) -> str:
        shape = "x".join(map(str, (self.program.image_channels, *self._size)))
        return f"PixelCNNSampler({shape}, backend={self.backend!r}, steps={self.steps})"

    def sample(
        self,
        z: Tensor | None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Images ``[B, C, H, W]``: 0 and 1 of Bernoulli pixels, any number of gaussian ones, else ``k / (levels - 1)``.

        Args:
            z: ``[B, D]``, expanded over the image or not, or its map ``[B, z_channels, H, W]``; ``[B, 0]`` for a
                decoder without z; None: one without z, and the batch is that of the noise, else 1.
            noise: uniform in [0, 1), standard normal of a gaussian likelihood, ``[B, n, H, W]`` with n of the decoder's
                likelihood (C for Bernoulli pixels): given the noise, the images are a function. Default: drawn from
                ``generator``.
            known: (mask, values), broadcastable to ``[B, C, H, W]``: where the boolean mask is set the pixel is given.
                Each other pixel is drawn given z and all pixels before it in raster order, known or drawn. So it fits
                the known pixels before it, and takes no account of those after it; a warning says where that
                matters. `vlae_fast.generation.complete` draws from the conditional given any mask.
            temperature: from 1e-100 to 1e100, divides the logits; below 1 the images are cleaner and less varied.

        Raises:
            ValueError, TypeError: an argument breaks a rule above.

        Warns:
            UserWarning: a known pixel depends, by the decoder's taps, on an unknown one before it.
        """
        drawn = self.propose(z, noise, generator, known, temperature)
        warn_unless_fits("PixelCNNSampler", known, drawn.images.shape, self.plan.emit, self.offsets_seen)
        return drawn.images

    def sample_with_logits(
        self,
        z: Tensor | None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Samples:
        """As `sample`, with the logits: the same bits whatever the batch, the number of threads or the order."""
        drawn = self.propose(z, noise, generator, known, temperature)
        warn_unless_fits("PixelCNNSampler", known, drawn.images.shape, self.plan.emit, self.offsets_seen)
        return drawn

    def offsets_seen(self) -> set[Offset]:
        """Offsets (dy, dx) of the pixels that a pixel's parameters depend on, by the taps of the program."""
        return offsets_seen(self.program.stages, self._size)

    @torch.no_grad()
    def propose(
        self,
        z: Tensor | None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Samples:
        """As `sample_with_logits`, without its warning: for known pixels that enter weights, as in `complete`.

        Arguments as in `PixelCNNSampler.sample`.
        """
        self._check_z(z)
        emit, channels, rows = self.plan.emit, self.plan.image_channels, self._rows(z)
        batch = 1 if rows is None else rows
        shape = (batch, emit.noises(channels), *self._size)
        if noise is None:
            noise = make_noise(emit, batch, (channels, *self._size), self.program.weights[0], generator)
        elif noise.shape[-3:] != shape[1:] or noise.dim() != 4 or (rows is not None and noise.shape[0] != rows):
            raise ValueError(f"PixelCNNSampler: noise must be {list(shape)}, got {list(noise.shape)}")
        elif noise.dtype != self._dtype:
            raise TypeError(f"PixelCNNSampler: noise must have the weights' dtype, {self._dtype}, got {noise.dtype}")
        mask, values = expand_known("PixelCNNSampler", known, noise, channels, emit)
        with torch.autocast(self._device.type, enabled=False):  # the same image inside and outside
            drawn = pixelcnn_sample(
                noise,
                self._packed,
                self.plan,
                self._context(z, noise.shape[0]),
                mask,
                values,
                temperature=temperature,
                backend=self.backend,
            )
        return Samples(*drawn)

    def _check_z(self, z: Tensor | None) -> None:
        if hasattr(self.decoder, "check_z"):
            self.decoder.check_z(z)
        if z is None:
            return
        if z.dtype != self._dtype:
            raise TypeError(f"PixelCNNSampler: z must have the weights' dtype, {self._dtype}, got {z.dtype}")
        if not torch.isfinite(z).all():
            raise ValueError("PixelCNNSampler: z must be finite, got nan or inf")

    def _rows(self, z: Any) -> int | None:
        """The batch size that z asks for, None where it asks for none."""
        return None if z is None else len(z)

    def _context(self, z: Tensor | None, rows: int) -> Tensor | None:
        """The context of the gated layers, None without such layers: z itself, or its map, the same bits always.

        rows: of the batch.
        """
        if z is None or not self.program.context_dim:
            return None
        code = z.dim() == 2 or (is_expanded(z) and z.shape[1] == getattr(self.decoder, "latent_dim", 0))
        if self._spread is None or not code:
            return without_expansion(z)
        if z.shape[0] == 0:
            return z.new_empty((0, self.program.context_dim))
        return self._spread(without_expansion(z))

    @torch.no_grad()
    def _check_forward(self) -> None:
        """Compares with the decoder once: a `forward` of its own would be sampled wrongly in silence."""
        decoder, generator = self.decoder, torch.Generator().manual_seed(0)
        emit, channels = self.plan.emit, self.plan.image_channels
        x = torch.rand((1, channels, *self._size), generator=generator, device="cpu")
        if emit.levels:
            x = (x * (emit.levels - 1)).round() / (emit.levels - 1)
        x = x.to(self._device, self._dtype)
        noise = x.new_zeros((1, emit.noises(channels), *self._size))
        z = None
        if latent_dim := getattr(decoder, "latent_dim", self.program.context_dim):
            z = torch.randn(1, latent_dim, generator=generator, device="cpu").to(self._device, self._dtype)
        stages, weights = self.program.stages, self.program.weights
        with torch.autocast(self._device.type, enabled=False):
            expected, context = emit_params(decoder, decoder(x, z)), self._context(z, 1)
            if self.backend == "reference":
                got = reference.run_plan(self.plan, self._packed, context, x)
            else:  # with every pixel given, one pass gives the logits of a whole image
                got = self.propose(z, noise, known=(torch.ones_like(x, dtype=torch.bool), x)).logits
            # convolutions on a GPU may round their inputs to 10 bits
            eps = max(torch.finfo(self._dtype).eps, 0 if self._device.type == "cpu" else 2**-10)
            own = None if context is None or self._spread is None or z is None else self._spread.network(z)
            error = largest_excess(expected, got, stages, weights, context, x, eps, own)
        if error:
            rule = "what its program computes, the same in every call"
            if not hasattr(decoder, "write_program"):
                rule = (
                    "initial_conv, decoder_layers and final_conv in turn (and in evaluation mode where it has dropout)"
                )
            raise ValueError(f"PixelCNNSampler: decoder.forward must be {rule}, got logits that differ by {error:.3g}")


def isa_of(backend: str, isa: str | None) -> str | None:
    """The instruction set of a sampler, or ValueError."""
    choices = cpu.isas() if backend == "cpu" else ()
    if isa is not None and isa not in choices:
        rule = f"one of {', '.join(choices)} on this machine" if choices else f"None for backend {backend!r}"
        raise ValueError(f"PixelCNNSampler: isa must be {rule}, got {isa!r}")
    return isa or next(iter(choices), None)


def naive_sample(
    decoder: Decoder, z: Tensor | None, noise: Tensor, known: Known | None = None, temperature: float = 1.0
) -> Tensor:
    """The specification of sampling: one full forward pass of the decoder per pixel.

    Arguments as in `PixelCNNSampler.sample`: a pixel fits the known pixels before it, and takes no account of those
    after it. The taps of a decoder are not known here, so the warning is by raster order alone.
    """
    drawn = _naive_samples(decoder, z, noise, known, temperature)
    warn_unless_fits("naive_sample", known, drawn.images.shape, emit_of(decoder), _no_window(decoder))
    return drawn.images


def naive_sample_with_logits(
    decoder: Decoder, z: Tensor | None, noise: Tensor, known: Known | None = None, temperature: float = 1.0
) -> Samples:
    """As `naive_sample`, with the logits."""
    drawn = _naive_samples(decoder, z, noise, known, temperature)
    warn_unless_fits("naive_sample", known, drawn.images.shape, emit_of(decoder), _no_window(decoder))
    return drawn


def _no_window(decoder: Decoder) -> Callable[[], Collection[Offset]] | None:
    """The offsets that `fits` is told of a decoder without a program: that it sees no pixel, or nothing."""
    return None if getattr(decoder, "autoregressive", True) else tuple


@torch.no_grad()
def _naive_samples(
    decoder: Decoder, z: Tensor | None, noise: Tensor, known: Known | None, temperature: float
) -> Samples:
    emit, channels = emit_of(decoder), decoder.input_dim
    check_noise("naive_sample", noise, channels, emit, temperature)
    mask, values = expand_known("naive_sample", known, noise, channels, emit)
    drawn = reference.naive_sample(
        lambda image: emit_params(decoder, decoder(image, z)), noise, channels, emit, mask, values, temperature
    )
    return Samples(*drawn)
