"""The C++ library for CPUs: loaded once, on import. Its absence is a reason to give, never an ImportError."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from ..flow_steps import step_by_step
from ..masks import live_weights
from ..plan import Plan
from .chunks import chunks_of
from .errors import run_native
from .library import library_file, load
from .memory_format import contiguous, nhwc

_LIBRARY = library_file("cpu")
_WHY_NOT = load(_LIBRARY, torch.ops.vlae_fast_cpu, "isas")


def why_not() -> str | None:
    """Why the CPU library is absent; None where it is loaded."""
    return _WHY_NOT


def isas() -> tuple[str, ...]:
    """The instruction sets that the loaded library has kernels for; empty where it is absent."""
    if _WHY_NOT is not None:
        return ()
    names: str = torch.ops.vlae_fast_cpu.isas()
    return tuple(names.split(","))


def _native(op: str, *args: Any) -> Any:
    return run_native(torch.ops.vlae_fast_cpu, op, *args)


@lru_cache(maxsize=256)
def _live(mask_type: str, weight_shape: tuple[int, ...], image_channels: int) -> tuple[tuple[int, ...], Tensor | None]:
    """Live taps as dy, dx, dy, dx, ... and the mask of the weights where some tap is alive only in part."""
    taps, mask = live_weights(mask_type, weight_shape, image_channels)
    return tuple(n for tap in taps for n in tap), mask


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Bfloat16 is storage: widened before the kernels, every sum in float32, results rounded once."""

    @wraps(function)
    def run(first: Tensor, *args: Any, **options: Any) -> Any:
        if first.dtype != torch.bfloat16:  # the library itself refuses what it does not compute in
            return function(first, *args, **options)

        def narrow(result: Any) -> Any:
            return result.to(first.dtype) if isinstance(result, Tensor) else result

        wide = [a.float() if isinstance(a, Tensor) and a.dtype == first.dtype else a for a in args]
        results = function(first.float(), *wide, **options)
        return narrow(results) if isinstance(results, Tensor) else type(results)(map(narrow, results))

    return run


def masked_conv_saves(activation: str) -> bool:
    """Whether `masked_conv_saving` keeps a tensor like its output. From that of the others the slope follows alone."""
    return activation == "gate"


@_in_float32
def masked_conv_saving(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
    *,
    save: bool = True,
    isa: str = "",
) -> tuple[Tensor, Tensor]:
    """The output, and the sigmoid of the gate: with the output it gives the slope without a second convolution."""
    taps, live = _live(mask_type, tuple(weight.shape), image_channels)
    return _native(
        "masked_conv",
        nhwc(x),
        weight.contiguous(),
        contiguous(bias),
        nhwc(cond),
        taps,
        live,
        activation,
        save and masked_conv_saves(activation),
        isa,
    )


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
    *,
    isa: str = "",
) -> Tensor:
    return masked_conv_saving(x, weight, bias, cond, mask_type, image_channels, activation, save=False, isa=isa)[0]


def convolution(x: Tensor, weight: Tensor, isa: str = "") -> Tensor:
    """The convolution of x by a weight ``[P, C, k, k]`` with k odd, all of it alive, and a padding of ``k // 2``."""
    side = weight.shape[2]
    taps = [n for place in range(side * side) for n in (place // side - side // 2, place % side - side // 2)]
    given = (nhwc(x), weight.contiguous(), None, None, taps, None, "none", False, isa)
    return _native("masked_conv", *given)[0]


@_in_float32
def masked_conv_backward(
    grad: Tensor,
    out: Tensor | None,
    saved: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
    needs: Sequence[bool],
    *,
    isa: str = "",
) -> list[Tensor | None]:
    taps, live = _live(mask_type, tuple(weight.shape), image_channels)
    grads = iter(
        _native(
            "masked_conv_backward",
            nhwc(grad),
            nhwc(out),
            nhwc(saved) if masked_conv_saves(activation) else None,
            nhwc(x),
            weight.contiguous(),
            taps,
            live,
            activation,
            list(map(int, needs)),
            cond is not None and cond.dim() == 4,
            isa,
        )
    )
    return [next(grads) if need else None for need in needs]


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan, isa: str = "") -> list[Tensor]:
    """The program's weights in panels for one instruction set; the best one of this machine by default."""
    own = [w.detach().contiguous() for w in weights]
    return [_native("pixelcnn_pack", own, plan.words, isa)]


def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    known_mask, known, context = contiguous(known_mask), contiguous(known), nhwc(context)

    chunks = chunks_of(noise, plan, context)
    caches = None
    if len(chunks) > 1:  # to clear them for each would cost as much as to use them
        given = (packed[0], plan.words, list(noise.shape[2:]), context is not None and context.dim() == 4)
        sizes = {chunk.stop - chunk.start for chunk in chunks}
        floats = max(_native("pixelcnn_cache_floats", *given, size) for size in sizes)
        caches = noise.new_zeros(floats)
    outs = []
    for rows in chunks:
        own = (None if t is None else t[rows] for t in (context, known_mask, known))
        outs.append(_native("pixelcnn_sample", noise[rows], packed[0], plan.words, *own, temperature, caches))
    images, params = outs[0] if len(outs) == 1 else (torch.cat(parts) for parts in zip(*outs, strict=True))
    return images, params


@step_by_step
def made_inverse(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str = "exp",
    isa: str = "",
) -> tuple[Tensor, Tensor]:
    return _native(
        "made_inverse",
        eps.contiguous(),
        [w.contiguous() for w in weights],
        [b.contiguous() for b in biases],
        [d.long().contiguous() for d in degrees],
        contiguous(cond),
        activation,
        scale,
        isa,
    )


def _degrees(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.long().contiguous()


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_degrees: Tensor | None,
    out_degrees: Tensor | None,
    adjacency: Tensor | None,
    activation: str,
    isa: str = "",
) -> Tensor:
    mask = (_degrees(in_degrees), _degrees(out_degrees), contiguous(adjacency))
    return _native("masked_linear", x.contiguous(), weight.contiguous(), contiguous(bias), *mask, activation, isa)


def masked_linear_backward(
    grad: Tensor,
    y: Tensor | None,
    x: Tensor,
    weight: Tensor,
    in_degrees: Tensor | None,
    out_degrees: Tensor | None,
    adjacency: Tensor | None,
    activation: str,
    needs: Sequence[bool],
    isa: str = "",
) -> list[Tensor | None]:
    mask = (_degrees(in_degrees), _degrees(out_degrees), contiguous(adjacency))
    grads = _native(
        "masked_linear_backward",
        grad.contiguous(),
        contiguous(y),
        x.contiguous(),
        weight.contiguous(),
        *mask,
        activation,
        *needs,
        isa,
    )
    return [g if need else None for g, need in zip(grads, needs, strict=True)]
