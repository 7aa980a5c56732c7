"""The gradients of a masked convolution in three launches.

The slope of the activation, and the weights packed for x's gradient; both products, of x and of the weight; the parts
of the sums, added in order. What one launch does at once does not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .masked_conv import blocks
from .masked_conv_gradients import masked_conv_backward_kernel, masked_conv_slope_kernel, masked_conv_sums_kernel
from .masked_conv_weight import WeightPlan, plan
from .parts import blocks_of_parts
from .slope import Cut, cut
from .taps import PACKED, Live, places, tap_of

UNPACKED = 256  # weights that a program unpacks


class Plan(NamedTuple):
    """The gradients before their tensors are known; None for what is not needed, or of nothing."""

    pre: launch.New | None  # gradient of the pre-activation; None: it is that of the output
    sums: launch.New | None  # of it
    packed: launch.New | None  # the weights
    places: Tensor
    slope: launch.Launch | None
    grad_x: launch.New | None
    parts: launch.New | None  # of the weight's gradient
    products: launch.Launch | None
    tap_of: Tensor
    grad_weight: launch.New | None
    grad_bias: launch.New | None
    grad_cond: launch.New | None  # of a condition that is a vector
    add: launch.Launch | None


@planned
def _plan(
    live: Live,
    x_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    weight_shape: tuple[int, ...],
    weight_strides: tuple[int, ...],
    activation: str,
    needs: tuple[bool, ...],  # of x, weight, bias, a condition that is a vector
    precision: str,
) -> Plan:
    x, columns = launch.Like(x_shape, dtype, device), weight_shape[0]
    needs_x, needs_weight, needs_bias, needs_cond = needs
    needs_slope = activation != "none" or needs_bias or needs_cond
    cut_rows = _cut(x, columns, activation)
    slope = _slope(cut_rows, x, live, weight_shape, weight_strides, activation, needs_slope, needs_x)
    weights = None
    if needs_weight and len(live) and x_shape[0] * x_shape[2] * x_shape[3]:
        weights = plan(x, columns, len(live))
    images, chunks, kernel_size = x_shape[0], cut_rows.chunks if needs_slope else 0, (weight_shape[2], weight_shape[3])
    pre_shape = (images, columns, *x_shape[2:])
    new = launch.memory
    return Plan(
        new(pre_shape, x, images=True) if activation != "none" else None,
        new((images, chunks, columns), x, torch.float32) if needs_slope else None,
        new((len(live), x_shape[1], columns), x) if needs_x else None,
        places(live.taps, device),
        slope,
        new(x_shape, x, images=True) if needs_x else None,
        None if weights is None else new((weights.parts, len(live), x_shape[1], columns), x, torch.float32),
        _products(x, columns, live, weights, needs_x, precision),
        tap_of(live.taps, kernel_size, device),
        new(weight_shape, x) if needs_weight else None,
        new((columns,), x) if needs_bias else None,
        new((images, columns), x) if needs_cond else None,
        _add(weights, images, chunks, weight_shape, live, needs_bias, needs_cond),
    )


def backward(
    grad: Tensor,
    out: Tensor | None,
    sigmoid: Tensor | None,
    x: Tensor,
    weight: Tensor,
    live: Live,
    activation: str,
    needs: Sequence[bool],
    cond: Tensor | None,
) -> list[Tensor | None]:
    """Gradients of x, weight, bias and cond; None where ``needs`` is False. Arguments as in `masked_conv.forward`.

    grad, out, sigmoid: ``[B, C, H, W]``. ``out`` is the activation's output, ``sigmoid`` the second factor of the gate;
    None where the activation needs none.
    """
    is_vector = cond is not None and cond.dim() == 2
    plan = _plan(
        live, x.shape, x.dtype, x.device, weight.shape, weight.stride(), activation,
        (*needs[:3], needs[3] and is_vector), launch.conv_precision(x.dtype),
    )  # fmt: skip
    pre = grad if plan.pre is None else plan.pre()
    sums, packed = plan.sums and plan.sums(), plan.packed and plan.packed()
    if plan.slope is not None:
        plan.slope(grad, out, sigmoid, pre, sums, weight, plan.places, live.centre, packed)
    grad_x, parts = plan.grad_x and plan.grad_x(), plan.parts and plan.parts()
    if plan.products is not None:
        plan.products(pre, packed, grad_x, x, parts)
    grad_weight = plan.grad_weight and plan.grad_weight()
    if grad_weight is not None and parts is None:
        grad_weight.zero_()
    grad_bias, grad_cond = plan.grad_bias and plan.grad_bias(), plan.grad_cond and plan.grad_cond()
    if plan.add is not None:
        plan.add(parts, plan.tap_of, live.centre, grad_weight, sums, grad_bias, grad_cond)
    if needs[3] and not is_vector:
        grad_cond = pre.clone()  # pre may be the caller's own
    return [grad_x, grad_weight, grad_bias, grad_cond]


def _cut(x: launch.Like, columns: int, activation: str) -> Cut:
    images, _, height, width = x.shape
    return cut(x, images, height * width, columns // 2 if activation == "gate" else columns)


def _slope(
    rows: Cut,
    x: launch.Like,
    live: Live,
    weight_shape: Sequence[int],
    weight_strides: Sequence[int],
    activation: str,
    needs_slope: bool,
    needs_packed: bool,
) -> launch.Launch | None:
    """The slope of the activation and its sums ``[B, chunks, P]`` in float32, and weights ``[T, C_in, P]``."""
    columns, in_channels = weight_shape[:2]
    programs = x.shape[0] * rows.chunks * rows.n_blocks if needs_slope else 0
    pack_programs = launch.cdiv(in_channels * columns, PACKED) * len(live) if needs_packed else 0
    if not programs + pack_programs:
        return None
    return launch.prepared(
        masked_conv_slope_kernel,
        (programs + pack_programs,),
        rows=rows.rows,
        rows_per_chunk=rows.per_chunk,
        chunks=rows.chunks,
        slope_programs=programs,
        C=columns // 2 if activation == "gate" else columns,
        P=columns,
        C_in=in_channels,
        T=len(live),
        **dict(zip(("s_out", "s_in", "s_y", "s_x"), weight_strides, strict=True)),
        ACTIVATION=activation,
        HAS_CENTRE=live.centre is not None,
        BLOCK=PACKED,
        **rows.config,
    )


def _products(
    x: launch.Like, columns: int, live: Live, weights: WeightPlan | None, needs_x: bool, precision: str
) -> launch.Launch | None:
    """Gradient of x, and parts ``[parts, T, C_in, P]`` of that of the weight."""
    batch, in_channels, height, width = x.shape
    pixels, pre = batch * height * width, x._replace(shape=(batch, columns, height, width))
    config = blocks(pre, in_channels, len(live), mirrored=True)
    x_programs = launch.cdiv(pixels, config["BM"]) * launch.cdiv(in_channels, config["BN"]) if needs_x else 0
    weights = weights or WeightPlan(0, 0, 0, 0, config)
    if not x_programs + weights.programs:
        return None
    own = weights.config
    common = {"num_warps": max(config["num_warps"], own["num_warps"])}
    common["num_stages"] = min(config["num_stages"], own["num_stages"])
    return launch.prepared(
        masked_conv_backward_kernel,
        (x_programs + weights.programs,),
        pixels=pixels,
        pixels_per_part=weights.pixels_per_part,
        weight_programs=weights.programs,
        H=height,
        W=width,
        C_in=in_channels,
        P=columns,
        T=len(live),
        RASTER=live.raster,
        PRECISION=precision,
        WEIGHT_PER_TAP=weights.per_tap,
        WEIGHT_BM=own["BM"],
        WEIGHT_BN=own["BN"],
        WEIGHT_BK=own["BK"],
        **(config | common),
    )


def _add(
    weights: WeightPlan | None,
    images: int,
    chunks: int,
    weight_shape: Sequence[int],
    live: Live,
    needs_bias: bool,
    needs_cond: bool,
) -> launch.Launch | None:
    """Gradients of weight ``[P, C_in, k, k]``, bias ``[P]`` and a condition ``[B, P]``."""
    columns, in_channels, *kernel_size = weight_shape
    area = kernel_size[0] * kernel_size[1]
    weight_programs = launch.cdiv(in_channels * columns, UNPACKED) * area if weights is not None else 0
    of_bias, of_cond = blocks_of_parts(images * chunks, columns), blocks_of_parts(chunks, columns)
    bias_programs = launch.cdiv(columns, of_bias[1]) if needs_bias else 0
    cond_programs = images * launch.cdiv(columns, of_cond[1]) if needs_cond else 0
    if not weight_programs + bias_programs + cond_programs:
        return None
    return launch.prepared(
        masked_conv_sums_kernel,
        (weight_programs + bias_programs + cond_programs,),
        parts=0 if weights is None else weights.parts,
        chunks=chunks,
        images=images,
        weight_programs=weight_programs,
        bias_programs=bias_programs,
        T=len(live),
        P=columns,
        C_in=in_channels,
        KK=area,
        HAS_CENTRE=live.centre is not None,
        BLOCK=UNPACKED,
        BIAS_BP=of_bias[0],
        BIAS_BN=of_bias[1],
        COND_BP=of_cond[0],
        COND_BN=of_cond[1],
    )
