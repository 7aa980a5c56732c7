"""Densities under autocast and in narrow models are summed in float32: networks are narrow, sums are not."""

import pytest
import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast.models.objectives import loss_terms

SIZES = {"input_dim": 1, "latent_dim": 24, "hidden_dim": 8, "n_layers": 1, "image_size": (8, 8), "flow_hidden": 32}


def model_of(**options: object) -> vf.VLAE:
    torch.manual_seed(0)
    model = vf.VLAE(**(SIZES | options))  # type: ignore[arg-type]
    for p in model.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.1)
    return model.eval()


def gaussian(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    z, mu, logvar = z.double(), mu.double(), logvar.double()
    return torch.distributions.Normal(mu, (logvar / 2).exp()).log_prob(z).sum(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
def test_kl_under_autocast_is_that_of_its_own_draw(dtype: torch.dtype, posterior: str) -> None:
    """The KL is held to z, mu and logvar as they are, in float64; in bfloat16 an image was off by 0.8 nats."""
    model, x = model_of(use_flow=False, posterior=posterior), torch.rand(64, 1, 8, 8).round()
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        out = model(x)
        terms = loss_terms(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
    want = gaussian(out.z, out.mu, out.logvar) - gaussian(out.z, torch.zeros(24), torch.zeros(24))
    assert terms.kl.dtype == terms.reconstruction.dtype == out.z.dtype == torch.float32
    assert (terms.kl - want).abs().max() < 1e-4


@pytest.mark.parametrize("transform", ["affine", "mean-only"])
def test_a_flow_prior_is_summed_wide(transform: str) -> None:
    """Only the networks of its steps are narrow: what they give is taken as it is."""
    prior = model_of(flow_transform=transform, flow_steps=2).prior
    assert prior is not None
    z, seen = torch.randn(64, 24), []
    handles = [step.register_forward_hook(lambda _m, _a, out: seen.append(out.double())) for step in prior.steps]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        eps, log_det = prior(z)
    for handle in handles:
        handle.remove()
    want, log_slope = z.double(), torch.zeros(64, dtype=torch.float64)
    for i, params in enumerate(seen):
        want = want.flip(1) if i else want
        want = want - params[:, :24]
        if transform == "affine":
            want, log_slope = want * torch.exp(-params[:, 24:]), log_slope - params[:, 24:].sum(1)
    assert eps.dtype == log_det.dtype == torch.float32
    assert (log_det - log_slope).abs().max() < 1e-4 and (eps - want).abs().max() < 1e-4


def test_a_narrow_model_is_given_narrow_tensors() -> None:
    model = model_of().bfloat16()
    x = torch.rand(4, 1, 8, 8).round().bfloat16()
    out = model(x)
    assert out.z.dtype == out.logits.dtype == torch.bfloat16 and out.log_pz.dtype == torch.float32
    loss = vf.loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
    loss.backward()
    assert loss.dtype == torch.float32 and all(p.grad is not None for p in model.decoder.parameters())
