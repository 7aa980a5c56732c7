"""Every kind of decoder that `fast_sampler` understands draws the images of its owner's loop, pixel for pixel."""

import pytest
import torch
from cases.foreign_kinds import KINDS, users_images

import vlae_fast as vf
from vlae_fast.models.likelihood import make_likelihood


@pytest.mark.parametrize("name", KINDS)
def test_images_are_those_of_the_owners_loop(name: str) -> None:
    kind = KINDS[name]
    torch.manual_seed(0)
    decoder = kind.make().eval()
    options = dict(kind.options)
    if kind.levels > 2:
        options["likelihood"] = make_likelihood("categorical", kind.shape[0], levels=kind.levels)
    sampler = vf.fast_sampler(decoder, kind.shape, **options)
    noise = torch.rand(3, *kind.shape)
    images, expected = sampler.sample(kind.z, noise), users_images(kind, decoder, noise)
    assert 0.02 < expected.mean() < 0.98
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert vf.naive_sample(sampler.decoder, kind.z, noise).equal(images)
