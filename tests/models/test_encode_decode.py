"""encode, decode, and the calls of tutorials that mean something else here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import vlae_fast as vf

SIZES: dict[str, Any] = {"latent_dim": 3, "hidden_dim": 8, "n_layers": 1, "image_size": (4, 3), "flow_hidden": 8}


def model_of(**options: Any) -> vf.VLAE:
    torch.manual_seed(3)
    model = vf.VLAE(**(SIZES | options)).eval()
    for path, p in model.decoder.named_parameters():
        if "gain" not in path:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.3)
    return model


def test_encode_is_what_the_encoder_gives() -> None:
    x, labels = torch.rand(5, 1, 4, 3).round(), torch.arange(5) % 3
    for options in ({}, {"posterior": "iaf"}, {"n_classes": 3}):
        model = model_of(**options)
        given = (x, labels) if options.get("n_classes") else (x,)
        for ours, theirs in zip(model.encode(*given), model.encoder(*given), strict=True):
            assert ours.equal(theirs) and ours.shape == (5, 3)
    model = model_of(posterior="iaf")
    torch.nn.init.constant_(model.posterior.steps[-1].layers[-1].bias, 2.0)
    z = model.posterior_sample(x[:1].expand(4000, -1, -1, -1)).z
    assert (z.mean(0) - model.encode(x[:1])[0]).abs().max() > 0.05  # mu is of the Gaussian that the flow starts from


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "gaussian", "continuous_bernoulli"])
@pytest.mark.parametrize("decoder", ["mlp", "deconv"])
def test_decode_in_one_pass_is_the_mean_of_the_draws(decoder: str, likelihood: str) -> None:
    model = model_of(decoder=decoder, likelihood=likelihood, levels=4)
    z = torch.randn(1, 3, requires_grad=True)
    mean = model.decode(z)
    draws = model.sampler().sample(z.detach().expand(6000, -1), generator=torch.Generator().manual_seed(0))
    error = draws.std(0) / math.sqrt(len(draws))
    assert mean.shape == (1, 1, 4, 3) and ((draws.mean(0) - mean[0]).abs() <= 5 * error + 1e-6).all()
    mean.sum().backward()
    assert z.grad is not None and (z.grad != 0).any()


def test_decode_of_an_autoregressive_decoder_is_near_the_exact_mean() -> None:
    """The exact one is a sum over all images of 2 x 2 pixels."""
    model = model_of(image_size=(2, 2))
    z = torch.randn(2, 3)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(-1, 1, 2, 2)
    with torch.no_grad():
        for row, got in zip(z, model.decode(z, draws=6000, generator=torch.Generator().manual_seed(1)), strict=True):
            logits = model.decoder(images, row.expand(16, -1))
            p = model.likelihood.log_prob(logits, images).exp()
            assert p.sum().item() == pytest.approx(1, abs=1e-5)
            exact = (p[:, None, None, None] * images).sum(0)
            assert (got - exact).abs().max() < 5 * 0.5 / math.sqrt(6000)
    few = [model.decode(z, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert few[0].equal(few[1]) and not few[0].equal(few[2])
    assert (few[0] * 16 == (few[0] * 16).round()).all()  # of 16 draws by default


def test_decode_of_a_conditional_model_takes_labels() -> None:
    for decoder in ("mlp", "gated"):
        model, z = model_of(decoder=decoder, n_classes=3), torch.zeros(2, 3)
        means = model.decode(z, torch.tensor([0, 2]), draws=500, generator=torch.Generator().manual_seed(0))
        assert (means[0] - means[1]).abs().max() > 0.05
        with pytest.raises(ValueError, match="VLAE: labels must be given where n_classes is 3, got None"):
            model.decode(z)
    with pytest.raises(ValueError, match="VLAE: labels must be None where n_classes is 0"):
        model_of().decode(z, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.decode(torch.zeros(2, 4)), ValueError, r"VLAE.decode: z must be \[B, 3\], got \(2, 4\)"),
        (lambda m: m.decode(torch.zeros(3)), ValueError, r"VLAE.decode: z must be \[B, 3\], got \(3,\)"),
        (lambda m: m.decode(torch.zeros(2, 3), draws=0), ValueError, "VLAE.decode: draws must be at least 1, got 0"),
        (lambda m: m.encode(torch.zeros(2, 12)), ValueError, r"x must be \[B, 1, 4, 3\], got \(2, 12\)"),
        (lambda m: m.sample(4, "cpu"), TypeError, "VLAE: generator must be a torch.Generator or None, got 'cpu'"),
        (lambda m: m.sample(4, torch.device("cpu")), TypeError, r"got device\(type='cpu'\): .* model.to\(device\)"),
        (lambda m: m.sample_prior(4, 7), TypeError, "VLAE: generator must be a torch.Generator or None, got 7"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(model_of())


def test_a_loss_of_four_arguments_says_what_else_it_needs() -> None:
    model, x = model_of(), torch.zeros(2, 1, 4, 3)
    out = model(x)
    for given, missing in (((), "z and log_pz"), ((out.z,), "log_pz")):
        with pytest.raises(TypeError, match=f"got no {missing}: the KL is log q.* under the model's own prior"):
            vf.loss_function(out.logits, x, out.mu, out.logvar, *given)
