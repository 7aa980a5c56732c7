"""Functions that look at a model use its running statistics and changes none of them, whatever its mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.runs import halves

import vlae_fast as vf
from vlae_fast.evaluation import evaluate
from vlae_fast.generation import decompress
from vlae_fast.generation.inpainting import complete, denoise
from vlae_fast.generation.latent_space import code


def model_in_training() -> vf.VLAE:
    """Its statistics have seen a few batches, and its encoder's first one is held fixed, as when fine-tuning."""
    torch.manual_seed(0)
    model = vf.VLAE(
        1, 4, 8, 1, False, image_size=(8, 8), decoder="deconv", encoder_norm="batch", decoder_norm="batch"
    ).train()
    for _ in range(3):
        model(torch.rand(16, 1, 8, 8))
    model.encoder.features[1].eval()  # type: ignore[index]
    return model


LOOKS: dict[str, Callable[[vf.VLAE, torch.Tensor, torch.Generator], Any]] = {
    "decompress": lambda model, x, generator: decompress(model, x, generator=generator),
    "code": lambda model, x, generator: code(model, x, generator=generator),
    "denoise": lambda model, x, generator: denoise(model, x, generator=generator),
    "complete": lambda model, x, generator: complete(model, x, 4, rounds=2, generator=generator),
    "evaluate": lambda model, x, generator: torch.tensor(evaluate(model, halves(), "valid").elbo),
    "sample": lambda model, x, generator: model.sample(3, generator=generator),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_at_a_model_in_training_is_that_in_evaluation_and_changes_nothing(name: str) -> None:
    model, x = model_in_training(), torch.rand(3, 1, 8, 8).round()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    got = LOOKS[name](model, x, torch.Generator().manual_seed(1))
    assert all(before[key].equal(tensor) for key, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    expected = LOOKS[name](model.eval(), x, torch.Generator().manual_seed(1))
    for ours, theirs in zip(torch.atleast_2d(got), torch.atleast_2d(expected), strict=True):
        assert ours.equal(theirs)
