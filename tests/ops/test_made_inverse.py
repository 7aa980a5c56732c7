"""made_inverse: every backend against the reference; the reference against the transform it inverts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases.deadline import slow_where
from cases.made_inverse import (
    CASES,
    FORWARD_CASES,
    LARGE_CASES,
    any_degrees,
    check_rows_are_independent,
    forward,
    rows_of,
)
from cases.properties import any_call, backend_of, dtypes, laid_out, layouts, use_isa
from cases.rows import backends_and_dtypes, backends_of, is_interpreted, require
from hypothesis import strategies as st

from vlae_fast import backends, reference
from vlae_fast.backends import cpu, table, triton
from vlae_fast.ops import made_inverse
from vlae_fast.reference.arguments import Layers, Transform
from vlae_fast.testing import Case, check_op, made_case, opcheck, run


def fewer(case: Case, backend: str) -> Case:
    """A part of a large batch, where the interpreter takes seconds for a tile of samples."""
    if backend != "triton" or not triton.INTERPRETED:
        return case
    return Case(case.name, case.op, {**case.tensors, **rows_of(case, slice(7))}, case.options)


@pytest.mark.parametrize("backend", backends_of("made_inverse"))
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(fewer(case, require(backend)), backend)


@slow_where(lambda case, backend: is_interpreted(backend) and sum(w.numel() for w in case.tensors["weights"]) > 20_000)
@pytest.mark.parametrize("backend", backends_of("made_inverse"))
@pytest.mark.parametrize("case", FORWARD_CASES, ids=str)
def test_forward_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(fewer(case, require(backend)), backend, grad=False, nudges=3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends_of("made_inverse"))
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_forward_of_large_cases_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(fewer(case, require(backend)), backend, grad=False, nudges=3)


@pytest.mark.parametrize(("backend", "dtype"), backends_and_dtypes("made_inverse"))
def test_dtypes(backend: str, dtype: torch.dtype) -> None:
    require(backend)
    case = any_degrees(made_case(5, 12, (21, 30), activation="elu", cond=True, dtype=dtype))
    check_op(case, backend, grad=False, nudges=3)


@any_call(
    batch=st.integers(0, 70),
    dim=st.integers(1, 9),
    hidden=st.lists(st.integers(1, 40), max_size=3),
    affine=st.booleans(),
    activation=st.sampled_from(["relu", "elu", "tanh"]),
    scale=st.sampled_from(["exp", "clipped_exp", "softplus", "sigmoid", "exp_slope"]),
    cond=st.booleans(),
    steps=st.integers(1, 3),
    seed=st.none() | st.integers(0, 99),
    layout=layouts,
    dtype=dtypes,
    isa=st.sampled_from(cpu.isas() or ["absent"]),
)
def test_any_call(batch, dim, hidden, affine, activation, scale, cond, steps, seed, layout, dtype, isa) -> None:
    require("cpu")
    options = {"affine": affine, "activation": activation, "cond": cond and len(hidden) > 0, "steps": steps}
    options["scale"] = scale if affine else "exp"
    case = made_case(batch, dim, tuple(hidden), **options)
    case = case if seed is None else any_degrees(case, seed)
    with pytest.MonkeyPatch.context() as patch:
        use_isa(isa, patch)
        check_op(laid_out(case.to(dtype), layout), backend_of(dtype), nudges=3)


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_inverts_the_transform(case: Case) -> None:
    case = case.to(torch.float64)
    x, log_det = made_inverse(**case.tensors, **case.options)
    eps, forward_log_det = forward(case, x)
    torch.testing.assert_close(eps, case.tensors["eps"], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, forward_log_det, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        *("affine", "mean only", "condition", "reversed", "clipped_exp", "softplus", "sigmoid", "exp_slope"),
        *("three steps", "any degrees, two steps", "steps without a hidden layer"),
    ],
)
def test_log_det_is_that_of_the_jacobian(name: str) -> None:
    case = CASES[name].to(torch.float64)
    x, log_det = made_inverse(**case.tensors, **case.options)
    for b in range(x.shape[0]):
        cond = case.tensors["cond"]
        one = Case("", "", {**case.tensors, "cond": None if cond is None else cond[b : b + 1]}, case.options)
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: forward(one, v[None])[0][0], x[b])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[b], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["affine", "condition", "any degrees, two steps"])
def test_opcheck(name: str) -> None:
    opcheck(CASES[name], "reference")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affine": False},
        {"steps": 2},
        {"scale": "clipped_exp"},
        {"scale": "softplus"},
        {"scale": "sigmoid"},
        {"scale": "exp_slope"},
    ],
    ids=str,
)
def test_gradcheck(options: dict[str, Any]) -> None:
    case = made_case(2, 3, (6, 6), **options, activation="tanh", cond=True, dtype=torch.float64)
    t = case.tensors
    inputs = [v.clone().requires_grad_() for v in (t["eps"], t["cond"], *t["weights"], *t["biases"])]
    n = len(t["weights"])

    def call(eps: torch.Tensor, cond: torch.Tensor, *layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return made_inverse(eps, layers[:n], layers[n:], t["degrees"], cond, **case.options)

    assert torch.autograd.gradcheck(call, inputs)


def test_compile_fullgraph() -> None:
    case = made_case(3, 4, (8, 8))
    t = case.tensors
    eps = t["eps"].clone().requires_grad_()

    def f(eps: torch.Tensor) -> torch.Tensor:
        x, log_det = made_inverse(eps, t["weights"], t["biases"], t["degrees"])
        return x.square().sum() + log_det.sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(eps), eps), torch.autograd.grad(f(eps), eps))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_degrees_written_to_before_backward_are_noticed(which: int) -> None:
    t = made_case(2, 3, (6,)).tensors
    degrees = [d.clone() for d in t["degrees"]]
    eps = t["eps"].clone().requires_grad_()
    x, _ = made_inverse(eps, t["weights"], t["biases"], degrees)
    degrees[which].neg_()
    rule = rf"made_inverse: degrees\[{which}\] must be as it was in forward, got one that was written to in place"
    with pytest.raises(RuntimeError, match=rule):
        x.sum().backward()


def test_degrees_of_inference_mode_have_gradients() -> None:
    t = made_case(2, 3, (6,)).tensors
    with torch.inference_mode():
        degrees = [d.clone() for d in t["degrees"]]
    eps = t["eps"].clone().requires_grad_()
    made_inverse(eps, t["weights"], t["biases"], degrees)[0].sum().backward()
    assert eps.grad is not None and eps.grad.isfinite().all()


T = made_case(2, 3, (6,)).tensors


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"eps": torch.zeros(3)}, r"eps must be a floating-point tensor \[B, D\] with D >= 1, got"),
        (
            {"biases": []},
            r"weights, biases, degrees must have S L, S L and L \+ 1 entries with S >= 1, L >= 1, got \(2, 0, 3\)",
        ),
        (
            {"weights": [torch.zeros(6, 4), T["weights"][1]]},
            r"weights\[0\], biases\[0\] must be \[6, 3\], \[6\], as degrees has it, got \(\(6, 4\), \(6,\)\)",
        ),
        (
            {"biases": [torch.zeros(5), T["biases"][1]]},
            r"weights\[0\], biases\[0\] must be .* got \(\(6, 3\), \(5,\)\)",
        ),
        (
            {"weights": T["weights"] * 2, "biases": T["biases"] * 2, "cond": torch.zeros(2, 6)},
            r"cond must be \[2, 12\]",
        ),
        ({"weights": [*T["weights"], T["weights"][0]]}, r"weights, biases, degrees must have .* got \(3, 2, 3\)"),
        ({"degrees": [T["degrees"][0][:2], *T["degrees"][1:]]}, r"degrees\[0\] must be \[D\] = \[3\], got \(2,\)"),
        (
            {"degrees": [*T["degrees"][:2], torch.zeros(4, dtype=torch.int64)]},
            r"degrees\[-1\] must have D = 3 .* entries, got 4",
        ),
        (
            {"degrees": [T["degrees"][0], torch.zeros(1, 6), T["degrees"][2]]},
            r"degrees\[1\] must be \[units of layer 1\], got",
        ),
        (
            {"degrees": [T["degrees"][0] - 1, *T["degrees"][1:]]},
            r"degrees\[0\] must be a permutation of 1..3, got \[0, 1, 2\]",
        ),
        ({"degrees": [*T["degrees"][:2], T["degrees"][2].sort().values]}, r"degrees\[-1\] must be degrees\[0\] - 1"),
        ({"cond": torch.zeros(2, 5)}, r"cond must be \[2, 6\], got \(2, 5\)"),
        ({"scale": "square"}, "scale must be one of exp, clipped_exp, softplus, sigmoid, exp_slope, got 'square'"),
        (
            {
                "scale": "sigmoid",
                "weights": [T["weights"][0], T["weights"][1][:3]],
                "biases": [torch.zeros(6), torch.zeros(3)],
                "degrees": [*T["degrees"][:2], torch.arange(3)],
            },
            r"scale must be exp where there are D = 3 \(mean-only\) outputs, got 'sigmoid'",
        ),
        ({"activation": "gate"}, "activation must be one of relu, .*, got 'gate'"),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"made_inverse: {match}"):
        made_inverse(**{**T, **kwargs})


@pytest.mark.parametrize("backend", backends_of("made_inverse"))
@pytest.mark.parametrize(
    ("steps", "scale", "value"), [(1, "exp", torch.nan), (2, "exp", torch.inf), (1, "softplus", torch.nan)]
)
def test_a_row_that_is_not_finite_spoils_no_other(backend: str, steps: int, scale: str, value: float) -> None:
    check_rows_are_independent(require(backend), steps, scale, value)


@pytest.mark.parametrize("backend", backends_of("made_inverse"))
@pytest.mark.parametrize("bias", [torch.nan, torch.inf, 100.0])
def test_a_scale_that_is_not_finite_is_no_error(backend: str, bias: float) -> None:
    t = made_case(2, 3, (6,)).tensors
    t["biases"][-1][4] = bias  # log_scale of dimension 1
    x, log_det = made_inverse(**t, backend=require(backend))
    assert not x[:, 1].isfinite().any()
    assert bias == 100.0 or not log_det.isfinite().any()


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
def test_scales_reach_the_ends_of_float32(isa: str) -> None:
    require("cpu")
    for log_scale in (87.5, 88.0, 88.3, 88.72, 88.73, 120, 1e4, -86.9, -87, -95, -120, -150, -1e4):
        scale = torch.tensor([[log_scale]], dtype=torch.float32).double().exp().float()
        assert bool(scale.isfinite()) == (log_scale < 88.725)
        for eps in (0.7, 1e30):
            weights, biases, degrees = [torch.zeros(2, 1)], [torch.tensor([0.0, log_scale])], [torch.tensor([1])]
            degrees.append(torch.tensor([0, 0]))
            layers = Layers(weights, biases, degrees, None)
            x, log_det = cpu.made_inverse(torch.full((1, 1), eps), layers, Transform("relu", "exp"), isa=isa)
            torch.testing.assert_close(x[0, 0], scale[0] * eps, rtol=1e-6, atol=3e-45 * max(eps, 1))
            assert log_det == -biases[0][1]


def test_large_values_are_finite() -> None:
    t = made_case(4, 3, (6,)).tensors
    eps = torch.full_like(t["eps"], 3e38)  # their sum is not
    x, _ = made_inverse(eps, [w * 0 for w in t["weights"]], [b * 0 for b in t["biases"]], t["degrees"])
    assert x.equal(eps)


def test_dtype_error() -> None:
    with pytest.raises(
        TypeError, match=r"made_inverse: weights must have the dtype of eps, torch.float64, got torch.float32"
    ):
        made_inverse(**{**T, "eps": T["eps"].double()})


def test_a_row_is_given_as_many_steps_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps, two at once: x has the bits of one step at a time."""
    case = any_degrees(made_case(3, 4, (6, 5), steps=5, cond=True))
    shares = []

    def two_at_once(eps: torch.Tensor, layers: Layers, transform: Transform) -> tuple[torch.Tensor, torch.Tensor]:
        xs, log_dets = [], []
        for step in layers.steps():
            x, log_det = reference.made_inverse(xs[-1][0].flip(1) if xs else eps, step, transform)
            xs.append(x)
            log_dets.append(log_det)
        shares.append((len(xs), *layers.cond.shape))
        return torch.cat(xs), sum(log_dets)

    row = next(r for r in backends.TABLE if r.name == "reference")
    two = row._replace(
        name="two", namespace=SimpleNamespace(made_inverse=two_at_once), steps_at_once=lambda n_layers: 2
    )
    monkeypatch.setattr(table, "TABLE", (two, row))
    monkeypatch.setattr(table, "NAMES", ("auto", "two", "reference"))
    got, want = (run(case, name)[0] for name in ("two", "reference"))
    assert shares == [(2, 3, 12), (2, 3, 12), (1, 3, 6)]
    assert got[0].equal(want[0])
    torch.testing.assert_close(got[1], want[1])  # added in another order
