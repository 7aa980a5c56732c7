"""inpainting.py: completions keep what is known and have the right distribution; noise is taken out."""

from __future__ import annotations

import itertools

import pytest
import torch

from vlae_fast import VLAE, data, evaluation
from vlae_fast.generation import inpainting


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_complete_keeps_the_known_rows(channels: int) -> None:
    model = VLAE(channels, 3, 4, 1, image_size=(6, 5), flow_hidden=8, initial_kernel=3)
    x = (torch.rand(4, channels, 6, 5) < 0.5).float()
    drawn = inpainting.complete(model, x, 2, draws=3, rounds=1, candidates=2, generator=seeded())
    assert drawn.shape == (4, 3, channels, 6, 5)
    assert (drawn[:, :, :, :2] == x[:, None, :, :2]).all() and not (drawn == drawn[:, :1]).all()
    assert drawn.equal(inpainting.complete(model, x, 2, draws=3, rounds=1, candidates=2, generator=seeded()))


def test_completions_have_the_conditional_distribution() -> None:
    """2x2 images, the upper row known: the frequencies of the four completions against p(x) of them all."""
    torch.manual_seed(0)
    model = VLAE(1, 2, 6, 1, image_size=(2, 2), flow_hidden=8, initial_kernel=3, z_channels=0)
    with torch.no_grad():
        for layer in model.decoder_layers:  # z decides much
            layer.cond.weight.mul_(8)
        model.final_conv.weight.mul_(8)
    rows = [(1, 0, *rest) for rest in itertools.product((0, 1), repeat=2)]
    x = torch.tensor(rows, dtype=torch.float32).view(4, 1, 2, 2)
    grey = x.mul(255).byte()
    nll = evaluation.importance_nll(
        model, data.Images("x", grey, grey, grey, "", "threshold"), samples=2000, batch_size=8000
    )
    expected = (-nll).softmax(0)
    drawn = inpainting.complete(model, x[:1], 1, draws=2000, rounds=4, candidates=8, generator=seeded())[0]
    found = torch.stack([(drawn == one).flatten(1).all(1).double().mean() for one in x])
    prior_only = inpainting.complete(model, x[:1], 1, draws=2000, rounds=0, generator=seeded())[0]
    without = torch.stack([(prior_only == one).flatten(1).all(1).double().mean() for one in x])
    assert found.sum() == 1 and (found - expected).abs().max() < 0.04
    assert (without - expected).abs().max() > 0.06  # z matters here: drawn from the prior it is wrong


def test_rows_are_a_mask() -> None:
    model = VLAE(1, 3, 4, 1, image_size=(6, 5), flow_hidden=8, initial_kernel=3)
    x = (torch.rand(2, 1, 6, 5) < 0.5).float()
    upper = torch.arange(6)[:, None] < 2
    of_rows, of_mask = (inpainting.complete(model, x, known, rounds=1, generator=seeded()) for known in (2, upper))
    assert of_rows.equal(of_mask)


def test_a_decoder_without_a_pixel_loop_takes_any_mask() -> None:
    torch.manual_seed(0)
    model = VLAE(1, 3, 8, 1, image_size=(6, 5), use_flow=False, decoder="mlp", encoder="mlp")
    x = (torch.rand(4, 1, 6, 5) < 0.5).float()
    mask = torch.rand(6, 5) < 0.5
    drawn = inpainting.complete(model, x, mask, draws=2, rounds=1, generator=seeded())
    assert (drawn == x[:, None])[..., mask].all() and not (drawn == drawn[:, :1]).all()


def test_denoise_is_a_function_of_the_generator() -> None:
    model = VLAE(3, 3, 4, 1, image_size=(6, 5), flow_hidden=8, initial_kernel=3)
    x = (torch.rand(2, 3, 6, 5) < 0.5).float()
    drawn = inpainting.denoise(model, x, draws=4, generator=seeded())
    assert drawn.shape == (2, 4, 3, 6, 5) and drawn.equal(inpainting.denoise(model, x, draws=4, generator=seeded()))


def test_errors() -> None:
    model = VLAE(1, 2, 4, 1, image_size=(6, 5), flow_hidden=8, initial_kernel=3)
    x = torch.zeros(1, 1, 6, 5)
    for rows in (0, 6):
        with pytest.raises(ValueError, match=f"complete: rows must be from 1 to 5, got {rows}"):
            inpainting.complete(model, x, rows)
    with pytest.raises(ValueError, match="complete: draws must be at least 1, got 0"):
        inpainting.complete(model, x, 3, draws=0)
    with pytest.raises(ValueError, match="complete: candidates must be at least 1, got 0"):
        inpainting.complete(model, x, 3, candidates=0)
    with pytest.raises(ValueError, match="complete: rounds must not be negative, got -1"):
        inpainting.complete(model, x, 3, rounds=-1)
    with pytest.raises(ValueError, match="denoise: draws must be at least 1, got 0"):
        inpainting.denoise(model, x, draws=0)
