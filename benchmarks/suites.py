"""A case becomes contenders: ours, checked against the reference first, and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import testing

from .cases import ConvCase, InverseCase, LinearCase, SamplingCase, TrainingCase, live_flops
from .peers import PlainDecoder, foreign_inverses, naive_sample, plain

Call = Callable[[], object]


class WrongResultError(Exception):
    """Ours disagrees with the reference: nothing is timed."""


@dataclass
class Contest:
    """Who is timed; ``flops`` is the live work of a call, ``scale`` what a peer's time is multiplied by."""

    ours: Call
    backend: str
    peers: dict[str, Call]
    flops: float
    checked: str
    scale: dict[str, float] = field(default_factory=dict)


@singledispatch
def prepare(case: Any, backend: str, compiled: bool) -> Contest:
    """Builds and checks a case. Raises WrongResultError where ours is not the reference's."""
    raise TypeError(f"no suite has a {type(case).__name__}")


@prepare.register
def _(case: SamplingCase, backend: str, compiled: bool) -> Contest:
    decoder = case.build()
    z = torch.randn(case.batch, decoder.latent_dim)
    noise = torch.rand(case.batch, decoder.input_dim, *decoder.image_size)
    sampler, dense = vf.PixelCNNSampler(decoder, backend), PlainDecoder(decoder)
    height = decoder.image_size[0]
    rows = case.naive_rows or height
    images, logits = sampler.sample_with_logits(z, noise)
    naive = naive_sample(dense, z, noise, rows)
    different = (images[:, :, :rows] != naive[:, :, :rows]).flatten(1).any(1)
    close = ((logits - torch.logit(noise)).abs() < 1e-5).flatten(1).any(1)  # float32 cannot decide these pixels
    if (different & ~close).any():
        raise WrongResultError(f"{case.name}: images differ from the naive sampler's")
    name = "naive eager" if rows == height else f"naive eager ({rows} of {height} rows, scaled)"
    return Contest(
        lambda: sampler.sample(z, noise),
        sampler.backend,
        {name: lambda: naive_sample(dense, z, noise, case.naive_rows)},
        case.batch * live_flops(sampler.plan.stages, decoder.input_dim, decoder.image_size),
        f"{sampler.steps} steps; {int(different.sum())} of {case.batch} images differ in {rows} rows",
        {name: height / rows},
    )


def _check_module(name: str, ours: nn.Module, dense: nn.Module, x: Tensor) -> str:
    """Outputs and gradients of the same parameters, at float32's accuracy for sums of this length."""
    results = []
    for module in (ours, dense):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        weights = [p for p in module.parameters() if p.requires_grad]
        results.append([y, *torch.autograd.grad(y, [leaf, *weights], torch.ones_like(y).div_(y.numel()))])
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results, strict=True))
    if not worst < 1e-3:
        raise WrongResultError(f"{name}: off by {worst:.2g} of the largest value")
    return f"largest difference {worst:.1e} of the largest value"


def _step(module: nn.Module, x: Tensor, backward: bool) -> Call:
    if not backward:
        return torch.no_grad()(lambda: module(x))
    x = x.clone().requires_grad_()
    with torch.no_grad():
        cotangent = torch.randn_like(module(x))
    weights = [p for p in module.parameters() if p.requires_grad]
    return lambda: torch.autograd.grad(module(x), [x, *weights], cotangent)


def _modules(
    name: str, ours: nn.Module, x: Tensor, backend: str, flops: float, backward: bool, compiled: bool
) -> Contest:
    dense = plain(nn.Sequential(ours))
    checked = _check_module(name, ours, dense, x)
    peers = {"eager": _step(dense, x, backward)}
    if x.dim() == 4:
        peers["eager channels_last"] = _step(dense, x.contiguous(memory_format=torch.channels_last), backward)
        x = x.contiguous(memory_format=torch.channels_last)  # what a model of these layers hands on
    if compiled:
        peers["torch.compile"] = _step(torch.compile(dense), x, backward)
    return Contest(_step(ours, x, backward), backend, peers, flops, checked)


@prepare.register
def _(case: ConvCase, backend: str, compiled: bool) -> Contest:
    torch.manual_seed(0)
    layer = vf.MaskedConv2d(case.mask_type, case.c_in, case.c_out, case.k, activation=case.activation, backend=backend)
    x = torch.randn(case.batch, case.c_in, case.size, case.size)
    picked = vf.backends.pick("masked_conv", x, backend).name
    return _modules(case.name, layer, x, picked, case.flops, case.backward, compiled)


@prepare.register
def _(case: LinearCase, backend: str, compiled: bool) -> Contest:
    torch.manual_seed(0)
    made = vf.MADE(case.dim, case.hidden[0], 2 * case.dim, n_hidden=len(case.hidden), backend=backend)
    x = torch.randn(case.batch, case.dim)
    picked = vf.backends.pick("masked_linear", x, backend).name
    return _modules(case.name, made, x, picked, case.flops, True, compiled)


@prepare.register
def _(case: InverseCase, backend: str, compiled: bool) -> Contest:
    made = testing.made_case(case.batch, case.dim, case.hidden)
    tensors = {k: v.contiguous() if isinstance(v, Tensor) else v for k, v in made.tensors.items()}
    tensors |= {k: [t.contiguous() for t in tensors[k]] for k in ("weights", "biases")}
    picked = vf.backends.pick("made_inverse", tensors["eps"], backend).name
    small = testing.made_case(4, case.dim, case.hidden)  # a sample's bits do not depend on its batch: tested
    worst = max(testing.check_op(small, picked, grad=False).values())
    ours = torch.no_grad()(lambda: vf.ops.made_inverse(**tensors, backend=picked))
    checked = f"largest error {worst:.2f} of its budget"
    try:
        peers = foreign_inverses(case.batch, case.dim, case.hidden)
    except ImportError as error:
        peers, checked = {}, f'{checked}; without zuko and nflows ({error}): pip install ".[bench]"'
    if peers and case.dim > 500:  # D passes each; the faster of the two is enough, and neither at a large batch
        peers = {"zuko": peers["zuko"]} if case.batch <= 64 else {}
    degrees, weights, biases = tensors["degrees"], tensors["weights"], tensors["biases"]
    masked = [w * vf.masks.linear_mask(i, o) for w, i, o in zip(weights, degrees[:-1], degrees[1:], strict=True)]

    @torch.no_grad()
    def dense_forward() -> Tensor:
        h = tensors["eps"]
        for i, (weight, bias) in enumerate(zip(masked, biases, strict=True)):
            h = torch.nn.functional.linear(h, weight, bias)
            h = h.relu() if i + 1 < len(masked) else h
        return h

    peers["one dense forward pass"] = dense_forward
    return Contest(ours, picked, peers, case.flops, checked)


@prepare.register
def _(case: TrainingCase, backend: str, compiled: bool) -> Contest:
    torch.manual_seed(0)
    model = vf.VLAE(**case.model, backend=backend)
    x = (torch.rand(case.batch, 1, 28, 28) < 0.3).float()
    dense = plain(model)
    z = torch.randn(case.batch, model.latent_dim)
    checked = _check_module(case.name, _GivenZ(model.decoder, z), _GivenZ(dense.decoder, z), x)
    peers = {"eager": _adam_step(dense, x)}
    if compiled:
        peers["torch.compile"] = _adam_step(torch.compile(plain(model)), x)
    return Contest(_adam_step(model, x), backend, peers, float("nan"), checked)


class _GivenZ(nn.Module):
    def __init__(self, decoder: nn.Module, z: Tensor) -> None:
        super().__init__()
        self.decoder, self.z = decoder, z

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x, self.z)


def _adam_step(model: nn.Module, x: Tensor) -> Call:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        out = model(x)
        loss = vf.loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
