"""Images through a file and back: every likelihood, both modes, any cut into chunks; and what is refused."""

import copy
import math
from typing import Any

import pytest
import torch
from cases.codec import MODELS, images_of, is_slow, labels_of, model_of
from cases.deadline import slow_where
from torch import Tensor, nn

from vlae_fast import VLAE, PixelCNNSampler, codec
from vlae_fast.backends import cpu
from vlae_fast.codec.bits_back import Latent
from vlae_fast.codec.chain import first_words
from vlae_fast.codec.coder import LOSSLESS
from vlae_fast.codec.pixels import Pixels
from vlae_fast.codec.stack import Stack

pytest.importorskip("constriction")
pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")


@slow_where(is_slow)
@pytest.mark.parametrize("mode", LOSSLESS)
@pytest.mark.parametrize("name", MODELS)
def test_images_come_back(name: str, mode: str) -> None:
    model = model_of(name)
    x = images_of(model, 7)
    data = codec.encode(model, x, labels_of(model, 7), mode=mode, per_chunk=3)
    assert codec.decode(model, data).equal(x)
    assert codec.decode(model, data, chunks=[2, 0]).equal(torch.cat([x[6:], x[:3]]))  # a chunk decodes by itself


@pytest.mark.parametrize("mode", LOSSLESS)
def test_no_image_is_a_file_too(mode: str) -> None:
    model = model_of("bernoulli")
    assert codec.decode(model, codec.encode(model, images_of(model, 0), mode=mode)).shape == (0, 1, 5, 6)


@pytest.mark.parametrize("mode", LOSSLESS)
def test_the_file_is_the_same_for_any_number_of_threads(mode: str) -> None:
    model, threads, files = model_of("bernoulli"), torch.get_num_threads(), set()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            files.add(codec.encode(model, images_of(model, 40), mode=mode, share=1.0))
    finally:
        torch.set_num_threads(threads)
    assert len(files) == 1


@pytest.mark.parametrize("name", [name for name in MODELS if name != "no code" and "classes" not in name])
def test_pixels_take_the_bits_of_their_probability(name: str) -> None:
    model = model_of(name, spread=0.1)
    x, pixels, stack = images_of(model, 50), Pixels(model), Stack()
    z = torch.randn(50, model.latent_dim, generator=torch.Generator().manual_seed(0))
    pixels.push(stack, x, z)
    expected = -pixels.sampler.log_prob(x, z).double().sum().item() / math.log(2)
    assert stack.bits == pytest.approx(expected, rel=2e-3, abs=64)


@pytest.mark.parametrize(
    "name",
    [
        "bernoulli",
        "one flow step",
        "no flow",
        "three flow steps",
        "iaf",
        "iaf of three steps",
        "iaf, no flow",
        "map",
        "map of one flow step",
        "map of three flow steps",
        "map of an iaf",
    ],
)
@torch.no_grad()
def test_bits_back_take_the_bits_of_prior_less_those_of_posterior(name: str) -> None:
    """log q(z | x) - log p(z) of the z that is drawn: the densities of the model, whatever variable is coded."""
    model, n = model_of(name, spread=0.1), 200
    x, stack = images_of(model, n), Stack(first_words(4000))
    latent, before = Latent(model, cpu.isas()[0]), stack.bits
    given = latent.posterior_of(x)
    levels, z = latent.pop_posterior(stack, given)
    latent.push_prior(stack, levels)
    log_q = model.posterior_sample(x, noise=noise_of(model, x, z))
    assert log_q.z.allclose(z, atol=1e-3)
    density = -0.5 * (log_q.logvar + (z - log_q.mu) ** 2 * torch.exp(-log_q.logvar) + math.log(2 * math.pi)).sum()
    expected = (density - model.log_prior(z).sum()).item() / math.log(2)
    # what is left: the grid, the noise of local bits back, and what cells that are never drawn are given
    assert stack.bits - before == pytest.approx(expected, abs=80)
    found, again = latent.pop_prior(stack, n)
    assert (found == levels).all() and again.equal(z)
    latent.push_posterior(stack, given, levels, z)
    assert (stack.words == first_words(4000)).all()


def noise_of(model: VLAE, x: Tensor, z: Tensor) -> Tensor:
    """The eps that an iaf posterior, which is affine in turn, makes z of; found a dimension after the other, often."""
    eps = torch.zeros_like(z)
    for _ in range(200):  # Newton's steps with the slope of each dimension
        sample = model.posterior_sample(x, noise=eps)
        eps = eps + (z - sample.z) * torch.exp(-0.5 * sample.logvar)
    return eps


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "shape": ({"x": torch.zeros(2, 1, 5, 5)}, ValueError, r"x must be \[B, 1, 5, 6\], got \[2, 1, 5, 5\]"),
    "dtype": ({"x": torch.zeros(2, 1, 5, 6).double()}, TypeError, "x must be float32, got torch.float64"),
    "level": ({"x": torch.full((2, 1, 5, 6), 0.5)}, ValueError, "x must be 0 or 1, got 0.5"),
    "mode": ({"mode": "zip"}, ValueError, "mode must be one of mean, bits_back, lossy, got 'zip'"),
    "chunk": ({"per_chunk": 0}, ValueError, "per_chunk must be from 1 to 65,536, got 0"),
    "isa": ({"isa": "avx9"}, ValueError, "isa must be one of"),
    "share": ({"share": 0.0}, ValueError, "share must be above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_to_encode(case: str) -> None:
    model = model_of("bernoulli")
    options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        codec.encode(model, **{"x": images_of(model, 2), **options})


def test_models_that_the_codec_has_no_way_for() -> None:
    small: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 4, "n_layers": 1, "image_size": (4, 4), "flow_hidden": 8}
    cases = {
        r"likelihood must be one of levels .*, got affine": VLAE(1, **small, likelihood="gaussian"),
        "decoder must draw a pixel after the other": VLAE(1, **small, decoder="mlp"),
    }
    for message, model in cases.items():
        with pytest.raises(ValueError, match=message):
            codec.encode(model, torch.zeros(1, 1, 4, 4))
    model = VLAE(1, **small).eval()
    model.prior = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="prior of MADEs or of masked convolutions, got Identity"):
        codec.encode(model, torch.zeros(1, 1, 4, 4), mode="bits_back")
    x = images_of(model, 3)
    assert codec.decode(model, codec.encode(model, x)).equal(x)  # the mean code takes it


def test_another_model_is_refused() -> None:
    model = model_of("bernoulli")
    data = codec.encode(model, images_of(model, 3))
    with torch.no_grad():
        next(model.encoder.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(codec.FileError, match="the model must be the one of the file"):
        codec.decode(model, data)
    with pytest.raises(codec.FileError, match=r"images must be \(2, 5, 6\)"):
        codec.decode(model_of("two channels"), data)


def test_a_file_of_another_instruction_set_says_which() -> None:
    model = model_of("bernoulli")
    data = bytearray(codec.encode(model, images_of(model, 3)))
    data[10] = codec.container.ISAS.index("neon")  # of another processor
    resigned = codec.container.signed(bytes(data))
    with pytest.raises(ValueError, match=r"the instruction set must be one of this machine's, .*, got neon"):
        codec.decode(model, resigned)


def test_a_limit_comes_before_memory() -> None:
    model = model_of("bernoulli")
    data = codec.encode(model, images_of(model, 3))
    with pytest.raises(codec.FileError, match="at most limit = 89 values, got 90"):
        codec.decode(model, data, limit=89)
    with pytest.raises(ValueError, match="chunks must be from 0 to 0, got 1"):
        codec.decode(model, data, chunks=[1])


def test_other_bits_are_found_by_the_images() -> None:
    """A machine that computed other logits would decode noise: the images' own CRC says so."""
    model = model_of("bernoulli")
    x = images_of(model, 3)
    data = codec.encode(model, x)
    opened = codec.Opened(model, data)
    decoder = copy.deepcopy(model.decoder)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.mul_(1.3)
    opened.pixels.sampler = PixelCNNSampler(decoder, backend="cpu")
    with pytest.raises(codec.FileError, match="this machine computes other bits than the one that wrote it"):
        opened.chunk(0)
