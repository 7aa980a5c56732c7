"""Decoders of every kind and programs, drawn by chance, and the promise that every one of them must keep."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import activations, reference
from vlae_fast.masks import Offset
from vlae_fast.models.decoders import Decoder
from vlae_fast.models.decoders.make import KINDS, make_decoder
from vlae_fast.models.likelihood import make_likelihood
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Emit, Plan, Sites, Source, Stage, computed_by, writers_of
from vlae_fast.reference import pixelcnn_draw
from vlae_fast.sampling import FactorizedSampler
from vlae_fast.sampling.naive import naive_sample_with_logits
from vlae_fast.sampling.schedule import derive

Drawn = tuple[Tensor, Tensor]  # images, and the parameters they were drawn from
GAP = 1e-4  # of the largest parameter: what two orders of adding may differ by


class Ways(NamedTuple):
    """The ways to one image: `naive()`, and `sample(order, rows)` of rows of the batch, whose bits do not change."""

    naive: Callable[[], Drawn]
    sample: Callable[[str, slice], Drawn]
    emit: Emit
    noise: Tensor
    temperature: float
    known: Drawn | None  # mask and values
    same_bits: bool = True  # PyTorch's own products have others in another order, batch or number of threads


def emit_of(rng: random.Random) -> tuple[str, int, int]:
    """Kind, levels and components."""
    kind = rng.choice(["bernoulli", "bernoulli", "categorical", "logistic_mixture"])
    levels = 2 if kind == "bernoulli" else rng.choice([2, 3, 16, 256])
    return kind, levels, rng.randint(1, 4) if kind == "logistic_mixture" else 0


def given(
    rng: random.Random, emit: Emit, batch: int, channels: int, size: tuple[int, int]
) -> tuple[Tensor, Drawn | None]:
    """Noise, and in half of the cases pixels that are known."""
    noise = torch.rand(batch, emit.noises(channels), *size)
    if rng.random() < 0.5:
        return noise, None
    mask = torch.rand(batch, channels, *size) < rng.random()
    return noise, (mask, torch.randint(emit.levels, mask.shape) / (emit.levels - 1))


def random_kind(rng: random.Random) -> Decoder:
    """A decoder of any kind that `make_decoder` knows, with options of its own."""
    kind, latent_dim = rng.choice([*KINDS, "gated"]), rng.choice([0, 1, 3, 16])
    size, channels = (rng.randint(1, 9), rng.randint(1, 9)), rng.choice([1, 1, 2, 3])
    options: dict[str, Any] = {}
    if kind in ("mlp", "deconv"):
        latent_dim = latent_dim or 2
    elif latent_dim:
        options["z_channels"] = rng.choice([1, 4]) if kind == "resnet" else rng.choice([0, 1, 5])
    if kind in ("gated", "two-stack", "resnet"):
        options["kernel_size"] = rng.choice([3, 5])
    if kind in ("gated", "two-stack", "pixelcnn++"):
        options["initial_kernel"] = rng.choice([3, 5, 7])
    options |= {"residual": rng.random() < 0.5} if kind == "gated" else {}
    options |= {"n_pointwise": rng.randint(0, 3), "tied": rng.random() < 0.3} if kind == "resnet" else {}
    name, levels, components = emit_of(rng)
    n_layers = rng.randint(1, 4)
    whole = 2 ** (n_layers - 1) if kind == "deconv" else 1  # which its channels must be a multiple of
    decoder = make_decoder(
        kind,
        input_dim=channels,
        latent_dim=latent_dim,
        hidden_dim=whole * rng.choice([1, 4, 7, 8, 16, 17, 33]),
        n_layers=n_layers,
        image_size=size,
        likelihood=make_likelihood(name, channels, levels=levels, components=max(components, 1)),
        **options,
    )
    scale = rng.choice([0.7, 1.5, 1.5, 3.0])
    for path, p in decoder.named_parameters():
        if path.endswith("gain"):
            nn.init.uniform_(p, 0.5, 1.5)
        else:
            nn.init.normal_(p, std=scale * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
    return decoder.eval()


def of_decoder(seed: int, backend: str = "cpu") -> Ways:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    decoder, batch = random_kind(rng), rng.randint(1, 5)
    spread = decoder.autoregressive and decoder.latent_dim and rng.random() < 0.25  # z as a map that varies
    shape = (batch, decoder.z_channels, *decoder.image_size) if spread else (batch, decoder.latent_dim)
    z = torch.randn(shape) if decoder.latent_dim else None
    emit, temperature = decoder.likelihood.emit, rng.choice([0.3, 1.0, 1.0, 2.5])
    noise, known = given(rng, emit, batch, decoder.input_dim, decoder.image_size)

    def sampler(order: str) -> vf.PixelCNNSampler | FactorizedSampler:
        if not decoder.autoregressive:
            return FactorizedSampler(decoder)
        return vf.PixelCNNSampler(decoder, backend, order=order)

    samplers = {order: sampler(order) for order in ("wavefront", "raster")}

    def sample(order: str, rows: slice) -> Drawn:
        own = None if known is None else (known[0][rows], known[1][rows])
        at = None if z is None else z[rows]
        return samplers[order].sample_with_logits(at, noise[rows], known=own, temperature=temperature)

    def naive() -> Drawn:
        return naive_sample_with_logits(decoder, z, noise, known, temperature)

    return Ways(naive, sample, emit, noise, temperature, known, decoder.autoregressive and backend == "cpu")


def _attention(rng: random.Random, stages: list[Stage], image_channels: int) -> Stage | None:
    """A stage that attends to buffers of all pixels, where some fit; the image itself is seen at earlier pixels."""
    channels = {0: image_channels} | {
        b: s.out_channels
        for b, s in enumerate(stages, 1)
        if computed_by(stages, writers_of(stages, b), Sites(), (0, 0))
    }
    k, v = rng.choices([*channels], k=2)
    queries = [b for b in channels if b and channels[b] == channels[k]]
    if not queries:
        return None
    out, itself = channels[v], min(k, v) > 0 and rng.random() < 0.5
    heads = rng.choice([n for n in range(1, 9) if channels[k] % n == 0 and out % n == 0])
    reads = [Source(rng.choice(queries), ((0, 0),)), *(Source(b, ((0, itself - 1),)) for b in (k, v))]
    beside = [rng.choice([-1, *(b for b in channels if b and channels[b] == out)]) for _ in range(2)]
    one = [name for name in activations.names("pixelcnn_sample") if activations.columns(name) == 1]
    return Stage(out, rng.choice(one), beside[0], 0, tuple(reads), "attend", beside[1], heads=heads)


def random_stages(rng: random.Random, image_channels: int, params: int, context_dim: int) -> list[Stage]:
    """Stages that read any earlier buffers at any taps that are causal; some at a stride, some phases of a buffer."""
    stages: list[Stage] = []
    for last in [False] * rng.randint(0, 4) + [True]:
        out = params if last else rng.choice([1, 3, 8, 13, 16, 20, 40])
        stride = 1 if last else rng.choice([1, 1, 2, 2, 3, 4])
        phases = [Sites(stride, row, column) for row in range(stride) for column in range(stride)]
        phases = rng.sample(phases, len(phases) if stride == 2 and rng.random() < 0.5 else 1)
        if (
            not last
            and stages
            and rng.random() < 0.3
            and (stage := _attention(rng, stages, image_channels)) is not None
        ):
            stages.append(stage)
        own = len(stages) + 1
        for n, sites in enumerate(phases):
            stage = _random_stage(rng, stages[: own - 1], sites, out, "none" if last else None)
            dim = context_dim * (rng.random() < 0.5)
            stages.append(stage._replace(context_dim=dim, joins=own if n else -1))
    return stages


def _random_stage(rng: random.Random, stages: list[Stage], sites: Sites, out: int, activation: str | None) -> Stage:
    """A stage that reads some of the `stages`, where they are computed, or the image."""
    before = [(dy, dx) for dy in range(-4, 1) for dx in range(-4, 5) if (dy, dx) < (0, 0)]

    def readable(buffer: int, taps: list[Offset]) -> list[Offset]:
        return [tap for tap in taps if computed_by(stages, writers_of(stages, buffer), sites, tap)]

    sources = []
    while not sources:
        for _ in range(rng.randint(1, 3)):
            buffer = rng.randint(0, len(stages))
            own = readable(buffer, [(0, 0)]) if buffer and rng.random() < 0.8 else []
            taps = readable(buffer, before)
            if taps := rng.sample(taps, min(len(taps), rng.randint(1, 6))) + own:
                sources.append(Source(buffer, tuple(sorted(taps))))
    alike = [b for b, s in enumerate(stages, 1) if s.out_channels == out and readable(b, [(0, 0)])]
    residual, factor = (rng.choice(alike) if alike and rng.random() < p else -1 for p in (0.5, 0.2))
    activation = activation or rng.choice(activations.names("pixelcnn_sample"))
    return Stage(out, activation, residual, 0, tuple(sources), factor=factor, sites=sites)


def random_weights(stages: list[Stage], image_channels: int) -> list[Tensor]:
    channels, weights = [image_channels, *(s.out_channels for s in stages)], []
    for s in stages:
        if s.kind == "attend":
            weights.append(torch.rand(1) * 2)
            continue
        p, fan_in = s.out_channels * activations.columns(s.activation), sum(len(x.taps) for x in s.sources)
        weights += [torch.randn(p, channels[x.buffer], len(x.taps)) for x in s.sources]
        for weight in weights[-len(s.sources) :]:
            weight *= 1.5 * (fan_in * weight.shape[1]) ** -0.5
        weights.append(torch.randn(p) * 0.2)
        weights += [torch.randn(p, s.context_dim) * 0.3] if s.context_dim else []
    return weights


def of_program(seed: int, backend: str = "cpu") -> Ways:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size, channels, batch = (rng.randint(1, 8), rng.randint(1, 8)), rng.choice([1, 1, 2, 3]), rng.randint(1, 5)
    emit, temperature = Emit(*emit_of(rng)), rng.choice([0.3, 1.0, 1.0, 2.5])
    stages = random_stages(rng, channels, emit.params(channels), rng.choice([0, 1, 5]))
    weights, dim = random_weights(stages, channels), max(s.context_dim for s in stages)
    context = torch.randn(batch, dim, *(size if rng.random() < 0.5 else ())) if dim else None
    noise, known = given(rng, emit, batch, channels, size)
    mask, values = known or (None, None)
    plans = {}
    for order in ("wavefront", "raster"):
        schedule = derive(stages, size, order=order)
        plans[order] = Plan(channels, schedule.slope, tuple(stages), schedule.leads, emit)
    packed = {order: pixelcnn_pack(weights, plan, backend=backend) for order, plan in plans.items()}

    def sample(order: str, rows: slice) -> Drawn:
        at, own_mask, own = (None if t is None else t[rows] for t in (context, mask, values))
        tensors = (noise[rows], packed[order], plans[order], at)
        return pixelcnn_sample(*tensors, own_mask, own, temperature=temperature, backend=backend)

    def naive() -> Drawn:
        return reference.pixelcnn_sample(noise, weights, plans["raster"], context, mask, values, temperature)

    return Ways(naive, sample, emit, noise, temperature, known, backend == "cpu")


def check(ways: Ways) -> int:
    """Naive, wavefront and raster give one image; where they can, the same bits on any number of threads, in any batch.

    Returns the images that differ from the naive ones, each at a draw so near to its threshold that the last bits of
    the parameters decide.
    """
    batch, threads = len(ways.noise), torch.get_num_threads()
    whole = slice(0, batch)
    try:
        torch.set_num_threads(1)
        naive, naive_params = ways.naive()
        images, params = ways.sample("wavefront", whole)
        if not ways.same_bits:
            both = ((images, params), ways.sample("raster", whole))
            return sum(_differs(ways, b, *drawn, naive, naive_params) for drawn in both for b in range(batch))
        others = [("raster", whole, 2), ("wavefront", whole, 3), ("wavefront", slice(batch // 2, batch), 2)]
        for order, rows, n in others:
            torch.set_num_threads(n)
            got, got_params = ways.sample(order, rows)
            assert got.equal(images[rows]), f"{order}, {n} threads: another image"
            assert got_params.equal(params[rows]), f"{order}, {n} threads: the parameters have other bits"
    finally:
        torch.set_num_threads(threads)
    return sum(_differs(ways, b, images, params, naive, naive_params) for b in range(batch))


def _differs(ways: Ways, b: int, images: Tensor, params: Tensor, naive: Tensor, naive_params: Tensor) -> bool:
    """True where image b differs; up to the first pixel that does, parameters are equal but for the order of adding."""
    off = (images[b] != naive[b]).any(0).flatten().nonzero().flatten()
    same = off[0].item() + 1 if len(off) else images[b, 0].numel()
    ours, theirs = (p[b].flatten(1)[:, :same].double() for p in (params, naive_params))
    allowed = GAP * max(1.0, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= allowed, f"sample {b}: the parameters differ"
    if not len(off):
        return False
    at = off[0].item()
    known = (None, None) if ways.known is None else (t[b].flatten(1)[:, at][None] for t in ways.known)
    here = (params[b].flatten(1)[:, at][None], ways.noise[b].flatten(1)[:, at][None])
    drawn = pixelcnn_draw.draw(*here, ways.emit, ways.temperature, *known)
    assert drawn[0].equal(images[b].flatten(1)[:, at]), f"sample {b}: pixel {at} is not what its parameters give"
    return True
