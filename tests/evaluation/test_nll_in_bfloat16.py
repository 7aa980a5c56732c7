"""The NLL with the decoder's products in bfloat16: near that of float32, said, and kept apart from it."""

from pathlib import Path

import pytest
import torch

from vlae_fast import VLAE, checkpoint, evaluation
from vlae_fast.data import Images


@pytest.fixture
def images() -> Images:
    pixels = (torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.15).to(torch.uint8) * 255
    return Images("noise", pixels, pixels, pixels, "six of noise", binarization="threshold")


def test_near_that_of_float32(images: Images) -> None:
    """Of the shipped model: images of about 300 nats, each off by roundings of its logits to 8 bits."""
    model = checkpoint.load(checkpoint.MNIST).model
    exact, rounded = (
        evaluation.importance_nll(model, images, samples=20, seed=1, autocast=autocast) for autocast in (False, True)
    )
    assert not rounded.equal(exact)
    assert (rounded - exact).abs().max() < 2e-3 * exact.mean()


def test_the_bound_says_so(images: Images) -> None:
    model = VLAE(latent_dim=2, hidden_dim=4, n_layers=1, flow_hidden=8)
    bound = evaluation.importance_bound(model, images, samples=3, autocast=True)
    assert bound.autocast and str(bound).endswith(", the decoder's products in bfloat16")
    assert "bfloat16" not in str(evaluation.importance_bound(model, images, samples=3))


def test_figures_of_both_kinds_are_not_mixed(images: Images, tmp_path: Path) -> None:
    model = VLAE(latent_dim=2, hidden_dim=4, n_layers=1, flow_hidden=8)
    for first, then in ((False, True), (True, False)):
        keep = tmp_path / str(first)
        evaluation.importance_nll(model, images, samples=3, keep=keep, autocast=first)
        with pytest.raises(ValueError, match=r"keep: .* has figures of another autocast, .*, got "):
            evaluation.importance_nll(model, images, samples=3, keep=keep, autocast=then)


def test_a_model_whose_decoder_is_not_called_by_itself_is_refused(images: Images) -> None:
    class Own(VLAE):
        pass

    model = Own(latent_dim=2, hidden_dim=4, n_layers=1, flow_hidden=8)
    with pytest.raises(ValueError, match="autocast: must be False of a subclass or a model with hooks, got Own"):
        evaluation.importance_nll(model, images, samples=3, autocast=True)
