"""Refusals and questions of `fast_sampler`: each message names the argument or the operation, and the rule."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.foreign import randomized
from cases.foreign_kinds import K, Net, simple
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models.likelihood import make_likelihood
from vlae_fast.plan import Emit

SHAPE = (1, 5, 6)
LEVELS, OF_TWO = (make_likelihood("categorical", channels, levels=K) for channels in (1, 2))
TWO_OF_TWO = make_likelihood("categorical", 2, levels=2)
Z = torch.zeros(2, 3)
Case = tuple[Callable[..., Any], dict[str, Any], dict[str, Any], str]


ATTENTION = "attention as a softmax of q . k over the pixels before, times v"
OTHERS = "attention that sees other pixels than all before its own, or these and its own"


def attending(attend: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A decoder that does something to its features as a sequence ``[B, 30, C]``."""
    return lambda net, x: net.last(attend(net.first(x).flatten(2).mT).mT.unflatten(2, (5, 6)))


def hidden(diagonal: int) -> Tensor:
    """0 where a pixel is seen by the mask ``tril(diagonal)``, else minus infinity."""
    return torch.zeros(30, 30).masked_fill(torch.ones(30, 30).tril(diagonal) == 0, -torch.inf)


def within_rows(h: Tensor) -> Tensor:
    rows = h.flatten(0, 1)
    return ((rows @ rows.mT).softmax(2) @ rows).view_as(h)


REFUSED: dict[str, Case] = {
    # arguments
    "layout of other dimensions": (
        lambda net, x: simple(net, x).view(-1, 2, K, 5, 6),
        {"channels": 2, "outputs": 2 * K},
        {"likelihood": OF_TWO, "layout": "BHWCK"},
        "layout must fit the order of the output's dimensions, ['C', 'H', 'W'] with channels of [2, 5], got 'BHWCK'",
    ),
    "as many channels as levels": (
        lambda net, x: simple(net, x).view(-1, 2, 2, 5, 6),
        {"channels": 2, "outputs": 4},
        {"likelihood": TWO_OF_TWO},
        "layout must be given for levels of more than one channel, of an output that can be read in two ways",
    ),
    "pixels that fall": (simple, {}, {"pixels": (1, 0)}, "pixels must be (low, high), what the decoder is given for"),
    "pixels of no number": (simple, {}, {"pixels": "levels"}, "or None, got 'levels'"),
    "an index of real numbers": (
        simple,
        {"outputs": 2},
        {"pixels": "index", "likelihood": SimpleNamespace(emit=Emit("affine", 0))},
        "pixels must be (low, high) or None for continuous pixels, got 'index'",
    ),
    "pixels that only forward knows": (
        lambda net, x: simple(net, x.float() - 1),
        {"outputs": K},
        {"likelihood": LEVELS},
        "pixels must be given where forward turns its input into real numbers and does not divide it by levels - 1",
    ),
    "two conditions": (
        simple,
        {},
        {"latent_dim": 3, "condition": Z},
        "latent_dim must be 0 where there is a condition",
    ),
    "batches of two sizes": (
        simple,
        {},
        {"condition": (Z, torch.zeros(3, 1))},
        "condition must have tensors of one batch size, 1 or more, got [2, 3]",
    ),
    "no such entry": (
        lambda net, x: {"logits": simple(net, x)},
        {},
        {"output": "params"},
        "output must be an index or a name of what decoder returns, got 'params' of dict with ['logits'] [2, 1, 5, 6]",
    ),
    "entries alike": (
        lambda net, x: (simple(net, x), x),
        {},
        {},
        "output must name one entry of what decoder returns, got None of tuple with [0] [2, 1, 5, 6], [1] [2, 1, 5, 6]",
    ),
    # ends
    "a softmax before Bernoulli pixels": (
        lambda net, x: simple(net, x).softmax(1),
        {},
        {},
        "over the levels of a categorical likelihood alone, got softmax before a likelihood of kind 'bernoulli'",
    ),
    "a softmax over channels": (
        lambda net, x: simple(net, x).view(-1, K, 2, 5, 6).softmax(2),
        {"channels": 2, "outputs": 2 * K},
        {"likelihood": OF_TWO},
        "a softmax over the levels of a categorical likelihood alone",
    ),
    "a mean of probabilities": (
        lambda net, x: (simple(net, x).sigmoid() + net.first(x)[:, :1].sigmoid()) / 2,
        {},
        {},
        "logits, or probabilities that are affine in one sigmoid or tanh, got outputs that are between 0 and 1",
    ),
    "one of two probabilities": (
        lambda net, x: torch.cat([1 - simple(net, x).sigmoid(), simple(net, x).sigmoid()], 1)[:, 1:],
        {},
        {},
        "got outputs that are between 0 and 1 whatever its weights are",
    ),
    "a probability and more": (
        lambda net, x: simple(net, x).sigmoid() * 1.1 - 0.05,
        {},
        {},
        "got outputs that are between 0 and 1 whatever its weights are",
    ),
    "a mean spin": (
        lambda net, x: simple(net, x).tanh(),
        {},
        {"pixels": (-1, 1)},
        "got outputs that are between -1 and 1 whatever its weights are",
    ),
    "a mixture of colours in an order that nobody says": (
        simple,
        {"channels": 3, "outputs": 20},
        {"likelihood": make_likelihood("logistic_mixture", 3, components=2)},
        "layout must be given for a mixture of 3 channels: TCK, as",
    ),
    "a probability and a little": (
        lambda net, x: simple(net, x).sigmoid() + 1e-7,
        {},
        {},
        "got outputs that are between 0 and 1 whatever its weights are",
    ),
    # operations
    "a site of the first image alone": (
        lambda net, x: _assigned_to_one(simple(net, x)),
        {},
        {},
        "constants that are the same for all images, got one that is not",
    ),
    "an infinite constant": (
        lambda net, x: net.last(net.first(x).masked_fill(torch.arange(6) < 1, -torch.inf)),
        {},
        {},
        "choices of finite constants, got masked_fill of -inf",
    ),
    "a choice by the input": (
        lambda net, x: net.last(torch.where(x > 0.5, net.first(x), 0.0)),
        {},
        {},
        "got gt",
    ),
    "a maximum": (
        lambda net, x: simple(net, F.interpolate(net.down(x), size=(5, 6))),
        {"down": nn.MaxPool2d(3, 1, 1)},
        {},
        "constants, activations, got max_pool2d_with_indices in MaxPool2d at 'down'",
    ),
    "rows in two": (
        lambda net, x: simple(net, x.unflatten(3, (3, 2)).sum(4, keepdim=True).expand(-1, -1, -1, -1, 2).flatten(3)),
        {},
        {},
        "operations on channels, whatever their dimensions, got view with a view that cuts the columns",
    ),
    "every second column": (
        lambda net, x: simple(net, x[..., ::2]),
        {},
        {},
        "parameters of images of (5, 6), got an output of [2, 1, 5, 3]",
    ),
    "a constant of each image": (
        lambda net, x: simple(net, x) + torch.arange(len(x)).view(-1, 1, 1, 1),
        {},
        {},
        "constants that are the same for all images, got one that is not",
    ),
    "rows overwritten": (
        lambda net, x: net.last(_halved_rows(net.first(x))),
        {},
        {},
        "sums in place, where rows or columns of features are written to, got mul_",
    ),
    "attention without a softmax": (
        attending(lambda q: q @ q.mT @ q),
        {},
        {},
        f"{ATTENTION}, got a product of scores without a softmax",
    ),
    "a product of channels": (
        attending(lambda q: q @ (q.mT @ q).softmax(2)),
        {},
        {},
        f"{ATTENTION}, got a product of [B, C, H W] and [B, H W, C]",
    ),
    "attention to all pixels": (attending(lambda q: (q @ q.mT).softmax(2) @ q), {}, {}, f"{ATTENTION}, got {OTHERS}"),
    "attention to a window": (
        attending(lambda q: (q @ q.mT + hidden(0) + hidden(-9).T).softmax(2) @ q),
        {},
        {},
        f"{ATTENTION}, got {OTHERS}",
    ),
    "attention that is masked behind its softmax": (
        attending(lambda q: (q @ q.mT).softmax(2) * (hidden(0) == 0) @ q),
        {},
        {},
        f"{ATTENTION}, got {OTHERS}",
    ),
    "a first pixel that sees none": (
        attending(lambda q: (q @ q.mT).masked_fill(hidden(-1) < 0, -1e4).softmax(2) @ q),
        {},
        {},
        f"{ATTENTION}, got attention whose first pixel, which sees none before it, has weights of all pixels, or NaN: "
        "multiply its weights by 0, or let it see itself",
    ),
    "a bias of the distance": (
        attending(lambda q: (q @ q.mT + hidden(0) - torch.arange(30)).softmax(2) @ q),
        {},
        {},
        f"{ATTENTION}, got a bias that depends on which pixel is seen",
    ),
    "a factor of the distance": (
        attending(lambda q: (q @ q.mT * torch.arange(30) + hidden(0)).softmax(2) @ q),
        {},
        {},
        f"{ATTENTION}, got attention with a factor that depends on which pixel is seen",
    ),
    "scores of scores": (
        attending(lambda q: ((q @ q.mT).tanh() + hidden(0)).softmax(2) @ q),
        {},
        {},
        f"{ATTENTION}, got tanh of scores",
    ),
    "attention within rows": (
        lambda net, x: net.last(within_rows(net.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        {},
        {},
        f"{ATTENTION}, got a product of [B H, W, C] and [B H, C, W]",
    ),
    "a start token that stays": (
        attending(lambda q: F.pad(q, (0, 0, 1, 0)).relu()[:, 1:]),
        {},
        {},
        "a start token and then all pixels but the last, got relu of a sequence of 31 pixels",
    ),
}


def _assigned_to_one(h: Tensor) -> Tensor:
    h[0, :, 0, 0] = 1.0
    return h


def _halved_rows(h: Tensor) -> Tensor:
    h[:, :, 2:] *= 0.5
    return h


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    forward, parts, options, message = REFUSED[name]
    shape = (getattr(options.get("likelihood"), "channels", 1), 5, 6)
    with pytest.raises(ValueError, match=r"fast_sampler: .*" + re.escape(message)):
        vf.fast_sampler(randomized(Net(forward, **parts)), shape, **options)


def conditioned(net: Net, x: Tensor, y: Tensor, *, z: Tensor, scale: float = 1.0) -> Tensor:
    return net.last(F.relu(net.first(x) + (net.of_class(y) + scale * net.of_z(z))[:, :, None, None]))


def sampler_of(example: Any) -> vf.PixelCNNSampler:
    net = randomized(Net(conditioned, of_class=nn.Embedding(4, 6), of_z=nn.Linear(3, 6)))
    return vf.fast_sampler(net, SHAPE, condition=example)


GIVEN = {"y": torch.tensor([1]), "z": torch.zeros(1, 3), "scale": 2.0}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, ValueError, "condition must be a dict of 3: y, z, scale, got None"),
        (torch.zeros(2, 3), ValueError, "condition must be a dict of 3: y, z, scale, got a tensor"),
        (GIVEN | {"z": torch.zeros(2, 4)}, ValueError, "condition must be [B, 3], got (2, 4)"),
        (GIVEN | {"z": torch.zeros(2, 3)}, ValueError, "condition must have tensors of one batch size, got [1, 2]"),
        (GIVEN | {"y": torch.tensor([1.0])}, TypeError, "condition must have torch.int64, got torch.float32"),
        (
            GIVEN | {"z": torch.zeros(1, 3).double()},
            TypeError,
            "condition must have the weights' dtype, torch.float32, got torch.float64",
        ),
        (GIVEN | {"z": torch.full((1, 3), torch.nan)}, ValueError, "condition must be finite, got nan or inf"),
        (GIVEN | {"scale": 3.0}, ValueError, "condition must have 2.0 as its example has, got 3.0"),
    ],
)
def test_a_condition_unlike_its_example(given: Any, error: type[Exception], message: str) -> None:
    sampler = sampler_of(GIVEN)
    with pytest.raises(error, match=re.escape(f"fast_sampler: {message}")):
        sampler.sample(given)


@pytest.mark.parametrize("label", [4, -1])
def test_a_label_without_a_row(label: int) -> None:
    sampler = sampler_of(GIVEN)
    message = "fast_sampler: condition must be one that decoder runs on, got IndexError: index out of range in self"
    with pytest.raises(ValueError, match=message):
        sampler.sample(GIVEN | {"y": torch.tensor([label])})


@pytest.mark.parametrize("most", [1, 2])
def test_a_forward_that_asks_for_the_size_of_its_batch(most: int) -> None:
    net = randomized(Net(lambda net, x: simple(net, x) if len(x) > most else net.last(net.first(x))))
    with pytest.raises(ValueError, match=r"must be what its program computes, .* and for every batch size, got logits"):
        vf.fast_sampler(net, SHAPE)
    one_is_squeezed = randomized(Net(lambda net, x: simple(net, x).squeeze()))
    assert vf.fast_sampler(one_is_squeezed, SHAPE).sample(None).shape == (1, *SHAPE)


def test_hooks_that_are_not_traced() -> None:
    net = randomized(Net(simple))
    net.first.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(ValueError, match="without its hooks, which are not traced, got logits that differ"):
        vf.fast_sampler(net, SHAPE)


@pytest.mark.parametrize("shape", [SHAPE, (6,)])
def test_a_sampler_made_under_autocast_is_the_same(shape: tuple[int, ...]) -> None:
    net: Any = randomized(Net(simple)) if len(shape) > 1 else vf.MADE(6, 12, 6)
    noise, how = torch.rand(2, *shape), ((None,) if len(shape) > 1 else ())
    want = vf.fast_sampler(net, shape).sample(*how, noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        sampler = vf.fast_sampler(net, shape)
        sampler.refresh()
        assert sampler.sample(*how, noise=noise).equal(want)


@pytest.mark.usefixtures("_fresh_dynamo")
def test_decoders_with_compiled_parts() -> None:
    net = randomized(Net(simple))
    noise = torch.rand(2, *SHAPE)
    want = vf.fast_sampler(net, SHAPE).sample(None, noise)
    assert vf.fast_sampler(torch.compile(net, backend="eager"), SHAPE).sample(None, noise).equal(want)
    net.first = torch.compile(net.first, backend="eager")
    net(noise)
    assert vf.fast_sampler(net, SHAPE).sample(None, noise).equal(want)


def test_a_decoder_without_shapes() -> None:
    net = nn.Sequential(vf.MaskedConv2d("A", 1, 4, 3), nn.LazyConv2d(1, 1))
    with pytest.raises(ValueError, match="decoder must have been called once, got one with lazy parameters"):
        vf.fast_sampler(net, SHAPE)


def test_dropout_that_stays_on() -> None:
    net = randomized(Net(lambda net, x: F.dropout(simple(net, x), 0.5, training=True)))
    with pytest.raises(ValueError, match="the same in every call, without dropout that stays on, got bernoulli_"):
        vf.fast_sampler(net, SHAPE)


def test_a_decoder_of_another_dtype_since() -> None:
    net = randomized(Net(simple))
    sampler = vf.fast_sampler(net, SHAPE)
    net.double()
    sampler.refresh()
    noise = torch.rand(2, *SHAPE, dtype=torch.float64)
    assert sampler.sample(None, noise).equal(vf.naive_sample(sampler.decoder, None, noise))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder": None}, "decoder must be an nn.Module, got None"),
        ({"decoder": nn.Conv2d}, "decoder must be an nn.Module, got the class Conv2d"),
        ({"image_shape": 28}, "image_shape must be (C, H, W), or (D,) of a MADE, got 28"),
        ({"image_shape": (1, 8.0, 8)}, "each of image_shape must be an integer, got 8.0"),
        ({"latent_dim": "3"}, "latent_dim must be an integer, got '3'"),
    ],
)
def test_arguments_of_another_type(arguments: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"decoder": Net(simple), "image_shape": SHAPE}
    with pytest.raises(TypeError, match=re.escape(f"fast_sampler: {message}")):
        vf.fast_sampler(**(usual | arguments))


def test_conditions_of_any_batch() -> None:
    """Three conditions beside an example of one; none; and each image as it is alone, to the last bit."""
    sampler = sampler_of(GIVEN)
    many = {"y": torch.tensor([0, 3, 1]), "z": torch.randn(3, 3), "scale": 2.0}
    noise = torch.rand(3, *SHAPE)
    images, logits = sampler.sample_with_logits(many, noise)
    assert images.equal(vf.naive_sample(sampler.decoder, many, noise))
    for i in range(3):
        own = {"y": many["y"][i : i + 1], "z": many["z"][i : i + 1], "scale": 2.0}
        assert sampler.sample_with_logits(own, noise[i : i + 1]).logits.equal(logits[i : i + 1])
    assert sampler.sample({"y": many["y"][:0], "z": many["z"][:0], "scale": 2.0}).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("scale", "given"),
    [(K - 1, "levels"), ((K - 1) / 2, "levels"), (K, "levels"), (1.5, "[0, 1]"), (0.5, "[0, 1]")],
)
def test_a_forward_that_divides_by_the_last_level_takes_levels(scale: float, given: str) -> None:
    net = randomized(Net(lambda net, x: simple(net, x / scale), outputs=K))
    decoder = vf.fast_sampler(net, SHAPE, likelihood=LEVELS).decoder
    x = torch.randint(K, (2, *SHAPE)) / (K - 1)
    torch.testing.assert_close(decoder(x, None), net((K - 1) * x if given == "levels" else x))


def test_what_a_decoder_keeps_stays_its_own() -> None:
    """It is called with other batches meanwhile, in training mode, and has neither a new tensor nor another mode."""

    def kept(net: Any, x: Tensor) -> Tensor:
        net.seen = net.last(net.first(x))
        return net.seen

    net = randomized(Net(kept)).train()
    sampler = vf.fast_sampler(net, SHAPE)
    vf.naive_sample(sampler.decoder, None, torch.rand(2, *SHAPE))
    assert net.training and not hasattr(net, "seen")
