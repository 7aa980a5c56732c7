"""MADEs over images: nets that read all pixels of an image as one vector, row after row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .mades import Asked, ForeignMADESampler


class _OfVectors(nn.Module):
    """A net of images as one of vectors of pixels."""

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(x.shape[0], 1, *self.size)).reshape(x.shape)


class ForeignMADEImageSampler:
    """Draws black and white images ``[B, 1, H, W]`` from a MADE over their pixels, each hidden unit computed once.

    Args:
        net: ``x [B, 1, H, W] -> logits``, or probabilities, of as many numbers. size: (H, W). pixels: what it is given
            for 0 and 1. backend: as in `MADESampler`.

    ``.made`` is the `MADESampler` of the pixels as vectors.

    Raises:
        ValueError: as `MADESampler` of other people's MADEs does.
    """

    def __init__(self, net: nn.Module, size: tuple[int, int], pixels: tuple[float, float], backend: str) -> None:
        self._size = size
        self.made = ForeignMADESampler(_OfVectors(net, size), Asked(size[0] * size[1], pixels=pixels), backend)

    @property
    def backend(self) -> str:
        return self.made.backend

    def refresh(self) -> None:
        """Takes the weights as they are now."""
        self.made.refresh()

    def sample(
        self,
        z: None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        known: Any = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Images of 0 and 1: 1 where ``noise < sigmoid(logit / temperature)``.

        Args:
            z: None, there is no condition. noise: uniform in [0, 1), ``[B, 1, H, W]``. Default: of one image, drawn
                from ``generator``. known: None, no pixels can be given.
            temperature: divides the logits.

        Raises:
            ValueError, TypeError: an argument breaks a rule above.
        """
        for name, value in (("z", z), ("known", known)):
            if value is not None:
                got = type(value).__name__
                raise ValueError(f"fast_sampler: {name} must be None for a MADE over images, got {got}")
        height, width = self._size
        if noise is not None and noise.shape[1:] != (1, height, width):
            raise ValueError(f"fast_sampler: noise must be [B, 1, {height}, {width}], got {[*noise.shape]}")
        rows = None if noise is None else noise.flatten(1)
        drawn = self.made.sample(noise=rows, generator=generator, temperature=temperature)
        return drawn.view(len(drawn), 1, *self._size)


def sampler_of_pixels(
    decoder: nn.Module, image_shape: tuple[int, ...], pixels: Any, backend: str
) -> ForeignMADEImageSampler | None:
    """The sampler of a decoder that is a MADE over its pixels; None where it is none."""
    if image_shape[0] != 1 or isinstance(pixels, str):
        return None
    try:
        return ForeignMADEImageSampler(decoder, (image_shape[1], image_shape[2]), pixels or (0.0, 1.0), backend)
    except ValueError:
        return None
