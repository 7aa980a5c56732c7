"""Decoder -> program -> schedule -> sampler: what can be expressed, in how many steps, and what is refused."""

from typing import Any

import pytest
import torch
from cases.decoders import chain, gated_stacks, inputs, random_decoder, small_decoder
from cases.rows import backends_and_cases, require
from torch import nn

import vlae_fast as vf
from vlae_fast import reference
from vlae_fast.backends import cpu
from vlae_fast.ops import pixelcnn_pack
from vlae_fast.plan import Plan, Source, Stage
from vlae_fast.sampling.program import build_program
from vlae_fast.sampling.schedule import derive
from vlae_fast.sampling.window import receptive_field


@pytest.mark.parametrize("order", ["wavefront", "raster"])
@pytest.mark.parametrize("seed", range(5, 12))
def test_every_activation_is_computed_exactly_once_and_after_what_it_reads(seed: int, order: str) -> None:
    """Steps hold each pixel of each stage once; within a step stages run in turn, and the draw is last."""
    decoder = random_decoder(seed)
    stages, (height, width) = build_program(decoder).stages, decoder.image_size
    slope, leads, steps = derive(stages, decoder.image_size, order=order)
    done: set[tuple[int, int, int]] = set()  # buffer, row, column
    pixels = [(i, j) for i in range(height) for j in range(width)]
    for step in range(steps):
        for s, stage in enumerate(stages):
            begun = [p for p in pixels if p[1] + slope * p[0] - leads[s] == step]
            caught_up = [p for p in pixels if step == 0 and p[1] + slope * p[0] - leads[s] < 0]
            for i, j in sorted(begun + caught_up, key=lambda p: p[1] + slope * p[0]):
                for source in stage.sources:
                    for y, x in ((i + dy, j + dx) for dy, dx in source.taps):
                        inside = 0 <= y < height and 0 <= x < width
                        assert not inside or (source.buffer, y, x) in done
                assert (s + 1, i, j) not in done
                done.add((s + 1, i, j))
        drawn = [p for p in pixels if p[1] + slope * p[0] == step]
        assert drawn or order == "raster" or step >= width
        done |= {(0, i, j) for i, j in drawn}
        assert all((len(stages), i, j) in done for i, j in drawn)
    assert len(done) == (len(stages) + 1) * height * width


@pytest.mark.parametrize("tap", [(0, 0), (0, 1), (1, -3)])
def test_a_decoder_that_reads_a_pixel_yet_to_be_drawn_raises(tap: tuple[int, int]) -> None:
    stages = [Stage(1, "none", -1, 0, (Source(0, ((0, -1), tap)),))]
    with pytest.raises(ValueError, match="decoder must read only pixels before its own in raster order, got one that"):
        derive(stages, (8, 8))
    conv = nn.Conv2d(1, 1, 7, padding=3)
    with torch.no_grad():
        conv.weight[:] = 0
        conv.weight[0, 0, 3 + tap[0], 3 + tap[1]] = 2
    with pytest.raises(ValueError, match="raster order"):
        vf.fast_sampler(conv, (1, 8, 8))


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


def dilated_decoder(
    dilation: int | tuple[int, int], channels: int = 1, size: tuple[int, int] = (7, 9), **options: Any
) -> vf.PixelCNNDecoder:
    """A decoder whose gated layers are dilated, their weights large enough for the layers to matter."""
    decoder = vf.PixelCNNDecoder(channels, 3, 6, 2, image_size=size, **options)
    for i, layer in enumerate(decoder.decoder_layers):
        decoder.decoder_layers[i] = vf.GatedMaskedConv2d(
            "B", 6, 6, 3, cond_channels=layer.cond_channels, dilation=dilation
        )
    for p in decoder.parameters():
        nn.init.normal_(p, std=0.4)
    return decoder


@pytest.mark.parametrize(
    ("backend", "dilation"), backends_and_cases("pixelcnn_sample", [2, (1, 3), (3, 1), (8, 1)], lambda _: True)
)
def test_dilated_decoders_draw_the_same_image(backend: str, dilation: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    decoder = dilated_decoder(dilation, residual=True)
    z, noise = inputs(decoder, 3)
    expected = vf.naive_sample(decoder, z, noise)
    assert vf.PixelCNNSampler(decoder, backend=require(backend)).sample(z, noise).equal(expected)
    program = build_program(decoder.double())
    dense = reference.run_program(program.stages, program.weights, decoder.spread(z.double()), expected.double())
    torch.testing.assert_close(dense, decoder(expected.double(), z.double()), rtol=0, atol=1e-12)


def test_dilated_decoders_of_colour_images_draw_the_same_image() -> None:
    torch.manual_seed(0)
    decoder = dilated_decoder((2, 3), channels=3, size=(5, 6))
    z, noise = inputs(decoder, 2)
    assert vf.PixelCNNSampler(decoder).sample(z, noise).equal(vf.naive_sample(decoder, z, noise))


def test_dilation_widens_what_a_decoder_sees() -> None:
    first = 7 // 2
    plain, wide = receptive_field(dilated_decoder(1, size=(28, 28))), receptive_field(dilated_decoder(3, size=(28, 28)))
    assert (plain.above, plain.left) == (first + 2, first + 2)
    assert (wide.above, wide.left) == (first + 6, first + 6)


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
        (lambda s: s.sample(torch.zeros(3, 5), NOISE), r"z must be \[B, 2\] or \[B, 16, 5, 6\], got \(3, 5\)"),
        (lambda s: s.sample(None, NOISE), "z must be .*got None"),
        (lambda s: s.sample(Z + torch.nan, NOISE), "z must be finite"),
        (lambda s: s.sample(Z, NOISE[:2]), r"noise must be \[3, 1, 5, 6\], got \[2, 1, 5, 6\]"),
        (lambda s: s.sample(Z, NOISE[..., :5]), r"noise must be \[3, 1, 5, 6\], got \[3, 1, 5, 5\]"),
        (lambda s: s.sample(Z, NOISE - 1), r"noise must be in \[0, 1\), got -0\.\d+"),
        (lambda s: s.sample(Z, torch.ones_like(NOISE)), r"noise must be in \[0, 1\), got 1.0"),
        (lambda s: s.sample(Z, NOISE * torch.nan), r"noise must be in \[0, 1\), got nan"),
        (lambda s: s.sample(Z, NOISE, temperature=0.0), r"temperature must be in \[1e-100, 1e\+100\], got 0.0"),
        (lambda s: s.sample(Z, NOISE, temperature=5e-324), r"temperature must be in \[1e-100, 1e\+100\], got 5e-324"),
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


def test_isa_is_one_of_the_backend() -> None:
    decoder = small_decoder()
    assert vf.PixelCNNSampler(decoder, "reference").isa is None
    with pytest.raises(ValueError, match="PixelCNNSampler: isa must be None for backend 'reference', got 'avx2'"):
        vf.PixelCNNSampler(decoder, "reference", isa="avx2")
    require("cpu")
    choices = ", ".join(cpu.isas())
    with pytest.raises(ValueError, match=f"PixelCNNSampler: isa must be one of {choices} on this machine, got 'mmx'"):
        vf.PixelCNNSampler(decoder, "cpu", isa="mmx")
    layers = torch.nn.Sequential(vf.MaskedConv2d("A", 1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1))
    assert vf.fast_sampler(layers, (1, 5, 6), backend="cpu", isa="baseline").isa == "baseline"
    weights = [torch.zeros(1, 1, 1), torch.zeros(1)]
    plan = Plan(1, 0, (Stage(1, "none", -1, 0, (Source(0, ((0, -1),)),)),), (0,))
    with pytest.raises(ValueError, match="pixelcnn_pack: isa must be None for backend 'reference', got 'avx2'"):
        pixelcnn_pack(weights, plan, backend="reference", isa="avx2")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_decoder_that_sees_nothing(backend: str) -> None:
    """A kernel of size 1 of type A has no live tap: each pixel is drawn by the bias, all rows at once."""
    decoder = vf.PixelCNNDecoder(n_layers=0, latent_dim=0, hidden_dim=4, initial_kernel=1, image_size=(3, 4))
    sampler, noise = vf.PixelCNNSampler(decoder, backend), torch.rand(2, 1, 3, 4)
    assert sampler.sample(None, noise).equal(vf.naive_sample(decoder, None, noise)) and sampler.steps == 4
    assert str(receptive_field(decoder)) == "no pixels"
