"""A forward that branches by its condition: one with another branch than the example's is refused, not drawn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlae_fast as vf


class ByLabel(nn.Module):
    """Labels from 2 on have another head."""

    def __init__(self, guard: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = vf.MaskedConv2d("A", 1, 4, 3, padding=1)
        self.of_class = nn.Embedding(4, 4)
        self.heads = nn.ModuleList([nn.Conv2d(4, 1, 1), nn.Conv2d(4, 1, 1)])
        self.guard = guard

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        if self.guard:
            assert label.max() < 4, "there are four"
        h = self.first(x) + self.of_class(label)[:, :, None, None]
        return self.heads[int(not self.guard and bool(label.max() >= 2))](h)


def drawn(decoder: nn.Module, label: Tensor, noise: Tensor) -> Tensor:
    """Images by the loop over pixels."""
    x = torch.zeros_like(noise)
    for i in range(noise.shape[2]):
        for j in range(noise.shape[3]):
            x[:, :, i, j] = (noise[:, :, i, j] < decoder(x, label).sigmoid()[:, :, i, j]).float()
    return x


@pytest.mark.parametrize("guard", [False, True])
@torch.no_grad()
def test_labels_beyond_the_example(guard: bool) -> None:
    decoder, noise = ByLabel(guard), torch.rand(3, 1, 5, 4, generator=torch.Generator().manual_seed(1))
    sampler = vf.fast_sampler(decoder, (1, 5, 4), condition=torch.tensor([0]))
    known = torch.tensor([1, 0, 1])
    assert sampler.sample(known, noise).equal(drawn(decoder, known, noise))
    beyond = torch.tensor([1, 3, 2])
    if guard:  # the answer is the same
        assert sampler.sample(beyond, noise).equal(drawn(decoder, beyond, noise))
        return
    calls: list[Any] = [lambda: sampler.sample(beyond, noise), lambda: sampler.params_of(noise.round(), beyond)]
    for call in calls:
        with pytest.raises(ValueError, match=r"condition must be one for which decoder takes the branches .*got True"):
            call()
