"""Drawing images from a decoder that does not look at the image: one forward pass."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..masks import Offset
from ..ops.pixelcnn_sample import check_noise
from ..reference import pixelcnn_draw
from .emit import Known, Samples, emit_of, emit_params, expand_known, make_noise
from .known import warn_unless_fits
from .score import check_scored, score


class FactorizedSampler:
    """`PixelCNNSampler` for decoders whose pixels are independent given z (``decoder.autoregressive`` is False).

    Args:
        decoder: a module ``decoder(x, z)`` with ``input_dim``, ``image_size``, ``check_z`` and ``likelihood``, as
            `vlae_fast.models.MLPDecoder` has them; its current weights are kept.

    ``.steps`` is 1.
    """

    steps = 1

    def __init__(self, decoder: Any) -> None:
        if getattr(decoder, "autoregressive", True):
            raise ValueError(
                f"FactorizedSampler: decoder must not be autoregressive, got {type(decoder).__name__}: "
                "PixelCNNSampler draws from it"
            )
        self._source = decoder
        self.refresh()

    def refresh(self) -> None:
        """Takes the decoder as it is now, weights included."""
        self.decoder = copy.deepcopy(self._source).eval()  # training goes on, and a sampler stays what it was
        self._emit = emit_of(self.decoder)
        self._like = next(self.decoder.parameters())

    def __repr__(self) -> str:
        return f"FactorizedSampler({type(self.decoder).__name__})"

    def sample(
        self,
        z: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
        *,
        return_log_prob: bool = False,
    ) -> Any:
        """Images ``[B, C, H, W]``, or (images, log_prob ``[B]``); arguments as in `PixelCNNSampler.sample`.

        Given z, known pixels change no other pixel, so any mask is right; what they say of z, `complete` finds.

        Warns:
            UserWarning: only some channels of a pixel are known and a mixture of logistics joins them.
        """
        drawn = self.propose(z, noise, generator, known, temperature)
        warn_unless_fits("FactorizedSampler", known, drawn.images.shape, self._emit, tuple)
        if not return_log_prob:
            return drawn.images
        of = None if known is None else ~known[0].expand(drawn.images.shape)
        return drawn.images, score(drawn, self._emit, temperature, of)

    @torch.no_grad()
    def log_prob(self, x: Tensor, z: Tensor, temperature: float = 1.0) -> Tensor:
        """``log p(x | z)`` in nats, ``[B]``; arguments as in `PixelCNNSampler.log_prob`."""
        self.decoder.check_z(z)
        shape = (self.decoder.input_dim, *self.decoder.image_size)
        check_scored("FactorizedSampler.log_prob", x, self._emit, shape, self._like.dtype, temperature)
        with torch.autocast(z.device.type, enabled=False):
            params = emit_params(self.decoder, self.decoder(x, z))
        return score(Samples(x, params), self._emit, temperature)

    @property
    def in_turn(self) -> bool:
        """False: channels of a pixel are drawn at once."""
        return False

    def sample_with_logits(
        self,
        z: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Samples:
        """As `sample`, with the parameters of every pixel."""
        drawn = self.propose(z, noise, generator, known, temperature)
        warn_unless_fits("FactorizedSampler", known, drawn.images.shape, self._emit, tuple)
        return drawn

    def offsets_seen(self) -> set[Offset]:
        """None: no pixel depends on another."""
        return set()

    @torch.no_grad()
    def propose(
        self,
        z: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Samples:
        """As `sample_with_logits`, without its warning: for known pixels that enter weights, as in `complete`.

        Arguments as in `PixelCNNSampler.sample`.
        """
        self.decoder.check_z(z)
        if z.dtype != self._like.dtype:
            raise TypeError(f"FactorizedSampler: z must have the weights' dtype, {self._like.dtype}, got {z.dtype}")
        channels, size = self.decoder.input_dim, self.decoder.image_size
        shape = (z.shape[0], self._emit.noises(channels), *size)
        if noise is None:
            noise = make_noise(self._emit, z.shape[0], (channels, *size), z, generator)
        elif noise.shape != shape:
            raise ValueError(f"FactorizedSampler: noise must be {list(shape)}, got {list(noise.shape)}")
        check_noise("FactorizedSampler", noise, channels, self._emit, temperature)
        mask, values = expand_known("FactorizedSampler", known, noise, channels, self._emit)
        with torch.autocast(z.device.type, enabled=False):
            params = emit_params(self.decoder, self.decoder(z.new_zeros((z.shape[0], channels, *size)), z))
        return Samples(pixelcnn_draw.draw(params, noise, self._emit, temperature, mask, values), params)
