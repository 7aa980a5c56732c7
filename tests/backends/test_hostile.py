"""Hostile calls of the C++ library, driven by hypothesis: each is refused with a message or gives the right result.

`make sanitize` runs these under AddressSanitizer, where a read or write out of bounds ends the process.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from cases.hostile import (
    EXTREMES,
    forged,
    hammer,
    mutated_words,
    near,
    programs,
    randn,
    randoms,
    sizes,
    unless_refused,
    weights_of,
)
from cases.mutated import mutated
from cases.rows import require
from hypothesis import strategies as st
from torch import Tensor

from vlae_fast import reference
from vlae_fast.backends import cpu
from vlae_fast.plan import ACTIVATIONS, Plan, Source, Stage
from vlae_fast.reference import pixelcnn_draw
from vlae_fast.reference.arguments import Layers, Mask, Transform

OPS = torch.ops.vlae_fast_cpu
isas = st.sampled_from(["", *cpu.isas()])


class Inputs(NamedTuple):
    noise: Tensor
    context: Tensor | None
    mask: Tensor | None
    known: Tensor | None


def inputs_of(plan: Plan, size: tuple[int, int], rng: random.Random) -> Inputs:
    """As many channels as the program says, up to some number."""
    channels, dim = min(abs(plan.image_channels), 64), max((abs(s.context_dim) for s in plan.stages), default=0)
    shape = 2, min(abs(plan.emit.noises(channels)), 64), *size
    noise = randn(rng, *shape)
    noise = noise if plan.emit.kind == "affine" else noise.sigmoid()
    context = randn(rng, 2, *rng.choice([(), size]), min(dim, 64)) if dim else None
    given = rng.random() < 0.5
    mask = randn(rng, 2, channels, *size) < 0 if given else None
    return Inputs(noise, context, mask, torch.zeros(2, channels, *size) if given else None)


def sample(inputs: Inputs, packed: Tensor, words: list[int], temperature: float = 1.0) -> Any:
    noise, *others = inputs
    return unless_refused(lambda: OPS.pixelcnn_sample(noise, packed, words, *others, temperature))


def assert_close(got: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(got, truth.to(got.dtype), rtol=1e-4, atol=1e-4, equal_nan=True)


def assert_right(plan: Plan, weights: list[Tensor], inputs: Inputs, images: Tensor, params: Tensor) -> None:
    """The parameters are the program's of the image, and the image is what is drawn from them."""
    assert_close(images, pixelcnn_draw.draw(params, inputs.noise, plan.emit, 1.0, inputs.mask, inputs.known))
    context = None if inputs.context is None else inputs.context.movedim(-1, 1).double()
    truth = reference.run_program(plan.stages, [w.double() for w in weights], context, images.double())
    if truth.abs().max() < 1e4:  # affine pixels may run away
        assert_close(params, truth)


@hammer(data=st.data(), size=sizes, isa=isas, rng=randoms)
def test_programs(data: st.DataObject, size: tuple[int, int], isa: str, rng: random.Random) -> bool:
    """Mutated programs with weights that fit, where any do, and otherwise those of the program they come from."""
    require("cpu")
    original, words = data.draw(programs(size))
    own = weights_of(original.words, rng)
    assert own is not None
    plan, weights = weights_of(words, rng) or own
    inputs = inputs_of(plan, size, rng)
    packed = unless_refused(lambda: OPS.pixelcnn_pack(weights, words, isa))
    if packed is None:  # and so are those of the right one for this
        assert sample(inputs, OPS.pixelcnn_pack(own[1], original.words, isa), words) is None
        return False
    found = sample(inputs, packed, words)
    if found is not None:
        assert_right(plan, weights, inputs, *found)
    return found is not None


@hammer(data=st.data(), size=sizes, isa=isas, rng=randoms)
def test_packed_weights_and_inputs(data: st.DataObject, size: tuple[int, int], isa: str, rng: random.Random) -> bool:
    """A right program with weights that lie about themselves, and tensors of another type, shape, strides or value."""
    require("cpu")
    (plan, words), (other, _) = data.draw(programs(size)), data.draw(programs(size))
    own, others = weights_of(plan.words, rng), weights_of(other.words, rng)
    assert own is not None and others is not None
    packed = OPS.pixelcnn_pack(own[1], plan.words, isa)
    if rng.random() < 0.5:
        packed = forged(packed, OPS.pixelcnn_pack(others[1], other.words, isa), rng)
    arguments = [*inputs_of(plan, size, rng), packed, plan.words, 1.0]
    i = rng.randrange(2 * len(arguments))
    if i < len(arguments):
        try:
            arguments[i] = mutated(arguments[i], rng)
        except (RuntimeError, IndexError):  # there is no such tensor
            return False
    *inputs, packed, words, temperature = arguments
    return sample(Inputs(*inputs), packed, words, temperature) is not None


class Sides(NamedTuple):
    """Sizes of an image [B, H, W, C] and a kernel [O, C, k, k]."""

    batch: int
    height: int
    width: int
    inputs: int
    outputs: int
    kernel: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of x, weight, bias and the two kinds of cond; an empty kernel may have any sides."""
        b, h, w, c, o, k = self
        k = k if k < 9 or 0 in (c, o) else 3
        return [(b, h, w, c), (o, c, k, k), (o,), (b, o), (b, h, w, o)]


some_sides = st.builds(
    Sides, *[st.integers(0, 5)] * 2, st.sampled_from([0, 1, 4, 19]), *[st.sampled_from([0, 1, 2, 6, 17])] * 2,
    st.sampled_from([0, 1, 3, 5, (1 << 32) + 1]),
)  # fmt: skip


def conv_truth(x: Tensor, weight: Tensor, bias: Tensor, cond: Tensor, taps: list[int], activation: str) -> Tensor:
    """A program of one stage, whose context is the condition."""
    columns = [weight.flatten(2)[:, :, place] for place in taps[::3]]
    pairs = tuple(zip(taps[1::3], taps[2::3], strict=True))
    live = torch.stack(columns, 2) if columns else weight.new_zeros(*weight.shape[:2], 0)
    stage = Stage(len(bias), activation, -1, len(bias), (Source(0, pairs),))
    image, context = (t if t.dim() == 2 else t.movedim(-1, 1) for t in (x, cond))
    out = reference.run_program([stage], [live, bias, torch.eye(len(bias)).to(x)], context, image)
    return out.expand(len(x), -1, *x.shape[1:3])


@hammer(data=st.data(), sides=some_sides, isa=isas, rng=randoms)
def test_masked_conv(data: st.DataObject, sides: Sides, isa: str, rng: random.Random) -> bool:
    """Sides of nothing, sides that do not go together, taps that do not lie in the kernel; forward and gradients."""
    require("cpu")
    shapes = sides.shapes
    if data.draw(st.integers(0, 3)) == 0:
        i = data.draw(st.integers(0, 4))
        shapes[i] = data.draw(some_sides).shapes[i]
    x, weight, bias, *conds = (randn(rng, *shape) for shape in shapes)
    reach = [st.integers(1 - max(size, 1), max(size, 1) - 1) for size in x.shape[1:3]]
    offsets = sorted(data.draw(st.sets(st.tuples(*reach), max_size=min(6, weight.shape[2] ** 2))))
    places = sorted(rng.sample(range(min(weight.shape[2] ** 2, 1 << 20)), len(offsets)))
    taps = [n for place, offset in zip(places, offsets, strict=True) for n in (place, *offset)]
    if data.draw(st.integers(0, 3)) == 0:
        taps = data.draw(mutated_words(taps))
    cond, live = rng.choice(conds), randn(rng, *weight.shape) > 0 if weight.numel() else None
    activation = data.draw(st.sampled_from([*("none", "relu", "elu", "gate") * 4, *ACTIVATIONS]))
    gate = activation == "gate"
    context, context_weight = None, None
    if data.draw(st.integers(0, 2)) == 0:
        told = data.draw(st.sampled_from([1, 3, 16, 140]))
        context = randn(rng, *x.shape[:3], told if data.draw(st.integers(0, 31)) else rng.choice([0, told + 1]))
        context_weight = randn(rng, weight.shape[0], told)
    fits = weight.shape[0] == x.shape[-1] * (2 if gate else 1)
    residual = rng.random() < (0.5 if fits else 0.02)
    keeps = residual or rng.random() < 0.5  # with a residual the slope does not follow from the output
    more = (context, context_weight, residual)
    given = (x, weight, bias, cond, taps, live, activation, gate, isa, *more, keeps)
    got = unless_refused(lambda: OPS.masked_conv(*given))
    if got is None:
        return False
    out, sigmoid, activated = got
    if residual:
        assert_close(out, activated + x.movedim(-1, 1))
        out = activated
    grad = randn(rng, *out.movedim(1, -1).shape)
    given = [x, weight, bias, cond] + ([] if context is None else [context, context_weight])
    grads = OPS.masked_conv_backward(
        grad, out.movedim(1, -1), sigmoid.movedim(1, -1) if gate else None, x, weight, taps, live, activation,
        [1] * len(given) + [0] * (6 - len(given)), cond.dim() == 4, isa, *more,
    )  # fmt: skip
    if out.numel() and weight.numel():
        wide = [t.double().requires_grad_() for t in given]
        added = wide[3]
        if context is not None:
            added = wide[4] @ wide[5].T + (added if added.dim() == 4 else added[:, None, None])
        truth = conv_truth(wide[0], wide[1] * live, wide[2], added, taps, activation)
        assert_close(out, truth)
        truth = truth + wide[0].movedim(-1, 1) if residual else truth
        truths = torch.autograd.grad(truth, wide, grad.movedim(-1, 1).double(), materialize_grads=True)
        for i, (found, expected) in enumerate(zip(grads, truths, strict=True)):
            assert_close(found, expected.movedim(-1, 1) if i != 1 and expected.dim() == 4 else expected)
    return True


degrees = near | st.sampled_from([*EXTREMES, (1 << 31) - 1, (1 << 31) - 2, -(1 << 31), -(1 << 31) + 1])
units = st.lists(degrees, max_size=40)


@hammer(data=st.data(), batch=st.integers(0, 19), ins=units, outs=units, isa=isas, rng=randoms)
def test_masked_linear(
    data: st.DataObject, batch: int, ins: list[int], outs: list[int], isa: str, rng: random.Random
) -> bool:
    """Degrees in any order and of any size, or an adjacency; forward and gradients."""
    require("cpu")
    x, weight, bias = randn(rng, batch, len(ins)), randn(rng, len(outs), len(ins)), randn(rng, len(outs))
    activation = data.draw(st.sampled_from(["none", "relu", "elu", "tanh"]))
    mask = Mask(torch.tensor(ins, dtype=torch.int64), torch.tensor(outs, dtype=torch.int64))
    if data.draw(st.integers(0, 3)) == 0:
        mask = Mask(None, None, randn(rng, len(outs), len(ins)) > 0)
    y = unless_refused(lambda: cpu.masked_linear(x, weight, bias, mask, activation, isa))
    if y is None:
        return False
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    truth, grad = reference.masked_linear(*wide, mask, activation), randn(rng, *y.shape)
    assert_close(y, truth)
    grads = cpu.masked_linear_backward(grad, y, x, weight, mask, activation, [True] * 3, isa)
    for found, expected in zip(grads, torch.autograd.grad(truth, wide, grad.double()), strict=True):
        assert_close(found, expected)
    return True


@hammer(
    data=st.data(),
    batch=st.integers(0, 40),
    layers=st.lists(st.lists(near, max_size=40), min_size=2, max_size=5),
    isa=isas,
    rng=randoms,
)
def test_made(data: st.DataObject, batch: int, layers: list[list[int]], isa: str, rng: random.Random) -> bool:
    """Degrees in any order and of any size, layers of nothing, too few of one argument; forward and gradients."""
    require("cpu")
    if data.draw(st.integers(0, 2)) == 0:
        layers[data.draw(st.integers(0, len(layers) - 1))] = data.draw(units)
    ends = list(pairwise(map(len, layers)))
    weights, biases = [randn(rng, o, i) / 4 for i, o in ends], [randn(rng, o) for _, o in ends]
    degrees, x = [torch.tensor(layer, dtype=torch.int64) for layer in layers], randn(rng, batch, len(layers[0]))
    cond = randn(rng, batch, len(layers[1])) if data.draw(st.booleans()) else None
    if data.draw(st.integers(0, 9)) == 0:  # too few of one
        tensors = data.draw(st.sampled_from([weights, biases, degrees]))
        del tensors[data.draw(st.integers(0, len(tensors) - 1)) :]
    activation, given = data.draw(st.sampled_from(["relu", "elu", "tanh"])), Layers(weights, biases, degrees, cond)
    outs = unless_refused(lambda: cpu.made_with_hidden(x, given, activation, isa))
    if outs is None:
        return False
    y, *hidden = outs
    wide = [t.double().requires_grad_() for t in (x, *weights, *biases, *([] if cond is None else [cond]))]
    n, wide_cond = len(weights), None if cond is None else wide[-1]
    truth = reference.made(wide[0], Layers(wide[1 : n + 1], wide[n + 1 : 2 * n + 1], degrees, wide_cond), activation)
    grad = randn(rng, *y.shape)
    assert_close(y, truth)
    needs = [data.draw(st.booleans()) for _ in range(2 + 2 * n)]
    grad_x, grad_cond, *others = cpu.made_backward(grad, x, hidden, given, activation, needs, isa)
    truths = torch.autograd.grad(truth, wide, grad.double(), materialize_grads=True)
    for found, expected in zip([grad_x, *others, grad_cond][: len(wide)], truths, strict=True):
        if found is not None:
            assert_close(found, expected)
    return True


@hammer(data=st.data(), dim=st.integers(0, 5), hidden=st.lists(units, max_size=3), isa=isas, rng=randoms)
def test_made_inverse(data: st.DataObject, dim: int, hidden: list[list[int]], isa: str, rng: random.Random) -> bool:
    """Hidden units of any degree, outputs and inputs of degrees that may not be a MADE's."""
    require("cpu")
    batch, params = data.draw(st.integers(0, 9)), data.draw(st.sampled_from([1, 2]))
    order = data.draw(st.permutations(range(1, dim + 1)))
    layers = [[*order], *hidden, [d - 1 for d in order] * params]
    if data.draw(st.integers(0, 2)) == 0:
        i = data.draw(st.integers(0, len(layers) - 1))
        layers[i] = data.draw(mutated_words(layers[i]))
    ends = list(pairwise(map(len, layers)))
    weights, biases = [randn(rng, o, i) / 4 for i, o in ends], [randn(rng, o) / 4 for _, o in ends]
    degrees = [torch.tensor(layer, dtype=torch.int64) for layer in layers]
    if data.draw(st.integers(0, 9)) == 0:  # too few of one
        tensors = data.draw(st.sampled_from([weights, biases, degrees]))
        del tensors[data.draw(st.integers(0, len(tensors) - 1)) :]
    eps, cond = randn(rng, batch, dim), randn(rng, batch, len(layers[1]))
    scale = data.draw(st.sampled_from(["exp", "softplus", "bernoulli"]))
    got = unless_refused(lambda: OPS.made_inverse(eps, weights, biases, degrees, cond, "tanh", scale, isa))
    if got is None:
        return False
    wide = [w.double() for w in weights], [b.double() for b in biases]
    layers = Layers(*wide, degrees, cond.double())
    if scale == "bernoulli":
        x, log_det = reference.made_sample(eps.double(), layers, "tanh")
    else:
        (x,), log_det = reference.made_inverse(eps.double(), layers, Transform("tanh", scale))
    small = (x.abs() < 1e4).all(1)  # beyond any number is infinity, or NaN where the reference had it before
    assert_close(got[0][small], x[small])
    assert_close(got[1][small], log_det[small])
    return True


@hammer(data=st.data(), dim=st.integers(0, 4), hidden=st.lists(units, max_size=2), isa=isas, rng=randoms)
def test_made_sample(data: st.DataObject, dim: int, hidden: list[list[int]], isa: str, rng: random.Random) -> bool:
    """Tables of any size, which may be another than the degrees have it; noise of any size."""
    require("cpu")
    batch, order = data.draw(st.integers(0, 9)), data.draw(st.permutations(range(1, dim + 1)))
    sizes = [(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))) for _ in order]
    first = [d for d, (_, inputs) in zip(order, sizes, strict=True) for _ in range(inputs)]
    layers = [first, *hidden, [d - 1 for d, (levels, _) in zip(order, sizes, strict=True) for _ in range(levels)]]
    if data.draw(st.integers(0, 2)) == 0:
        i = data.draw(st.integers(0, len(layers) - 1))
        layers[i] = data.draw(mutated_words(layers[i]))
    tables = [randn(rng, *size) for size in sizes]
    if tables and data.draw(st.integers(0, 4)) == 0:
        tables[data.draw(st.integers(0, dim - 1))] = randn(
            rng, data.draw(st.integers(0, 9)), data.draw(st.integers(0, 3))
        )
    ends = list(pairwise(map(len, layers)))
    weights, biases = [randn(rng, o, i) / 4 for i, o in ends], [randn(rng, o) / 4 for _, o in ends]
    degrees = [torch.tensor(layer, dtype=torch.int64) for layer in layers]
    noise, cond = torch.rand(batch, dim), randn(rng, batch, len(layers[1]))
    wild = noise * 3 - 1 if data.draw(st.booleans()) else noise  # the contract alone looks at it
    unless_refused(lambda: OPS.made_sample(wild, weights, biases, degrees, tables, cond, "tanh", isa))
    got = unless_refused(lambda: OPS.made_sample(noise, weights, biases, degrees, tables, cond, "tanh", isa))
    if got is None:
        return False
    wide = ([t.double() for t in tensors] for tensors in (weights, biases, tables))
    weights, biases, tables = wide
    x, log_prob = reference.made_sample_levels(
        noise.double(), Layers(weights, biases, degrees, cond.double()), tables, "tanh"
    )
    assert got[0].long().equal(x)
    assert_close(got[1], log_prob)
    return True
