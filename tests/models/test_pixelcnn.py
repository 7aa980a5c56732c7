"""A PixelCNN by itself: its probabilities, its samples, its labels."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import vlae_fast as vf
from vlae_fast import checkpoint, data, evaluation, generation
from vlae_fast.generation import inpainting, latent_space

KINDS = ("gated", "two-stack", "pixelcnn++", "resnet")


def pixelcnn(**options: Any) -> vf.PixelCNN:
    torch.manual_seed(4)
    model = vf.PixelCNN(hidden_dim=6, **{"n_layers": 1, "image_size": (2, 2), **options}).eval()
    for path, p in model.named_parameters():
        if "gain" not in path:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.3)
    return model


def every_image() -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).view(-1, 1, 2, 2)


@pytest.mark.parametrize("n_classes", [0, 3])
@pytest.mark.parametrize("decoder", KINDS)
def test_probabilities_of_all_images_sum_to_one_and_samples_follow_them(decoder: str, n_classes: int) -> None:
    model, x = pixelcnn(decoder=decoder, n_classes=n_classes), every_image()
    label = torch.full((16,), 2) if n_classes else None
    with torch.no_grad():
        terms = model.loss_terms(x, label)
    assert (terms.kl == 0).all() and (-terms.reconstruction).exp().sum().item() == pytest.approx(1, abs=1e-5)
    n = 4000
    labels = torch.full((n,), 2) if n_classes else None
    drawn = model.sample(n, torch.Generator().manual_seed(0), labels=labels)
    assert drawn.shape == (n, 1, 2, 2)
    counts = torch.bincount((drawn.flatten(1) @ torch.tensor([8.0, 4, 2, 1])).long(), minlength=16)
    p = (-terms.reconstruction).exp()
    assert ((counts - n * p) ** 2 / (n * p).clamp(min=1)).sum().item() < 16 + 6 * math.sqrt(32)


def test_labels_are_all_that_the_decoder_is_told() -> None:
    model, x = pixelcnn(n_classes=3), every_image()
    assert model.decoder.latent_dim == 3 and model.condition(model.sample_prior(2), torch.tensor([0, 2])).tolist() == [
        [1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
    ]
    one, two = (model.loss_terms(x, torch.full((16,), k)).reconstruction for k in (0, 1))
    assert (one - two).abs().max() > 0.05
    with pytest.raises(ValueError, match="labels must be given where n_classes is 3, got None"):
        model.loss_terms(x)
    with pytest.raises(ValueError, match="labels must be None where n_classes is 0"):
        pixelcnn().loss_terms(x, torch.zeros(16, dtype=torch.long))


def test_it_is_a_vlae_without_encoder_prior_and_code_map() -> None:
    model = pixelcnn()
    assert model.config == vf.VLAE(1, 0, 6, 1, False, image_size=(2, 2)).config
    assert vf.VLAE(latent_dim=0, z_channels=16).config["z_channels"] == 0  # there is nothing to spread
    assert (model.encoder, model.prior, model.posterior) == (None, None, None)
    x = every_image()
    out = model(x)
    assert out.logits.shape == x.shape and out.z.shape == out.mu.shape == out.logvar.shape == (16, 0)
    assert out.log_pz.equal(torch.zeros(16)) and model.sample_prior(3).shape == (3, 0)
    assert [t.shape for t in model.encode(x)] == [(16, 0)] * 2
    torch.testing.assert_close(vf.loss_function(out.logits, x, *out[1:]), model.loss_terms(x).reconstruction.sum())
    noise = torch.rand(16, 1, 2, 2)
    drawn = model.sampler().sample(out.z, noise)
    assert drawn.equal(model.sampler().sample(None, noise)) and drawn.equal(vf.naive_sample(model.decoder, None, noise))
    means = model.decode(model.sample_prior(1), draws=4000, generator=torch.Generator().manual_seed(0))
    exact = ((-model.loss_terms(x).reconstruction).exp()[:, None, None, None] * x).sum(0)
    assert (means[0] - exact).abs().max() < 0.05


def test_known_pixels_that_come_first_are_completed_exactly() -> None:
    """In one pass, which draws p(rest | first row) itself."""
    model, x, n = pixelcnn(), every_image(), 4000
    first = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    known = (torch.tensor([[True, True], [False, False]]), first)
    drawn = model.sampler().sample(model.sample_prior(n), generator=torch.Generator().manual_seed(1), known=known)
    fits = (x[:, 0, 0] == first[0]).all(1)
    with torch.no_grad():
        p = (-model.loss_terms(x).reconstruction).exp()[fits]
    counts = torch.bincount((drawn[:, 0, 1] @ torch.tensor([2.0, 1.0])).long(), minlength=4)
    assert ((counts / n - p / p.sum()).abs() < 5 * 0.5 / math.sqrt(n)).all()
    assert inpainting.complete(model, x[:3], 1, draws=2, rounds=0).shape == (3, 2, 1, 2, 2)


def test_evaluation_is_exact() -> None:
    model = pixelcnn(n_layers=2)
    every = (every_image() * 255).to(torch.uint8)
    images = data.Images("all", every, every, every, "", "threshold")
    found, again = (evaluation.evaluate(model, images, seed=seed) for seed in (0, 1))
    assert found == again and found.exact and found.kl == 0
    assert str(found) == f"log p(x) {found.elbo:.2f} nats/image, {found.bits_per_dim:.4f} bits/dim (16 images)"
    assert found.bits_per_dim == pytest.approx(-found.elbo / (4 * math.log(2)))
    bound = evaluation.importance_bound(model, images, samples=3)
    assert bound.nll == pytest.approx(-found.elbo, rel=1e-6)
    assert not evaluation.evaluate(vf.VLAE(1, 2, 4, 1, image_size=(2, 2)), images).exact


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    for options in ({}, {"n_classes": 3, "decoder": "pixelcnn++", "likelihood": "gaussian"}):
        model = pixelcnn(**options)
        folder = tmp_path / str(len(options))
        optimizer = torch.optim.Adam(model.parameters())
        checkpoint.save(folder, model, optimizer, epoch=0, training={}, history=[])
        found = checkpoint.load(folder).model.eval()
        assert found.config == model.config and found.config["latent_dim"] == 0
        x, labels = torch.rand(3, 1, 2, 2).round(), torch.arange(3) if options else None
        assert found.loss_terms(x, labels).reconstruction.equal(model.loss_terms(x, labels).reconstruction)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: latent_space.code(m, x), "code: model must have a z, got one with latent_dim 0"),
        (lambda m, x: generation.decompress(m, x), "decompress: model must have a z, got one with latent_dim 0"),
        (lambda m, x: inpainting.denoise(m, x), "decompress: model must have a z, got one with latent_dim 0"),
        (lambda m, x: vf.PixelCNN(posterior="iaf"), "posterior must be 'gaussian' where latent_dim is 0, got 'iaf'"),
        (lambda m, x: vf.PixelCNN(latent_map=(1, 1)), "latent_map must be None where latent_dim is 0"),
        (lambda m, x: vf.PixelCNN(decoder="mlp"), "MLPDecoder: latent_dim must be at least 1, got 0"),
        (lambda m, x: m.decode(torch.zeros(2, 3)), r"z must be \[B, 0\], got \(2, 3\)"),
        (lambda m, x: m.decoder(x, torch.zeros(16, 3)), r"z must be None or \[B, 0\] where latent_dim is 0"),
    ],
)
def test_what_needs_a_z_says_so(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(pixelcnn(), every_image())
    with pytest.raises(TypeError, match="VLAE: multiple values for argument 'latent_dim'"):
        vf.PixelCNN(latent_dim=3)
