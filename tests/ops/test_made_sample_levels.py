"""made_sample_levels: every backend against the reference, the reference against D passes, its own errors."""

import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from cases.activations import FORMULAS
from cases.made_sample_levels import CASES, any_degrees
from cases.rows import backends_and_cases, backends_and_dtypes, backends_of, require
from torch import Tensor

from vlae_fast import reference
from vlae_fast.masks import linear_mask
from vlae_fast.ops import made_sample_levels
from vlae_fast.reference.arguments import Layers
from vlae_fast.testing import Case, check_op, made_sample_levels_case, opcheck, run


def by_passes(case: Case) -> tuple[Tensor, Tensor]:
    """The formulas of the docstring, written out: D passes, then the log-probability of what came out."""
    t = case.tensors
    x = torch.zeros(t["noise"].shape, dtype=torch.long)

    def probabilities(x: Tensor) -> list[Tensor]:
        h = torch.cat([table[x[:, d]] for d, table in enumerate(t["tables"])], 1)
        layers = zip(t["weights"], t["biases"], pairwise(t["degrees"]), strict=True)
        for i, (weight, bias, degrees) in enumerate(layers):
            h = FORMULAS[case.options["activation"]](h) if i else h
            h = F.linear(h, weight * linear_mask(*degrees), bias)
            h = h + t["cond"] if i == 0 and t["cond"] is not None else h
        return [own.softmax(1) for own in h.split([len(table) for table in t["tables"]], 1)]

    for _ in t["tables"]:
        p = probabilities(x)
        found = [(own.cumsum(1) <= t["noise"][:, d : d + 1]).sum(1) for d, own in enumerate(p)]
        x = torch.stack([k.clamp(max=own.shape[1] - 1) for k, own in zip(found, p, strict=True)], 1)
    p = [own.gather(1, x[:, d : d + 1]) for d, own in enumerate(probabilities(x))]
    return x, torch.cat(p, 1).log().sum(1)


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_reference_is_d_passes(case: Case) -> None:
    wide = case.to(torch.float64)
    (x, log_prob), _ = run(wide, "reference")
    want, of_want = by_passes(wide)
    assert x.equal(want)
    torch.testing.assert_close(log_prob, of_want)


def is_large(case: Case) -> bool:
    return case.tensors["noise"].numel() > 60


@pytest.mark.parametrize(
    ("backend", "case"), backends_and_cases("made_sample_levels", CASES.values(), is_large), ids=str
)
def test_agrees_with_reference(backend: str, case: Case) -> None:
    check_op(case, require(backend), grad=False)  # levels have a budget of 0
    (x, _), _ = run(case, backend)
    assert x.dtype == torch.int64 and all(
        ((0 <= own) & (own < len(table))).all() for own, table in zip(x.T, case.tensors["tables"], strict=True)
    )


@pytest.mark.parametrize(("backend", "dtype"), backends_and_dtypes("made_sample_levels"))
def test_dtypes(backend: str, dtype: torch.dtype) -> None:
    require(backend)
    case = made_sample_levels_case(5, ((3, 1), (7, 4), (2, 2)), (12, 14), activation="elu", dtype=dtype)
    check_op(any_degrees(case), backend, grad=False)


@pytest.mark.parametrize("backend", backends_of("made_sample_levels"))
@pytest.mark.parametrize("levels", [2, 5, 64, 1000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1e4])
def test_ties_and_ends(spread: float, levels: int, backend: str) -> None:
    """The noise at the thresholds themselves and at their neighbours, and logits that no exponential has."""
    require(backend)
    logits = spread * torch.randn(levels)
    sums = torch.exp(logits.double() - logits.double().max()).cumsum(0)
    at = (sums / sums[-1]).float()
    zero, one, top = torch.tensor(0.0), torch.tensor(1.0), 1 - 2**-24
    noise = torch.cat([at, at.nextafter(zero), at.nextafter(one), torch.tensor([0.0, 1e-45, top])]).clamp(max=top)
    degrees = [torch.tensor([1]), torch.zeros(levels, dtype=torch.long)]
    table, weight = torch.zeros(levels, 1), torch.zeros(levels, 1)
    args = (noise[:, None], [weight], [logits], degrees, [table])
    x, log_prob = made_sample_levels(*args, backend=backend)
    wanted = (sums[:-1] <= noise[:, None].double() * sums[-1]).sum(1)
    assert x[:, 0].equal(wanted)
    torch.testing.assert_close(log_prob.double(), logits.double().log_softmax(0)[wanted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", backends_of("made_sample_levels"))
def test_rows_are_independent_of_a_bad_one(backend: str) -> None:
    require(backend)
    case = made_sample_levels_case(5, ((4, 2), (3, 1), (8, 3)), (9, 7), cond=True)
    clean = made_sample_levels(**case.tensors, backend=backend)
    cond = case.tensors["cond"].clone()
    cond[2, 0] = torch.nan
    x, log_prob = made_sample_levels(**{**case.tensors, "cond": cond}, backend=backend)
    others = torch.tensor([0, 1, 3, 4])
    assert x[others].equal(clean[0][others]) and log_prob[2].isnan()
    torch.testing.assert_close(log_prob[others], clean[1][others])


@pytest.mark.parametrize("backend", backends_of("made_sample_levels"))
def test_dead_weights_are_never_read(backend: str) -> None:
    case = CASES["any degrees"]
    t = dict(case.tensors)
    masks = [linear_mask(*pair) for pair in pairwise(t["degrees"])]
    t["weights"] = [torch.where(mask, w, torch.nan) for mask, w in zip(masks, t["weights"], strict=True)]
    x, log_prob = made_sample_levels(**t, **case.options, backend=require(backend))
    want, of_want = made_sample_levels(**case.tensors, **case.options, backend=backend)
    assert x.equal(want) and log_prob.equal(of_want)


def test_the_same_bits_in_any_batch_and_on_any_number_of_threads() -> None:
    case, threads = CASES["many samples"], torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            x, log_prob = made_sample_levels(**case.tensors, **case.options, backend=require("cpu"))
            some = {**case.tensors, "noise": case.tensors["noise"][3:20]}
            few, of_few = made_sample_levels(**some, **case.options, backend="cpu")
            assert few.equal(x[3:20]) and of_few.equal(log_prob[3:20])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", ["cpu", "reference", "torch"])
def test_opcheck(backend: str) -> None:
    opcheck(CASES["any degrees"], require(backend))


def test_bits_are_levels_of_two() -> None:
    """A bit is 1 where the noise is small, a level 0: the levels are the other way round."""
    t = made_sample_levels_case(50, ((2, 1),) * 4, (12,)).tensors
    weights, biases = [*t["weights"]], [*t["biases"]]
    logits = [values.view(4, 2, -1)[:, 0] - values.view(4, 2, -1)[:, 1] for values in (weights[-1], biases[-1])]
    bits = [weights[0], logits[0]], [biases[0], logits[1][:, 0]]
    tables = [torch.tensor([[1.0], [0.0]])] * 4
    degrees = [t["degrees"][0], t["degrees"][1], t["degrees"][-1].view(4, 2)[:, 0]]
    x, log_prob = made_sample_levels(t["noise"], weights, biases, t["degrees"], tables)
    want, of_want = reference.made_sample(t["noise"], Layers(*bits, degrees), "relu")
    assert (1 - x).equal(want.long())
    torch.testing.assert_close(log_prob, of_want)


def test_takes_part_in_no_graph() -> None:
    t = CASES["relu"].tensors
    weights = [w.detach().requires_grad_() for w in t["weights"]]
    x, log_prob = made_sample_levels(**{**t, "weights": weights})
    assert not x.requires_grad and not log_prob.requires_grad


T = CASES["relu"].tensors


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"noise": torch.full((5, 6), 1.0)}, "noise must be in [0, 1), got 1.0"),
        ({"noise": torch.zeros(5, 5)}, "noise must be [B, D], a column for each of D >= 1 tables, got (5, 5), 6"),
        ({"tables": []}, "noise must be [B, D], a column for each of D >= 1 tables, got (5, 6), 0"),
        (
            {"tables": [*T["tables"][:-1], torch.zeros(5)]},
            "tables[5] must be [K, E] with K from 1 to 16,777,216",
        ),
        ({"tables": [*T["tables"][:-1], torch.zeros(5, 0)]}, "tables[5] must be [K, E] with K from 1 to 16,777,216"),
        (
            {"tables": [*T["tables"][:-1], torch.zeros(5, 4)]},
            "degrees[0] must have 15 entries, those of the inputs",
        ),
        ({"tables": [*T["tables"][:-1], torch.zeros(6, 5)]}, "degrees[-1] must have 59 entries, those of the logits"),
        (
            {"tables": [t.double() for t in T["tables"]]},
            "tables must have the dtype of noise, torch.float32",
        ),
        ({"degrees": [T["degrees"][0] + 1, *T["degrees"][1:]]}, "degrees[0] must be a permutation of 1..6"),
        (
            {"degrees": [*T["degrees"][:-1], T["degrees"][-1] - 1]},
            "degrees[-1] must be the inputs' - 1, for all",
        ),
        ({"activation": "gelu"}, "activation must be one of relu, elu, tanh, got 'gelu'"),
        ({"weights": T["weights"] * 2, "biases": T["biases"] * 2}, "weights must be those of one MADE, 3, got 6"),
    ],
)
def test_errors(changed: dict, rule: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(f"made_sample_levels: {rule}")):
        made_sample_levels(**{**T, **changed})


def test_inputs_of_a_dimension_have_one_degree() -> None:
    degrees = T["degrees"][0].clone()
    degrees[2] = 1  # the second of four
    with pytest.raises(
        ValueError, match=re.escape("degrees[0] must be one for all inputs of a dimension, got [1, 2, 1")
    ):
        made_sample_levels(**{**T, "degrees": [degrees, *T["degrees"][1:]]})
