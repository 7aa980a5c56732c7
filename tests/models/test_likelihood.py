"""Likelihoods: probabilities that sum to one, formulas against direct ones, draws that follow them."""

import math

import pytest
import torch

from vlae_fast.models.likelihood import LIKELIHOODS, Likelihood, make_likelihood

BINARY, BYTES = make_likelihood("bernoulli", 1), make_likelihood("categorical", 1, levels=256)
CASES = [
    BINARY,
    make_likelihood("bernoulli", 3),
    make_likelihood("categorical", 2, levels=4),
    BYTES,
    make_likelihood("logistic_mixture", 1, levels=256, components=4),
    make_likelihood("logistic_mixture", 3, levels=5, components=3),
    make_likelihood("logistic_mixture", 2, levels=2, components=1),
]


def pixels(likelihood: Likelihood) -> torch.Tensor:
    """Every pixel there is, [N, C, 1, 1]."""
    values = torch.arange(likelihood.levels, dtype=torch.float64) / (likelihood.levels - 1)
    return torch.cartesian_prod(*[values] * likelihood.channels).reshape(-1, likelihood.channels, 1, 1)


@pytest.mark.parametrize("likelihood", CASES, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_sums_to_one(likelihood: Likelihood, scale: float) -> None:
    x = pixels(likelihood)
    params = torch.randn(1, likelihood.params, 1, 1, dtype=torch.float64) * scale
    total = likelihood.log_prob(params.expand(len(x), -1, 1, 1), x).exp().sum().item()
    assert abs(total - 1) < 1e-9


@pytest.mark.parametrize("likelihood", CASES, ids=repr)
def test_draws_follow_the_probabilities(likelihood: Likelihood) -> None:
    n = 20_000
    params = torch.randn(1, likelihood.params, 1, 1, dtype=torch.float64)
    drawn = likelihood.draw(params.expand(n, -1, 1, 1), torch.rand(n, likelihood.noises, 1, 1, dtype=torch.float64))
    likelihood.check(drawn)
    x = pixels(likelihood)
    p = likelihood.log_prob(params.expand(len(x), -1, 1, 1), x).exp()
    keys = likelihood.levels ** torch.arange(likelihood.channels - 1, -1, -1)
    counts = torch.bincount((likelihood.index(drawn).flatten(1) * keys).sum(1), minlength=len(x))
    chi2 = ((counts - n * p) ** 2 / (n * p).clamp(min=1)).sum().item()
    assert chi2 < len(x) + 6 * math.sqrt(2 * len(x)) + 10


@pytest.mark.parametrize("likelihood", CASES[4:], ids=repr)
def test_mixture_against_its_definition(likelihood: Likelihood) -> None:
    """One sigmoid minus another, component by component."""
    channels, components = likelihood.channels, likelihood.emit.components
    x = pixels(likelihood)[::3]
    params = torch.randn(1, likelihood.params, 1, 1, dtype=torch.float64)
    flat, half = params.flatten().tolist(), 1 / (likelihood.levels - 1)
    weights = torch.tensor(flat[:components]).double().softmax(0)
    for image in x[:20]:
        values, probability = image.flatten().tolist(), 0.0
        for k in range(components):
            term = weights[k].item()
            for c in range(channels):
                mean = flat[(1 + c) * components + k]
                scale = math.exp(min(max(flat[(1 + channels + c) * components + k], -7), 7))
                for other in range(c):
                    pair = 1 + 2 * channels + c * (c - 1) // 2 + other
                    mean += math.tanh(flat[pair * components + k]) * (2 * values[other] - 1)
                edges = [(2 * values[c] - 1 + side - mean) / scale for side in (-half, half)]
                low, high = (1 / (1 + math.exp(-edge)) for edge in edges)
                low, high = (0.0 if values[c] == 0 else low), (1.0 if values[c] == 1 else high)
                term *= high - low
            probability += term
        got = likelihood.log_prob(params, image[None]).item()
        assert got == pytest.approx(math.log(probability), rel=1e-6)  # a difference of sigmoids near 1 has lost digits


def test_a_mixture_of_no_levels_is_the_law_of_its_draws() -> None:
    """Mass at the ends and density between them sum to one, and draws are as often in each tenth as that says."""
    likelihood, n = make_likelihood("logistic_mixture", 1, levels=0, components=3), 20_000
    params = torch.randn(1, 9, 1, 1, dtype=torch.float64)
    params[:, 6:] -= 1
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64).view(-1, 1, 1, 1)
    p = likelihood.log_prob(params.expand(len(x), -1, 1, 1), x).exp()
    ends, inside = (p[0], p[-1]), torch.cat([2 * p[1:2] - p[2:3], p[1:-1], 2 * p[-2:-1] - p[-3:-2]])
    parts = torch.stack([torch.trapezoid(part, dx=1e-4) for part in inside.unfold(0, 1001, 1000)])
    assert (sum(ends) + parts.sum()).item() == pytest.approx(1, abs=1e-6)
    drawn = likelihood.draw(params.expand(n, -1, 1, 1), torch.rand(n, 2, 1, 1, dtype=torch.float64)).flatten()
    likelihood.check(drawn)
    at_ends = torch.stack([(drawn == 0).sum(), (drawn == 1).sum()])
    between = drawn[(drawn > 0) & (drawn < 1)].histc(10, 0, 1)
    wanted = n * torch.cat([torch.stack(ends), parts])
    got = torch.cat([at_ends.double(), between])
    assert ((got - wanted).abs() < 5 * wanted.sqrt() + 3).all()
    rounded = make_likelihood("logistic_mixture", 1, levels=1 << 16, components=3)
    some, thrice = torch.tensor([0.25, 0.5, 0.75]).double().view(-1, 1, 1, 1), params.expand(3, -1, 1, 1)
    of_levels = rounded.log_prob(thrice, some) + math.log((1 << 16) - 1)
    torch.testing.assert_close(of_levels, likelihood.log_prob(thrice, some), atol=1e-4, rtol=0)


@pytest.mark.parametrize("likelihood", CASES, ids=repr)
def test_gradients_are_finite_at_extremes(likelihood: Likelihood) -> None:
    for scale in (1.0, 300.0):
        params = (torch.randn(4, likelihood.params, 2, 3) * scale).requires_grad_()
        x = torch.randint(0, likelihood.levels, (4, likelihood.channels, 2, 3)) / (likelihood.levels - 1)
        log_prob = likelihood.log_prob(params, x)
        log_prob.sum().backward()
        assert log_prob.isfinite().all() and (log_prob <= 1e-4).all() and params.grad.isfinite().all()
        mean = likelihood.mean(params)
        assert mean.shape == x.shape and (mean >= 0).all() and (mean <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_likelihood("laplace", 1),
            f"likelihood: must be one of {', '.join(LIKELIHOODS)}, got 'laplace'",
        ),
        (lambda: make_likelihood("categorical", 1, levels=1), "levels must be from 2 to 65,536, got 1"),
        (lambda: make_likelihood("categorical", 1, levels=0), "levels must be from 2 to 65,536, got 0"),
        (lambda: make_likelihood("logistic_mixture", 1, levels=1), "levels must be from 2 to 65,536, or 0, got 1"),
        (
            lambda: make_likelihood("logistic_mixture", 1, levels=0).bits_per_dim(1.0, 1),
            "bits_per_dim: likelihood must have levels, or be a density everywhere",
        ),
        (
            lambda: make_likelihood("logistic_mixture", 1, levels=0).check(torch.tensor([1.5])),
            "x must be from 0 to 1, got 1.5",
        ),
        (lambda: make_likelihood("logistic_mixture", 1, components=0), "components must be from 1 to 1,024, got 0"),
        (lambda: make_likelihood("bernoulli", 0), "channels must be at least 1, got 0"),
        (lambda: BINARY.check(torch.tensor([0.0, 0.5])), "bernoulli likelihood: x must be 0 or 1, got 0.5"),
        (lambda: BYTES.check(torch.tensor([1.5])), r"x must be k / 255 for k = 0..255, got 1.5"),
        (lambda: BYTES.check(torch.tensor([float("nan")])), r"x must be k / 255 .* got nan"),
        (lambda: BINARY.log_prob(torch.zeros(2, 1, 3, 3), torch.zeros(2, 3, 3)), r"x must be \(2, 1, 3, 3\)"),
        (
            lambda: BYTES.log_prob(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)),
            r"params must be \[B, 256, H, W\]",
        ),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
