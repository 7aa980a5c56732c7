"""The gradient of log q(z|x) through z alone: the mean of the whole gradient, and no noise at the best posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import vlae_fast as vf
from vlae_fast import training
from vlae_fast.models.objectives import LossTerms
from vlae_fast.training.objective import Batch, Objective

SIZES: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 8, "n_layers": 1, "image_size": (6, 5), "flow_hidden": 8}
X = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(3)).round()


def model_of(**options: Any) -> vf.VLAE:
    torch.manual_seed(0)
    return vf.VLAE(**(SIZES | options))


def gradient(model: vf.VLAE, loss: torch.Tensor) -> torch.Tensor:
    """With respect to the parameters that log q(z|x) has, in one vector."""
    assert model.encoder is not None
    of_q = [*model.encoder.parameters(), *(model.posterior.parameters() if model.posterior else [])]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, of_q)])


def test_values_are_the_same() -> None:
    model, noise = model_of(), torch.randn(3, 4)
    whole, path = (model.loss_terms(X, noise=noise, path_derivative=path) for path in (False, True))
    assert whole.kl.equal(path.kl) and whole.reconstruction.equal(path.reconstruction)


def test_the_mean_is_that_of_the_closed_form() -> None:
    """The gradient of ``log q - log p`` averaged over draws against that of the KL itself, 5 standard errors."""
    model: Any = model_of(use_flow=False)
    torch.nn.init.normal_(model.encoder.head.bias, std=0.7)
    exact = gradient(model, model.loss_terms(X).kl.mean())
    many = X.repeat(50, 1, 1, 1)
    drawn = torch.stack(
        [gradient(model, model.loss_terms(many, closed_form=False, path_derivative=True).kl.mean()) for _ in range(60)]
    )
    error = drawn.std(0) / 60**0.5
    assert (drawn.mean(0) - exact).abs().le(5 * error + 1e-6).all()
    assert exact.abs().max() > 20 * error.max()


def test_no_noise_is_left_where_the_posterior_is_the_prior() -> None:
    model: Any = model_of(use_flow=False)
    for parameter in model.encoder.head.parameters():
        torch.nn.init.zeros_(parameter)
    for path in (True, False):
        found = gradient(model, model.loss_terms(X, closed_form=False, path_derivative=path).kl.mean())
        assert (found.abs().max().item() < 1e-6) == path


@pytest.mark.parametrize(
    ("options", "settings", "taken"),
    [
        ({}, {}, True),
        ({}, {"path_derivative": False}, False),
        ({}, {"objective": "iwae", "samples": 2, "path_derivative": False}, False),
        ({"posterior": "iaf"}, {"objective": "iwae", "samples": 2}, False),
        ({"posterior": "iaf"}, {}, False),
    ],
)
def test_when_training_takes_it(options: dict[str, Any], settings: dict[str, Any], taken: bool) -> None:
    model, objective = model_of(**options), Objective(training.Settings(**settings), levels=2)
    many = X.repeat(objective.settings.samples, 1, 1, 1)

    def by(terms: Callable[[], LossTerms]) -> torch.Tensor:
        torch.manual_seed(1)
        return gradient(model, terms().kl.mean())

    trained = by(lambda: objective.terms(model, Batch(X)))
    path = by(lambda: model.loss_terms(many, closed_form=False, path_derivative=True))
    whole = by(lambda: model.loss_terms(many, closed_form=False))
    assert trained.equal(path if taken else whole) and path.equal(whole) == ("posterior" in options)


@pytest.mark.parametrize("kl_weight", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_with_weighted_draws_the_mean_is_that_of_the_whole_gradient(kl_weight: float) -> None:
    """DReG against the gradient of the bound itself, over the same draws; that of the decoder has the same bits."""
    model: Any = model_of()
    torch.nn.init.normal_(model.encoder.head.bias, std=0.7)
    many, found = X.repeat(20, 1, 1, 1), []
    for path in (True, False):
        settings = training.Settings(objective="iwae", samples=3, path_derivative=path)
        objective = Objective(settings, levels=2)
        torch.manual_seed(1)
        drawn = []
        for _ in range(60):
            loss = objective(objective.terms(model, Batch(many)), kl_weight)
            wanted = [model.encoder.head.bias, *model.decoder.parameters()]
            drawn.append([g.flatten() for g in torch.autograd.grad(loss, wanted)])
        found.append(drawn)
    doubly, whole = (torch.stack([of_q for of_q, *_ in drawn]) for drawn in found)
    assert all(a.equal(b) for a, b in zip(found[0][0][1:], found[1][0][1:], strict=True))
    error = (doubly - whole).std(0) / 60**0.5
    apart = (doubly.mean(0) - whole.mean(0)).abs()
    assert apart.le(4.5 * error + 1e-6).all() and whole.mean(0).abs().max() > 10 * error.max()
    assert doubly.std(0).square().sum() < whole.std(0).square().sum()
