"""The cost of looking at a layer: memory, and draws of the global generators."""

import random
import resource
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases.foreign import ProductMaskedLinear
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.foreign import probe
from vlae_fast.foreign.swap import own_method


def triangular(size: int = 6) -> ProductMaskedLinear:
    return ProductMaskedLinear(torch.ones(size, size).tril())


class Random(ProductMaskedLinear):
    """Draws from every generator there is."""

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1), random.random(), np.random.rand()
        return F.dropout(super().forward(x), 0.1, self.training)


def test_probing_moves_no_global_generator() -> None:
    model = nn.Sequential(Random(torch.ones(4, 4).tril()), nn.Dropout(0.5), triangular())
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    vf.accelerate(model)
    assert torch.get_rng_state().equal(before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


class Subclass(nn.Linear):
    """A plain layer by another name."""


class Hidden(nn.Linear):
    """Its mask is in no tensor that it keeps: every input must be tried."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.tril(), self.bias)


@pytest.mark.parametrize("make", [Subclass, Hidden])
def test_a_layer_of_many_inputs_is_probed_in_little_memory(make: type[nn.Linear], monkeypatch: Any) -> None:
    monkeypatch.setattr("vlae_fast.foreign.probe._BLOCK", 1 << 14)
    layer, x = make(3000, 5), torch.randn(2, 3000)
    calls: list[int] = []
    call = probe.call
    monkeypatch.setattr(probe, "call", lambda module, x: calls.append(x.numel()) or call(module, x))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = vf.accelerate(layer)
    if make is Subclass:
        assert report.left_alone == {"": "none of its weights is dead: nothing to save"}
        assert len(calls) == 2
    else:
        assert report.replaced == [""]
        torch.testing.assert_close(layer(x), own_method(layer, "forward")(x))
    assert max(calls) <= 1 << 14
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16  # KiB; the identity takes 69 MiB
