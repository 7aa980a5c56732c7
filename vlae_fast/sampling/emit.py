"""From a decoder's output to pixels: the emit, its parameters and noise, what is known; the program of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_generator, check_kind, check_tensor
from ..plan import BERNOULLI, EMITS, Emit, Source
from .program import Decoder, Program, build_program

Known = tuple[Tensor, Tensor]


class Samples(NamedTuple):
    """Images ``[B, C, H, W]`` and the parameters ``[B, P, H, W]`` they were drawn from (logits of Bernoulli pixels)."""

    images: Tensor
    logits: Tensor


def emit_of(decoder: Decoder) -> Emit:
    """How a decoder's output is drawn from: by its likelihood, Bernoulli pixels where it names none."""
    likelihood = getattr(decoder, "likelihood", None)
    return BERNOULLI if likelihood is None else likelihood.emit


def emit_params(decoder: Decoder, params: Tensor) -> Tensor:
    """Parameters ``[B, P, H, W]`` to draw pixels from: a decoder's output, unless its likelihood has a head."""
    likelihood = likelihood_with_head(decoder)
    return params if likelihood is None else likelihood.head(params)


def likelihood_with_head(decoder: Decoder) -> Any:
    """A decoder's likelihood where it turns parameters into others: by ``head``; ``write_head`` adds its stages."""
    likelihood = getattr(decoder, "likelihood", None)
    return likelihood if hasattr(likelihood, "write_head") else None


def emit_of_plan(decoder: Decoder) -> Emit:
    """The emit of a decoder whose pixels are drawn one after the other; ValueError where no plan has it."""
    emit = emit_of(decoder)
    if emit.kind not in EMITS:
        rule = f"a likelihood whose pixels every backend draws one after the other ({', '.join(EMITS)})"
        raise ValueError(f"PixelCNNSampler: decoder must have {rule}, got {emit.kind}")
    return emit


def expand_known(
    op: str, known: Known | None, noise: Tensor, channels: int, emit: Emit
) -> tuple[Tensor | None, Tensor | None]:
    """Mask and values ``[B, C, H, W]`` of what is known, or ValueError in the name of ``op``."""
    if known is None:
        return None, None
    check_kind(op, "known", known, (tuple, list), "(mask, values)")
    if len(known) != 2:
        raise ValueError(f"{op}: known must be (mask, values), got {len(known)} entries")
    mask, values = known
    for name, part in (("mask", mask), ("values", values)):
        check_tensor(op, f"the {name} of known", part)
    shape = (noise.shape[0], channels, *noise.shape[2:])
    try:
        mask, values = mask.expand(shape), values.to(noise.dtype).expand(shape)
    except RuntimeError:
        shapes = (tuple(mask.shape), tuple(values.shape))
        raise ValueError(f"{op}: known must be (mask, values) that broadcast to {shape}, got {shapes}") from None
    if mask.dtype != torch.bool:
        raise ValueError(f"{op}: known must have a boolean mask, got {mask.dtype}")
    off = mask & ~emit.holds(values)
    if off.any():
        value = values[off][0].item()
        raise ValueError(f"{op}: known must have values {emit.rule} where the mask is set, got {value:g}")
    return mask, values


def make_noise(
    emit: Emit, batch: int, image_shape: tuple[int, int, int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Noise ``[B, n, H, W]`` of the kind that an emit takes: standard normal (affine), else uniform in [0, 1).

    batch: B. image_shape: (C, H, W). like: a tensor of the dtype and the device of the noise.
    """
    check_generator("PixelCNNSampler", generator)
    draw = torch.randn if emit.noise_is_normal else torch.rand
    channels, height, width = image_shape
    shape = (batch, emit.noises(channels), height, width)
    return draw(shape, dtype=like.dtype, device=like.device, generator=generator)


def write_program(decoder: Decoder) -> Program:
    """The program of a decoder's current weights and of its likelihood's head; each source has a tap."""
    program = build_program(decoder)
    if (likelihood := likelihood_with_head(decoder)) is not None:
        likelihood.write_head(program)
    at = 0
    for s, stage in enumerate(program.stages):
        far = (Source(0, ((-int(decoder.image_size[0]), 0),)),)  # lands in no image
        for i, source in enumerate(stage.sources):
            if not source.taps:  # a kernel of size 1 of type A, all dead
                channels = (program.weights[at + i].shape[0], program.image_channels, 1)
                program.weights[at + i] = program.weights[at + i].new_zeros(channels)
                stage = stage._replace(sources=(*stage.sources[:i], *far, *stage.sources[i + 1 :]))
        program.stages[s], at = stage, at + stage.n_weights
    return program


def random_images(shape: Sequence[int], levels: int, generator: torch.Generator) -> Tensor:
    """Images of so many levels at random, float32 on the CPU; 0: of any number in [0, 1)."""
    x = torch.rand(tuple(shape), generator=generator, device="cpu")
    return (x * (levels - 1)).round() / (levels - 1) if levels else x
