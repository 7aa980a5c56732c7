"""Forms of code bases of a later round: images are those of the owner's loop, and what is refused is named."""

import pytest
import torch
from cases.foreign_images import check_images
from cases.foreign_newcomers import KINDS, REFUSED

import vlae_fast as vf
from vlae_fast.foreign.decoders.decisions import Decisions


@pytest.mark.parametrize("name", KINDS)
def test_images_are_those_of_the_owners_loop(name: str) -> None:
    check_images(KINDS[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    kind, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        vf.fast_sampler(kind.make(), kind.shape, **kind.options)


def test_a_forward_that_fails_for_some_images_is_refused() -> None:
    def forward(net, x):  # type: ignore[no-untyped-def]
        assert x.max() < 1, "too bright"
        return net.last(net.first(x).relu())

    net = KINDS["celu"].make()
    net.function = forward
    with pytest.raises(ValueError, match=r"the same branches for all images, .* ends in AssertionError: too"):
        vf.fast_sampler(net, (1, 5, 6))


def test_answers_of_a_forward() -> None:
    with Decisions() as decisions:
        assert torch.ones(2).sum() > 1
        assert float(torch.tensor(2.0)) + torch.tensor(3).item() == 5
    assert decisions.taken == [True, 2.0, 3]
    assert not decisions.of_input


def test_a_roll_that_is_overwritten_takes_no_stage() -> None:
    kind = KINDS["rolls that are overwritten"]
    stages = vf.fast_sampler(kind.make(), kind.shape).program.stages
    assert [stage.activation for stage in stages] == ["none", "none", "elu", "none"]  # both convolutions are rolled


def test_under_the_device_meta() -> None:
    kind = KINDS["square of relu"]
    net, noise = kind.make(), torch.rand(2, *kind.shape)
    with torch.device("meta"):
        sampler = vf.fast_sampler(net, kind.shape)
    assert sampler.sample(None, noise).equal(vf.fast_sampler(net, kind.shape).sample(None, noise))
    with pytest.raises(ValueError, match="decoder must have weights of numbers, got some on the device meta"):
        vf.fast_sampler(net.to("meta"), kind.shape)
