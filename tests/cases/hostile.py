"""Programs that went wrong, for hypothesis: the strategies, and how many examples of them are tried."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases.pixelcnn_draw import EMITS
from vlae_fast import activations
from vlae_fast.masks import live_taps
from vlae_fast.plan import ACTIVATIONS, KINDS, Plan, Sites, Source, Stage
from vlae_fast.sampling.schedule import derive

MOST = (1 << 63) - 1
EXTREMES = [0, 1, -1, 2, 1 << 16, 1 << 20, 1 << 31, 1 << 40, 1 << 62, MOST, -MOST - 1]
A, B, HERE = live_taps("A", (3, 3)), live_taps("B", (3, 3)), ((0, 0),)
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
HEADER = 16  # floats of packed weights

near, extreme = st.integers(-3, 4), st.sampled_from(EXTREMES)
sizes = st.sampled_from([(1, 1), (3, 4), (5, 2), (1, 7), (6, 1)])
randoms = st.randoms(use_true_random=False)


def hammer(**strategies: st.SearchStrategy) -> Callable[[Callable[..., bool]], Callable[[int], None]]:
    """A test of one call, which returns whether it ran, made a test of many, of which some run and some do not.

    Always the same ones.
    """

    def decorate(check: Callable[..., bool]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [100, pytest.param(1_500, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            ran: list[bool] = []
            chosen = settings(
                max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck
            )
            chosen(given(**strategies)(lambda **drawn: ran.append(check(**drawn))))()
            assert 0.05 * len(ran) < sum(ran) < 0.9 * len(ran), f"{sum(ran)} of {len(ran)} calls ran"

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def unless_refused(call: Callable[[], Any]) -> Any:
    """The call's result, or None where it is refused in the library's words, or in torch's before it gets there."""
    try:
        return call()
    except NotImplementedError:  # of a device, or of no tensors
        return None
    except RuntimeError as error:
        ours = r"(made|(pixelcnn|masked|made)_\w+): .* must .*, got "
        torch_s = ".*(Expected a value of type|API call failed)"
        assert re.match(f"{ours}|{torch_s}", str(error)), error
        return None


def randn(rng: random.Random, *shape: int) -> Tensor:
    """An empty tensor may have sides whose product is beyond an int64."""
    if 0 in shape:
        return torch.empty(0).as_strided(shape, [0] * len(shape))
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(1 << 30)))


def attention(width: int, seen: tuple[tuple[int, int], ...]) -> Stage:
    return Stage(width, "relu", 1, 0, (Source(2, HERE), Source(1, seen), Source(2, seen)), "attend", 1, heads=1)


@st.composite
def plans(draw: st.DrawFn, size: tuple[int, int]) -> Plan:
    """Right ones: layers that read the image and one another, some at half its sides, and the parameters of a pixel."""
    channels, width = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 5, 16, 33]))
    context = draw(st.sampled_from([0, 2]))
    emit = EMITS[draw(st.sampled_from(["bernoulli", "categorical", "mixture", "affine"]))]
    kinds = st.sampled_from(ACTIVATIONS)
    stages = (
        Stage(width, draw(kinds), -1, context, (Source(0, A),)),
        Stage(width, draw(kinds), 1, 0, (Source(1, B), Source(0, A))),
        Stage(emit.params(channels), "none", -1, context, (Source(2, HERE), Source(1, ((0, -1),)))),
    )
    if draw(st.booleans()):  # down by 2 and up again between them
        half = Stage(width, draw(kinds), -1, context, (Source(2, B),), sites=Sites(2, 0, 0))
        up = [Stage(width, "none", -1, 0, (Source(3, ((-i, -j),)),), sites=Sites(2, i, j)) for i, j in PHASES]
        stages = (
            *stages[:2],
            half,
            *(stage._replace(joins=4 if n else -1) for n, stage in enumerate(up)),
            stages[2]._replace(sources=(*stages[2].sources, Source(4, HERE))),
        )
    if (seen := draw(st.sampled_from([None, HERE, ((0, -1),)]))) is not None:
        *before, last = stages
        stages = (*before, attention(width, seen), last._replace(sources=(*last.sources, Source(len(stages), HERE))))
    schedule = derive(stages, size)
    return Plan(channels, schedule.slope, stages, schedule.leads, emit)


@st.composite
def mutants(draw: st.DrawFn, plan: Plan) -> Plan:
    """One thing about it changed: when a stage runs, what it reads and adds, its width, how pixels are drawn."""
    s = draw(st.integers(0, len(plan.stages) - 1))
    stage, (source, *others) = plan.stages[s], plan.stages[s].sources
    taps, widths = source.taps, st.sampled_from([1, 2, 16, 33, *EXTREMES])
    changes: dict[str, Callable[[], Any]] = {
        "leads": lambda: tuple(lead + draw(near) * (n == s) for n, lead in enumerate(plan.leads)),
        "slope": lambda: draw(near | extreme),
        "stages": lambda: tuple(draw(st.permutations(plan.stages))),
        "emit": lambda: EMITS[draw(st.sampled_from(sorted(EMITS)))],
        "buffer": lambda: source._replace(buffer=draw(near)),
        "taps": lambda: source._replace(taps=draw(st.sampled_from([taps[1:], (*taps, (draw(near), draw(near)))]))),
        "residual": lambda: draw(near),
        "out_channels": lambda: draw(widths),
        "context_dim": lambda: draw(widths),
        "activation": lambda: draw(st.sampled_from(ACTIVATIONS)),
        "sites": lambda: Sites(draw(near | extreme), draw(near), draw(near)),
        "joins": lambda: draw(near),
        "kind": lambda: draw(st.sampled_from(KINDS)),
        "heads": lambda: draw(near | extreme),
    }
    key = draw(st.sampled_from(sorted(changes)))
    value = changes[key]()
    if key in plan._fields:
        return plan._replace(**{key: value})
    stage = stage._replace(**{key: value} if key in stage._fields else {"sources": (value, *others)})
    return plan._replace(stages=(*plan.stages[:s], stage, *plan.stages[s + 1 :]))


@st.composite
def mutated_words(draw: st.DrawFn, words: list[int]) -> list[int]:
    at, value = draw(st.integers(0, max(len(words) - 1, 0))), draw(near | extreme)
    changes = {
        "set": [*words[:at], value, *words[at + 1 :]],
        "insert": [*words[:at], value, *words[at:]],
        "delete": [*words[:at], *words[at + 1 :]],
        "cut": words[:at],
        "extend": [*words, *draw(st.lists(near, max_size=12))],
    }
    return changes[draw(st.sampled_from(sorted(changes)))]


@st.composite
def programs(draw: st.DrawFn, size: tuple[int, int]) -> tuple[Plan, list[int]]:
    """A right program, and the words of what became of it."""
    plan = mutant = draw(plans(size))
    for _ in range(draw(st.integers(0, 2))):
        mutant = draw(mutants(mutant))
    words = mutant.words
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        words = draw(mutated_words(words))
    return plan, words


def weights_of(words: list[int], rng: random.Random) -> tuple[Plan, list[Tensor]] | None:
    """The program and weights as large as it says; None where the words make no sense, or ask for too many."""
    try:
        plan, shapes = Plan.from_words(words), []
        widths = [plan.image_channels, *(s.out_channels for s in plan.stages)]
        for stage in plan.stages:
            if stage.kind == "norm":
                shapes += [(stage.out_channels,), (stage.out_channels,), (1,)]
                continue
            if stage.kind == "attend":
                shapes.append((1,))
                continue
            columns = stage.out_channels * activations.columns(stage.activation)
            shapes += [(columns, widths[x.buffer], len(x.taps)) for x in stage.sources] + [(columns,)]
            shapes += [(columns, stage.context_dim)] if stage.context_dim else []
    except (RuntimeError, StopIteration, IndexError, ValueError):
        return None
    if any(n < 0 for shape in shapes for n in shape) or sum(map(math.prod, shapes)) > 1 << 16:
        return None
    return plan, [randn(rng, *shape) / max(math.prod(shape[1:]), 4) ** 0.5 for shape in shapes]


def forged(packed: Tensor, other: Tensor, rng: random.Random) -> Tensor:
    """Weights packed for another program, or with its header, under another instruction set, too few, too many, NaN."""
    lie = packed.clone()
    lie[2] = rng.randrange(6)
    header, rest = packed[:HEADER], packed[HEADER:]
    lies = [other, lie, packed[:-1].clone(), torch.cat([packed, rest[:1]]), torch.cat([header, other[HEADER:]])]
    return rng.choice([*lies, torch.cat([header, torch.full_like(rest, rng.choice([math.nan, math.inf, 0.0]))])])
