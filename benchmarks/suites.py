"""A case becomes contenders: ours, checked against the reference first, and its peers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from typing import Any

import torch
from torch import Tensor, nn

import vlae_fast as vf

from .cached import CachedSampler
from .cases import ConvCase, InverseCase, LinearCase, SamplingCase, TrainingCase, torch_dtype
from .checks import WrongResultError, check_images, check_module, check_ops
from .gpu import Call, captured, precision
from .peers import (
    PlainDecoder,
    dense_forward,
    dense_inverse,
    foreign_inverses,
    graphed_naive_sample,
    naive_sample,
    plain,
)


@dataclass(frozen=True)
class Setup:
    """The setup that all cases of a run share.

    ``mode``: of torch.compile, which is then among the peers. ``on_gpu``: adds the contenders of a GPU: CUDA graphs,
    and ours compiled too, because the mode max-autotune makes a graph of the code that it compiles.
    """

    backend: str = "auto"
    mode: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_gpu: bool = False

    @property
    def compiler(self) -> str:
        """torch.compile as it is named among the contenders."""
        return "torch.compile" if self.mode == "default" else f"torch.compile {self.mode}"

    def compile(self, function: Any) -> Any:
        return torch.compile(function, mode=self.mode)


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


def _made(case: Any, name: str, make: Callable[[], Callable[[], Tensor]]) -> dict[str, Callable[[], Tensor]]:
    """A peer by its name; nothing where it cannot be made (a graph of what cannot be captured), which is said."""
    try:
        return {name: make()}
    except RuntimeError as error:
        print(f"{case.name}: {name} is left out: {error}".partition("\n")[0], flush=True)
        return {}


@prepare.register
def _(case: SamplingCase, setup: Setup) -> Contest:
    decoder = case.build().to(setup.device, torch_dtype(case.dtype))
    options = {"dtype": torch_dtype(case.dtype), "device": setup.device}
    z = torch.randn(case.batch, decoder.latent_dim, **options)
    noise = torch.rand(case.batch, decoder.input_dim, *decoder.image_size, **options)
    sampler = vf.PixelCNNSampler(decoder, setup.backend, dtype=None if case.held is None else torch_dtype(case.held))
    dense, cached = PlainDecoder(decoder), CachedSampler(decoder, case.batch)
    height = decoder.image_size[0]
    rows = case.naive_rows or height
    whole: dict[str, Callable[[], Tensor]] = {"cached plain PyTorch": lambda: cached.sample(z, noise)}
    if not setup.on_gpu and sampler.backend != "torch":
        portable = vf.PixelCNNSampler(decoder, "torch")
        whole["vlae_fast torch"] = lambda: portable.sample(z, noise)
    some: dict[str, Callable[[], Tensor]] = {"naive eager": lambda: naive_sample(dense, z, noise, rows)}
    if setup.mode and not setup.on_gpu:  # there, it would add little to a graph
        forward = setup.compile(dense.__call__)
        some[f"naive {setup.compiler}"] = lambda: naive_sample(forward, z, noise, rows)
    if setup.on_gpu:
        eager = whole["cached plain PyTorch"]
        whole |= _made(case, "cached plain PyTorch in a CUDA graph", lambda: captured(eager, setup.device))
        some |= _made(case, "naive in a CUDA graph", lambda: graphed_naive_sample(dense, z, noise, rows))
    drawn = sampler.sample_with_logits(z, noise)
    differing = [
        check_images(case, drawn, noise, call(), peer, height if peer in whole else rows)
        for peer, call in {**some, **whole}.items()
    ]
    if case.held:
        wide = vf.PixelCNNSampler(decoder, setup.backend)
        whole["held in float32"] = lambda: wide.sample(z, noise)
    scaled = "" if rows == height else f" ({rows} of {height} rows, scaled)"
    peers = {**whole, **{f"{peer}{scaled}": call for peer, call in some.items()}}
    scale = {f"{peer}{scaled}": height / rows for peer in some}
    checked = f"{sampler.steps} steps; {max(differing)} of {case.batch} images differ, at ties"
    return Contest(lambda: sampler.sample(z, noise), sampler.backend, peers, checked, scale)


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
    checked = f"{check_ops(case, picked, setup.device)}; plain PyTorch: {check_module(case, ours, dense, x)}"
    peers = {"eager": _step(dense, x, backward)}
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)  # what a model of these layers hands on
        dense = copy.deepcopy(dense).to(memory_format=torch.channels_last)
        peers["eager channels_last"] = _step(dense, x, backward)
    if setup.mode:
        peers[setup.compiler] = _step(setup.compile(dense), x, backward)
    if setup.mode and setup.on_gpu:
        peers[f"vlae_fast {setup.compiler}"] = _step(setup.compile(ours), x, backward)
    return Contest(_step(ours, x, backward), picked, peers, checked)


@prepare.register
def _(case: ConvCase, setup: Setup) -> Contest:
    torch.manual_seed(0)
    layer = vf.MaskedConv2d(
        case.mask_type, case.c_in, case.p, case.k, activation=case.activation, backend=setup.backend
    ).to(setup.device, torch_dtype(case.dtype))
    x = torch.randn(case.batch, case.c_in, case.size, case.size, device=setup.device, dtype=torch_dtype(case.dtype))
    return _modules(case, "masked_conv", layer, x, case.backward, setup)


@prepare.register
def _(case: LinearCase, setup: Setup) -> Contest:
    torch.manual_seed(0)
    made = vf.MADE(case.dim, case.hidden[0], 2 * case.dim, n_hidden=len(case.hidden), backend=setup.backend)
    x = torch.randn(case.batch, case.dim, device=setup.device, dtype=torch_dtype(case.dtype))
    contest = _modules(case, "made", made.to(x), x, case.backward, setup)
    contest.peers["layer by layer"] = _step(nn.Sequential(*made.masked_layers()), x, case.backward)
    return contest


def _other_rows(op: str, x: Tensor, picked: str) -> list[str]:
    """Rows beside ours that are made for the device of x: their times say which `auto` should take."""
    return [
        row.name for row in vf.backends.table.TABLE if row.devices and row.name != picked and not row.why_not(op, x)
    ]


@prepare.register
def _(case: InverseCase, setup: Setup) -> Contest:
    (made,) = case.op_cases(case.batch)
    tensors = made.to(torch_dtype(case.dtype), str(setup.device)).tensors
    eps = tensors["eps"].contiguous()
    weights, biases, degrees = ([t.contiguous() for t in tensors[key]] for key in ("weights", "biases", "degrees"))
    picked = vf.backends.pick("made_inverse", eps, setup.backend).name
    checked = check_ops(case, picked, setup.device)
    ours = torch.no_grad()(lambda: vf.ops.made_inverse(eps, weights, biases, degrees, backend=picked))
    peers = foreign_inverses(case.dim, case.hidden, eps)
    if missing := {"zuko", "nflows"} - peers.keys():
        checked += f'; without {" and ".join(sorted(missing))}: pip install ".[bench]"'
    if case.dim > 500 and not setup.on_gpu:  # D passes each; one of them is enough, and neither at a large batch
        peers = {name: call for name, call in peers.items() if name == "zuko" and case.batch <= 64}
    if setup.on_gpu:
        passes = partial(dense_inverse, eps, weights, biases, degrees)
        dense = _made(case, "D passes, plain PyTorch", lambda: passes(graph=False))
        dense |= _made(case, "D passes in a CUDA graph", lambda: passes(graph=True))
        peers |= dense
        for row in _other_rows("made_inverse", eps, picked):
            checked += f"; {row}: {check_ops(case, row, setup.device)}"
            peers[f"vlae_fast {row}"] = torch.no_grad()(
                partial(vf.ops.made_inverse, eps, weights, biases, degrees, backend=row)
            )
        for name, inverse in dense.items():
            if not torch.allclose(inverse(), ours()[0], rtol=1e-2, atol=1e-3):
                raise WrongResultError(f"{case.name}: the inverse differs from that of {name}")
    if not setup.on_gpu and picked != "torch":
        checked += f"; torch: {check_ops(case, 'torch', setup.device)}"
        peers["vlae_fast torch"] = torch.no_grad()(
            lambda: vf.ops.made_inverse(eps, weights, biases, degrees, backend="torch")
        )
    peers["one dense forward pass"] = dense_forward(eps, weights, biases, degrees)
    return Contest(ours, picked, peers, checked)


@prepare.register
def _(case: TrainingCase, setup: Setup) -> Contest:
    torch.manual_seed(0)
    model = vf.VLAE(**{"z_channels": 0, **case.model}, backend=setup.backend).to(setup.device)
    x = (torch.rand(case.batch, 1, 28, 28, device=setup.device) < 0.3).float()
    dense = plain(model)
    z = torch.randn(case.batch, model.latent_dim, device=setup.device)
    whole = replace(case, dtype="float32")  # in 16 bits only what is the decoder's: a flow's gradients cancel
    with precision(whole.dtype):
        checked = check_module(whole, _Seeded(_Loss(model)), _Seeded(_Loss(dense)), x)
    with _autocast(case, setup):
        picked = vf.backends.pick("masked_conv", x.to(torch_dtype(case.dtype)), setup.backend).name
        checked += "; decoder: " + check_module(case, _GivenZ(model.decoder, z), _GivenZ(dense.decoder, z), x)

    def step(loss: nn.Module, compiled: bool = False) -> Call:
        optimizer = torch.optim.Adam(loss.parameters(), lr=1e-4, fused=setup.on_gpu)
        compute = setup.compile(loss) if compiled else loss

        def call() -> None:
            with _autocast(case, setup):
                nats = compute(x)
            optimizer.zero_grad()
            nats.backward()
            optimizer.step()

        return call

    peers = {"eager": step(_Loss(dense))}
    if setup.mode:
        peers[setup.compiler] = step(_Loss(plain(model)), compiled=True)
    if setup.mode and setup.on_gpu:
        peers[f"vlae_fast {setup.compiler}"] = step(_Loss(copy.deepcopy(model)), compiled=True)
    return Contest(step(_Loss(model)), picked, peers, checked)


def _autocast(case: TrainingCase, setup: Setup) -> torch.autocast:
    dtype = torch_dtype(case.dtype)
    return torch.autocast(setup.device.type, dtype, enabled=dtype.itemsize == 2)


class _Loss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        return vf.loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)


class _Seeded(nn.Module):
    """Draws the same z in every call."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return self.loss(x)


class _GivenZ(nn.Module):
    def __init__(self, decoder: nn.Module, z: Tensor) -> None:
        super().__init__()
        self.decoder, self.z = decoder, z

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x, self.z)
