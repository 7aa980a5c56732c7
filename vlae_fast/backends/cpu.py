"""The C++ library for CPUs: loaded once, on import. Its absence is a reason to give, never an ImportError."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import EMITS, Plan
from ..reference.arguments import ConvOptions, Layers, Mask, Transform
from ..reference.pixelcnn_step import Place, RunState
from .chunks import chunks_of
from .errors import run_native
from .library import library_file, load
from .memory_format import contiguous, nchw, nhwc

_LIBRARY = library_file("cpu")
_WHY_NOT = load(_LIBRARY, torch.ops.vlae_fast_cpu, "isas")


def why_not() -> str | None:
    """Why the CPU library is absent; None where it is loaded."""
    return _WHY_NOT


def isas(dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """The instruction sets that the loaded library computes in a dtype by, best first; empty where it is absent.

    Of bfloat16 the sets without its products widen its numbers to float32, which takes longer than float32 does.
    """
    if _WHY_NOT is not None:
        return ()
    names: str = torch.ops.vlae_fast_cpu.isas(_name(dtype))
    return tuple(names.split(","))


def has_matrix_tiles() -> bool:
    """Whether masked_conv multiplies bfloat16 by the processor's matrix tiles, Intel's AMX."""
    return _WHY_NOT is None and bool(torch.ops.vlae_fast_cpu.has_matrix_tiles())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _native(op: str, *args: Any) -> Any:
    return run_native(torch.ops.vlae_fast_cpu, op, *args)


@lru_cache(maxsize=256)
def _live(
    options: ConvOptions, weight_shape: tuple[int, ...], image_size: tuple[int, int]
) -> tuple[tuple[int, ...], Tensor | None]:
    """Place, dy and dx of each live tap, and the mask of the weights where some tap is alive only in part."""
    taps = options.taps_inside((weight_shape[2], weight_shape[3]), image_size)
    words = tuple(n for (i, j), offset in taps for n in (i * weight_shape[3] + j, *offset))
    return words, options.partial_mask(weight_shape)


_LEAST_FOR_TILES = 512  # numbers of a weight: of fewer, most of a tile would be padding


def _by_tiles(by_tiles: Callable[..., Any], weight: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Runs another function in place of one where its tensors are bfloat16 and the processor has matrix tiles.

    ``isa`` names them "amx", and another instruction set is that of the function itself. weight: its place among the
    arguments behind the first.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(first: Tensor, *args: Any, isa: str = "", **options: Any) -> Any:
            if first.dtype == torch.bfloat16:
                pay = isa == "" and args[weight].numel() >= _LEAST_FOR_TILES
                if isa == "amx" or (pay and has_matrix_tiles()):
                    return by_tiles(first, *args, **options)
            return function(first, *args, isa=isa, **options)

        return run

    return wrap


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function on bfloat16 tensors in float32: widened before the kernels, results rounded once."""

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


def _one_for_all(cond: Tensor | None) -> Tensor | None:
    """The one map ``[1, P, H, W]`` of a cond that is expanded over the batch: it need not be made for each image."""
    return cond[:1] if cond is not None and cond.dim() == 4 and len(cond) > 1 and cond.stride(0) == 0 else cond


def _floats(tensor: Tensor | None) -> Tensor | None:
    """Widens a weight or a bias: the matrix tiles take them in float32, though the maps are bfloat16."""
    return None if tensor is None else tensor.float().contiguous()


def _conv_by_tiles(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    *,
    saves: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """`masked_conv_with_sigmoid` of bfloat16: products by matrix tiles, summed in float32."""
    taps, live = _live(options, tuple(weight.shape), (x.shape[2], x.shape[3]))
    return _native(
        "masked_conv_tiles",
        nhwc(x),
        _floats(weight),
        _floats(bias),
        nhwc(_one_for_all(cond)),
        taps,
        live,
        options.activation,
        saves and options.has_sigmoid,
        nhwc(context),
        _floats(context_weight),
        options.residual,
        saves and options.keeps_activated,
    )


@_by_tiles(_conv_by_tiles, weight=0)
@_in_float32
def masked_conv_with_sigmoid(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    *,
    saves: bool = True,
    isa: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the sigmoid of the gate and the output without its residual: of these the slope follows."""
    taps, live = _live(options, tuple(weight.shape), (x.shape[2], x.shape[3]))
    return _native(
        "masked_conv",
        nhwc(x),
        weight.contiguous(),
        contiguous(bias),
        nhwc(_one_for_all(cond)),
        taps,
        live,
        options.activation,
        saves and options.has_sigmoid,
        isa,
        nhwc(context),
        contiguous(context_weight),
        options.residual,
        saves and options.keeps_activated,
    )


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    *,
    isa: str = "",
) -> Tensor:
    tensors = (x, weight, bias, cond)
    return masked_conv_with_sigmoid(*tensors, options, context, context_weight, saves=False, isa=isa)[0]


def convolution(x: Tensor, weight: Tensor, isa: str = "", stride: int = 1) -> Tensor:
    """The convolution of x by a weight ``[P, C, k, k]`` with k odd, all of it alive, and a padding of ``k // 2``.

    With a stride s it is one of stride 1 over blocks of s x s pixels, each of which is as many channels. That copies a
    map once, where a product with the window of every output copies it k^2 / s^2 times.
    """
    half = weight.shape[2] // 2
    if stride > 1:
        x, weight = _blocks(x, stride), _weight_of_blocks(weight, stride)
    side, (height, width) = weight.shape[2], x.shape[2:]
    offsets = ((place // side - side // 2, place % side - side // 2) for place in range(side * side))
    alive = (
        (place, dy, dx)
        for place, (dy, dx) in enumerate(offsets)
        if abs(dy) < height and abs(dx) < width and max(dy, dx) <= half // stride
    )
    taps = [n for tap in alive for n in tap]
    given = (nhwc(x), weight.contiguous(), None, None, taps, None, "none", False, isa)
    return _native("masked_conv", *given)[0]


def _blocks(x: Tensor, s: int) -> Tensor:
    """``[B, C, H, W] -> [B, s s C, H / s, W / s]``, sides rounded up, channels_last."""
    x = F.pad(x, (0, -x.shape[3] % s, 0, -x.shape[2] % s)).permute(0, 2, 3, 1)
    return nchw(x.unflatten(2, (-1, s)).unflatten(1, (-1, s)).transpose(2, 3).flatten(3).contiguous())


def _weight_of_blocks(weight: Tensor, s: int) -> Tensor:
    """``[P, C, k, k]`` as a weight of `_blocks`, of odd side; 0 where no pixel of a block meets the kernel."""
    k, around = weight.shape[2], -(-(weight.shape[2] // 2) // s)
    before = s * around - k // 2
    pads = (before, s * (2 * around + 1) - k - before)
    blocks = F.pad(weight, pads + pads).unflatten(3, (-1, s)).unflatten(2, (-1, s))  # [P, C, rows, s, columns, s]
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def activate(x: Tensor, activation: str, isa: str = "") -> Tensor:
    """An activation of one value, of each value of x in float32: the same bits wherever in memory the value stands."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return nchw(_native("activate", nhwc(x), activation, isa))
    return _native("activate", x.contiguous(), activation, isa)


def _backward_by_tiles(
    grad: Tensor,
    out: Tensor | None,
    sigmoid: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    needs: Sequence[bool],
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
) -> list[Tensor | None]:
    """`masked_conv_backward` of bfloat16: products by matrix tiles, summed in float32."""
    taps, live = _live(options, tuple(weight.shape), (x.shape[2], x.shape[3]))
    grads = iter(
        _native(
            "masked_conv_tiles_backward",
            nhwc(grad),
            nhwc(out),
            nhwc(sigmoid) if options.has_sigmoid else None,
            nhwc(x),
            _floats(weight),
            taps,
            live,
            options.activation,
            list(map(int, needs)),
            cond is not None and cond.dim() == 4,
            nhwc(context),
            _floats(context_weight),
            options.residual,
        )
    )
    return [next(grads).to(grad.dtype) if need else None for need in needs]


@_by_tiles(_backward_by_tiles, weight=3)
@_in_float32
def masked_conv_backward(
    grad: Tensor,
    out: Tensor | None,
    sigmoid: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    needs: Sequence[bool],
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    *,
    isa: str = "",
) -> list[Tensor | None]:
    taps, live = _live(options, tuple(weight.shape), (x.shape[2], x.shape[3]))
    grads = iter(
        _native(
            "masked_conv_backward",
            nhwc(grad),
            nhwc(out),
            nhwc(sigmoid) if options.has_sigmoid else None,
            nhwc(x),
            weight.contiguous(),
            taps,
            live,
            options.activation,
            list(map(int, needs)),
            cond is not None and cond.dim() == 4,
            isa,
            nhwc(context),
            contiguous(context_weight),
            options.residual,
        )
    )
    return [next(grads) if need else None for need in needs]


def pixelcnn_pack(
    weights: Sequence[Tensor], plan: Plan, isa: str = "", dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """The program's weights in panels of a dtype for one instruction set; the best one of this machine by default."""
    own = [w.detach().contiguous() for w in weights]
    return [_native("pixelcnn_pack", own, plan.words, isa, _name(dtype))]


def pixelcnn_repack(packed: Tensor, weights: Sequence[Tensor], plan: Plan, cells: Sequence[int]) -> bool:
    """Packs weights into what `pixelcnn_pack` gave; False where one that is alive is not finite.

    cells: for each source how many weights a kernel of it has, and the place of each tap among them.
    """
    try:
        _native("pixelcnn_repack", packed, list(weights), plan.words, list(cells))
    except RuntimeError as error:
        if "pixelcnn_repack: weights must be finite" in str(error):
            return False
        raise
    return True


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


pixelcnn_step_checks_numbers = True  # values and noise, in the kernels


class _OwnOfRun(NamedTuple):
    """The arguments that every step is given."""

    words: Tensor
    context: Tensor | None
    caches: Tensor


def pixelcnn_start(state: RunState, memory: list[Tensor]) -> _OwnOfRun:
    context, size = nhwc(state.context), list(state.images.shape[2:])
    per_pixel = context is not None and context.dim() == 4
    floats = _native("pixelcnn_cache_floats", state.packed[0], state.plan.words, size, per_pixel, 1)  # of a sample
    words = torch.tensor(state.plan.words, dtype=torch.int64, device="cpu")
    size_of_all = floats * len(state.images)
    fits = bool(memory) and size_of_all <= memory[-1].numel() <= 2 * size_of_all
    if fits and memory[-1].is_inference() and not torch.is_inference_mode_enabled():
        fits = False  # outside that mode it cannot be written
    fitting = memory.pop() if fits else None
    memory.clear()
    # fresh pages would take as long as some steps
    caches = state.images.new_zeros(size_of_all) if fitting is None else fitting.zero_()
    return _OwnOfRun(words, context, caches)


def pixelcnn_step(state: RunState, place: Place | None, values: Tensor | None, following: Place | None) -> Tensor:
    words, context, caches = state.own
    at = (-1, 0, None) if place is None or values is None else (place.step, place.draw, values.contiguous())
    args = (caches, state.images, state.logits, state.packed[0], words, context, *at)
    params: Tensor = _refusing("pixelcnn_step", *args)
    return params


def pixelcnn_step_draw(state: RunState, place: Place, params: Tensor, noise: Tensor, temperature: float) -> Tensor:
    plan = state.plan
    emit = [EMITS.index(plan.emit.kind), plan.emit.levels, plan.emit.components]
    first, at = place.noises[0], [place.step, plan.slope, place.top]
    if noise.dim() == 3:  # as of an image of one column
        noise, first, at = noise[..., None], 0, [0, 0, 0]
    args = (params, noise.contiguous(), emit, place.n_channels, first, at, temperature)
    values: Tensor = _refusing("pixelcnn_draw", *args)
    return values


class _Overloads:
    """Ops of a few microseconds without PyTorch's choice of an overload, which would take as long as they do."""

    if _WHY_NOT is None:
        masked_linear = torch.ops.vlae_fast_cpu.masked_linear.default
        masked_linear_backward = torch.ops.vlae_fast_cpu.masked_linear_backward.default
        made = torch.ops.vlae_fast_cpu.made.default
        made_backward = torch.ops.vlae_fast_cpu.made_backward.default
        pixelcnn_step = torch.ops.vlae_fast_cpu.pixelcnn_step.default
        pixelcnn_draw = torch.ops.vlae_fast_cpu.pixelcnn_draw.default


def _refusing(op: str, *args: Any) -> Any:
    """`_native`, whose errors about numbers are ValueError as those of a contract."""
    try:
        return run_native(_Overloads, op, *args)
    except RuntimeError as error:
        if re.match(rf"{op}: (values|noise) must be ", str(error)):
            raise ValueError(str(error).replace(op, "pixelcnn_step", 1)) from None
        raise


def _made_layers(layers: Layers) -> tuple[Any, ...]:
    weights, biases, degrees, cond = layers
    contiguous_ones = [t.contiguous() for t in weights], [t.contiguous() for t in biases]
    return *contiguous_ones, [d.long().contiguous() for d in degrees], contiguous(cond)


def made(x: Tensor, layers: Layers, activation: str, isa: str = "") -> Tensor:
    y: Tensor = run_native(_Overloads, "made", x.contiguous(), *_made_layers(layers), activation, False, isa)[0]
    return y


def made_with_hidden(x: Tensor, layers: Layers, activation: str, isa: str = "") -> list[Tensor]:
    outs: list[Tensor] = run_native(_Overloads, "made", x.contiguous(), *_made_layers(layers), activation, True, isa)
    return outs


def made_backward(
    grad: Tensor,
    x: Tensor,
    hidden: Sequence[Tensor],
    layers: Layers,
    activation: str,
    needs: Sequence[bool],
    isa: str = "",
) -> list[Tensor | None]:
    weights, _, degrees, _ = _made_layers(layers)
    kept, wanted = [h.contiguous() for h in hidden], list(map(int, needs))
    grads = iter(
        run_native(
            _Overloads,
            "made_backward",
            grad.contiguous(),
            x.contiguous(),
            kept,
            weights,
            degrees,
            activation,
            wanted,
            isa,
        )
    )
    return [next(grads) if need else None for need in needs]


def made_inverse(eps: Tensor, layers: Layers, transform: Transform, isa: str = "") -> tuple[Tensor, Tensor]:
    wide = torch.float32 if eps.dtype == torch.bfloat16 else eps.dtype  # of what is added to sums
    x, log_det = _native(
        "made_inverse",
        eps.contiguous(),
        [w.contiguous() for w in layers.weights],
        [b.contiguous().to(wide) for b in layers.biases],
        [d.long().contiguous() for d in layers.degrees],
        None if layers.cond is None else layers.cond.contiguous().to(wide),
        *transform,
        isa,
    )
    return x[None], log_det.to(eps.dtype)


def made_sample(noise: Tensor, layers: Layers, activation: str, isa: str = "") -> tuple[Tensor, Tensor]:
    (x,), log_prob = made_inverse(noise, layers, Transform(activation, "bernoulli"), isa)
    return x, log_prob


def made_sample_levels(
    noise: Tensor, layers: Layers, tables: Sequence[Tensor], activation: str, isa: str = ""
) -> tuple[Tensor, Tensor]:
    weights, biases, tables = ([t.contiguous() for t in tensors] for tensors in (*layers[:2], tables))
    degrees, cond = [d.long().contiguous() for d in layers.degrees], contiguous(layers.cond)
    x, log_prob = _native("made_sample", noise.contiguous(), weights, biases, degrees, tables, cond, activation, isa)
    return x.long(), log_prob


def _as_read(mask: Mask) -> tuple[Tensor | None, ...]:
    """The mask in the dtypes and the memory format that the library reads."""
    into, out, adjacency = mask
    if into is None or out is None:
        return into, out, contiguous(adjacency)
    return into.long().contiguous(), out.long().contiguous(), contiguous(adjacency)


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Mask,
    activation: str,
    isa: str = "",
) -> Tensor:
    args = (x.contiguous(), weight.contiguous(), contiguous(bias), *_as_read(mask), activation, isa)
    y: Tensor = run_native(_Overloads, "masked_linear", *args)
    return y


def masked_linear_backward(
    grad: Tensor,
    y: Tensor | None,
    x: Tensor,
    weight: Tensor,
    mask: Mask,
    activation: str,
    needs: Sequence[bool],
    isa: str = "",
) -> list[Tensor | None]:
    args = (grad.contiguous(), contiguous(y), x.contiguous(), weight.contiguous(), *_as_read(mask))
    grads = run_native(_Overloads, "masked_linear_backward", *args, activation, *needs, isa)
    return [g if need else None for g, need in zip(grads, needs, strict=True)]
