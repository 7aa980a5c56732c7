"""Drawing images from a decoder: one forward pass per pixel, or every activation computed exactly once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import backends, reference
from ..layers.conv import without_expansion
from ..ops import pixelcnn_pack, pixelcnn_sample
from ..ops.pixelcnn_sample import Plan
from .schedule import derive
from .stages import build_program


class PixelCNNSampler:
    """Cached wavefront sampler of a decoder's current weights; they are packed once, here.

    Args:
        decoder: `PixelCNNDecoder`, or a module of the same three parts built of layers that a program can express.
        backend: ``auto`` or a name of `vlae_fast.backends.report`; chosen once, see ``.backend``.
        order: ``wavefront`` draws every pixel whose dependencies are known in one step; ``raster`` one pixel a
            step. The images are the same.

    ``.steps`` is the number of steps an image takes.

    Raises:
        ValueError: a layer cannot be expressed (named by its path), or a weight is not finite.
        RuntimeError: see `backends.pick`.
    """

    def __init__(self, decoder: nn.Module, backend: str = "auto", *, order: str = "wavefront") -> None:
        self.decoder = decoder
        self._program = build_program(decoder)
        self._size = (int(decoder.image_size[0]), int(decoder.image_size[1]))  # type: ignore[index]
        self._schedule = derive(self._program.stages, self._size, order=order)
        self._plan = Plan(
            self._program.image_channels, self._schedule.slope, tuple(self._program.stages), self._schedule.leads
        )
        self._sees_z = any(stage.context_dim for stage in self._plan.stages)  # false without a gated layer
        self.steps = self._schedule.steps
        self.backend = backends.pick("pixelcnn_sample", self._program.weights[0], backend).name
        self._packed = pixelcnn_pack(self._program.weights, self._plan, backend=self.backend)

    @torch.no_grad()
    def sample(
        self,
        z: Tensor | None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Images ``[B, C, H, W]`` of 0 and 1.

        Args:
            z: ``[B, D]`` or ``[B, D, H, W]``; None for a decoder without z.
            noise: uniform in [0, 1), ``[B, C, H, W]``: given the noise, the images are a function. Default: drawn from
                ``generator``.
            known: (mask, values), broadcastable to ``[B, C, H, W]``: where the boolean mask is set the pixel is given,
                and the rest of the image is drawn to fit it.
            temperature: divides the logits; below 1 the images are cleaner and less varied.

        Raises:
            ValueError: an argument breaks a rule above.
        """
        return self.sample_with_logits(z, noise, generator, known, temperature)[0]

    @torch.no_grad()
    def sample_with_logits(
        self,
        z: Tensor | None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: tuple[Tensor, Tensor] | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """As `sample`; also the logits: the same bits whatever the batch, the number of threads or the order."""
        noise = self._noise(z, noise, generator)
        mask, values = self._known(known, noise)
        return pixelcnn_sample(
            noise,
            self._packed,
            self._plan,
            self._context(z) if z is not None and self._sees_z else None,
            mask,
            values,
            temperature=temperature,
            backend=self.backend,
        )

    def _context(self, z: Tensor) -> Tensor:
        """What the gated layers see: z, or the map that the decoder spreads it to."""
        if getattr(self.decoder, "code_map", None) is None or z.dim() == 4:
            return without_expansion(z)
        if z.shape[0] == 0:
            return z.new_empty((0, int(self.decoder.z_channels)))  # type: ignore[arg-type]
        # image by image, each in memory of its own: the bits of PyTorch's products depend on batch and alignment
        return torch.cat([self.decoder.spread(row.clone()) for row in z.split(1)])  # type: ignore[operator]

    def _noise(self, z: Tensor | None, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
        if hasattr(self.decoder, "check_z"):
            self.decoder.check_z(z)  # type: ignore[operator]
        weight = self._program.weights[0]
        if z is not None and not torch.isfinite(z).all():
            raise ValueError("PixelCNNSampler: z must be finite, got nan or inf")
        if noise is None:
            batch = 1 if z is None else z.shape[0]
            shape = (batch, self._program.image_channels, *self._size)
            return torch.rand(shape, dtype=weight.dtype, device=weight.device, generator=generator)
        batch = noise.shape[0] if z is None else z.shape[0]
        shape = (batch, self._program.image_channels, *self._size)
        if tuple(noise.shape) != shape:
            raise ValueError(f"PixelCNNSampler: noise must be {list(shape)}, got {list(noise.shape)}")
        return noise

    @staticmethod
    def _known(known: tuple[Tensor, Tensor] | None, noise: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if known is None:
            return None, None
        mask, values = known
        try:
            mask, values = mask.expand_as(noise).contiguous(), values.to(noise.dtype).expand_as(noise).contiguous()
        except RuntimeError:
            shapes = (tuple(mask.shape), tuple(values.shape))
            raise ValueError(
                f"PixelCNNSampler: known must be (mask, values) that broadcast to {tuple(noise.shape)}, got {shapes}"
            ) from None
        if mask.dtype != torch.bool:
            raise ValueError(f"PixelCNNSampler: known must have a boolean mask, got {mask.dtype}")
        if not ((values == 0) | (values == 1) | ~mask).all():
            raise ValueError("PixelCNNSampler: known must have values 0 or 1 where the mask is set, got others")
        return mask, values


@torch.no_grad()
def naive_sample(
    decoder: nn.Module,
    z: Tensor | None,
    noise: Tensor,
    known: tuple[Tensor, Tensor] | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The specification of sampling: one full forward pass of the decoder per pixel.

    Arguments as of `PixelCNNSampler.sample`.
    """
    return naive_sample_with_logits(decoder, z, noise, known, temperature)[0]


@torch.no_grad()
def naive_sample_with_logits(
    decoder: nn.Module,
    z: Tensor | None,
    noise: Tensor,
    known: tuple[Tensor, Tensor] | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """As `naive_sample`; also the logits the pixels were drawn from."""
    mask, values = PixelCNNSampler._known(known, noise)
    return reference.naive_sample(lambda image: decoder(image, z), noise, mask, values, temperature)
