"""Steps of a flow prior: a dimension at a time they give the bits that all of them at once have."""

import numpy as np
import pytest
import torch
from cases.rows import require

from vlae_fast import VLAE
from vlae_fast.backends import cpu
from vlae_fast.codec.steps import inverse, steps_of

PRIORS = {
    "made": {"latent_dim": 9, "flow_hidden": 20},
    "of few units": {"latent_dim": 7, "flow_hidden": 3},  # fewer than there are degrees
    "of one dimension": {"latent_dim": 1, "flow_hidden": 4},
    "mean only": {"latent_dim": 6, "flow_hidden": 17, "flow_transform": "mean-only"},
    "of convolutions": {"latent_dim": 8, "latent_map": (2, 2), "flow_hidden": 6},
}


def model_of(name: str) -> VLAE:
    """A new prior's steps change nothing: its weights are drawn."""
    torch.manual_seed(0)
    model = VLAE(1, hidden_dim=8, n_layers=1, image_size=(8, 8), **PRIORS[name])
    for parameter in model.prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("isa", cpu.isas())
@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_dimensions_in_turn_are_those_of_one_pass(name: str, isa: str) -> None:
    require("cpu")
    for step in steps_of(model_of(name), isa):
        v = 3 * torch.randn(5, step.dims)
        expected, run = np.stack(step(v)), step.start(5)
        assert np.abs(expected).max() > 0.01
        for d in range(step.dims):
            assert np.array_equal(np.stack(run.params()), expected[:, :, d])
            assert np.array_equal(np.stack(step(v, d)), expected[:, :, d])
            run.put(v[:, d])
        assert np.array_equal(np.stack(step(v[3:4])), expected[:, 3:4])


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_a_step_is_that_of_the_prior(name: str) -> None:
    """Of double precision; the inverse of a step maps its outputs back."""
    require("cpu")
    model = model_of(name)
    step, v = steps_of(model, cpu.isas()[0])[0], torch.randn(4, model.latent_dim)
    shift, log_scale = step(v)
    y = (v.double().numpy() - shift) * np.exp(-log_scale)
    torch.testing.assert_close(inverse(step, y), v, rtol=1e-5, atol=1e-5)
    if name == "made":
        out = model.prior.steps[0].double()(v.double()).numpy()
        np.testing.assert_allclose(np.concatenate([shift, log_scale], 1), out, rtol=1e-5, atol=1e-6)
