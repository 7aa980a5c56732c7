"""A case becomes contenders: ours, checked against the reference first, and its peers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import testing
from vlae_fast.sampling.sampler import Samples

from .cached import CachedSampler
from .cases import ConvCase, InverseCase, LinearCase, SamplingCase, TrainingCase
from .measure import Call
from .peers import PlainDecoder, dense_forward, foreign_inverses, naive_sample, plain

GAP = 1e-5  # float32 cannot decide a pixel whose logit is this close to its threshold


class WrongResultError(Exception):
    """Ours disagrees with the reference, or a peer with ours: nothing is timed."""


@dataclass(frozen=True)
class Setup:
    """What all cases of a run share. ``compiled``: torch.compile is among the peers."""

    backend: str = "auto"
    compiled: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class Contest:
    """Who is timed; ``checked`` says how it was, ``scale`` what a peer's time is multiplied by."""

    ours: Call
    backend: str
    peers: dict[str, Call]
    checked: str
    scale: dict[str, float] = field(default_factory=dict)


@singledispatch
def prepare(case: Any, setup: Setup) -> Contest:
    """Builds and checks a case. Raises WrongResultError where ours is not the reference's."""
    raise TypeError(f"no suite has a {type(case).__name__}")


@prepare.register
def _(case: SamplingCase, setup: Setup) -> Contest:
    decoder = case.build().to(setup.device)
    z = torch.randn(case.batch, decoder.latent_dim, device=setup.device)
    noise = torch.rand(case.batch, decoder.input_dim, *decoder.image_size, device=setup.device)
    sampler = vf.PixelCNNSampler(decoder, setup.backend)
    dense, cached = PlainDecoder(decoder), CachedSampler(decoder, case.batch)
    height = decoder.image_size[0]
    rows = case.naive_rows or height
    drawn = sampler.sample_with_logits(z, noise)
    differing = _check_images(case.name, drawn, noise, naive_sample(dense, z, noise, rows), "the naive sampler's", rows)
    _check_images(case.name, drawn, noise, cached.sample(z, noise), "the cached sampler's", height)
    scaled = "" if rows == height else f" ({rows} of {height} rows, scaled)"
    peers: dict[str, Call] = {
        "cached plain PyTorch": lambda: cached.sample(z, noise),
        f"naive eager{scaled}": lambda: naive_sample(dense, z, noise, rows),
    }
    scale = {f"naive eager{scaled}": height / rows}
    if setup.compiled:
        forward = torch.compile(dense.__call__)
        peers[f"naive torch.compile{scaled}"] = lambda: naive_sample(forward, z, noise, rows)
        scale[f"naive torch.compile{scaled}"] = height / rows
    checked = f"{sampler.steps} steps; {differing} of {case.batch} images differ in {rows} rows, at ties"
    return Contest(lambda: sampler.sample(z, noise), sampler.backend, peers, checked, scale)


def _check_images(name: str, drawn: Samples, noise: Tensor, expected: Tensor, whose: str, rows: int) -> int:
    """Images that differ in the first rows: each may, from a pixel on that float32 cannot decide."""
    images, logits, noise, expected = (t[:, :, :rows].permute(0, 2, 3, 1).flatten(1) for t in (*drawn, noise, expected))
    different = images != expected
    first = different.int().argmax(1, keepdim=True)
    tie = (logits - torch.logit(noise)).abs().gather(1, first) < GAP
    if (different.any(1) & ~tie[:, 0]).any():
        raise WrongResultError(f"{name}: images differ from {whose}")
    return int(different.any(1).sum())


def _check_ops(case: ConvCase | LinearCase | InverseCase, backend: str) -> str:
    """The ops of a case against the reference, in a small batch: what a sample gets does not depend on its batch."""
    grad = not isinstance(case, InverseCase)
    try:
        errors = [testing.check_op(op_case, backend, grad=grad) for op_case in case.op_cases()]
    except AssertionError as error:
        raise WrongResultError(str(error)) from error
    return f"largest error {max(max(ratios.values()) for ratios in errors):.2f} of its budget"


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


def _modules(case: ConvCase | LinearCase, op: str, ours: nn.Module, x: Tensor, backward: bool, setup: Setup) -> Contest:
    picked = vf.backends.pick(op, x, setup.backend).name
    dense = plain(nn.Sequential(ours))
    checked = f"{_check_ops(case, picked)}; plain PyTorch: {_check_module(case.name, ours, dense, x)}"
    peers = {"eager": _step(dense, x, backward)}
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)  # what a model of these layers hands on
        peers["eager channels_last"] = _step(dense, x, backward)
    if setup.compiled:
        peers["torch.compile"] = _step(torch.compile(dense), x, backward)
    return Contest(_step(ours, x, backward), picked, peers, checked)


@prepare.register
def _(case: ConvCase, setup: Setup) -> Contest:
    torch.manual_seed(0)
    layer = vf.MaskedConv2d(
        case.mask_type, case.c_in, case.c_out, case.k, activation=case.activation, backend=setup.backend
    ).to(setup.device)
    x = torch.randn(case.batch, case.c_in, case.size, case.size, device=setup.device)
    return _modules(case, "masked_conv", layer, x, case.backward, setup)


@prepare.register
def _(case: LinearCase, setup: Setup) -> Contest:
    torch.manual_seed(0)
    made = vf.MADE(case.dim, case.hidden[0], 2 * case.dim, n_hidden=len(case.hidden), backend=setup.backend)
    x = torch.randn(case.batch, case.dim, device=setup.device)
    return _modules(case, "masked_linear", made.to(setup.device), x, True, setup)


@prepare.register
def _(case: InverseCase, setup: Setup) -> Contest:
    (made,) = case.op_cases(case.batch)
    eps = made.tensors["eps"].to(setup.device).contiguous()
    weights, biases, degrees = (
        [t.to(setup.device).contiguous() for t in made.tensors[key]] for key in ("weights", "biases", "degrees")
    )
    picked = vf.backends.pick("made_inverse", eps, setup.backend).name
    checked = _check_ops(case, picked)
    ours = torch.no_grad()(lambda: vf.ops.made_inverse(eps, weights, biases, degrees, backend=picked))
    try:
        peers = foreign_inverses(case.dim, case.hidden, eps)
    except ImportError as error:
        peers, checked = {}, f'{checked}; without zuko and nflows ({error}): pip install ".[bench]"'
    if peers and case.dim > 500:  # D passes each; the faster of the two is enough, and neither at a large batch
        peers = {"zuko": peers["zuko"]} if case.batch <= 64 else {}
    peers["one dense forward pass"] = dense_forward(eps, weights, biases, degrees)
    return Contest(ours, picked, peers, checked)


@prepare.register
def _(case: TrainingCase, setup: Setup) -> Contest:
    torch.manual_seed(0)
    model = vf.VLAE(**case.model, backend=setup.backend).to(setup.device)
    x = (torch.rand(case.batch, 1, 28, 28, device=setup.device) < 0.3).float()
    dense = plain(model)
    z = torch.randn(case.batch, model.latent_dim, device=setup.device)
    checked = _check_module(case.name, _GivenZ(model.decoder, z), _GivenZ(dense.decoder, z), x)
    peers = {"eager": _adam_step(dense, x)}
    if setup.compiled:
        peers["torch.compile"] = _adam_step(torch.compile(plain(model)), x)
    return Contest(_adam_step(model, x), vf.backends.pick("masked_conv", x, setup.backend).name, peers, checked)


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
