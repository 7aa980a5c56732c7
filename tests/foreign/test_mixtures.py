"""Decoders of mixtures of logistics, written as PixelCNN++ is: parameters in its order, draws that are not rounded."""

import pytest
import torch
from cases.foreign import ProductMaskedConv, randomized
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models.likelihood import make_likelihood

K = 4


def decoder_of(channels: int) -> nn.Module:
    outputs = K * (10 if channels == 3 else 3)
    layers = [ProductMaskedConv("A", channels, 12, 3, padding=1), nn.ELU(), nn.Conv2d(12, outputs, 1)]
    return randomized(nn.Sequential(*layers)).eval()


def drawn_as_pixelcnn_pp_does(params: Tensor, noise: Tensor, channels: int) -> Tensor:
    """``[B, C]`` in [-1, 1] of ``[B, P]``: a block of means, log scales and coefficients for each channel."""
    params, noise = params.double(), noise.double()
    logits, rest = params[:, :K], params[:, K:].view(len(params), channels, -1, K)
    component = (logits.softmax(1).cumsum(1) <= noise[:, :1]).sum(1).clamp(max=K - 1)
    chosen = rest.gather(3, component[:, None, None, None].expand(*rest.shape[:3], 1))[..., 0]  # [B, C, 2 or 3]
    u = noise[:, 1:]
    x = chosen[:, :, 0] + chosen[:, :, 1].clamp(min=-7).exp() * (u.log() - (1 - u).log())
    if channels == 1:
        return x.clamp(-1, 1)
    first = x[:, 0].clamp(-1, 1)
    second = (x[:, 1] + chosen[:, 0, 2].tanh() * first).clamp(-1, 1)
    third = (x[:, 2] + chosen[:, 1, 2].tanh() * first + chosen[:, 2, 2].tanh() * second).clamp(-1, 1)
    return torch.stack([first, second, third], 1)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_those_of_pixelcnn_pps_loop(channels: int, last: bool) -> None:
    own, noise = decoder_of(channels), torch.rand(3, channels + 1, 5, 6)
    decoder = own if not last else nn.Sequential(own, Last())
    mixture = make_likelihood("logistic_mixture", channels, levels=0, components=K)
    sampler = vf.fast_sampler(decoder, (channels, 5, 6), likelihood=mixture, layout="CTK", pixels=(-1, 1))
    x = torch.zeros(3, channels, 5, 6)
    with torch.no_grad():
        for i in range(5):
            for j in range(6):
                x[:, :, i, j] = drawn_as_pixelcnn_pp_does(own(x)[..., i, j], noise[..., i, j], channels).float()
    images = sampler.sample(None, noise)
    torch.testing.assert_close(2 * images - 1, x, rtol=0, atol=1e-4)
    assert 0 < ((images == 0) | (images == 1)).float().mean() < 0.9 and len(images.unique()) > 20
    torch.testing.assert_close(vf.naive_sample(sampler.decoder, None, noise), images, rtol=0, atol=1e-4)


class Last(nn.Module):
    def forward(self, params: Tensor) -> Tensor:
        return params.permute(0, 2, 3, 1)


def test_every_order_of_the_parameters_is_the_same_mixture() -> None:
    own, noise = decoder_of(3), torch.rand(2, 4, 4, 5)
    mixture = make_likelihood("logistic_mixture", 3, levels=256, components=K)
    images = vf.fast_sampler(own, (3, 4, 5), likelihood=mixture, layout="TCK").sample(None, noise)
    of_tck = torch.arange(9 * K).view(3, 3, K)
    for layout in ("TCK", "CTK", "TKC", "KCT"):
        order = of_tck.permute(["TCK".index(x) for x in layout]).flatten()
        moved = nn.Sequential(own[0], own[1], nn.Conv2d(12, 10 * K, 1))
        with torch.no_grad():
            for to, of in zip(moved[2].parameters(), own[2].parameters(), strict=True):
                to.copy_(of[torch.cat([torch.arange(K), K + order])])
        sampler = vf.fast_sampler(moved, (3, 4, 5), likelihood=mixture, layout=layout)
        assert sampler.sample(None, noise).equal(images)


@pytest.mark.parametrize(
    ("channels", "layout", "rule"),
    [
        (3, "BCKHW", "layout of a mixture must be an order of C, K, T"),
        (2, "CTK", "layout of a mixture must be None for images of neither one channel nor three, got 'CTK'"),
    ],
)
def test_refusals(channels: int, layout: str, rule: str) -> None:
    mixture = make_likelihood("logistic_mixture", channels, components=K)
    conv = ProductMaskedConv("A", channels, mixture.params, 3, padding=1)
    with pytest.raises(ValueError, match=rule):
        vf.fast_sampler(nn.Sequential(conv), (channels, 4, 4), likelihood=mixture, layout=layout)
