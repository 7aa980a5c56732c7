"""Arguments of another type: each is one sentence that names who asks, the argument, the rule and the value."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vlae_fast as vf
from vlae_fast import codec
from vlae_fast.models import make_likelihood

DECODER = vf.PixelCNNDecoder(1, 0, 4, 0, image_size=(6, 6), initial_kernel=3)
SAMPLER = vf.PixelCNNSampler(DECODER)
BITS, NOISE, MASK = torch.zeros(2, 1, 6, 6), torch.rand(2, 1, 6, 6), torch.zeros(6, 6, dtype=torch.bool)


def small_vlae(**options: Any) -> vf.VLAE:
    return vf.VLAE(1, 2, **({"hidden_dim": 4, "n_layers": 1, "image_size": (6, 6)} | options))


CALLS: dict[str, Callable[[], Any]] = {
    "accelerate: model must be an nn.Module, got None": lambda: vf.accelerate(None),
    "accelerate: model must be an nn.Module, got the class Linear": lambda: vf.accelerate(nn.Linear),
    "accelerate: verify_every must be an integer, got 0.5": lambda: vf.accelerate(nn.ReLU(), verify_every=0.5),
    "accelerate_flows: model must be an nn.Module, got a value of type list": lambda: vf.accelerate_flows([]),
    "restore_flows: model must be an nn.Module, got None": lambda: vf.restore_flows(None),
    "PixelCNNSampler: noise must be a tensor, got a value of type ndarray": lambda: SAMPLER.sample(None, NOISE.numpy()),
    "PixelCNNSampler: generator must be a torch.Generator or None, got 3": lambda: SAMPLER.sample(None, generator=3),
    "PixelCNNSampler: known must be (mask, values), got a value of type dict": (
        lambda: SAMPLER.sample(None, NOISE, known={"mask": MASK})
    ),
    "PixelCNNSampler: the mask of known must be a tensor, got None": (
        lambda: SAMPLER.sample(None, NOISE, known=(None, NOISE))
    ),
    "PixelCNNSampler: the values of known must be a tensor, got 1.0": (
        lambda: SAMPLER.sample(None, NOISE, known=(MASK, 1.0))
    ),
    "pixelcnn_sample: temperature must be a number, got '1'": lambda: SAMPLER.sample(None, NOISE, temperature="1"),
    "pixelcnn_sample: temperature must be a number, got a value of type ndarray": (
        lambda: SAMPLER.sample(None, NOISE, temperature=np.ones(2))
    ),
    "PixelCNNSampler.start: batch must be an integer, got 1.5": lambda: SAMPLER.start(batch=1.5),
    "PixelCNNSampler.log_prob: x must be a tensor, got None": lambda: SAMPLER.log_prob(None),
    "naive_sample: noise must be a tensor, got None": lambda: vf.naive_sample(DECODER, None, None),
    "MADESampler: n must be an integer, got 'a'": lambda: vf.MADESampler(vf.MADE(3, 4, 3)).sample("a"),
    "MADESampler: context must be a tensor, got 1": lambda: vf.MADESampler(vf.MADE(3, 4, 3)).sample(2, context=1),
    "MaskedConv2d: kernel_size must be an integer, got a value of type tuple": (
        lambda: vf.MaskedConv2d("A", 1, 4, (3, 3))
    ),
    "GatedMaskedConv2d: in_channels must be an integer, got 1.0": lambda: vf.GatedMaskedConv2d("A", 1.0, 4, 3),
    "MaskedLinear: in_degrees must be a tensor, got a value of type list": lambda: vf.MaskedLinear([1], [1]),
    "MADE: input_dim must be an integer, got '3'": lambda: vf.MADE("3", 4, 3),
    "MADE: hidden_dim must be an integer, got 4.0": lambda: vf.AutoregressiveFlow(3, 4.0),
    "likelihood: levels must be an integer, got 2.5": lambda: make_likelihood("categorical", 1, levels=2.5),
    "codec: model must be a VLAE, got a value of type ReLU": lambda: codec.encode(nn.ReLU(), NOISE),
    "codec.encode: x must be a tensor, got None": lambda: codec.encode(small_vlae(), None),
    "codec.encode: per_chunk must be an integer, got 1.5": lambda: codec.encode(small_vlae(), BITS, per_chunk=1.5),
    "codec.decode: data must be bytes, got 'abc'": lambda: codec.decode(small_vlae(), "abc"),
    "codec.decode: a chunk must be an integer, got 'a'": (
        lambda: codec.decode(model := small_vlae(), codec.encode(model, BITS), chunks="a")
    ),
    "VLAE: n must be an integer, got 1.5": lambda: small_vlae().sample(1.5),
}


@pytest.mark.parametrize("message", CALLS)
def test_an_argument_of_another_type(message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        CALLS[message]()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vf.MaskedConv2d("A", -1, 4, 3), "MaskedConv2d: in_channels must not be negative, got -1"),
        (
            lambda: vf.MaskedConv2d("A", 1, 4, 3, activation="swish"),
            "MaskedConv2d: activation must be one of none, relu, elu, gate, got 'swish'",
        ),
        (
            lambda: vf.MaskedLinear(torch.arange(3), torch.arange(3), activation="gate"),
            "MaskedLinear: activation must be one of none, relu, elu, tanh, got 'gate'",
        ),
        (lambda: vf.MADESampler(vf.MADE(3, 4, 3)).sample(-1), "MADESampler: n must not be negative, got -1"),
        (lambda: small_vlae(n_layers=1.5), "VLAE: n_layers must be an integer from 0"),
        (lambda: vf.naive_sample(nn.ReLU(), None, NOISE), "naive_sample: decoder must have input_dim; for others"),
    ],
)
def test_a_value_that_no_layer_takes(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_integers_of_numpy_are_integers() -> None:
    assert vf.MADE(np.int64(3), 4, 3).input_dim == 3
    assert vf.fast_sampler(nn.Sequential(vf.MaskedConv2d("A", 1, 1, 3)), np.array([1, 4, 5])).sample(None).shape == (
        *(1, 1, 4, 5),
    )
