"""Decoders of more than one resolution draw the images of their owner's loop, pixel for pixel."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.deadline import slow_where
from cases.foreign_images import check_images
from cases.foreign_kinds import Net
from cases.foreign_scales import SCALES, in_turn
from cases.rows import is_interpreted, require
from torch import nn

import vlae_fast as vf


@slow_where(lambda name: name == "PixelCNN++ in small, two channels of levels")
@pytest.mark.parametrize("name", SCALES)
def test_images_are_those_of_the_owners_loop(name: str) -> None:
    sampler = check_images(SCALES[name])
    assert any(stage.sites.stride > 1 for stage in sampler.plan.stages) or "stride 1" in name


def test_a_channel_sees_those_before_it_at_two_resolutions() -> None:
    torch.manual_seed(0)
    sampler = vf.fast_sampler(in_turn().eval(), (2, 4, 6))
    first, second = (draw.after for draw in sampler.plan.draws)
    assert any(stage.joins >= 0 for stage in sampler.plan.stages[first:second])
    noise = torch.rand(5, 2, 4, 6)
    images = sampler.sample(None, noise)
    assert 0.02 < images.mean() < 0.98
    assert images.equal(vf.naive_sample(sampler.decoder, None, noise))


@slow_where(lambda backend, name: name == "every fourth pixel" and is_interpreted(backend))
@pytest.mark.parametrize("name", ["every fourth pixel", "maps"])
@pytest.mark.parametrize("backend", ["reference", "torch", "triton", "cuda"])
def test_backends_draw_the_same_images(name: str, backend: str, request: pytest.FixtureRequest) -> None:
    """CUDA's as compiled for the host."""
    request.getfixturevalue("cuda") if backend == "cuda" else require(backend)
    kind = SCALES[name]
    torch.manual_seed(0)
    decoder, noise = kind.make().eval(), torch.rand(3, *kind.shape)
    own, cpu = (vf.fast_sampler(decoder, kind.shape, backend=b, **kind.options) for b in (backend, "cpu"))
    images, logits = own.sample_with_logits(kind.z, noise)
    expected, expected_logits = cpu.sample_with_logits(kind.z, noise)
    assert images.equal(expected)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["every fourth pixel", "nearest, cropped", "pixel_shuffle"])
def test_the_window_is_what_gradients_say(name: str) -> None:
    torch.manual_seed(0)
    kind = SCALES[name]
    decoder = kind.make().eval()
    seen, found = vf.fast_sampler(decoder, kind.shape).offsets_seen(), set()
    for _ in range(20):
        slopes = torch.autograd.functional.jacobian(lambda x: decoder(x)[0, 0], torch.rand(1, *kind.shape))[:, :, 0, 0]
        found |= {(y - i, x - j) for i, j, y, x in slopes.nonzero().tolist()}
    assert found == seen


def double(size: tuple[int, int], up: Any) -> None:
    """Makes the sampler of a net whose image is halved and goes through `up`."""
    net = Net(lambda net, x: net.last(up(net, net.first(x))), mid=nn.Conv2d(6, 6, 2, 2), last=6)
    vf.fast_sampler(net, (1, *size))


@pytest.mark.parametrize(
    ("up", "message"),
    [
        (lambda net, h: F.interpolate(h, scale_factor=2)[:, :, ::2, ::2], "at most the resolution of the image"),
        (lambda net, h: F.interpolate(h[:, :, ::2], size=(5, 6)), "nearest upsampling by whole factors"),
        (lambda net, h: h + F.interpolate(h[:, :, ::2, ::2], size=(6, 6), mode="bilinear"), "upsample_bilinear2d"),
        (lambda net, h: h[:, :, :3, :3] + h[:, :, ::2, ::2], "images of two resolutions"),
        (lambda net, h: F.conv_transpose2d(h[..., ::2, ::2], net.mid.weight, stride=2)[..., 1:], "images of"),
        (lambda net, h: F.avg_pool2d(h, 3, 3, ceil_mode=True), "average pooling of whole windows"),
    ],
)
def test_what_is_refused(up: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"fast_sampler: decoder must .*{message}"):
        double((6, 6), up)
