"""evaluation.py against the same figures computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vlae_fast import VLAE, data, loss_function
from vlae_fast.evaluation import bits_per_dim, evaluate


@pytest.fixture(scope="module")
def images() -> data.Images:
    grey = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return data.Images("noise", grey, grey[:5], grey[:7], "none")


@pytest.fixture(scope="module")
def model() -> VLAE:
    torch.manual_seed(0)
    return VLAE(1, 3, 4, 1, image_size=(8, 8), flow_hidden=8)


def test_bits_per_dim_of_a_fair_coin() -> None:
    assert bits_per_dim(784 * math.log(2), 784) == pytest.approx(1.0)


def test_evaluate_is_the_mean_of_the_loss(model: VLAE, images: data.Images) -> None:
    result = evaluate(model, images, "test", seed=5)
    torch.manual_seed(5)
    x = images.fixed("test", 5)
    out = model(x)
    loss = loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz) / len(x)
    assert result.elbo == pytest.approx(-loss.item(), rel=1e-5)
    assert result.elbo == pytest.approx(-(result.reconstruction + result.kl))
    assert result.bits_per_dim == pytest.approx(loss.item() / (64 * math.log(2)), rel=1e-5)
    assert result.images == 7
    assert "nats/image" in str(result) and "bits/dim" in str(result)


def test_evaluate_is_repeatable_and_leaves_the_random_state_and_mode_alone(model: VLAE, images: data.Images) -> None:
    model.train()
    state = torch.get_rng_state()
    first, second, other = (evaluate(model, images, "valid", seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert torch.get_rng_state().equal(state)
    assert model.training


def test_the_mode_is_kept_when_evaluation_fails(
    model: VLAE, images: data.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert not model.training
        raise MemoryError

    monkeypatch.setattr(model.encoder, "forward", fail)
    model.train()
    state = torch.get_rng_state()
    with pytest.raises(MemoryError):
        evaluate(model, images)
    assert model.training and torch.get_rng_state().equal(state)


def test_kl_of_the_prior_itself_is_zero(images: data.Images) -> None:
    """With mu = 0, logvar = 0 and an identity flow, q is p: the KL vanishes for every z, not only on average."""
    model = VLAE(1, 3, 4, 1, image_size=(8, 8), flow_hidden=8)
    head = next(m for m in reversed(list(model.encoder.modules())) if isinstance(m, torch.nn.Linear))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    assert evaluate(model, images).kl == pytest.approx(0.0, abs=1e-5)


def test_unknown_split(model: VLAE, images: data.Images) -> None:
    with pytest.raises(ValueError, match="split: must be one of"):
        evaluate(model, images, "validation")  # type: ignore[arg-type]
