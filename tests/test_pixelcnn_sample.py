"""Sampling: naive, raster and wavefront give the same image, cached logits the same bits, the taps the schedule."""

import random

import pytest
import torch
from conftest import backends_of, require
from torch import nn

import vlae_fast as vf
from vlae_fast import native, reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.program import Plan, Source, Stage
from vlae_fast.sampling.sampler import naive_sample_with_logits
from vlae_fast.sampling.schedule import derive
from vlae_fast.sampling.stages import build_program

GAP = 1e-5  # a pixel may differ only where its logit is this close to the threshold


def random_decoder(seed: int) -> vf.PixelCNNDecoder:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size = (
        [(1, 1), (33, 29), (28, 28), (1, 12), (12, 1)][seed] if seed < 5 else (rng.randint(2, 14), rng.randint(2, 14))
    )
    decoder = vf.PixelCNNDecoder(
        input_dim=rng.choice([1, 1, 2, 3]),
        latent_dim=(latent_dim := rng.choice([0, 3, 16])),
        hidden_dim=rng.choice([8, 9, 16, 17, 31, 32, 40, 63, 96]) if seed not in (1, 2) else 13,
        n_layers=rng.randint(0, 5),
        kernel_size=rng.choice([3, 5, 7]),
        initial_kernel=rng.choice([3, 5, 7]),
        z_channels=5 if latent_dim and seed % 3 == 1 else 0,
        residual=rng.random() < 0.4,
        image_size=size,
    )
    for p in decoder.parameters():  # logits that are neither all certain nor all alike
        nn.init.normal_(p, std=1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
    return decoder


def inputs(decoder: vf.PixelCNNDecoder, batch: int, *, z_map: bool = False) -> tuple[torch.Tensor | None, torch.Tensor]:
    size = decoder.image_size if z_map else ()
    channels = decoder.z_channels if z_map else decoder.latent_dim
    z = torch.randn(batch, channels, *size) if decoder.latent_dim else None
    return z, torch.rand(batch, decoder.input_dim, *decoder.image_size)


def compare(images: torch.Tensor, naive: torch.Tensor, logits: torch.Tensor, noise: torch.Tensor) -> int:
    """Samples that differ at all; each must first differ where its logit is within GAP of the threshold."""
    differing = 0
    gap = (logits.double() - torch.logit(noise.double())).abs()
    for b in (images != naive).flatten(1).any(1).nonzero().flatten().tolist():
        first = (images[b] != naive[b]).any(0).flatten().nonzero()[0].item()
        at = gap[b].flatten(1)[:, first][(images[b] != naive[b]).flatten(1)[:, first]]
        assert (at < GAP).all(), f"sample {b} differs at pixel {first} where the gap is {at.tolist()}"
        differing += 1
    return differing


@pytest.mark.parametrize("seed", range(20))
def test_naive_raster_and_wavefront_are_equal(seed: int, record_property) -> None:
    require("cpu")
    decoder = random_decoder(seed)
    batch = 1 + seed % 9 if decoder.image_size != (33, 29) else 2
    z, noise = inputs(decoder, batch, z_map=seed % 4 == 3)
    naive, naive_logits = naive_sample_with_logits(decoder, z, noise)
    wave, wave_logits = vf.PixelCNNSampler(decoder, "cpu").sample_with_logits(z, noise)
    raster, raster_logits = vf.PixelCNNSampler(decoder, "cpu", order="raster").sample_with_logits(z, noise)
    assert wave.equal(raster) and wave_logits.equal(raster_logits)
    record_property("samples", batch)
    record_property("differing_samples", compare(wave, naive, naive_logits, noise))
    same = (wave == naive).flatten(1).all(1)
    torch.testing.assert_close(wave_logits[same], naive_logits[same], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", native.isas() or ["absent"])
@pytest.mark.parametrize("seed", [2, 3, 7, 11, 13])
def test_logits_are_the_same_bits(seed: int, isa: str) -> None:
    """Across batch size, threads and order, on every instruction set."""
    require("cpu")
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, 9)
    samplers = [vf.PixelCNNSampler(decoder, "cpu", order=order) for order in ("wavefront", "raster")]
    for s in samplers:
        s._packed = native.pixelcnn_pack(s.program.weights, s.plan, isa)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        images, logits = samplers[0].sample_with_logits(z, noise)
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            for s in samplers:
                for rows in (slice(0, 9), slice(4, 5), slice(2, 4), slice(1, 8)):
                    got_images, got = s.sample_with_logits(None if z is None else z[rows], noise[rows])
                    assert got.equal(logits[rows]) and got_images.equal(images[rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", range(5, 12))
def test_program_is_the_decoder(seed: int) -> None:
    """The program run densely on a whole image gives the decoder's logits."""
    decoder = random_decoder(seed).double()
    program = build_program(decoder)
    z, x = inputs(decoder, 3)
    z = None if z is None else z.double()
    x = (x < 0.5).double()
    dense = reference.run_program(program.stages, program.weights, decoder.spread(z), x)
    torch.testing.assert_close(dense, decoder(x, z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", backends_of("pixelcnn_sample"))
def test_known_pixels_and_temperature(backend: str) -> None:
    decoder = random_decoder(8)
    z, noise = inputs(decoder, 4)
    mask = torch.zeros(decoder.image_size, dtype=torch.bool)
    mask[: decoder.image_size[0] // 2] = True
    values = (torch.rand(4, decoder.input_dim, *decoder.image_size) < 0.5).float()
    known = (mask, values)
    sampler = vf.PixelCNNSampler(decoder, require(backend))
    for temperature in (0.3, 1.0, 2.5):
        images = sampler.sample(z, noise, known=known, temperature=temperature)
        assert images[..., mask].equal(values[..., mask])
        assert images.equal(vf.naive_sample(decoder, z, noise, known=known, temperature=temperature))
    cold, warm = (sampler.sample(z, noise, temperature=t) for t in (1e-4, 1.0))
    assert not cold.equal(warm)
    assert cold.equal(vf.naive_sample(decoder, z, torch.full_like(noise, 0.5)))  # the mode of every pixel
    everything = sampler.sample(z, noise, known=(torch.ones_like(mask), values))
    assert everything.equal(values)


@pytest.mark.parametrize("backend", backends_of("pixelcnn_sample"))
@pytest.mark.parametrize("seed", [9, 13])
def test_batch_zero_and_generator(backend: str, seed: int) -> None:
    decoder = random_decoder(seed)
    sampler = vf.PixelCNNSampler(decoder, require(backend))
    z, _ = inputs(decoder, 0)
    assert sampler.sample(z, torch.rand(0, decoder.input_dim, *decoder.image_size)).shape[0] == 0
    z, _ = inputs(decoder, 3)
    draws = [sampler.sample(z, generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])


def test_draws_follow_the_logits() -> None:
    """With a decoder that only has a bias, the share of ones is its sigmoid."""
    decoder = vf.PixelCNNDecoder(1, 0, 4, 1, image_size=(20, 20))
    nn.init.zeros_(decoder.final_conv.weight)
    nn.init.constant_(decoder.final_conv.bias, -1.0)
    images = vf.PixelCNNSampler(decoder).sample(None, torch.rand(50, 1, 20, 20))
    p = torch.sigmoid(torch.tensor(-1.0)).item()
    assert abs(images.mean().item() - p) < 5 * (p * (1 - p) / images.numel()) ** 0.5


def chain(kernels: list[int]) -> list[Stage]:
    types = ["A"] + ["B"] * (len(kernels) - 1)
    return [
        Stage(1, "none", -1, 0, (Source(i, live_taps(t, (k, k))),))
        for i, (t, k) in enumerate(zip(types, kernels, strict=True))
    ]


def gated_stacks(layers: int) -> list[Stage]:
    """Vertical and horizontal stacks of a Gated PixelCNN."""
    stages: list[Stage] = []
    vertical = horizontal = 0
    for kind in ["A"] + ["B"] * (layers - 1):
        stages.append(Stage(1, "none", -1, 0, (Source(vertical, live_taps(f"vertical_{kind}", (3, 3))),)))
        vertical = len(stages)
        sources = (Source(horizontal, live_taps(f"horizontal_{kind}", (3, 3))), Source(vertical, ((0, 0),)))
        stages.append(Stage(1, "none", -1, 0, sources))
        horizontal = len(stages)
    return stages


@pytest.mark.parametrize(
    ("stages", "steps"),
    [
        (chain([3] * 6), 82),
        (chain([7, 7, 7, 5, 5, 3, 3]), 136),
        *((gated_stacks(n), steps) for n, steps in [(2, 109), (4, 163), (6, 217), (8, 271), (12, 379)]),
    ],
)
def test_schedule_from_the_taps(stages: list[Stage], steps: int) -> None:
    schedule = derive(stages, (28, 28))
    assert schedule.steps == steps
    assert derive(stages, (28, 28), order="raster").steps >= 784


@pytest.mark.parametrize("backend", backends_of("pixelcnn_sample"))
@pytest.mark.parametrize("size", [(6, 5), (5, 3), (1, 7), (4, 1)])
def test_stages_that_run_ahead(backend: str, size: tuple[int, int]) -> None:
    """Two stacks: several sources a stage, leads of more than 0, columns that do not exist."""
    require(backend)
    stages = [
        s._replace(out_channels=4 if i < 5 else 2, activation="elu" if i < 5 else "none")
        for i, s in enumerate(gated_stacks(3))
    ]
    channels = [2, *(s.out_channels for s in stages)]
    weights = []
    for s in stages:
        weights += [torch.randn(s.out_channels, channels[x.buffer], len(x.taps)) * 0.7 for x in s.sources]
        weights.append(torch.randn(s.out_channels) * 0.1)
    noise = torch.rand(3, 2, *size)
    naive, logits = reference.naive_sample(lambda image: reference.run_program(stages, weights, None, image), noise)
    for order in ("wavefront", "raster"):
        schedule = derive(stages, size, order=order)
        plan = Plan(2, schedule.slope, tuple(stages), schedule.leads)
        packed = pixelcnn_pack(weights, plan, backend=backend)
        images, got = pixelcnn_sample(noise, packed, plan, backend=backend)
        assert images.equal(naive)
        torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-4)
        assert Plan.from_words(plan.words) == plan


def test_peak_memory_of_256_images() -> None:
    require("cpu")
    import subprocess
    import sys

    code = """
import resource, torch, vlae_fast as vf
decoder = vf.PixelCNNDecoder()
sampler = vf.PixelCNNSampler(decoder, "cpu")
sampler.sample(torch.randn(1, 32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sampler.sample(torch.randn(256, 32))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    megabytes = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert megabytes < 200


def test_opcheck() -> None:
    decoder = random_decoder(6)
    sampler = vf.PixelCNNSampler(decoder, "reference")
    z, noise = inputs(decoder, 2)
    args = (
        noise,
        sampler._packed,
        sampler.plan.words,
        sampler._context(z) if z is not None else None,
        None,
        None,
        1.0,
        "reference",
    )
    torch.library.opcheck(torch.ops.vlae_fast.pixelcnn_sample.default, args)


class Stateful(vf.PixelCNNDecoder):
    def __init__(self) -> None:
        super().__init__(1, 2, 4, 2, image_size=(5, 5))
        self.decoder_layers[1] = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


class Block(nn.Sequential):
    def forward(self, h: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(h)


class OwnForward(vf.PixelCNNDecoder):
    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x, z).relu()


def residual_decoder(layer: nn.Module) -> nn.Module:
    decoder = vf.PixelCNNDecoder(1, 2, 4, 1, residual=True, image_size=(5, 6))
    decoder.decoder_layers[0] = layer
    return decoder


DECODER = vf.PixelCNNDecoder(1, 2, 4, 1, image_size=(5, 6))
Z, NOISE = torch.zeros(3, 2), torch.rand(3, 1, 5, 6)
MASK, VALUES = torch.ones(5, 6, dtype=torch.bool), torch.zeros(5, 6)


def nan_decoder(where: str) -> nn.Module:
    decoder = vf.PixelCNNDecoder(1, 2, 4, 1, image_size=(5, 6))
    with torch.no_grad():
        decoder.get_parameter(where)[..., 0] = torch.nan
    return decoder


def future_decoder() -> nn.Module:
    decoder = vf.PixelCNNDecoder(1, 2, 4, 1, image_size=(5, 6))
    decoder.initial_conv = vf.MaskedConv2d("B", 1, 4, 3)
    return decoder


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: s.sample(torch.zeros(3, 5), NOISE), r"z must be \[B, 2\] or \[B, 2, 5, 6\], got \(3, 5\)"),
        (lambda s: s.sample(None, NOISE), "z must be .*got None"),
        (lambda s: s.sample(Z + torch.nan, NOISE), "z must be finite"),
        (lambda s: s.sample(Z, NOISE[:2]), r"noise must be \[3, 1, 5, 6\], got \[2, 1, 5, 6\]"),
        (lambda s: s.sample(Z, NOISE[..., :5]), r"noise must be \[3, 1, 5, 6\], got \[3, 1, 5, 5\]"),
        (lambda s: s.sample(Z, NOISE - 1), r"noise must be in \[0, 1\), got -0\.\d+"),
        (lambda s: s.sample(Z, torch.ones_like(NOISE)), r"noise must be in \[0, 1\), got 1.0"),
        (lambda s: s.sample(Z, NOISE * torch.nan), r"noise must be in \[0, 1\), got nan"),
        (lambda s: s.sample(Z, NOISE, temperature=0.0), "temperature must be positive and finite, got 0.0"),
        (lambda s: s.sample(Z, NOISE, known=(MASK[:4], VALUES)), r"known must be \(mask, values\) that broadcast to"),
        (
            lambda s: s.sample(Z, NOISE, known=(MASK.float(), VALUES)),
            "known must have a boolean mask, got torch.float32",
        ),
        (lambda s: s.sample(Z, NOISE, known=(MASK, VALUES + 0.5)), "known must have values 0 or 1"),
        (lambda s: vf.PixelCNNSampler(DECODER, order="spiral"), "order must be wavefront or raster, got 'spiral'"),
        (
            lambda s: vf.PixelCNNSampler(nan_decoder("final_conv.weight")),
            r"weights\[\d\] must be finite, got nan at index",
        ),
        (
            lambda s: vf.PixelCNNSampler(OwnForward(1, 2, 4, 1, image_size=(5, 6))),
            "decoder.forward must be initial_conv",
        ),
        (lambda s: vf.naive_sample(DECODER, Z, NOISE + 1), r"naive_sample: noise must be in \[0, 1\), got 1\.\d+"),
        (lambda s: vf.naive_sample(DECODER, Z, NOISE[0]), r"naive_sample: noise must be floating point \[B, 1, H, W\]"),
        (
            lambda s: vf.PixelCNNSampler(residual_decoder(nn.Identity())),
            "residual layer, got none at 'decoder_layers.0'",
        ),
        (lambda s: vf.PixelCNNSampler(residual_decoder(nn.ReLU())), "got ReLU at 'decoder_layers.0'"),
        (lambda s: vf.PixelCNNSampler(residual_decoder(nn.Conv2d(4, 4, 1, padding=1))), "got Conv2d at"),
        (lambda s: s.sample(Z, NOISE, known=(MASK,)), r"known must be \(mask, values\), got 1 entries"),
        (lambda s: vf.PixelCNNSampler(Stateful()), "got BatchNorm2d at 'decoder_layers.1.1'"),
        (lambda s: vf.PixelCNNSampler(nn.Linear(2, 2)), "decoder must have input_dim, image_size.*got Linear"),
        (lambda s: vf.PixelCNNSampler(future_decoder()), "decoder must read only pixels before its own"),
        (lambda s: vf.PixelCNNSampler(DECODER, backend="abacus"), "backend must be one of auto.*got 'abacus'"),
    ],
)
def test_errors(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(vf.PixelCNNSampler(DECODER))


def test_dtype_errors() -> None:
    sampler = vf.PixelCNNSampler(DECODER)
    with pytest.raises(TypeError, match=r"noise must have the weights' dtype, torch.float32, got torch.float64"):
        sampler.sample(Z, NOISE.double())
    with pytest.raises(TypeError, match=r"z must have the weights' dtype, torch.float32, got torch.float64"):
        sampler.sample(Z.double(), NOISE)


@pytest.mark.parametrize("z_channels", [0, 5])
def test_a_sampler_is_a_snapshot(z_channels: int) -> None:
    """Training goes on; a sampler built before draws as before."""
    decoder = vf.PixelCNNDecoder(1, 3, 8, 2, z_channels=z_channels, image_size=(6, 7))
    sampler, (z, noise) = vf.PixelCNNSampler(decoder), inputs(decoder, 2)
    before = sampler.sample_with_logits(z, noise)
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.5)
    after = sampler.sample_with_logits(z, noise)
    assert after.images.equal(before.images) and after.logits.equal(before.logits)
    assert not vf.PixelCNNSampler(decoder).sample_with_logits(z, noise).logits.equal(before.logits)


def test_autocast_changes_nothing() -> None:
    decoder = random_decoder(13)
    z, noise = inputs(decoder, 2)
    outside = vf.PixelCNNSampler(decoder).sample_with_logits(z, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = vf.PixelCNNSampler(decoder).sample_with_logits(z, noise)
    assert inside.logits.equal(outside.logits)


def test_other_layers_that_a_program_can_express() -> None:
    decoder = vf.PixelCNNDecoder(1, 0, 6, 0, residual=True, image_size=(5, 6))
    layers = (vf.MaskedConv2d("B", 6, 4, 3, activation="elu"), nn.Dropout(0.0), nn.Conv2d(4, 6, 1), nn.ReLU())
    decoder.decoder_layers.append(Block(*layers))
    noise = torch.rand(3, 1, 5, 6)
    assert vf.PixelCNNSampler(decoder).sample(None, noise).equal(vf.naive_sample(decoder, None, noise))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 4])
def test_threads_never_wait_for_ever(threads: int) -> None:
    """Thousands of images whose waves are shared in a changing number of parts, in a process with a time limit."""
    require("cpu")
    import subprocess
    import sys

    code = f"""
import time, torch, vlae_fast as vf
torch.set_num_threads({threads})
sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(1, 4, 32, 6, image_size=(48, 48)), "cpu")
z, noise = torch.randn(1, 4), torch.rand(1, 1, 48, 48)
first, end = sampler.sample_with_logits(z, noise).logits, time.monotonic() + 20
while time.monotonic() < end:
    assert sampler.sample_with_logits(z, noise).logits.equal(first)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
