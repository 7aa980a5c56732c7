"""Objectives: what each of them is on terms that are known, and the importance-weighted bound."""

import math

import pytest
import torch

from vlae_fast.models.objectives import LossTerms, SoftFreeBits, free_bits, iwae_bound, negative_elbo

TERMS = LossTerms(torch.tensor([10.0, 20.0]), torch.tensor([1.0, 5.0]))


def test_negative_elbo_and_beta() -> None:
    assert negative_elbo(TERMS).item() == 18 and negative_elbo(TERMS, beta=0.5).item() == 16.5


def test_free_bits_bound_the_mean_kl() -> None:
    assert free_bits(TERMS, 2.0).item() == 18  # the mean KL, 3, is above; that the first image has 1 does not matter
    assert free_bits(TERMS, 4.0).item() == 19
    assert free_bits(TERMS, 4.0, beta=0.5).item() == 17
    per_dim = torch.tensor([[0.5, 0.5], [4.5, 0.5]])
    assert free_bits(TERMS, 2.0, kl_per_dim=per_dim).item() == 15 + 2.5 + 1


def test_no_gradient_below_the_free_bits() -> None:
    kl = torch.tensor([1.0, 5.0], requires_grad=True)
    assert torch.autograd.grad(free_bits(TERMS._replace(kl=kl), 4.0), kl)[0].equal(torch.zeros(2))
    assert torch.autograd.grad(free_bits(TERMS._replace(kl=kl), 2.0), kl)[0].equal(torch.full((2,), 0.5))


@pytest.mark.parametrize("start", [0.01, 1.0])
def test_soft_free_bits_steer_the_kl_into_the_band(start: float) -> None:
    """A KL that falls as gamma rises ends just above the target, from either side."""
    objective = SoftFreeBits(4.0, gamma=start)
    kls = []
    for _ in range(200):
        kl = 2.0 / objective.gamma**0.5
        loss = objective(TERMS._replace(kl=torch.full((2,), kl)))
        assert math.isfinite(loss.item())
        kls.append(kl)
    assert all(3.8 < kl < 4.5 for kl in kls[-20:])
    assert 0 < objective.gamma <= 1


def test_soft_free_bits_use_the_gamma_from_before() -> None:
    objective = SoftFreeBits(1.0, gamma=0.5)
    assert objective(TERMS).item() == 16.5 and objective.gamma == pytest.approx(0.55)
    assert SoftFreeBits(100.0)(TERMS).item() == 18


def test_importance_weighted_bound_rises_with_k() -> None:
    """ELBO < L_2 < L_8 < L_64 < log p(x) for a known model: z ~ N(0, 1), x ~ N(z, 1), q = N(0.3 x, 0.8)."""
    normal = torch.distributions.Normal
    x, k = torch.full((4000,), 1.5), 64
    q = normal(0.3 * x, 0.8)
    z = q.sample((k,))
    log_weights = normal(z, 1).log_prob(x) + normal(0, 1).log_prob(z) - q.log_prob(z)
    bounds = [iwae_bound(log_weights[:n]).mean().item() for n in (1, 2, 8, 64)]
    truth = normal(0, math.sqrt(2)).log_prob(x[0]).item()
    assert bounds == sorted(bounds) and bounds[-1] < truth + 1e-3 and truth - bounds[-1] < 0.01
    assert bounds[1] - bounds[0] > 0.01
    assert bounds[0] == pytest.approx(log_weights[0].mean().item())


def test_importance_weighted_bound_does_not_overflow() -> None:
    assert iwae_bound(torch.tensor([[-9000.0], [-9000.0]])).item() == -9000


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: free_bits(TERMS, -1.0), "free_bits: nats must not be negative, got -1.0"),
        (
            lambda: free_bits(TERMS, 1.0, kl_per_dim=torch.zeros(3, 2)),
            r"kl_per_dim must be \[2, groups\], got \(3, 2\)",
        ),
        (lambda: SoftFreeBits(math.nan), "SoftFreeBits: nats must be finite and >= 0, got nan"),
        (lambda: SoftFreeBits(1.0, gamma=2.0), "SoftFreeBits: gamma must be finite and >= 0.0001 and <= 1, got 2.0"),
        (lambda: iwae_bound(torch.zeros(0, 3)), r"log_weights must be \[K, B\] with K at least 1, got \(0, 3\)"),
        (lambda: iwae_bound(torch.zeros(3)), r"log_weights must be \[K, B\] with K at least 1, got \(3,\)"),
    ],
)
def test_errors(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
