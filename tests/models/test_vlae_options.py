"""Every option of the VLAE: it trains, it comes back from its config, and wrong labels and options are named."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import vlae_fast as vf
from vlae_fast import checkpoint
from vlae_fast.checkpoint.config import broken_rule
from vlae_fast.layers import initialize
from vlae_fast.models.decoders.make import KINDS
from vlae_fast.models.encoder import ENCODERS

SMALL = {"latent_dim": 4, "hidden_dim": 8, "n_layers": 1, "image_size": (6, 5), "flow_hidden": 12}
PRIORS = {
    "normal": {"use_flow": False},
    "affine": {},
    "mean-only": {"flow_transform": "mean-only", "flow_layers": 3, "flow_steps": 4},
    "map": {"latent_map": (2, 1)},
}
POSTERIORS = ("gaussian", "iaf")
COMBINATIONS = [
    {"encoder": encoder, "posterior": posterior, **PRIORS[prior]}
    for encoder, prior, posterior in itertools.product(ENCODERS, PRIORS, POSTERIORS)
    if (encoder, prior) != ("mlp", "map")
] + [
    {"encoder": "resnet", "weight_norm": True, "encoder_hidden": 6},
    {"encoder": "resnet", "weight_norm": True, "latent_map": (2, 2), "z_channels": 3, "n_classes": 3},
]
CONDITIONAL = [{"n_classes": 3, "encoder": encoder} for encoder in ENCODERS]
LEVELS = {
    "categorical": {"levels": 5},
    "logistic_mixture": {"levels": 8, "components": 2, "input_dim": 3},
    "gaussian": {"levels": 8, "input_dim": 3},
}
DECODED = [
    {"decoder": "two-stack", "receptive_field": 5},
    {"decoder": "resnet", "tied": True, "n_pointwise": 2, "z_channels": 4, "n_classes": 3},
    *({"decoder": decoder} for decoder in ("pixelcnn++", "mlp", "deconv")),
    *({"decoder": decoder, "likelihood": kind, **LEVELS[kind]} for kind in LEVELS for decoder in KINDS),
    *({"decoder": decoder, "likelihood": "continuous_bernoulli", "levels": 8} for decoder in ("mlp", "deconv")),
    {"likelihood": "gaussian", "levels": 256, "likelihood_sigma": 0.3, "use_flow": False},
]
WITHOUT_Z = [
    {"latent_dim": 0, **options, "decoder": decoder}
    for decoder in ("gated", "two-stack", "resnet", "pixelcnn++")
    for options in ({}, {"n_classes": 3, "likelihood": "gaussian", "levels": 16})
]
ALL = [*COMBINATIONS, *CONDITIONAL, *DECODED, *WITHOUT_Z]


def name(options: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in options.items())


def images(count: int = 3, options: dict | None = None) -> torch.Tensor:
    options = options or {}
    levels = options["levels"] if "likelihood" in options else 2
    return torch.randint(levels, (count, options.get("input_dim", 1), 6, 5)) / (levels - 1)


def labels_of(options: dict, count: int = 3) -> torch.Tensor | None:
    return torch.arange(count) % options["n_classes"] if "n_classes" in options else None


@pytest.mark.parametrize("options", ALL, ids=name)
def test_a_step_trains_every_parameter(options: dict) -> None:
    model = vf.VLAE(**{**SMALL, **options})
    with torch.no_grad():
        for p in model.parameters():  # a flow's last layer starts at zero: the layers before it would get no gradient
            p += 0.05 * torch.randn_like(p)
    sum(term.mean() for term in model.loss_terms(images(64, options), labels_of(options, 64))).backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any(), parameter


@pytest.mark.parametrize("options", ALL, ids=name)
def test_a_config_gives_the_model_back(options: dict) -> None:
    model = vf.VLAE(**{**SMALL, **options}).eval()
    config = json.loads(json.dumps(model.config))
    assert not [key for key, value in config.items() if broken_rule(key, value)]
    other = checkpoint.build(config, "cpu")
    assert other.config == model.config
    shapes = {key: tensor.shape for key, tensor in checkpoint.build(config, "meta").state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in model.state_dict().items()}
    other.load_state_dict(model.state_dict())
    x, labels = images(3, options), labels_of(options)
    torch.manual_seed(1)
    expected = model(x, labels)
    torch.manual_seed(1)
    for ours, theirs in zip(other(x, labels), expected, strict=True):
        assert ours.equal(theirs)


def test_every_config_key_is_bounded_in_a_checkpoint() -> None:
    hostile = {key: [{}] for key in vf.VLAE(**SMALL).config}
    assert [key for key, value in hostile.items() if not broken_rule(key, value)] == []


def test_a_config_from_before_an_option_means_what_it_meant() -> None:
    old = ("input_dim", "latent_dim", "hidden_dim", "n_layers", "use_flow", "image_size", "kernel_size")
    old += ("initial_kernel", "z_channels", "residual", "flow_hidden", "flow_steps", "backend")
    model = vf.VLAE(**SMALL)
    other = checkpoint.build({key: model.config[key] for key in old}, "cpu")
    assert other.config == model.config
    names = list(model.state_dict())
    assert names[:6] == [f"encoder.features.{i}.{what}" for i in (0, 2, 4) for what in ("weight", "bias")]
    assert names[6:9] == ["encoder.head.weight", "encoder.head.bias", "prior.steps.0.layers.0.weight"]


@pytest.mark.parametrize("options", [{}, {"posterior": "iaf"}, {"latent_map": (2, 1)}, {"use_flow": False}], ids=name)
def test_terms_of_a_model(options: dict) -> None:
    """model.loss_terms is loss_function of model(x); the dimensions' shares add up to the KL."""
    model, x = vf.VLAE(**{**SMALL, **options}).double(), images().double()
    torch.manual_seed(1)
    out = model(x)
    torch.manual_seed(1)
    terms = model.loss_terms(x, closed_form=False)
    loss = vf.loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
    torch.testing.assert_close((terms.reconstruction + terms.kl).sum(), loss)
    kl = model.loss_terms(x).kl if model.kl_is_closed_form else terms.kl
    torch.testing.assert_close(model.kl_per_dim(out.z, out.mu, out.logvar).sum(1), kl)


def test_a_posterior_sample_is_a_function_of_its_generator() -> None:
    for posterior in POSTERIORS:
        model, x = vf.VLAE(**SMALL, posterior=posterior), images()
        one, two = (model.posterior_sample(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert one.z.equal(two.z)
        mu, logvar = model.encoder(x)
        assert one.mu.equal(mu) == one.logvar.equal(logvar) == (posterior == "gaussian")


def test_weight_norm_changes_no_output_at_the_start() -> None:
    torch.manual_seed(0)
    plain = vf.VLAE(**SMALL, encoder="resnet")
    torch.manual_seed(0)
    normalized = vf.VLAE(**SMALL, encoder="resnet", weight_norm=True)
    x = images()
    for ours, theirs in zip(normalized.encoder(x), plain.encoder(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    layers = initialize(normalized.encoder, images(64))
    assert layers == 1 + 2 * 6 + 4  # the first, two of each block, the skips of the blocks that change a shape
    assert not normalized.encoder(x)[0].equal(plain.encoder(x)[0])


def test_labels_reach_the_encoder_and_the_decoder() -> None:
    for encoder in ENCODERS:
        model, x = vf.VLAE(**SMALL, n_classes=3, encoder=encoder), images()
        zeros, ones = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.int32)
        assert not model.encoder(x, zeros)[0].equal(model.encoder(x, ones)[0])
        z = torch.randn(3, 4)
        code = model.condition(z, ones)
        assert code.equal(torch.cat([z, torch.tensor([[0.0, 1, 0]]).expand(3, 3)], 1))
        assert not model.decoder(x, code).equal(model.decoder(x, model.condition(z, zeros)))


def test_class_conditional_images() -> None:
    model = vf.VLAE(**SMALL, n_classes=3)
    labels = torch.tensor([0, 2, 1, 1])
    drawn = model.sample(4, torch.Generator().manual_seed(0), labels)
    assert drawn.shape == (4, 1, 6, 5)
    z = model.sample_prior(4, generator := torch.Generator().manual_seed(0))
    assert drawn.equal(model.sampler().sample(model.condition(z, labels), generator=generator))


@pytest.mark.parametrize("options", [*DECODED, {}], ids=name)
def test_images_of_every_decoder(options: dict) -> None:
    """They are in the range of the likelihood, and a sampler's steps are those of its decoder."""
    model = vf.VLAE(**{**SMALL, **options})
    drawn = model.sample(3, torch.Generator().manual_seed(0), labels_of(options))
    assert drawn.shape == (3, options.get("input_dim", 1), 6, 5)
    model.likelihood.check(drawn)
    assert (model.sampler().steps == 1) == (options.get("decoder") in ("mlp", "deconv"))


CONDITIONED = {**SMALL, "n_classes": 3}


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: vf.VLAE(**CONDITIONED)(images()), ValueError, "labels must be given where n_classes is 3, got None"),
        (lambda: vf.VLAE(**CONDITIONED).sample(2), ValueError, "VLAE: labels must be given where n_classes is 3"),
        (
            lambda: vf.VLAE(**CONDITIONED)(images(), torch.tensor([0, 3, 1])),
            ValueError,
            "ConvEncoder: labels must be from 0 to 2, got 3",
        ),
        (
            lambda: vf.VLAE(**CONDITIONED).condition(torch.zeros(2, 4), torch.tensor([0, -1])),
            ValueError,
            "VLAE: labels must be from 0 to 2, got -1",
        ),
        (
            lambda: vf.VLAE(**CONDITIONED)(images(), torch.tensor([0, 1])),
            ValueError,
            r"labels must be \[3\], one an image, got \(2,\)",
        ),
        (
            lambda: vf.VLAE(**CONDITIONED)(images(), torch.zeros(3)),
            TypeError,
            "labels must be integers, got torch.float32",
        ),
        (lambda: vf.VLAE(**SMALL)(images(), torch.zeros(3).long()), ValueError, "labels must be None where n_classes"),
        (lambda: vf.VLAE(**SMALL, n_classes=-1), ValueError, "VLAE: n_classes must be at least 0, got -1"),
        (lambda: vf.VLAE(**SMALL, encoder_hidden=1), ValueError, "VLAE: encoder_hidden must be at least 2, got 1"),
        (lambda: vf.VLAE(**SMALL, encoder="rnn"), ValueError, "VLAE: encoder must be one of conv, .*got 'rnn'"),
        (lambda: vf.VLAE(**SMALL, decoder="rnn"), ValueError, "VLAE: decoder must be one of gated, .*got 'rnn'"),
        (lambda: vf.VLAE(**SMALL, likelihood="t"), ValueError, "VLAE: likelihood must be one of bernoulli, .*got 't'"),
        (lambda: vf.VLAE(**SMALL, decoder="mlp", receptive_field=3), ValueError, "no option receptive_field, got 3"),
        (lambda: vf.VLAE(**SMALL, posterior="cauchy"), ValueError, "posterior must be one of gaussian, iaf, got"),
        (lambda: vf.VLAE(**SMALL, flow_layers=0), ValueError, "VLAE: flow_layers must be at least 1, got 0"),
        (
            lambda: vf.VLAE(**SMALL, latent_map=(3, 1)),
            ValueError,
            r"VLAE: latent_map must be .* divisor of latent_dim = 4, got \(3, 1\)",
        ),
        (
            lambda: vf.VLAE(**SMALL, latent_map=(2, 1), encoder="mlp"),
            ValueError,
            r"FullyConnectedEncoder: latent_map must be None, got \(2, 1\)",
        ),
    ],
)
def test_errors(call, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.slow  # it compiles
def test_a_class_conditional_model_compiles_whole_and_exports() -> None:
    """A graph cannot raise for a label out of range: it gives NaN there, and nowhere else."""
    torch.manual_seed(0)
    model, x, labels = vf.VLAE(**CONDITIONED).eval(), images(), torch.tensor([0, 2, 1])[: len(images())]
    wrong = labels.clone()
    wrong[1] = 7
    for graph in (
        torch.compile(model, fullgraph=True, backend="aot_eager"),
        torch.export.export(model, (x, labels)).module(),
    ):
        torch.manual_seed(1)
        want = model(x, labels)
        torch.manual_seed(1)
        got = graph(x, labels)
        torch.testing.assert_close(got[0], want.logits)
        assert graph(x, wrong)[0].isnan().flatten(1).any(1).tolist() == [i == 1 for i in range(len(x))]
