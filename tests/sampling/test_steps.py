"""Steps: the parameters that `sample` draws from, bit for bit, for whatever values are put."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.rows import backends_of, require
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models import make_likelihood
from vlae_fast.sampling.steps import Run

SIZE = (4, 5)
ROWS = [  # a pass of a kernel for each step takes an interpreter long
    pytest.param(row, marks=[pytest.mark.slow] * (row == "triton")) for row in backends_of("pixelcnn_sample")
]


class Colours(nn.Sequential):
    """Masked layers that let a channel see those before it, as G sees R."""

    def __init__(self, likelihood: Any, size: tuple[int, int] = SIZE) -> None:
        n = likelihood.channels
        super().__init__(
            vf.MaskedConv2d("A", n, 4 * n, 3, image_channels=n, activation="elu"),
            vf.MaskedConv2d("B", 4 * n, likelihood.params, 3, image_channels=n),
        )
        self.likelihood, self.input_dim, self.image_size = likelihood, n, size
        self.order = [i for c in range(n) for i in range(c, likelihood.params, n)]  # masks interleave the channels

    def write_program(self, program: Any) -> None:
        program.conv(self[1], program.conv(self[0], 0))
        program.reorder(self.order)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return super().forward(x)[:, self.order]


def grey(kind: str, latent: int = 2, levels: int = 5) -> nn.Module:
    likelihood = make_likelihood(kind, 2 if kind == "logistic_mixture" else 1, levels=levels, components=2)
    return vf.PixelCNNDecoder(
        likelihood.channels, latent, 6, 2, image_size=SIZE, initial_kernel=3, z_channels=2, likelihood=likelihood
    )


DECODERS: dict[str, Callable[[], Any]] = {
    **{kind: lambda kind=kind: grey(kind) for kind in ("bernoulli", "categorical", "logistic_mixture", "gaussian")},
    "mixture without levels": lambda: grey("logistic_mixture", levels=0),
    "colours": lambda: Colours(make_likelihood("bernoulli", 3)),
    "colours of levels": lambda: Colours(make_likelihood("categorical", 3, levels=4)),
}


def sampler_of(name: str, backend: str) -> vf.PixelCNNSampler:
    torch.manual_seed(0)
    decoder = DECODERS[name]()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return vf.PixelCNNSampler(decoder, backend)


def inputs_of(sampler: vf.PixelCNNSampler, batch: int) -> tuple[Tensor | None, Tensor]:
    emit, channels = sampler.plan.emit, sampler.plan.image_channels
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(batch, emit.noises(channels), *SIZE, generator=generator)
    noise = torch.randn(noise.shape, generator=generator) if emit.noise_is_normal else noise
    z = torch.randn(batch, 2, generator=generator) if getattr(sampler.decoder, "latent_dim", 0) else None
    return z, noise


def able(row: str, request: pytest.FixtureRequest) -> str:
    if row == "cuda":
        request.getfixturevalue("cuda")
        return row
    return require(row)


@pytest.mark.parametrize("row", ROWS)
def test_the_built_in_draw_in_steps_is_sample(row: str, request: pytest.FixtureRequest) -> None:
    """On triton and cuda, too, whose steps are passes of `sample`; of two channels in turn on 2x2 pixels."""
    torch.manual_seed(0)
    decoder = Colours(make_likelihood("bernoulli", 2), (2, 2))
    sampler, noise = vf.PixelCNNSampler(decoder, able(row, request)), torch.rand(2, 2, 2, 2)
    expected = sampler.sample_with_logits(None, noise)
    assert sampler.in_turn
    with sampler.start(batch=2) as run:
        for step in run:
            step.put(step.draw(noise))
    assert run.images.equal(expected.images) and run.logits.equal(expected.logits)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("row", ["cpu", "torch"])
def test_every_likelihood_in_steps(name: str, batch: int, row: str) -> None:
    sampler = sampler_of(name, require(row))
    check_draws(sampler, *inputs_of(sampler, batch))


def check_draws(sampler: vf.PixelCNNSampler, z: Tensor | None, noise: Tensor) -> None:
    expected = sampler.sample_with_logits(z, noise, temperature=0.7)
    with sampler.start(z, len(noise)) as run:
        for step in run:
            rows, columns = step.pixels
            channels = slice(None) if step.channel is None else slice(step.channel, step.channel + 1)
            values = step.draw(noise, 0.7)
            planes = slice(None) if step.channel is None else channels
            assert values.equal(step.draw(noise[:, planes][:, :, rows, columns], 0.7))
            assert values.equal(expected.images[:, channels][:, :, rows, columns])
            step.put(values)
    assert run.images.equal(expected.images) and run.logits.equal(expected.logits)


@pytest.mark.parametrize("row", ["reference", "cpu", "torch"])
@pytest.mark.parametrize("name", ["bernoulli", "categorical", "colours of levels"])
def test_parameters_are_those_of_sample_given_the_same_pixels(name: str, row: str) -> None:
    """Pixels that nobody would draw: the logits of `sample` with these pixels known have the same bits."""
    sampler = sampler_of(name, require(row))
    z, noise = inputs_of(sampler, 2)
    levels, generator = sampler.plan.emit.levels, torch.Generator().manual_seed(2)
    image = torch.randint(levels, (2, sampler.plan.image_channels, *SIZE), generator=generator) / (levels - 1)
    with sampler.start(z, batch=2) as run:
        for step in run:
            channels = slice(None) if step.channel is None else slice(step.channel, step.channel + 1)
            step.put(image[:, channels][:, :, step.pixels[0], step.pixels[1]])
    known = (torch.ones_like(image, dtype=torch.bool), image)
    assert run.images.equal(image)
    assert run.logits.equal(sampler.sample_with_logits(z, noise, known=known).logits)


def test_steps_have_the_same_bits_in_any_batch_and_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    decoder = vf.PixelCNNDecoder(1, 0, 64, 1, image_size=(12, 12), initial_kernel=3)
    sampler, noise = vf.PixelCNNSampler(decoder, require("cpu")), torch.rand(64, 1, 12, 12)
    threads = torch.get_num_threads()
    logits = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with sampler.start(batch=64) as run:
                for step in run:
                    step.put(step.draw(noise))
            logits.append(run.logits)
    finally:
        torch.set_num_threads(threads)
    assert logits[0].equal(logits[1]) and logits[0].equal(sampler.sample_with_logits(None, noise).logits)


def test_argmax_is_the_limit_of_low_temperatures() -> None:
    sampler = sampler_of("categorical", require("cpu"))
    z, noise = inputs_of(sampler, 3)
    with sampler.start(z) as run:
        for step in run:
            step.put(step.params.argmax(1, keepdim=True) / 4)
    assert run.images.equal(sampler.sample(z, noise, temperature=1e-9))


def test_a_generator_gives_the_noise_of_each_step() -> None:
    sampler = sampler_of("bernoulli", require("cpu"))
    z, _ = inputs_of(sampler, 2)
    images = []
    for seed in (3, 3, 4):
        generator = torch.Generator().manual_seed(seed)
        with sampler.start(z) as run:
            for step in run:
                step.put(step.draw(generator))
        images.append(run.images)
    assert images[0].equal(images[1]) and not images[0].equal(images[2])


def test_two_runs_side_by_side() -> None:
    """Guidance: pixels drawn from mixed logits; at a weight of 0 those of the first run."""
    sampler = sampler_of("bernoulli", require("cpu"))
    z, noise = inputs_of(sampler, 2)
    with sampler.start(z) as first, sampler.start(torch.zeros_like(z)) as second:
        for a, b in zip(first, second, strict=True):
            mixed = a.params + 0.0 * (a.params - b.params)
            rows, columns = a.pixels
            values = noise[:, :, rows, columns] < mixed.sigmoid()
            a.put(values)
            b.put(values)
    assert first.images.equal(sampler.sample(z, noise)) and second.images.equal(first.images)


def wrong(change: Callable[[Run, Any], Any]) -> None:
    sampler = sampler_of("categorical", require("cpu"))
    with sampler.start(torch.zeros(2, 2)) as run:
        for step in run:
            change(run, step)


VALUES = torch.zeros(2, 1, 1)


@pytest.mark.parametrize("row", ["reference", "cpu", "torch"])
def test_values_and_noise_that_are_refused(row: str) -> None:
    sampler = sampler_of("categorical", require(row))
    with sampler.start(torch.zeros(2, 2)) as run:
        step = next(iter(run))
        with pytest.raises(ValueError, match=r"values must be k / 4 for k = 0..4, got 0.3"):
            step.put(VALUES + 0.3)
        with pytest.raises(ValueError, match=r"values must be k / 4 for k = 0..4, got nan"):
            step.put(VALUES * float("nan"))
        with pytest.raises(ValueError, match=r"values must be \[2, 1, 1\] on cpu, got \[2, 1\] on cpu"):
            step.put(VALUES[:, 0])
        with pytest.raises(ValueError, match=r"noise must be in \[0, 1\), got 1"):
            step.draw(VALUES + 1)
        with pytest.raises(ValueError, match=r"noise must be torch.float32 \[2, 1, 4, 5\] or \[2, 1, 1\], got"):
            step.draw(VALUES[:1])
        with pytest.raises(ValueError, match=r"temperature must be in \[1e-100, 1e\+100\], got 0"):
            step.draw(VALUES, 0)
        step.put(VALUES + 0.25)  # a refusal leaves the run where it was
        assert run.inner.state.images[:, :, 0, 0].eq(0.25).all()
    gaussian = sampler_of("gaussian", row)
    with gaussian.start(torch.zeros(2, 2)) as run, pytest.raises(ValueError, match=r"values must be finite, got inf"):
        next(iter(run)).put(VALUES + float("inf"))
    mixture = sampler_of("mixture without levels", row)
    with mixture.start(torch.zeros(2, 2)) as run, pytest.raises(ValueError, match=r"must be from 0 to 1, got 5"):
        next(iter(run)).put(torch.full((2, 2, 1), 5.0))


@pytest.mark.parametrize("row", ["reference", "cpu", "torch"])
def test_places_are_the_caller_s_own(row: str) -> None:
    sampler = sampler_of("bernoulli", require(row))
    z, noise = inputs_of(sampler, 2)
    for _ in range(2):
        with sampler.start(z, 2) as run:
            for step in run:
                step.put(step.draw(noise))
                for places in step.pixels:
                    places.zero_()
        assert run.images.equal(sampler.sample(z, noise))


@pytest.mark.parametrize("row", ["reference", "cpu", "torch"])
def test_a_run_in_inference_mode_leaves_nothing_of_it(row: str) -> None:
    sampler = sampler_of("bernoulli", require(row))
    z, noise = inputs_of(sampler, 2)
    for mode in (True, False, True, False):
        with torch.inference_mode(mode), sampler.start(z, 2) as run:
            for step in run:
                step.put(step.draw(noise))
                seen = noise[:, :, step.pixels[0], step.pixels[1]]
        assert run.images.equal(sampler.sample(z, noise)) and seen.is_inference() == mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run, step: None, "each step must be given its values by put, got none for step 0"),
        (
            lambda run, step: (step.put(VALUES), step.put(VALUES)),
            "once, in its turn, got step 0 a second time",
        ),
        (
            lambda run, step: (step.put(VALUES), step.draw(VALUES)),
            "once, in its turn, got step 0 a second time",
        ),
        (lambda run, step: run.images, r"images must be asked for at the end, got step 0 of \d+"),
        (lambda run, step: iter(run), "steps must be gone through once, got a second time"),
        (
            lambda run, step: (run.__exit__(None, None, None), step.put(VALUES)),
            "got one after its end",
        ),
    ],
    ids=["left", "twice", "drawn late", "early", "again", "ended"],
)
def test_misuse_of_a_run(change: Callable[[Run, Any], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        wrong(change)


def test_a_refreshed_sampler_ends_its_runs() -> None:
    sampler = sampler_of("bernoulli", require("cpu"))
    with sampler.start(torch.zeros(1, 2)) as run:
        step = next(iter(run))
        sampler.refresh()
        with pytest.raises(RuntimeError, match="the sampler must stay as it was at the start, got one"):
            step.put(torch.zeros(1, 1, 1))


def test_the_last_step_left_out() -> None:
    sampler = sampler_of("bernoulli", require("cpu"))
    with pytest.raises(RuntimeError, match="got none for step"), sampler.start(torch.zeros(1, 2)) as run:
        for k, step in enumerate(run):
            if k < len(run) - 1:
                step.put(torch.zeros_like(step.params))


@pytest.mark.parametrize(("batch", "rule"), [(-1, "not be negative, got -1"), (3, "be None or the rows of z, 2, got")])
def test_batches_that_are_refused(batch: int, rule: str) -> None:
    decoder = vf.PixelCNNDecoder(1, 0, 4, 0, image_size=SIZE) if batch < 0 else DECODERS["bernoulli"]()
    z = None if batch < 0 else torch.zeros(2, 2)
    with pytest.raises(ValueError, match=f"batch must {rule}"):
        vf.PixelCNNSampler(decoder).start(z, batch)
