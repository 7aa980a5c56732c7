"""A cached sampler for a decoder that was written for another sampler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...sampling.emit import emit_of
from ...sampling.program import Program
from ...sampling.sampler import PixelCNNSampler
from ..probe import ProbeError, without_hooks
from .operations import BATCH
from .trace import write_program

LAYOUTS = ("BCKHW", "BKCHW")  # of the outputs, C channels of K levels


class ForeignDecoder:
    """Any module ``decoder(x)`` or ``decoder(x, z)`` as what `PixelCNNSampler` and `naive_sample` ask for.

    Arguments as in `fast_sampler`.
    """

    def __init__(
        self,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        likelihood: Any = None,
        layout: str | None = None,
    ) -> None:
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"fast_sampler: image_shape must be (C, H, W), all positive, got {tuple(image_shape)}")
        if latent_dim < 0:
            raise ValueError(f"fast_sampler: latent_dim must be 0 or more, got {latent_dim}")
        if next(decoder.parameters(), None) is None:
            raise ValueError(f"fast_sampler: decoder must have parameters, got {type(decoder).__name__} with none")
        if likelihood is not None and not hasattr(likelihood, "emit"):
            rule = "likelihood must be one of vlae_fast.models.make_likelihood, or None"
            raise ValueError(f"fast_sampler: {rule}, got {likelihood!r}")
        _check_layout(layout, image_shape[0], likelihood)
        self.decoder, self.likelihood, self.latent_dim = decoder, likelihood, latent_dim
        self.order: list[int] | None = None  # of the decoder's outputs, where they are not in that of its likelihood
        if layout == "BKCHW":
            self.order = torch.arange(likelihood.params).view(-1, image_shape[0]).T.flatten().tolist()
        self.code_map: nn.Module | None = None  # of z, known when it is traced
        self.input_dim, self.image_size = image_shape[0], (image_shape[1], image_shape[2])

    def __call__(self, x: Tensor, z: Tensor | None) -> Tensor:
        with _evaluating(self.decoder), torch.no_grad():
            params: Tensor = self.decoder(*(t for t in (x, z) if t is not None))
        return params if self.order is None else params[:, self.order]

    def check_z(self, z: Tensor | None) -> None:
        """Raises ValueError unless z is ``[B, latent_dim]``, or None where that is 0."""
        if (z is not None) != bool(self.latent_dim) or (z is not None and z.shape[1:] != (self.latent_dim,)):
            rule = f"[B, {self.latent_dim}]" if self.latent_dim else "None"
            raise ValueError(f"fast_sampler: z must be {rule}, got {None if z is None else tuple(z.shape)}")

    def write_program(self, program: Program) -> None:
        """Appends what a trace of the decoder finds; raises ValueError as `fast_sampler` does."""
        like = next(self.decoder.parameters())
        inputs = [like.new_zeros(BATCH, self.input_dim, *self.image_size)]
        if self.latent_dim:
            inputs.append(like.new_zeros(BATCH, self.latent_dim))
        try:
            copied = without_hooks(self.decoder)
        except ProbeError as reason:
            raise ValueError(
                f"fast_sampler: decoder must be one that can be copied, got one where {reason}"
            ) from reason
        self.code_map = write_program(copied.eval(), program, inputs, emit_of(self).levels)
        expected = getattr(self.likelihood, "params", emit_of(self).params(self.input_dim))
        if (got := program.channels(len(program.stages))) != expected:
            rule = f"as many channels as the parameters of its likelihood, {expected}"
            raise ValueError(f"fast_sampler: decoder must put out {rule}, got {got}")
        if self.order is not None or program.stages[-1].activation != "none":  # a pixel is drawn from a plain sum
            program.reorder(self.order or range(expected))


def _check_layout(layout: str | None, channels: int, likelihood: Any) -> None:
    """Raises ValueError where the outputs could be read in two ways, and draws of one would be silently wrong."""
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"fast_sampler: layout must be one of {', '.join(LAYOUTS)}, or None, got {layout!r}")
    two_ways = channels > 1 and likelihood is not None and likelihood.emit.kind == "categorical"
    if layout is None and two_ways:
        rule = (
            "layout must be given for levels of more than one channel: BCKHW (the K levels of a channel side by side)"
        )
        raise ValueError(f"fast_sampler: {rule} or BKCHW (as F.cross_entropy takes them), got None")
    if layout is not None and not two_ways:
        raise ValueError(f"fast_sampler: layout is for levels of more than one channel, got {layout!r}")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every part's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def fast_sampler(
    decoder: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    latent_dim: int = 0,
    likelihood: Any = None,
    layout: str | None = None,
    backend: str = "auto",
    isa: str | None = None,
) -> PixelCNNSampler:
    """A cached wavefront sampler of anyone's PixelCNN decoder, with its current weights.

    Its forward is traced by torch.fx in evaluation mode, and what it does to x and z becomes a program: masked
    convolutions of any kind (padded and cropped ones too), 1x1 convolutions, sums, concatenations, tanh * sigmoid,
    ReLU, LeakyReLU, ELU, batch normalisation; z may enter through any network. What is looked up by a pixel's level
    (`nn.Embedding`, `torch.nn.functional.one_hot`, thresholds) is read off at every level of the likelihood, however it
    is written, where images have one channel and at most 1,024 levels. The program is checked against that forward.

    Not features scaled by z (FiLM: ``gamma(z) * h``; a program's weights are those of the whole batch), other products
    such as ``a * sigmoid(b)``, attention, nor decoders whose channels of a pixel see each other (masks that let G see
    R: the channels of a pixel are drawn at once). Each ends in an error that says what it is, and where.

    Args:
        decoder: a module ``decoder(x [B, C, H, W])``, or ``decoder(x, z [B, D])``, that returns the parameters
            ``[B, P, H, W]`` of its likelihood in the layout of `vlae_fast.plan.Emit`.
        image_shape: (C, H, W).
        latent_dim: D, 0: no z.
        likelihood: of `vlae_fast.models.make_likelihood`; None: Bernoulli pixels, P = C.
        layout: of the P = C K outputs of a categorical likelihood with more than one channel, where it must be given:
            ``BCKHW``, the K levels of a channel side by side, or ``BKCHW``, as `torch.nn.functional.cross_entropy`
            takes them once they are viewed so.
        backend: ``auto`` or a name of `vlae_fast.backends.report`. isa: as in `PixelCNNSampler`.

    Raises:
        ValueError: the decoder cannot be traced, or does something that a program cannot express: says what and where.
        RuntimeError: the named backend cannot run this; says why.

    >>> from vlae_fast import MaskedConv2d
    >>> decoder = nn.Sequential(MaskedConv2d("A", 1, 8, 7), nn.ReLU(), nn.Conv2d(8, 1, 1))
    >>> fast_sampler(decoder, (1, 28, 28)).sample(None).shape
    torch.Size([1, 1, 28, 28])
    """
    traced = ForeignDecoder(decoder, image_shape, latent_dim, likelihood, layout)
    return PixelCNNSampler(traced, backend, isa=isa)
