"""The images of a decoder's owner, by a whole forward for each number, and the comparison of a sampler's with them."""

import itertools

import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models.likelihood import make_likelihood

from .foreign_kinds import Kind


def owners_images(kind: Kind, decoder: nn.Module, noise: Tensor) -> Tensor:
    """One number after the other, colour after colour, each drawn from its own distribution."""
    channels, height, width = kind.shape
    image = torch.zeros_like(noise)
    with torch.no_grad():
        for i, j, c in itertools.product(range(height), range(width), range(channels)):
            logits, u = kind.own(decoder, image, kind.z)[:, :, c, i, j].double(), noise[:, c, i, j].double()
            if logits.shape[1] == 1:
                image[:, c, i, j] = (u < logits[:, 0].sigmoid()).float()
            else:
                k = (logits.softmax(1).cumsum(1) <= u[:, None]).sum(1).clamp(max=kind.levels - 1)
                image[:, c, i, j] = k.float() / (kind.levels - 1)
    return image


def check_images(kind: Kind) -> vf.PixelCNNSampler:
    """The sampler of a decoder of that kind, which draws the images of its owner's loop, as the naive sampler does."""
    torch.manual_seed(0)
    decoder, options = kind.make().eval(), dict(kind.options)
    if kind.levels > 2:
        options["likelihood"] = make_likelihood("categorical", kind.shape[0], levels=kind.levels)
    sampler = vf.fast_sampler(decoder, kind.shape, **options)
    noise = torch.rand(3, *kind.shape)
    images, expected = sampler.sample(kind.z, noise), owners_images(kind, decoder, noise)
    assert 0.02 < expected.mean() < 0.98
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert vf.naive_sample(sampler.decoder, kind.z, noise).equal(images)
    return sampler
