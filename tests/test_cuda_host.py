"""The CUDA kernels against the reference without a GPU: the same sources, compiled for the host and run by fibers."""

from collections.abc import Callable
from types import ModuleType

import cuda_host
import pytest
import torch
from decoders import gated_stacks, inputs, random_decoder
from test_pixelcnn_sample import compare

import vlae_fast as vf
from vlae_fast import backends, native_cuda, reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.program import Plan, Source, Stage
from vlae_fast.sampling.sampler import naive_sample_with_logits
from vlae_fast.sampling.schedule import derive


@pytest.fixture(scope="session")
def library() -> None:
    path = cuda_host.build()
    if path is None:
        pytest.skip("g++ is not installed")
    torch.ops.load_library(path)


@pytest.fixture(autouse=True)
def cuda(library: None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The row `cuda`, able on the CPU."""
    monkeypatch.setattr(native_cuda, "_OPS", torch.ops.vlae_fast_cuda_host)
    rows = [r._replace(devices=("cpu",), absent=lambda: None) if r.name == "cuda" else r for r in backends.TABLE]
    monkeypatch.setattr(backends, "TABLE", tuple(rows))
    return native_cuda


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the emulated GPU: its processors, the shared memory of a block in KiB, the order of a block's threads."""

    def set_gpu(processors: int = 132, shared: int = 227, order: str = "forward") -> None:
        monkeypatch.setenv("VLAE_HOST_PROCESSORS", str(processors))
        monkeypatch.setenv("VLAE_HOST_SHARED_BYTES", str(shared << 10))
        monkeypatch.setenv("VLAE_HOST_ORDER", order)

    return set_gpu


@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14])
def test_images_are_those_of_the_naive_sampler(seed: int, record_property: Callable[[str, int], None]) -> None:
    decoder = random_decoder(seed)
    batch = 1 if seed == 2 else 1 + seed % 4
    z, noise = inputs(decoder, batch, z_map=seed % 4 == 3)
    naive, naive_logits = naive_sample_with_logits(decoder, z, noise)
    wave, wave_logits = vf.PixelCNNSampler(decoder, "cuda").sample_with_logits(z, noise)
    record_property("samples", batch)
    record_property("differing_samples", compare(wave, naive, naive_logits, noise))
    same = (wave == naive).flatten(1).all(1)
    torch.testing.assert_close(wave_logits[same], naive_logits[same], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [6, 7, 13])
def test_logits_are_the_same_bits(seed: int, gpu: Callable[..., None]) -> None:
    """Whatever the batch, the tile, the rows at a time, the threads' order; activations in shared memory or not."""
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, 5)
    sampler = vf.PixelCNNSampler(decoder, "cuda")
    images, logits = sampler.sample_with_logits(z, noise)
    for settings in ({"processors": 1}, {"processors": 3, "order": "backward"}, {"shared": 48}, {"shared": 24}):
        gpu(**settings)
        for rows in (slice(0, 5), slice(3, 4)):
            got_images, got = sampler.sample_with_logits(None if z is None else z[rows], noise[rows])
            assert got.equal(logits[rows]) and got_images.equal(images[rows]), settings


def program(stages: list[Stage], channels: int, size: tuple[int, int], order: str) -> tuple[list[torch.Tensor], Plan]:
    """Random weights of a program of `channels` image channels, and its plan."""
    widths = [channels, *(s.out_channels for s in stages)]
    weights = []
    for s in stages:
        columns = s.out_channels * (2 if s.activation == "gate" else 1)
        for x in s.sources:
            scale = (widths[x.buffer] * len(x.taps)) ** -0.5
            weights.append(torch.randn(columns, widths[x.buffer], len(x.taps)) * scale)
        weights.append(torch.randn(columns) * 0.1)
        if s.context_dim:
            weights.append(torch.randn(columns, s.context_dim) * s.context_dim**-0.5)
    schedule = derive(stages, size, order=order)
    return weights, Plan(channels, schedule.slope, tuple(stages), schedule.leads)


def check_program(
    stages: list[Stage], channels: int, size: tuple[int, int], context: torch.Tensor | None = None
) -> None:
    noise = torch.rand(2, channels, *size)
    for order in ("wavefront", "raster"):
        weights, plan = program(stages, channels, size, order)
        expected = reference.pixelcnn_sample(noise, weights, plan, context, None, None, 1.0)
        packed = pixelcnn_pack(weights, plan, backend="cuda")
        images, logits = pixelcnn_sample(noise, packed, plan, context, backend="cuda")
        assert images.equal(expected[0])
        torch.testing.assert_close(logits, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 5), (5, 3), (1, 7), (4, 1)])
def test_stages_that_run_ahead(size: tuple[int, int]) -> None:
    """Two stacks: several sources a stage, leads of more than 0, columns that do not exist."""
    stages = [s._replace(out_channels=4, activation="elu") for s in gated_stacks(3)]
    check_program([*stages[:-1], stages[-1]._replace(out_channels=2, activation="none")], 2, size)


@pytest.mark.parametrize("width", [1, 30, 64, 65, 130, 300, 520])
@pytest.mark.parametrize("activation", ["relu", "gate"])
def test_widths(width: int, activation: str) -> None:
    """One chunk of columns and many, every number of slices, 2 and 4 columns a lane; a residual and a context."""
    a, b = (Source(i, live_taps(t, (3, 3))) for i, t in enumerate("AB"))
    stages = [
        Stage(width, activation, -1, 5, (a,)),
        Stage(width, activation, 1, 5, (b,)),
        Stage(1, "none", -1, 0, (Source(2, ((0, 0),)), Source(1, ((0, -1),)))),
    ]
    check_program(stages, 1, (4, 5), torch.randn(2, 5))


def test_known_pixels_and_temperature() -> None:
    decoder = random_decoder(8)
    z, noise = inputs(decoder, 3)
    mask = torch.zeros(decoder.image_size, dtype=torch.bool)
    mask[: decoder.image_size[0] // 2] = True
    known = (mask, (torch.rand(3, decoder.input_dim, *decoder.image_size) < 0.5).float())
    sampler = vf.PixelCNNSampler(decoder, "cuda")
    for temperature in (0.3, 2.5):
        images = sampler.sample(z, noise, known=known, temperature=temperature)
        assert images.equal(vf.naive_sample(decoder, z, noise, known=known, temperature=temperature))


def test_batch_zero() -> None:
    decoder = random_decoder(9)
    z, _ = inputs(decoder, 0)
    images = vf.PixelCNNSampler(decoder, "cuda").sample(z, torch.rand(0, decoder.input_dim, *decoder.image_size))
    assert images.shape[0] == 0
