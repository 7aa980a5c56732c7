"""pixelcnn_sample: naive, raster and wavefront give the same image, cached logits the same bits, on every backend."""

import subprocess
import sys

import pytest
import torch
from cases.deadline import slow_where
from cases.decoders import gated_stacks, inputs, random_decoder, small_decoder
from cases.pixelcnn_sample import CASES, check_same_bits, compare
from cases.rows import backends_and_cases, backends_of, is_interpreted, require
from torch import nn

import vlae_fast as vf
from vlae_fast import reference
from vlae_fast.backends import cpu
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Plan
from vlae_fast.sampling.naive import naive_sample_with_logits
from vlae_fast.sampling.schedule import derive


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


@pytest.mark.parametrize("name", CASES)
def test_programs_of_every_kind_draw_the_image_of_the_reference(name: str) -> None:
    require("cpu")
    case, drawn = CASES[name], {}
    noise, context = case.inputs()
    for backend in ("cpu", "reference"):
        packed = pixelcnn_pack(case.weights(), case.plan(), backend=backend)
        drawn[backend] = pixelcnn_sample(noise, packed, case.plan(), context, backend=backend)
    (images, logits), (expected_images, expected) = drawn["cpu"], drawn["reference"]
    assert images.equal(expected_images)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize("seed", [2, 3, 7, 11, 13])
def test_logits_are_the_same_bits(seed: int, isa: str) -> None:
    """Across batch size, threads and order, on every instruction set."""
    require("cpu")
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, 9)
    samplers = [vf.PixelCNNSampler(decoder, "cpu", order=order, isa=isa) for order in ("wavefront", "raster")]
    assert all(s.isa == isa for s in samplers)
    check_same_bits(samplers, z, noise)


@pytest.mark.parametrize("backend", backends_of("pixelcnn_sample"))
def test_known_pixels_and_temperature(backend: str) -> None:
    decoder = small_decoder(3, 0)
    z, noise = inputs(decoder, 4)
    mask = torch.zeros(decoder.image_size, dtype=torch.bool)
    mask[: decoder.image_size[0] // 2] = True
    values = (torch.rand(4, decoder.input_dim, *decoder.image_size) < 0.5).float()
    known = (mask, values)
    sampler = vf.PixelCNNSampler(decoder, require(backend))
    for temperature in (0.3, 2.5):
        images = sampler.sample(z, noise, known=known, temperature=temperature)
        assert images[..., mask].equal(values[..., mask])
        assert images.equal(vf.naive_sample(decoder, z, noise, known=known, temperature=temperature))
    cold, warm = (sampler.sample(z, noise, temperature=t) for t in (1e-4, 1.0))
    assert not cold.equal(warm)
    assert cold.equal(vf.naive_sample(decoder, z, torch.full_like(noise, 0.5)))  # the mode of every pixel
    everything = sampler.sample(z, noise, known=(torch.ones_like(mask), values))
    assert everything.equal(values)


@slow_where(lambda backend, z_channels: is_interpreted(backend) and z_channels > 0)
@pytest.mark.parametrize("backend", backends_of("pixelcnn_sample"))
@pytest.mark.parametrize("z_channels", [0, 5])
def test_batch_zero_and_generator(backend: str, z_channels: int) -> None:
    decoder = small_decoder(z_channels=z_channels)
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


@pytest.mark.parametrize(
    ("backend", "size"),
    backends_and_cases("pixelcnn_sample", [(4, 5), (5, 3), (1, 7), (4, 1)], lambda size: size != (4, 1)),
)
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
    naive, logits = reference.naive_sample(lambda image: reference.run_program(stages, weights, None, image), noise, 2)
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
        sampler._context(z, len(z)) if z is not None else None,
        None,
        None,
        1.0,
        "reference",
    )
    torch.library.opcheck(torch.ops.vlae_fast.pixelcnn_sample.default, args)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 4])
def test_threads_never_wait_for_ever(threads: int) -> None:
    """Thousands of images whose waves are shared in a changing number of parts, in a process with a time limit."""
    require("cpu")
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
