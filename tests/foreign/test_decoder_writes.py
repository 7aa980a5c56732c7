"""Decoders that write to a tensor in place while views of it are in use: these see what is written."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign_kinds import Net
from torch import Tensor, nn

import vlae_fast as vf

SHAPE, DIM = (1, 4, 5), 6


def viewed_first(h: Tensor) -> Tensor:
    view = h.flatten(1)
    h.relu_()
    return view.view_as(h)


def view_of_a_view(h: Tensor) -> Tensor:
    inner = h.flatten(1).view_as(h)
    h.mul_(-2)
    return inner.relu()


def one_view_by_another(h: Tensor) -> Tensor:
    one, other = h.flatten(1), h.view(len(h), -1)
    one.mul_(-2)
    return other.view_as(h).relu()


def result_in_place(h: Tensor) -> Tensor:
    view = h.flatten(1)
    h = h.mul_(-2)
    h.add_(0.5)
    return view.view_as(h).relu()


def base_of_a_view(h: Tensor) -> Tensor:
    h.flatten(1).mul_(-2)
    return h.relu()


def halves(h: Tensor) -> Tensor:
    one, other = h.chunk(2, 1)
    h.mul_(-2)
    return torch.cat([other, one], 1).relu()


def copied_first(h: Tensor) -> Tensor:
    copy = h.flip(1)
    h.relu_()
    return copy.relu() if h.dim() == 2 else copy.relu() + h


WRITES = (
    viewed_first,
    view_of_a_view,
    one_view_by_another,
    result_in_place,
    base_of_a_view,
    copied_first,
)


@torch.no_grad()  # under which halves may be written to
@pytest.mark.parametrize("write", [*WRITES, halves])
def test_a_decoder_of_images(write: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    decoder = Net(lambda net, x: net.last(write(net.first(x))))
    sampler, noise = vf.fast_sampler(decoder, SHAPE), torch.rand(3, *SHAPE)
    x = torch.rand(3, *SHAPE).round()
    torch.testing.assert_close(sampler.params_of(x, None), decoder(x))
    assert sampler.sample(None, noise).equal(vf.naive_sample(sampler.decoder, None, noise))


class Written(nn.Module):
    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        order, hidden = torch.arange(DIM), torch.arange(24) % (DIM - 1)
        self.first, self.last, self.write = nn.Linear(DIM, 24), nn.Linear(24, DIM), write
        self.first.weight.data *= 3 * (hidden[:, None] >= order)
        self.last.weight.data *= 5 * (order[:, None] > hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.write(self.first(x)))


@pytest.mark.parametrize("write", WRITES)
def test_a_made(write: Callable[[Tensor], Tensor]) -> None:
    decoder = Written(unflipped if write is copied_first else write)
    noise, x = torch.rand(40, DIM), torch.zeros(40, DIM)
    with torch.no_grad():
        for d in range(DIM):
            x[:, d] = (noise[:, d] < decoder(x)[:, d].sigmoid()).float()
    assert vf.fast_sampler(decoder, (DIM,)).sample(noise=noise).equal(x)


def unflipped(h: Tensor) -> Tensor:
    return copied_first(h).flip(1)


def test_a_part_of_what_a_made_reads_afterwards_is_refused() -> None:
    def write(h: Any) -> Tensor:
        h[:, :3] *= 2
        return h.relu()

    with pytest.raises(ValueError, match="got mul_ of slice of what is read afterwards"):
        vf.fast_sampler(Written(write), (DIM,))
