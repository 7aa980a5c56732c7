"""known.py: which masks a draw in the decoder's order fits, and the warning of the others."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast.models import make_likelihood
from vlae_fast.models.decoders import MLPDecoder
from vlae_fast.sampling import FactorizedSampler
from vlae_fast.sampling.known import fits
from vlae_fast.sampling.naive import naive_sample_with_logits

SIZE = (6, 6)
ROWS = torch.arange(6)[:, None].expand(6, 6)
UPPER, LOWER = ROWS < 3, ROWS >= 3
DECODER = vf.PixelCNNDecoder(1, 0, 4, 0, image_size=SIZE, initial_kernel=3)  # sees the eight around it, those before
SAMPLER = vf.PixelCNNSampler(DECODER)
NOISE = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
ZEROS = torch.zeros(1, 1, 6, 6)

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "sample": lambda mask: SAMPLER.sample(None, NOISE, known=(mask, ZEROS)),
    "sample_with_logits": lambda mask: SAMPLER.sample_with_logits(None, NOISE, known=(mask, ZEROS)),
    "naive_sample": lambda mask: vf.naive_sample(DECODER, None, NOISE, known=(mask, ZEROS)),
    "naive_sample_with_logits": lambda mask: naive_sample_with_logits(DECODER, None, NOISE, known=(mask, ZEROS)),
}


def said(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return found


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_mask_that_is_not_fitted_is_said_once_and_to_the_caller(call: Callable[[Tensor], Any]) -> None:
    (warning,) = said(lambda: call(LOWER))
    assert warning.category is UserWarning and warning.filename == __file__
    assert "known has pixels that depend on unknown ones drawn before them" in str(warning.message)
    assert 'complete(..., method="importance")' in str(warning.message)
    for mask in (UPPER, UPPER | LOWER, UPPER & LOWER):
        assert not said(lambda mask=mask: call(mask))
    of_each = torch.stack([UPPER, LOWER])[:, None]
    assert len(said(lambda: call(of_each))) == 1 and not said(lambda: call(of_each[:1]))


def test_a_window_that_ends_before_the_unknown_pixel() -> None:
    """An unknown first row matters to the second row alone, which is given; raster order by itself cannot tell."""
    mask = ROWS != 0
    assert len(said(lambda: CALLS["sample"](mask))) == 1
    mask[1] = False  # the second row is drawn to fit the first; the third depends on it
    assert len(said(lambda: CALLS["sample"](mask))) == 1
    corner = torch.ones(6, 6, dtype=torch.bool)
    corner[5, 4:] = False  # nothing comes after them
    assert not said(lambda: CALLS["sample"](corner))


@torch.no_grad()
def test_every_mask_of_two_rows() -> None:
    """`fits` is True just where the clamped draw has the conditional distribution, by all 64 images of 2 x 3.

    Clamped, an image has the probability of its unknown pixels given those before; the conditional is in proportion to
    that of all pixels. So the two agree where the known pixels' own probability is one number for all images.
    """
    torch.manual_seed(0)
    decoder = vf.PixelCNNDecoder(1, 0, 4, 0, image_size=(2, 3), initial_kernel=3).double()
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64).view(64, 1, 2, 3)
    logits = decoder(images)
    log_p = torch.where(images == 1, logits, -logits).sigmoid().log().flatten(1)  # [64, 6]
    sampler, outcomes = vf.PixelCNNSampler(decoder), set()
    for bits in itertools.product((False, True), repeat=6):
        mask = torch.tensor(bits)
        for values in images.flatten(1)[:: 64 // 8]:
            agree = ((images.flatten(1) == values) | ~mask).all(1)
            own = log_p[agree][:, mask].sum(1)
            exact = bool((own - own[0]).abs().max() < 1e-9)
            found = fits(mask.view(1, 1, 2, 3), sampler.plan.emit, sampler.offsets_seen)
            assert found == exact, bits
            by_order = fits(mask.view(1, 1, 2, 3), sampler.plan.emit)
            assert found or not by_order
            outcomes.add((found, by_order))
    assert outcomes == {(True, True), (True, False), (False, False)}


def test_channels_of_a_pixel() -> None:
    """Bernoulli channels are independent given the pixels before; those of a mixture share its component."""
    noise, zeros = torch.rand(1, 4, *SIZE), torch.zeros(1, 3, *SIZE)
    for kind in ("bernoulli", "logistic_mixture"):
        options: dict[str, Any] = {"image_size": SIZE, "likelihood": make_likelihood(kind, 3, components=2)}
        sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(3, 0, 4, 0, **options))
        plain = FactorizedSampler(MLPDecoder(3, 2, 4, 1, **options))
        noises = noise[:, : sampler.plan.emit.noises(3)]
        red = torch.ones(3, *SIZE, dtype=torch.bool)
        red[1:, 5, 5] = False  # of the last pixel, red alone is known
        joint = kind == "logistic_mixture"
        assert len(said(lambda s=sampler, n=noises, r=red: s.sample(None, n, known=(r, zeros)))) == joint
        for call in (plain.sample, plain.sample_with_logits):
            assert len(said(lambda c=call, r=red: c(torch.zeros(1, 2), known=(r, zeros)))) == joint
            assert not said(lambda c=call: c(torch.zeros(1, 2), known=(LOWER, zeros)))
        for at in ((0, 0), (5, 4)):
            green = red.clone()
            green[0, at[0], at[1]] = False  # comes before other known channels
            assert len(said(lambda s=sampler, n=noises, g=green: s.sample(None, n, known=(g, zeros)))) == 1


def test_channels_that_see_each_other() -> None:
    """Of a pixel the first channels may be known; later ones alone depend on those that are drawn."""
    layer = vf.MaskedConv2d("A", 3, 3, 3, image_channels=3)
    sampler = vf.fast_sampler(layer, (3, *SIZE))
    noise, zeros = torch.rand(1, 3, *SIZE), torch.zeros(1, 3, *SIZE)
    for channels, warns in (((0,), 0), ((0, 1), 0), ((1,), 1), ((0, 2), 1), ((1, 2), 1)):
        mask = torch.ones(3, *SIZE, dtype=torch.bool)
        mask[:, 5, 5] = False
        mask[channels, 5, 5] = True
        assert len(said(lambda m=mask: sampler.sample(None, noise, known=(m, zeros)))) == warns, channels
    mask[:, 5, 5] = torch.tensor([False, True, True])
    assert fits(mask[None], sampler.plan.emit, sampler.offsets_seen)
    assert not fits(mask[None], sampler.plan.emit, sampler.offsets_seen, in_turn=sampler.in_turn)


def test_no_image_is_no_warning() -> None:
    assert not said(lambda: SAMPLER.sample(None, NOISE[:0], known=(LOWER[None, None], ZEROS[:0])))
