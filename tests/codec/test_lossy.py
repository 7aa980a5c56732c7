"""Lossy files: codes on a grid, of as many bits as are asked for, and the images that are made of them."""

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from cases.codec import MODELS, images_of, labels_of, model_of
from cases.deadline import slow_where

from vlae_fast import VLAE, PixelCNNSampler, codec, naive_sample
from vlae_fast.backends import cpu
from vlae_fast.codec import lossy
from vlae_fast.codec.codes import posterior_of, width_of
from vlae_fast.codec.labels import joined
from vlae_fast.sampling.numbered import numbered_noise

pytest.importorskip("constriction")
pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")
WITH_CODE = [name for name in MODELS if name not in ("no code", "classes alone")]


@slow_where(lambda name, way: way == "draw" and ("flow" in name or "iaf" in name))  # the code is not the pixels' affair
@pytest.mark.parametrize(
    ("name", "way"),
    [*((name, way) for name in WITH_CODE for way in ("draw", "likeliest")), ("bernoulli", "mean"), ("mixture", "mean")],
)
def test_images_are_those_of_the_codes(name: str, way: str) -> None:
    """The specification: the file's z, and the naive sampler with the noise of each image's number."""
    model = model_of(name)
    n, emit = 5, model.likelihood.emit
    data = codec.encode(model, images_of(model, n), labels_of(model, n), mode="lossy", per_chunk=2)
    opened = codec.Opened(model, data, pixels=way)
    found = [opened.code.pop(opened.file.payload(i), len(opened.header.rows_of(i)), opened.classes) for i in range(3)]
    z = model.condition(*joined(found))
    planes = (model.likelihood.noises, *model.decoder.image_size)
    if way == "likeliest":
        expected = naive_sample(model.decoder, z, torch.full((n, *planes), 0.5), temperature=1e-100)
    else:
        noises = [numbered_noise(0, 0, n, planes, torch.float32, stream=i) for i in range(16 if way == "mean" else 1)]
        draws = [naive_sample(model.decoder, z, noise) for noise in noises]
        expected = torch.stack(draws).mean(0)
    x = codec.decode(model, data, pixels=way)
    assert x.shape == expected.shape
    assert (x - expected).abs().gt(1e-6).float().mean() < 2e-3  # noise within rounding of a probability
    if way != "mean":
        assert emit.holds(x).all()
    assert codec.decode(model, data, pixels=way, chunks=[2, 0]).equal(torch.cat([x[4:], x[:2]]))
    assert codec.decode(model, data, pixels=way).equal(x)


@pytest.mark.parametrize("name", ["bernoulli", "one flow step", "no flow", "three flow steps", "map"])
def test_a_finer_grid_has_codes_nearer_the_posterior_mean(name: str) -> None:
    model = model_of(name)
    of = posterior_of(model, images_of(model, 40))
    errors, bits = [], []
    for share in (4.0, 1.0, 0.25, 1 / 32):
        code = lossy.code_for(model, cpu.isas()[0], of, share, None)
        levels = code.levels_of(of.mu)
        errors.append(((code.z_of(levels) - of.mu) / of.scale).square().mean().sqrt().item())
        bits.append(code.bits(levels))
    assert errors == sorted(errors, reverse=True) and bits == sorted(bits)
    assert errors[3] < 0.02  # a share of the deviation, uniform in a cell: 1 / 32 / sqrt(12), up to the means of scales


def test_half_a_step_is_the_most_that_a_dimension_is_off() -> None:
    model = model_of("no flow")
    of = posterior_of(model, images_of(model, 30))
    code = lossy.code_for(model, cpu.isas()[0], of, 2.0, None)
    off = (code.z_of(code.levels_of(of.mu)) - of.mu).abs().numpy()
    assert (off <= 0.5001 * code.prior.cells.step).all()
    scale = of.scale.square().mean(0).sqrt()
    for step, s in zip(code.steps, scale.tolist(), strict=True):  # bytes are an eighth of an octave apart
        assert 2 * s / 1.13 < width_of(step) <= 2 * s


@pytest.mark.parametrize("bits", [0.5, 3.0, 8.0])
def test_an_image_takes_as_many_bits_as_are_asked_for_or_fewer(bits: float) -> None:
    model, n = model_of("bernoulli", spread=0.1), 400
    x = images_of(model, n)
    file = codec.File(codec.encode(model, x, mode="lossy", bits=bits, per_chunk=n))
    took = 8 * len(file.payload(0)) / n
    assert took <= bits + 32 / n  # a word at most is not full
    finest = lossy.code_for(model, cpu.isas()[0], posterior_of(model, x), 1 / 8, None)
    if took < 0.75 * bits:  # then nothing finer is left
        assert file.header.settings == finest.steps


def test_a_dimension_that_says_nothing_costs_nothing() -> None:
    model = model_of("no flow")
    with torch.no_grad():  # the second dimension's posterior is the prior
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.Linear):
                last = module
        last.weight[[1, 4]] = 0
        last.bias[[1, 4]] = 0
    of = posterior_of(model, images_of(model, 300))
    code = lossy.code_for(model, cpu.isas()[0], of, 4.5, None)
    levels = code.levels_of(of.mu)
    assert (levels[:, 1] == 0).all() and code.prior.cells.step[1] > 4
    without = copy.deepcopy(code)
    steps = np.where(np.arange(3) == 1, 1e6, code.prior.cells.step)
    without.prior.cells = code.prior.cells._replace(step=steps)
    assert code.bits(levels) - without.bits(levels) <= 0.05 * 300


def test_the_least_that_fits() -> None:
    for low, high, least in ((-24, 48, 3), (0, 5, 0), (0, 5, 5), (0, 5, 9)):
        assert lossy.first_that(lambda i, least=least: i >= least, low, high) == min(least, high)


def test_no_image_and_no_model_of_other_bits() -> None:
    model = model_of("bernoulli")
    assert codec.decode(model, codec.encode(model, images_of(model, 0), mode="lossy")).shape == (0, 1, 5, 6)
    opened = codec.Opened(model, codec.encode(model, images_of(model, 3), mode="lossy", bits=20))
    opened.code.prior.steps[0].turns[0].outputs.bias.add_(1e-6)
    with pytest.raises(codec.FileError, match=r"CRC of its codes must be .* computes other bits"):
        opened.chunk(0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no bits": ({"mode": "lossy", "bits": 0.0}, "bits must be above 0, and of mode lossy, got 0.0 of mode lossy"),
    "infinite": ({"mode": "lossy", "bits": float("inf")}, "bits must be above 0"),
    "not a number": ({"mode": "lossy", "bits": float("nan")}, "bits must be above 0"),
    "of a lossless mode": ({"mode": "mean", "bits": 5.0}, "got 5.0 of mode mean"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_to_encode(case: str) -> None:
    model = model_of("bernoulli")
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        codec.encode(model, images_of(model, 2), **options)


def test_what_has_no_lossy_code() -> None:
    with pytest.raises(ValueError, match="mode lossy must have a z to code, got a model of latent_dim 0"):
        codec.encode(model_of("no code"), torch.zeros(1, 1, 5, 6), mode="lossy")
    small: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 4, "n_layers": 1, "image_size": (4, 4), "flow_hidden": 8}
    model = VLAE(1, **small).eval()
    with torch.no_grad():
        next(model.encoder.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="finite codes, got nan"):
        codec.encode(model, torch.zeros(1, 1, 4, 4), mode="lossy")


def test_a_way_to_make_pixels_is_one_of_three_and_of_lossy_files() -> None:
    model = model_of("bernoulli")
    x = images_of(model, 2)
    with pytest.raises(ValueError, match="pixels must be one of draw, mean, likeliest, got 'best'"):
        codec.decode(model, codec.encode(model, x, mode="lossy"), pixels="best")
    with pytest.raises(ValueError, match="pixels must be None, for this file has them all, got 'draw'"):
        codec.decode(model, codec.encode(model, x), pixels="draw")


def test_settings_of_another_length_are_an_error() -> None:
    model = model_of("bernoulli")
    file = codec.File(codec.encode(model, images_of(model, 2), mode="lossy"))
    chunk = codec.container.Chunk(file.payload(0), file.table[0][2])
    data = codec.container.write(file.header._replace(settings=b"ab"), [chunk])
    with pytest.raises(codec.FileError, match="the code's settings must be 3 steps, a byte each, got 2 bytes"):
        codec.decode(model, data)


@pytest.mark.parametrize("name", ["bernoulli", "three flow steps", "mixture"])
def test_the_widest_steps_of_a_hostile_file_are_an_error_or_images(name: str) -> None:
    model = model_of(name)
    file = codec.File(codec.encode(model, images_of(model, 4), mode="lossy", bits=20))
    payload = bytes(range(3, 90))
    data = codec.container.write(file.header._replace(settings=b"\xff" * 3), [codec.container.Chunk(payload, 0)])
    with pytest.raises(codec.FileError, match=r"chunk 0 .*(codes must be finite|CRC of its codes)"):
        codec.decode(model, data)


@torch.no_grad()
def test_likeliest_pixels_are_the_modes_in_order() -> None:
    model = model_of("categorical")
    data = codec.encode(model, images_of(model, 3), mode="lossy")
    opened = codec.Opened(model, data, pixels="likeliest")
    x, z = opened.chunk(0), opened.code.pop(opened.file.payload(0), 3, opened.classes).images
    params = PixelCNNSampler(model.decoder, backend="cpu").params_of(x, z)
    assert (params.argmax(1, keepdim=True) == (x * 4).round()).all()
