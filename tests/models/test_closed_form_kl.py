"""The KL of two Gaussians in closed form: what it is, where it is taken, and where the draw's own must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vlae_fast as vf
from vlae_fast import training
from vlae_fast.models.posterior import gaussian_kl
from vlae_fast.training.objective import Batch, Objective

SIZES: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 8, "n_layers": 1, "image_size": (6, 5), "flow_hidden": 8}


def model_of(**options: Any) -> vf.VLAE:
    torch.manual_seed(0)
    model = vf.VLAE(**(SIZES | {"use_flow": False} | options))
    torch.nn.init.normal_(model.encoder.head.bias, std=0.7)
    return model


def test_the_kl_of_two_normals() -> None:
    mu, logvar = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(gaussian_kl(mu, logvar), torch.distributions.kl_divergence(q, p))
    tiny = torch.full((1, 1), 1e-3)
    assert gaussian_kl(tiny * 0, tiny).item() == pytest.approx(2.5008e-7, rel=1e-2)  # no difference of rounded ones


def test_the_mean_of_many_draws_approaches_it() -> None:
    model, x = model_of(), torch.rand(1, 1, 6, 5).round()
    with torch.no_grad():
        exact = model.loss_terms(x).kl.item()
        drawn = model.loss_terms(x.expand(20_000, -1, -1, -1), closed_form=False).kl
    assert drawn.std() > 0.3  # what a single draw is off by, in nats
    assert abs(drawn.mean().item() - exact) < 5 * drawn.std().item() / 20_000**0.5


@pytest.mark.parametrize(
    ("options", "closed"),
    [({}, True), ({"n_classes": 2}, True), ({"use_flow": True}, False), ({"posterior": "iaf"}, False)],
)
def test_two_evaluations_differ_in_the_reconstruction_alone(options: dict[str, Any], closed: bool) -> None:
    model, x = model_of(**options), torch.rand(3, 1, 6, 5).round()
    labels = torch.zeros(3, dtype=torch.long) if "n_classes" in options else None
    one, two = model.loss_terms(x, labels), model.loss_terms(x, labels)
    assert model.kl_is_closed_form == closed and one.kl.equal(two.kl) == closed
    assert not one.reconstruction.equal(two.reconstruction)
    z, mu, logvar = model.posterior_sample(x, labels)
    if closed:
        torch.testing.assert_close(model.kl_per_dim(z, mu, logvar).sum(1), one.kl)


def test_its_gradient_is_the_analytic_one() -> None:
    """d KL / d mu = mu and d KL / d logvar = (exp(logvar) - 1) / 2, whatever z was drawn."""
    model, x, seen = model_of(), torch.rand(3, 1, 6, 5).round(), []

    def keep(_module: object, _given: object, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        for tensor in out:
            tensor.retain_grad()
            seen.append(tensor)

    model.encoder.register_forward_hook(keep)
    model.loss_terms(x).kl.sum().backward()
    mu, logvar = seen
    torch.testing.assert_close(mu.grad, mu.detach())
    torch.testing.assert_close(logvar.grad, (logvar.detach().exp() - 1) / 2)


def test_as_many_random_numbers_are_used_as_before() -> None:
    model, x = model_of(), torch.rand(3, 1, 6, 5).round()
    states = []
    for closed_form in (True, False):
        torch.manual_seed(5)
        terms = model.loss_terms(x, closed_form=closed_form)
        states.append((terms.reconstruction, torch.get_rng_state()))
    assert states[0][0].equal(states[1][0]) and states[0][1].equal(states[1][1])


def test_importance_weights_are_of_the_draw() -> None:
    """The objective's too: with closed-form KLs the bound of many samples would stay below log p(x) for ever."""
    model, x = model_of(), torch.rand(6, 1, 6, 5).round()
    for settings, closed in (({"objective": "iwae", "samples": 3}, False), ({"samples": 3}, True)):
        objective = Objective(training.Settings(**settings), levels=2)
        torch.manual_seed(2)
        kl = objective.terms(model, Batch(x)).kl
        torch.manual_seed(2)
        wanted = model.loss_terms(x.repeat(3, 1, 1, 1), closed_form=closed).kl
        spread = kl.unflatten(0, (3, 6)).std(0).max().item()
        assert kl.equal(wanted) and (spread < 1e-6) == closed
