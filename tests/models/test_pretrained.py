"""The model that ships with the package: small, as good as its card says, and the default of the commands."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from cases.commands import call
from cases.deadline import slow_where
from cases.pictures import assert_shows
from cases.rows import is_interpreted

import vlae_fast as vf
from vlae_fast import checkpoint, data, evaluation

CARD = (checkpoint.MNIST / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", checkpoint.shipped(), ids=lambda model: model.name)
def test_it_is_small_and_loads_in_float32(model: checkpoint.Shipped) -> None:
    assert model.size < 2_100_000 and "+-" in model.figure
    found = checkpoint.load(model.name)
    assert all(p.dtype == torch.float32 for p in found.model.parameters())
    assert found.epoch <= json.loads((model.folder / "config.json").read_text())["training"]["epochs"]
    assert f"--data {found.training['data']}" in (model.folder / "README.md").read_text(encoding="utf-8")


def test_sample_without_arguments_draws_digits(tmp_path: Path) -> None:
    result = call("sample", "-n", 4, "--out", tmp_path / "s.png")
    assert result.exit_code == 0, result.output
    model = checkpoint.load(checkpoint.MNIST).model
    assert_shows(tmp_path / "s.png", model.sample(4, torch.Generator().manual_seed(0)), columns=2)
    images = model.sample(50, torch.Generator().manual_seed(0))
    assert 0.08 < images.mean() < 0.19  # MNIST's ink is 0.13


@pytest.mark.skipif("VLAE_FAST_DATA" not in os.environ, reason="VLAE_FAST_DATA is not set")
def test_it_is_as_good_as_its_card_says() -> None:
    """The ELBO of 1,000 images of the test set, within four standard errors of the card's ELBO of all of them."""
    model, images = checkpoint.load(checkpoint.MNIST).model, data.load("mnist", os.environ["VLAE_FAST_DATA"])
    terms = evaluation.per_image(model, evaluation.subset(images, "test", 1000, 0), "test", batch_size=250)
    loss = terms.reconstruction + terms.kl
    said = re.search(r"ELBO (-[\d.]+)", CARD)
    assert said and abs(loss.mean().item() + float(said[1])) < 4 * loss.std().item() / 1000**0.5


def test_same_noise_same_image_and_same_order_same_bits_on_the_shipped_model() -> None:
    """Naive, raster, wavefront; a batch of 1, of 2 and of 5; one thread or three."""
    model, g = checkpoint.load(checkpoint.MNIST).model, torch.Generator().manual_seed(0)
    z, noise = model.sample_prior(5, g), torch.rand(5, 1, 28, 28, generator=g)
    samplers = [vf.PixelCNNSampler(model.decoder, order=order) for order in ("wavefront", "raster")]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        images, logits = samplers[0].sample_with_logits(z, noise)
        assert images[:2].equal(vf.naive_sample(model.decoder, z[:2], noise[:2]))
        for n in (1, 3):
            torch.set_num_threads(n)
            for sampler in samplers:
                for rows in (slice(0, 5), slice(3, 4), slice(1, 3)):
                    got, got_logits = sampler.sample_with_logits(z[rows], noise[rows])
                    assert got.equal(images[rows])
                    assert got_logits.equal(logits[rows])
    finally:
        torch.set_num_threads(threads)


@slow_where(lambda row, **_: is_interpreted(row.name))  # one image takes minutes
@pytest.mark.parametrize("row", vf.backends.TABLE, ids=lambda row: row.name)
def test_the_shipped_model_by_name_of_a_backend_runs_or_raises(row: vf.backends.Backend) -> None:
    decoder = checkpoint.load(checkpoint.MNIST).model.decoder
    if row.why_not("pixelcnn_sample", next(decoder.parameters())) is None:
        assert vf.PixelCNNSampler(decoder, row.name).backend == row.name
    else:
        with pytest.raises(RuntimeError, match=row.name):
            vf.PixelCNNSampler(decoder, row.name)
