"""Every kind of decoder that `fast_sampler` understands draws the images of its owner's loop, pixel for pixel."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.foreign import ProductMaskedConv, randomized
from cases.foreign_attention import ATTENTION
from cases.foreign_images import check_images
from cases.foreign_kinds import KINDS, LABELS, Net
from torch import Tensor, nn

import vlae_fast as vf


@pytest.mark.parametrize("name", KINDS | ATTENTION)
def test_images_are_those_of_the_owners_loop(name: str) -> None:
    check_images((KINDS | ATTENTION)[name])


def test_stages_that_nothing_reads_are_left_out() -> None:
    """``p + (clamp(p) - p)`` leaves the clamped sigmoid alone: two stages of it, and the first and last convolution."""
    kind = KINDS["a sigmoid that is clipped by what it lacks"]
    stages = vf.fast_sampler(kind.make(), kind.shape).program.stages
    read = {source.buffer for stage in stages for source in stage.sources} | {stage.residual for stage in stages}
    assert read - {-1, 0} == set(range(1, len(stages)))
    assert not any(stage.activation == "gate" for stage in stages)


def test_a_row_of_labels_is_read_through_the_layers_that_are_linear_in_it() -> None:
    """The context is the embedding, not a bias for each layer that is made of it."""

    def forward(net: Any, x: Tensor, y: Tensor) -> Tensor:
        h = F.relu(net.first(x) + net.of_first(net.codes(y))[..., None, None])
        return net.last(F.relu(net.second(h) + net.of_second(net.codes(y))[..., None, None]))

    parts = {"of_first": nn.Linear(2, 6), "of_second": nn.Linear(2, 6)}
    second = ProductMaskedConv("B", 6, 6, 3, padding=1)
    decoder = randomized(Net(forward, codes=nn.Embedding(3, 2), second=second, **parts))
    sampler = vf.fast_sampler(decoder, (1, 5, 6), condition=LABELS)
    assert sampler.program.context_dim == 4  # the embedding is written twice in forward
    noise = torch.rand(3, 1, 5, 6)
    assert sampler.sample(LABELS, noise).equal(vf.naive_sample(sampler.decoder, LABELS, noise))
