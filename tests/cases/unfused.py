"""Portable kernels in plain PyTorch: every product and every sum is an operation of its own, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vlae_fast.codec.portable import PortableSampler
from vlae_fast.plan import Plan, Stage
from vlae_fast.reference.pixelcnn_sample import shifted
from vlae_fast.reference.pixelcnn_step import places_of
from vlae_fast.sampling.levels import in_turn


class UnfusedSampler:
    """What `codec.pixels` asks of a sampler, of one whose plan is of sums. Each wave takes a whole pass."""

    def __init__(self, sampler: PortableSampler) -> None:
        self.sampler, self.plan = sampler, sampler.plan
        self.size = (int(sampler.decoder.image_size[0]), int(sampler.decoder.image_size[1]))
        self.weights = in_turn(sampler.program, sampler.plan.emit, self.size).weights

    def params_of(self, x: Tensor, z: Tensor | None) -> Tensor:
        """`params_of` of the sampler."""
        return params_of(self.plan, self.weights, self.sampler._context(z, len(x)), x)

    def start(self, z: Tensor | None, batch: int | None) -> Any:
        """`start` of the sampler."""
        return _Run(self, z, (1 if z is None else len(z)) if batch is None else batch)


class _Run:
    def __init__(self, sampler: UnfusedSampler, z: Tensor | None, n: int) -> None:
        self.sampler, self.z = sampler, z
        self.images = torch.zeros(n, sampler.plan.image_channels, *sampler.size)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        plan, images = self.sampler.plan, self.images
        for place in places_of(plan, self.sampler.size, torch.device("cpu")):

            def put(values: Tensor, place: Any = place) -> None:
                images[:, place.channels, place.rows, place.columns] = values

            params = place.of(self.sampler.params_of(images, self.z), place.params)
            yield SimpleNamespace(params=params, channel=None if len(plan.all_draws) == 1 else place.draw, put=put)


def params_of(plan: Plan, weights: Sequence[Tensor], context: Tensor | None, image: Tensor) -> Tensor:
    """The parameters ``[B, P, H, W]`` of all pixels of an image."""
    left, buffers = iter(weights), {0: image}
    for s, stage in enumerate(plan.stages):
        own = [next(left) for _ in range(stage.n_weights)]
        assert stage.kind == "sum" and stage.joins < 0 and stage.sites.stride == 1
        out = _activated(_summed(stage, own, context, buffers), stage.activation)
        out = out if stage.factor < 0 else out * buffers[stage.factor]
        buffers[s + 1] = out if stage.residual < 0 else out + buffers[stage.residual]
    if len(plan.all_draws) == 1:
        return buffers[plan.all_draws[0].buffer]
    params = image.new_empty(len(image), plan.emit.params(plan.image_channels), *image.shape[2:])
    for channel, (_, buffer) in enumerate(plan.draws):
        params[:, plan.emit.params_of(channel, plan.image_channels)] = buffers[buffer]
    return params


def _summed(stage: Stage, own: Sequence[Tensor], context: Tensor | None, buffers: Mapping[int, Tensor]) -> Tensor:
    pre = own[len(stage.sources)][:, None, None].expand(len(buffers[0]), -1, *buffers[0].shape[2:])
    products = [
        (weight[:, c, t], shifted(buffers[source.buffer], *tap)[:, c])
        for source, weight in zip(stage.sources, own, strict=False)
        for t, tap in enumerate(source.taps)
        for c in range(weight.shape[1])
    ]
    if context is not None and stage.context_dim:
        of_context = [(own[-1][:, d], context[:, d]) for d in range(stage.context_dim)]
        if context.dim() == 4:  # a map is one more source
            products += of_context
        else:
            cond = torch.zeros(len(context), len(own[-1]))
            for weight, value in of_context:
                cond = weight * value[:, None] + cond
            pre = pre + cond[:, :, None, None]
    for weight, value in products:
        pre = weight[:, None, None] * value[:, None] + pre
    return pre


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "gate":
        a, b = x.chunk(2, 1)
        return _gate(a, b)
    functions = {"none": lambda v: v, "relu": lambda v: torch.where(v < 0, 0, v), "elu": _elu}
    out: Tensor = functions[activation](x)
    return out


def _exp_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p, r and scale of ``e^x = (p r + 1) scale``, as csrc/cpu/vec.h has them."""
    x = x.clamp(-87.0, 88.0)
    shifted_x = x * 1.44269504088896341 + 12582912.0
    n = shifted_x - 12582912.0
    r = n * -0.693359375 + x
    r = n * 2.12194440e-4 + r
    p = torch.full_like(x, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0):
        p = p * r + c
    bits = (shifted_x.contiguous().view(torch.int32) << 23) + (127 << 23)
    return p, r, bits.view(torch.float32)


def _elu(x: Tensor) -> Tensor:
    p, r, scale = _exp_parts(x)
    return torch.where(x > 0, x, p * r * scale + (scale - 1.0))


def _gate(a: Tensor, b: Tensor) -> Tensor:
    p, r, scale = _exp_parts((a + a).abs())
    least = ((254 << 23) - scale.view(torch.int32)).view(torch.float32)
    above, below = p * r + (1.0 - least), p * r + (1.0 + least)
    q, s, of_b = _exp_parts((-b).clamp(max=87.5))
    return (above / (below * ((q * s + 1.0) * of_b + 1.0))).copysign(a)
