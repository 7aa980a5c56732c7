"""Forms of single code bases: each draws the images of its owner's loop; what is refused is refused by its place."""

from typing import Any

import pytest
import torch
from cases.foreign import ProductMaskedConv, randomized
from cases.foreign_images import check_images
from cases.foreign_strangers import KINDS, BeliefNetwork, PixelMADE, Thirds
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.foreign.decoders.flattened import ForeignMADEImageSampler
from vlae_fast.models.likelihood import make_likelihood
from vlae_fast.sampling import agreement


@pytest.mark.parametrize("name", KINDS)
def test_images_are_those_of_the_owners_loop(name: str) -> None:
    check_images(KINDS[name])


def test_windows_cost_no_stage_for_a_mask_of_places_outside_of_the_image() -> None:
    kind = KINDS["windows as channels"]
    stages = vf.fast_sampler(kind.make(), kind.shape).program.stages
    assert [stage.activation for stage in stages] == ["relu", "none"]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_colours_that_see_each_other_are_judged_by_the_roundings_of_their_stages(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two results are not near, the stages are run in float64: those of the decoder, not the parts by colour."""
    monkeypatch.setattr(agreement, "_NEAR", 0)
    levels = make_likelihood("categorical", 3, levels=5)
    sampler = vf.fast_sampler(randomized(Thirds()), (3, 4, 5), likelihood=levels, backend=backend)
    assert len(sampler.plan.stages) > len(sampler.program.stages)


@pytest.mark.parametrize("end", [nn.Identity(), nn.Sigmoid()])
@pytest.mark.parametrize("pixels", [None, (-1, 1)])
def test_a_made_over_the_pixels_of_images(end: nn.Module, pixels: Any) -> None:
    torch.manual_seed(0)
    net = randomized(PixelMADE(3, 5, end))
    sampler = vf.fast_sampler(net, (1, 3, 5), pixels=pixels)
    assert isinstance(sampler, ForeignMADEImageSampler)
    noise = torch.rand(7, 1, 3, 5)
    expected = fixed_point(net, noise, isinstance(end, nn.Sigmoid), pixels or (0, 1))
    assert 0.1 < expected.mean() < 0.9
    assert sampler.sample(None, noise).equal(expected)
    with torch.no_grad():
        net.last.bias += 1
    sampler.refresh()
    assert sampler.sample(None, noise).equal(fixed_point(net, noise, isinstance(end, nn.Sigmoid), pixels or (0, 1)))


def test_linear_layers_of_all_pixels_before() -> None:
    torch.manual_seed(0)
    net = randomized(BeliefNetwork(12))
    noise = torch.rand(5, 1, 3, 4)
    assert vf.fast_sampler(net, (1, 3, 4)).sample(None, noise).equal(fixed_point(net, noise, False, (0, 1)))


def fixed_point(net: nn.Module, noise: Tensor, probabilities: bool, pixels: Any) -> Tensor:
    """D passes from zeros: each makes another pixel right, whatever the order."""
    x = torch.zeros_like(noise)
    with torch.no_grad():
        for _ in range(x[0].numel()):
            out = net(pixels[0] + (pixels[1] - pixels[0]) * x)
            x = (noise < (out if probabilities else out.sigmoid())).float()
    return x


def test_what_a_made_over_images_cannot_be_given() -> None:
    sampler = vf.fast_sampler(randomized(BeliefNetwork(12)), (1, 3, 4))
    with pytest.raises(ValueError, match=r"noise must be \[B, 1, 3, 4\], got \[2, 12\]"):
        sampler.sample(None, torch.rand(2, 12))
    with pytest.raises(ValueError, match="known must be None for a MADE over images, got tuple"):
        sampler.sample(None, known=(torch.ones(1), torch.ones(1)))  # type: ignore[arg-type]


def test_a_made_over_images_that_is_none_is_refused_as_a_decoder() -> None:
    """The message is about images: it is one of those that most decoders get."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Unflatten(1, (1, 3, 4)))
    with pytest.raises(ValueError, match=r"linear layers over channels, got one over \[H W\].* in Linear at '1'"):
        vf.fast_sampler(net, (1, 3, 4))


class Deep(nn.Module):
    """Runs on [B, H, W] of integers up to a mistake of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.first = nn.Embedding(4, 6), ProductMaskedConv("A", 6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width = x.shape
        h = self.first(self.codes(x.long()).permute(0, 3, 1, 2))
        return h.view(batch, 5, height, width)


def test_the_error_of_a_trace_is_that_of_the_call_that_went_farthest() -> None:
    levels = make_likelihood("categorical", 1, levels=4)
    with pytest.raises(ValueError, match=r"traceable by torch.fx, got RuntimeError: shape '\[2, 5, 4, 4\]' is invalid"):
        vf.fast_sampler(Deep(), (1, 4, 4), likelihood=levels)


class OneFactorALevel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = ProductMaskedConv("A", 1, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()).log_softmax(1) * torch.arange(1.0, 5)[:, None, None]


def test_log_probabilities_times_a_factor_of_each_level_are_refused() -> None:
    with pytest.raises(ValueError, match="log-probabilities times a factor that is the same for all levels, got"):
        vf.fast_sampler(OneFactorALevel(), (1, 4, 4), likelihood=make_likelihood("categorical", 1, levels=4))
