"""made_sample: every backend against the reference, the reference against D passes, its own errors."""

import re

import pytest
import torch
from cases.made_sample import CASES, any_degrees, by_passes
from cases.rows import backends_and_cases, backends_and_dtypes, backends_of, require

from vlae_fast.ops import made_sample
from vlae_fast.testing import Case, check_op, made_sample_case, opcheck, run


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_reference_is_d_passes(case: Case) -> None:
    wide = case.to(torch.float64)
    (x, log_prob), _ = run(wide, "reference")
    want, of_want = by_passes(wide)
    assert x.equal(want)
    torch.testing.assert_close(log_prob, of_want)


def is_large(case: Case) -> bool:
    return case.tensors["noise"].numel() > 200


@pytest.mark.parametrize(("backend", "case"), backends_and_cases("made_sample", CASES.values(), is_large), ids=str)
def test_agrees_with_reference(backend: str, case: Case) -> None:
    check_op(case, require(backend), grad=False)
    (x, _), _ = run(case, backend)
    assert x.equal(run(case, "reference")[0][0]) and ((x == 0) | (x == 1)).all()


@pytest.mark.parametrize(("backend", "dtype"), backends_and_dtypes("made_sample"))
def test_dtypes(backend: str, dtype: torch.dtype) -> None:
    require(backend)
    check_op(any_degrees(made_sample_case(5, 6, (12, 14), activation="elu", dtype=dtype)), backend, grad=False)


@pytest.mark.parametrize("backend", backends_of("made_sample"))
def test_frequencies_are_the_probabilities(backend: str) -> None:
    """All 8 vectors of three bits come as often as they should, within five standard errors."""
    require(backend)
    case = made_sample_case(1, 3, (8,))
    n = 4000 if backend != "triton" else 500
    noise = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    t = {**case.tensors, "noise": noise}
    x, log_prob = made_sample(**t, backend=backend)
    number = (x @ torch.tensor([4.0, 2.0, 1.0])).long()
    p = torch.zeros(8).index_put((number,), log_prob.exp())
    error = (p * (1 - p) / n).sqrt()
    assert p.sum() == pytest.approx(1, abs=1e-4)  # every vector comes
    assert ((number.bincount(minlength=8) / n - p).abs() < 5 * error).all()


@pytest.mark.parametrize("backend", backends_of("made_sample"))
@pytest.mark.parametrize("logit", [-200.0, -90.0, -1e-6, 0.0, 60.0, 200.0])
def test_ties_and_ends(logit: float, backend: str) -> None:
    """The noise at the threshold itself and its neighbours, and thresholds near 0 and 1."""
    require(backend)
    at = torch.sigmoid(torch.tensor(logit, dtype=torch.float64))
    near = at.float().clamp(max=1 - 2**-24)
    noise = torch.stack([torch.zeros(()), near.nextafter(torch.tensor(0.0)), near, near.nextafter(torch.tensor(1.0))])
    noise = noise.clamp(max=1 - 2**-24)[:, None]
    degrees = [torch.tensor([1]), torch.tensor([0])]
    x, log_prob = made_sample(noise, [torch.zeros(1, 1)], [torch.tensor([logit])], degrees, backend=backend)
    want = (noise.double() < at).float()
    assert x.equal(want)
    expected = torch.nn.functional.logsigmoid(torch.where(want == 1, logit, -logit).double())[:, 0]
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("backend", backends_of("made_sample"))
def test_rows_are_independent_of_a_bad_one(backend: str) -> None:
    require(backend)
    case = made_sample_case(5, 4, (9, 7), cond=True)
    clean = made_sample(**case.tensors, backend=backend)
    cond = case.tensors["cond"].clone()
    cond[2, 0] = torch.nan
    x, log_prob = made_sample(**{**case.tensors, "cond": cond}, backend=backend)
    others = torch.tensor([0, 1, 3, 4])
    assert x[others].equal(clean[0][others]) and log_prob[2].isnan()
    torch.testing.assert_close(log_prob[others], clean[1][others])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_opcheck(backend: str) -> None:
    opcheck(CASES["any degrees"], require(backend))


def test_takes_part_in_no_graph() -> None:
    case = CASES["relu"]
    weights = [w.detach().requires_grad_() for w in case.tensors["weights"]]
    x, log_prob = made_sample(**{**case.tensors, "weights": weights})
    assert not x.requires_grad and not log_prob.requires_grad


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"noise": torch.full((5, 6), 1.0)}, "made_sample: noise must be in [0, 1), got 1.0"),
        ({"noise": torch.full((5, 6), torch.nan)}, "made_sample: noise must be in [0, 1), got nan"),
        ({"noise": torch.zeros(5)}, "made_sample: noise must be a floating-point tensor [B, D] with D >= 1"),
        ({"activation": "gelu"}, "made_sample: activation must be one of relu, elu, tanh, got 'gelu'"),
        ({"cond": torch.zeros(5, 3)}, "made_sample: cond must be [5, 16], got (5, 3)"),
        ({"noise": torch.zeros(5, 6).double()}, "made_sample: weights must have the dtype of noise, torch.float64"),
    ],
    ids=str,
)
def test_errors(changed: dict, rule: str) -> None:
    case = CASES["relu"]
    with pytest.raises((ValueError, TypeError), match=re.escape(rule)):
        made_sample(**{**case.tensors, **case.options, **changed})


def test_two_outputs_a_dimension_and_two_steps_are_refused() -> None:
    case = CASES["relu"]
    t = case.tensors
    first, *hidden, last = t["degrees"]
    twice = {**t, "degrees": [first, *hidden, last.repeat(2)]}
    twice["weights"] = [*t["weights"][:-1], t["weights"][-1].repeat(2, 1)]
    twice["biases"] = [*t["biases"][:-1], t["biases"][-1].repeat(2)]
    with pytest.raises(ValueError, match=re.escape("degrees[-1] must have D = 6 (a logit each) entries, got 12")):
        made_sample(**twice)
    with pytest.raises(ValueError, match="weights must be those of one MADE, 3, got 6"):
        made_sample(**{**t, "weights": t["weights"] * 2, "biases": t["biases"] * 2})
