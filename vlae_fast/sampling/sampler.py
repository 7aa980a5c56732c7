"""Drawing images from a decoder with every activation computed exactly once."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..arguments import check_tensor, whole
from ..ops import PixelCNNRun, pixelcnn_sample
from .emit import Known, Samples, expand_known, make_noise
from .known import warn_unless_fits
from .packed import PackedDecoder
from .score import check_scored, score
from .steps import Run


class PixelCNNSampler(PackedDecoder):
    """Cached wavefront sampler of a decoder's weights, as they are now; `refresh` takes them anew.

    Args:
        decoder: `PixelCNNDecoder`, or a module of the same parts built of layers that a program can express.
        backend: ``auto`` or a name of `vlae_fast.backends.report`; chosen once, see ``.backend``.
        order: ``wavefront`` draws every pixel whose dependencies are known in one step; ``raster`` one pixel a
            step. The images are the same.
        isa: instruction set of the backend ``cpu``, one of those that `vlae_fast.backends.report` names; None: the
            best one of this machine. Logits have the same bits on one set only: store ``.isa`` with what must be
            decoded later, elsewhere.
        dtype: in which weights and activations are held; None: the weights' own. With ``torch.bfloat16`` a float32
            decoder takes 0.6 of the time from a batch of 16 on, where the CPU multiplies bfloat16 (``.isa`` is
            ``avx512_bf16``), and more on other CPUs; its logits are off by roundings of 8 bits. Sums, biases,
            activation functions, logits, draws, and z, noise and images stay float32: `docs/precision.md`.

    ``.steps`` is the number of steps an image takes, ``.plan`` what a backend is told, ``.isa`` the instruction
    set, None where the backend has no choice.

    Raises:
        ValueError: a layer cannot be expressed (named by its path), a weight is not finite, ``decoder.forward`` does
            something else than its parts in turn, the instruction set is none of the backend's on this machine, or
            dtype is none of the weights' own and narrower ones.
        RuntimeError: the named backend cannot run this; says why.
    """

    def __repr__(self) -> str:
        shape = "x".join(map(str, (self.program.image_channels, *self._size)))
        return f"PixelCNNSampler({shape}, backend={self.backend!r}, steps={self.steps})"

    @overload
    def sample(
        self,
        z: Any,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
        *,
        return_log_prob: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def sample(
        self,
        z: Any,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
        *,
        return_log_prob: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...
    def sample(
        self,
        z: Any,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
        *,
        return_log_prob: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
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
            return_log_prob: gives (images, log_prob ``[B]``) in nats, of the same pass: of the distribution that is
                drawn from, temperature included. Pixels that are drawn count, known ones do not.

        Raises:
            ValueError, TypeError: an argument breaks a rule above.

        Warns:
            UserWarning: a known pixel depends, by the decoder's taps, on an unknown one before it.
        """
        drawn = self.propose(z, noise, generator, known, temperature)
        shape, emit = drawn.images.shape, self.plan.emit
        warn_unless_fits("PixelCNNSampler", known, shape, emit, self.offsets_seen, in_turn=self.in_turn)
        if not return_log_prob:
            return drawn.images
        return drawn.images, score(drawn, emit, temperature, None if known is None else ~known[0].expand(shape))

    def sample_with_logits(
        self,
        z: Any,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Samples:
        """As `sample`, with the logits: the same bits whatever the batch, the number of threads or the order."""
        drawn = self.propose(z, noise, generator, known, temperature)
        shape, emit = drawn.images.shape, self.plan.emit
        warn_unless_fits("PixelCNNSampler", known, shape, emit, self.offsets_seen, in_turn=self.in_turn)
        return drawn

    @torch.no_grad()
    def log_prob(self, x: Tensor, z: Any = None, temperature: float = 1.0) -> Tensor:
        """``log p(x | z)`` in nats, ``[B]``, of images ``[B, C, H, W]``, by one pass over whole images.

        It is that of the distribution that `sample` draws from at this temperature, by the same logits. Not
        differentiable: `VLAE.loss_terms` is. z and temperature: as in `sample`.

        Raises:
            ValueError, TypeError: a value of x is no level of the likelihood; an argument breaks a rule above.
        """
        shape = (self.plan.image_channels, *self._size)
        check_scored("PixelCNNSampler.log_prob", x, self.plan.emit, shape, self._dtype, temperature)
        return score(Samples(x, self.params_of(x, z)), self.plan.emit, temperature)

    @torch.no_grad()
    def start(self, z: Any = None, batch: int | None = None) -> Run:
        """A run in steps: whoever iterates over it sees the parameters of each wave and says what its pixels are.

        Args:
            z: as in `sample`. batch: B, where z does not say it; None: 1.

        The parameters have the bits that `sample` draws from, given the same pixels. Steps of the backends cpu and
        torch compute each activation once, those of the reference take a pass each, the others a pass of `sample` each.

        >>> from vlae_fast import PixelCNNDecoder
        >>> sampler = PixelCNNSampler(PixelCNNDecoder(1, 0, 8, 1, image_size=(6, 5)))
        >>> with sampler.start(batch=2) as run:
        ...     for step in run:
        ...         step.put(step.params > 0)  # the likelier value
        >>> run.images.shape
        torch.Size([2, 1, 6, 5])
        """
        self._check_z(z)
        rows = self._rows(z)
        batch = None if batch is None else whole("PixelCNNSampler.start", "batch", batch)
        if batch is not None and (batch < 0 or rows not in (None, batch)):
            rule = "not be negative" if rows is None else f"be None or the rows of z, {rows}"
            raise ValueError(f"PixelCNNSampler.start: batch must {rule}, got {batch}")
        batch = rows if rows is not None else 1 if batch is None else batch
        like = torch.empty((), dtype=self._dtype, device=self._device)
        with torch.autocast(self._device.type, enabled=False):
            context = self._context(z, batch)
            inner = PixelCNNRun(self._packed, self.plan, context, batch, self._size, like, self.backend, self._memory)
        at = self._refreshes
        return Run(inner, lambda: self._refreshes == at)

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
            like = torch.empty((), dtype=self._dtype, device=self._device)
            noise = make_noise(emit, batch, (channels, *self._size), like, generator)
        else:
            check_tensor("PixelCNNSampler", "noise", noise)
        if noise.shape[-3:] != shape[1:] or noise.dim() != 4 or (rows is not None and noise.shape[0] != rows):
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
