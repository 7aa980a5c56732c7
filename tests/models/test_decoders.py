"""Every kind of decoder: causal, a distribution, trainable, and drawn from by a program that is the decoder itself."""

import itertools

import pytest
import torch
from cases.deadline import slow_where
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import reference
from vlae_fast.layers import initialize
from vlae_fast.models.decoders import Decoder, ResNetDecoder
from vlae_fast.models.decoders.make import KINDS, make_decoder
from vlae_fast.models.likelihood import make_likelihood
from vlae_fast.sampling import FactorizedSampler
from vlae_fast.sampling.program import build_program
from vlae_fast.sampling.schedule import derive
from vlae_fast.sampling.window import offsets_seen, receptive_field

AUTOREGRESSIVE = ("gated", "two-stack", "resnet", "pixelcnn++")
FACTORIZED = ("mlp", "deconv")
OPTIONS = {
    "gated": [{"residual": True}, {"z_channels": 5}, {"receptive_field": 5}],
    "two-stack": [{"initial_kernel": 3}, {"z_channels": 5}, {"latent_dim": 0}, {"kernel_size": 1}],
    "resnet": [{"n_layers": 1}, {"n_layers": 6, "tied": True}, {"n_layers": 3, "z_channels": 2}, {"latent_dim": 0}],
    "pixelcnn++": [{"receptive_field": 3}, {"z_channels": 5}, {"n_layers": 0}, {"latent_dim": 0}],
    "mlp": [{"n_layers": 0}],
    "deconv": [{"n_layers": 1}, {"image_size": (7, 9)}],
}
CONFIGS = [(kind, options) for kind in KINDS for options in [{}, *OPTIONS[kind]]]
CAUSAL = [(kind, options) for kind, options in CONFIGS if kind in AUTOREGRESSIVE]
# kind, levels, components, channels of the image
BINARY = ("bernoulli", 2, 1, 1)
LIKELIHOODS = [
    BINARY,
    ("categorical", 3, 1, 1),
    ("logistic_mixture", 3, 2, 1),
    ("categorical", 2, 1, 2),
]


def small(kind: str, likelihood: tuple[str, int, int, int] = BINARY, **options) -> Decoder:
    """A decoder with weights that make pixels neither certain nor alike."""
    name, levels, components, channels = likelihood
    sizes = {"latent_dim": 3, "hidden_dim": 6, "n_layers": 2, "image_size": (5, 5)}
    decoder = make_decoder(
        kind,
        input_dim=channels,
        likelihood=make_likelihood(name, channels, levels=levels, components=components),
        **{**sizes, **options},
    )
    torch.manual_seed(7)
    for path, p in decoder.named_parameters():
        if path.endswith("gain"):
            nn.init.uniform_(p, 0.5, 1.5)
        else:
            nn.init.normal_(p, std=1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
    return decoder


def given(decoder: Decoder, batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
    top = decoder.likelihood.levels - 1
    x = (torch.rand(batch, decoder.input_dim, *decoder.image_size, dtype=dtype) * top).round() / top
    return x, torch.randn(batch, decoder.latent_dim, dtype=dtype) if decoder.latent_dim else None


@pytest.mark.parametrize(("kind", "options"), CAUSAL)
def test_program_is_the_decoder(kind: str, options: dict) -> None:
    decoder = small(kind, **options).double()
    program, (x, z) = build_program(decoder), given(decoder, 3, torch.float64)
    context = None if z is None else decoder.spread(z)
    dense = reference.run_program(program.stages, program.weights, context, x)
    torch.testing.assert_close(dense, decoder(x, z), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), CAUSAL)
def test_sees_exactly_its_receptive_field(kind: str, options: dict) -> None:
    """The Jacobian at every pixel is exactly zero outside of the offsets of the program, and nowhere inside."""
    decoder = small(kind, **{"z_channels": 0, **options}).double()  # a map may leave all ReLUs of a pixel dead
    (x, z), seen = given(decoder, 1, torch.float64), offsets_seen(build_program(decoder).stages, decoder.image_size)
    jacobian = torch.autograd.functional.jacobian(lambda v: decoder(v, z)[0, 0], x)[:, :, 0, 0]  # [H, W, H, W]
    for i, j, k, m in itertools.product(range(5), repeat=4):
        assert (jacobian[i, j, k, m] != 0) == ((k - i, m - j) in seen)
    assert all(offset < (0, 0) for offset in seen)


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS, ("logistic_mixture", 256, 2, 3), ("categorical", 16, 1, 3)])
@pytest.mark.parametrize("kind", AUTOREGRESSIVE)
def test_naive_is_cached(kind: str, likelihood: tuple[str, int, int, int]) -> None:
    decoder = small(kind, likelihood)
    sampler, (_, z) = vf.PixelCNNSampler(decoder), given(decoder, 4)
    noise = torch.rand(4, decoder.likelihood.noises, *decoder.image_size)
    images = sampler.sample(z, noise)
    assert images.equal(vf.naive_sample(decoder, z, noise))
    decoder.likelihood.check(images)
    assert len(images.unique()) > 1


@pytest.mark.parametrize(("kind", "options"), [c for c in CAUSAL if c[1]])
def test_naive_is_cached_with_every_option(kind: str, options: dict) -> None:
    decoder = small(kind, **options)
    (_, z), noise = given(decoder, 4), torch.rand(4, 1, *decoder.image_size)
    assert vf.PixelCNNSampler(decoder).sample(z, noise).equal(vf.naive_sample(decoder, z, noise))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(2, 2), (3, 2)])
def test_probabilities_sum_to_one(kind: str, likelihood: tuple[str, int, int, int], size: tuple[int, int]) -> None:
    decoder = small(kind, likelihood, image_size=size).double()
    channels, levels = decoder.input_dim, decoder.likelihood.levels
    values = torch.linspace(0, 1, levels, dtype=torch.float64)
    images = torch.cartesian_prod(*[values] * (channels * size[0] * size[1])).reshape(-1, channels, *size)
    z = torch.randn(1, 3, dtype=torch.float64)
    with torch.no_grad():
        log_prob = decoder.likelihood.log_prob(decoder(images, z.expand(len(images), -1)), images)
    assert abs(log_prob.exp().sum().item() - 1) < 1e-5


@pytest.mark.parametrize(("kind", "options"), CONFIGS)
def test_every_parameter_is_trained(kind: str, options: dict) -> None:
    decoder = small(kind, **options)
    x, z = given(decoder, 8)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = -decoder.likelihood.log_prob(decoder(x, z), x).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for name, p in decoder.named_parameters():
            assert p.grad is not None and torch.isfinite(p.grad).all() and (p.grad != 0).any(), name
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("kind", "options", "steps"),
    [
        *(("two-stack", {"n_layers": n - 1, "initial_kernel": 3}, s) for n, s in [(2, 109), (4, 163), (6, 217)]),
        ("resnet", {"n_layers": 6}, 82),
        ("resnet", {"n_layers": 6, "tied": True}, 82),
        ("pixelcnn++", {"n_layers": 3}, 136),
    ],
)
def test_waves_follow_the_window(kind: str, options: dict, steps: int) -> None:
    """On 28x28; 1x1 convolutions, however many, add none."""
    assert derive(build_program(small(kind, image_size=(28, 28), **options)).stages, (28, 28)).steps == steps


@pytest.mark.parametrize("side", [3, 5, 7, 9, 13])
@pytest.mark.parametrize("kind", AUTOREGRESSIVE)
def test_receptive_field_is_what_was_asked_for(kind: str, side: int) -> None:
    decoder = small(kind, receptive_field=side, image_size=(14, 13))
    seen, radius = receptive_field(decoder), side // 2
    assert (seen.above, seen.left) == (radius, radius) and seen.right <= radius
    full = radius * side + radius
    assert seen.pixels == full if kind in ("two-stack", "pixelcnn++") else seen.pixels <= full
    assert str(seen) in repr(decoder)


def test_the_papers_windows() -> None:
    assert str(receptive_field(small("pixelcnn++"))) == "24 pixels of a window of 7 columns x 4 rows"
    paper = ResNetDecoder()
    assert receptive_field(paper)[:2] == (6, 6)
    masked = [m for m in paper.modules() if isinstance(m, vf.MaskedConv2d) and m.kernel_size == (3, 3)]
    assert len(masked) == 6 and {m.weight.shape[0] for m in masked} == {12}
    assert paper.spread(torch.zeros(2, 64)).shape == (2, 4, 28, 28)


def test_data_dependent_initialization() -> None:
    """Every weight-normalised layer starts with mean 0 and variance 1; a tied one when it is first run."""
    decoder = ResNetDecoder(n_layers=4, image_size=(9, 10))
    x, z = given(decoder, 32)
    layers = [m for m in decoder.modules() if getattr(m, "gain", None) is not None]
    assert initialize(decoder, x, z) == len(layers)
    for layer in layers:
        layer.register_forward_pre_hook(lambda m, args: pre.append(m.pre_activation(args[0]).detach()))
    pre: list[Tensor] = []
    decoder(x, z)
    assert len(pre) == len(layers)
    for values in pre:
        std, mean = torch.std_mean(values, dim=(0, 2, 3))
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
        torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=1e-2)
    tied = ResNetDecoder(n_layers=6, tied=True, image_size=(9, 10))
    assert 0 < initialize(tied, x, z) < len([m for m in ResNetDecoder(n_layers=6).modules() if hasattr(m, "gain")])
    assert initialize(small("gated"), *given(small("gated"), 2)) == 0


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS, ("logistic_mixture", 256, 2, 3)])
@pytest.mark.parametrize("kind", FACTORIZED)
def test_one_pass_draws_the_same(kind: str, likelihood: tuple[str, int, int, int]) -> None:
    decoder = small(kind, likelihood, image_size=(4, 5))
    (x, z), noise = given(decoder, 3), torch.rand(3, decoder.likelihood.noises, 4, 5)
    sampler = FactorizedSampler(decoder)
    images, params = sampler.sample_with_logits(z, noise)
    assert images.equal(vf.naive_sample(decoder, z, noise)) and params.equal(decoder(x, z))
    known = (torch.arange(4)[:, None] < 2, x)
    completed = sampler.sample(z, noise, known=known)
    assert completed[:, :, :2].equal(x[:, :, :2]) and completed[:, :, 2:].equal(images[:, :, 2:])
    before = sampler.sample(z, generator=torch.Generator().manual_seed(3))
    nn.init.zeros_(next(decoder.parameters()))
    assert sampler.sample(z, generator=torch.Generator().manual_seed(3)).equal(before)
    assert receptive_field(decoder).pixels == 0


@pytest.mark.parametrize("kind", KINDS)
def test_materialised_from_the_meta_device(kind: str) -> None:
    decoder = small(kind)
    with torch.device("meta"):
        other = make_decoder(kind, input_dim=1, latent_dim=3, hidden_dim=6, n_layers=2, image_size=(5, 5))
    assert repr(other) == repr(decoder)
    other = other.to_empty(device="cpu")
    other.load_state_dict(decoder.state_dict())
    x, z = given(decoder, 2)
    assert other(x, z).equal(decoder(x, z))


@slow_where(lambda kind: kind in ("resnet", "two-stack"))  # of layers that the others have
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_as_one_graph(kind: str) -> None:
    decoder = small(kind)
    x, z = given(decoder, 2)
    assert torch.compile(decoder, fullgraph=True, backend="eager")(x, z).equal(decoder(x, z))


def test_a_decoder_with_foreign_layers_can_be_printed() -> None:
    decoder = small("gated")
    decoder.decoder_layers[0] = nn.BatchNorm2d(6)
    assert "sees unknown pixels" in repr(decoder)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: small("rnn"), "make_decoder: kind must be one of gated, two-stack, .*got 'rnn'"),
        (lambda: small("gated", dilation=2), "make_decoder: options must be among kernel_size, .*got dilation"),
        (lambda: small("mlp", kernel_size=5), "a 'mlp' decoder has no option kernel_size, got 5"),
        (lambda: small("two-stack", residual=True), "a 'two-stack' decoder has no option residual, got True"),
        (lambda: small("gated", receptive_field=4), "receptive_field must be odd and at least 3, got 4"),
        (lambda: small("resnet", receptive_field=1), "receptive_field must be odd and at least 3, got 1"),
        (
            lambda: small("pixelcnn++", receptive_field=7),
            "PixelCNNPPDecoder: receptive_field 7 sees 7 columns and 4 rows, which must fit into the image, got 5 x 5",
        ),
        (lambda: small("two-stack", receptive_field=13, image_size=(6, 20)), "13 columns and 7 rows.*got 6 x 20"),
        (lambda: small("two-stack", initial_kernel=1), "TwoStackDecoder: initial_kernel must be at least 3, got 1"),
        (lambda: small("pixelcnn++", initial_kernel=1), "initial_kernel must be at least 3, got 1"),
        (lambda: small("resnet", kernel_size=1), "ResNetDecoder: kernel_size must be at least 3, got 1"),
        (lambda: small("resnet", n_pointwise=-1), "n_pointwise must be at least 0, got -1"),
        (lambda: small("resnet", n_layers=0), "n_layers must be at least 1, got 0"),
        (
            lambda: small("resnet", n_layers=6, tied=True, receptive_field=9, image_size=(9, 9)),
            r"receptive_field must give every block the same kernel where tied is set, got \[3, 3, 1, 1\]",
        ),
        (lambda: small("mlp", latent_dim=0), "MLPDecoder: latent_dim must be at least 1, got 0"),
        (lambda: small("deconv", n_layers=3), "DeconvDecoder: hidden_dim must be a multiple of .* = 4, got 6"),
        (
            lambda: vf.PixelCNNDecoder(3, likelihood=make_likelihood("bernoulli", 1)),
            "likelihood must be of input_dim = 3 channels, got 1",
        ),
        (lambda: small("resnet")(torch.zeros(2, 1, 5, 5), torch.zeros(2, 4)), r"ResNetDecoder: z must be \[B, 3\] or"),
        (lambda: small("deconv")(torch.zeros(2, 1, 5, 5)), r"DeconvDecoder: z must be \[B, 3\], got None"),
        (
            lambda: small("mlp")(torch.zeros(2, 1, 5, 5), torch.zeros(2, 3, 5, 5)),
            r"z must be \[B, 3\], got \(2, 3, 5, 5\)",
        ),
        (lambda: small("two-stack")(torch.zeros(2, 1, 5, 4), torch.zeros(2, 3)), r"x must be \[B, 1, 5, 5\], got"),
        (
            lambda: FactorizedSampler(small("gated")),
            "decoder must not be autoregressive, got PixelCNNDecoder: PixelCNNSampler draws from it",
        ),
        (
            lambda: FactorizedSampler(small("mlp")).sample(torch.zeros(2, 3), torch.rand(1, 1, 5, 5)),
            r"FactorizedSampler: noise must be \[2, 1, 5, 5\], got \[1, 1, 5, 5\]",
        ),
        (
            lambda: FactorizedSampler(small("mlp")).sample(torch.zeros(2, 3), torch.ones(2, 1, 5, 5)),
            r"FactorizedSampler: noise must be in \[0, 1\), got 1.0",
        ),
        (lambda: FactorizedSampler(small("mlp")).sample(torch.zeros(2, 4)), r"z must be \[B, 3\]"),
        (lambda: vf.PixelCNNSampler(small("mlp")), "decoder must have initial_conv, .*got MLPDecoder"),
        (
            lambda: vf.MaskedConv2d("A", 3, 6, 3, image_channels=3, weight_norm=True),
            "MaskedConv2d: image_channels must be 1 where weight_norm is set, got 3",
        ),
    ],
)
def test_errors(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
