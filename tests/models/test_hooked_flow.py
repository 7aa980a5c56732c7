"""A flow whose weights are computed by hooks: its inverse uses those that its forward direction uses next."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

import vlae_fast as vf

HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": weight_norm,
    "prune": lambda layer: prune.random_unstructured(layer, "weight", 0.2),
    "prune bias": lambda layer: prune.random_unstructured(layer, "bias", 0.5),
}


def hooked(name: str) -> vf.AutoregressiveFlow:
    flow = vf.AutoregressiveFlow(5, 32)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.1)
    for layer in [part for part in flow.modules() if isinstance(part, nn.Linear)]:
        HOOKS[name](layer)
    return flow


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", HOOKS)
def test_the_inverse_reads_what_hooks_compute(name: str) -> None:
    flow, saved, eps = hooked(name), hooked(name).state_dict(), torch.randn(6, 5)

    def check() -> None:
        z, log_det = flow.inverse(eps)
        back, log_det_back = flow(z)
        torch.testing.assert_close(back, eps, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_det_back, log_det, rtol=1e-4, atol=1e-4)

    check()
    with torch.no_grad():
        for parameter in flow.parameters():  # an optimizer's step
            parameter.add_(0.1 * torch.randn_like(parameter))
    check()
    flow.load_state_dict(saved)
    check()
    z, _ = flow.inverse(eps)
    z.square().sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
