"""made: every backend against the reference, the reference against plain PyTorch, the contract's errors."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.activations import FORMULAS
from cases.deadline import slow_where
from cases.made import CASES, LARGE_CASES, any_order, some_dead
from cases.properties import any_call, backend_of, dtypes, laid_out, layouts, use_isa
from cases.rows import backends_and_cases, backends_and_dtypes, backends_of, is_interpreted, require
from hypothesis import strategies as st

from vlae_fast.backends import cpu
from vlae_fast.masks import linear_mask
from vlae_fast.ops import made, masked_linear
from vlae_fast.reference.arguments import Layers
from vlae_fast.testing import Case, budget, check_op, made_layers_case, opcheck, run


def is_large(case: Case) -> bool:
    n_weights = sum(w.numel() for w in case.tensors["weights"])
    return n_weights > 1e5 or n_weights * len(case.tensors["x"]) > 1e5


def leaves(case: Case, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Its tensors, those of floating point as leaves of a graph."""

    def leaf(t: Any) -> Any:
        if isinstance(t, list):
            return [leaf(one) for one in t]
        return t if t is None or not t.is_floating_point() else t.detach().to(dtype or t.dtype).requires_grad_()

    return {name: leaf(value) for name, value in case.tensors.items()}


def differentiable(tensors: dict[str, Any]) -> list[torch.Tensor]:
    cond = [] if tensors["cond"] is None else [tensors["cond"]]
    return [tensors["x"], *tensors["weights"], *tensors["biases"], *cond]


@pytest.mark.parametrize(("backend", "case"), backends_and_cases("made", CASES.values(), is_large), ids=str)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends_of("made"))
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_large_cases_agree_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@any_call(
    batch=st.integers(0, 50),
    dim=st.integers(1, 20),
    hidden=st.lists(st.integers(1, 60), max_size=3),
    kind=st.sampled_from([None, any_order, some_dead]),
    cond=st.booleans(),
    activation=st.sampled_from(["relu", "elu", "tanh"]),
    layout=layouts,
    dtype=dtypes,
    isa=st.sampled_from(cpu.isas() or ["absent"]),
)
def test_any_call(batch, dim, hidden, kind, cond, activation, layout, dtype, isa) -> None:
    require("cpu")
    cond = cond and bool(hidden)
    case = made_layers_case(batch, dim, tuple(hidden), cond=cond, activation=activation)
    case = case if kind is None else kind(case)
    with pytest.MonkeyPatch.context() as patch:
        use_isa(isa, patch)
        check_op(laid_out(case.to(dtype), layout), backend_of(dtype), nudges=3)


@pytest.mark.parametrize(("backend", "dtype"), backends_and_dtypes("made"))
def test_dtypes(backend: str, dtype: torch.dtype) -> None:
    check_op(made_layers_case(21, 8, (30, 23), activation="elu", cond=True, dtype=dtype), require(backend))


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize(
    "case",
    [
        made_layers_case(150, 12, (130, 90), activation="elu", cond=True),
        any_order(made_layers_case(95, 20, (61, 77, 40), activation="tanh")),
    ],
    ids=str,
)
def test_same_bits(case: Case, isa: str) -> None:
    """The same call twice and any number of threads; outputs also whatever the batch. On every instruction set."""
    require("cpu")
    t, activation = case.tensors, case.options["activation"]
    grad, n = torch.randn(len(t["x"]), len(t["degrees"][-1])), len(t["weights"])

    def call(rows: slice) -> list[torch.Tensor]:
        layers = Layers(t["weights"], t["biases"], t["degrees"], None if t["cond"] is None else t["cond"][rows])
        y, *hidden = cpu.made_with_hidden(t["x"][rows], layers, activation, isa)
        assert y.equal(cpu.made(t["x"][rows], layers, activation, isa))
        needs = [True] * (2 + 2 * n)
        return [y, *cpu.made_backward(grad[rows], t["x"][rows], hidden, layers, activation, needs, isa)]

    whole = call(slice(None))
    double, single = run(case.to(torch.float64), "reference")[0][0], run(case, "reference")[0][0]
    assert (whole[0].double() - double).abs().max() <= budget(double, single)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 16):
            torch.set_num_threads(count)
            for got, want in zip(call(slice(None)), whole, strict=True):
                assert got.equal(want)
            for got, want in zip(call(slice(3, 40))[:3], whole[:3], strict=True):  # y, the gradients of x and cond
                assert got.equal(want[3:40])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["plain", "five layers", "reversed", "several tiles", "any order"])
def test_bits_of_one_layer_after_the_other(name: str) -> None:
    """Outputs and gradients are those of `masked_linear`, but where a condition has PyTorch's activation behind it."""
    require("cpu")
    case = CASES[name]
    t, other = leaves(case), leaves(case)
    t["cond"] = other["cond"] = None
    y = made(**t, **case.options, backend="cpu")
    h, last = other["x"], len(other["weights"]) - 1
    for i, (weight, bias) in enumerate(zip(other["weights"], other["biases"], strict=True)):
        degrees = dict(zip(("in_degrees", "out_degrees"), other["degrees"][i : i + 2], strict=True))
        activation = case.options["activation"] if i < last else "none"
        h = masked_linear(h, weight, bias, **degrees, activation=activation, backend="cpu")
    assert y.equal(h)
    cotangent = torch.randn_like(y)
    grads = (torch.autograd.grad(out, differentiable(of), cotangent) for out, of in ((y, t), (h, other)))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@slow_where(lambda name, backend: name == "five layers" and is_interpreted(backend))
@pytest.mark.parametrize("backend", backends_of("made"))
@pytest.mark.parametrize("name", ["five layers", "condition"])
def test_gradients_one_by_one(name: str, backend: str) -> None:
    """Each alone is what it is among all, also where the layers below it want none."""
    case = CASES[name]
    require(backend)
    t = leaves(case)
    wanted = differentiable(t)
    y = made(**t, **case.options, backend=backend)
    cotangent = torch.randn_like(y)
    together = torch.autograd.grad(y, wanted, cotangent)
    for one, want in zip(wanted, together, strict=True):
        for tensor in wanted:
            tensor.requires_grad_(tensor is one)
        (got,) = torch.autograd.grad(made(**t, **case.options, backend=backend), [one], cotangent)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["plain", "condition", "no hidden layer"])
def test_opcheck(name: str) -> None:
    opcheck(CASES[name], "reference")


@pytest.mark.parametrize("name", ["plain", "condition", "five layers", "condition, relu", "no hidden layer"])
def test_reference_is_plain_pytorch(name: str) -> None:
    case = CASES[name]
    t = leaves(case, torch.float64)
    h, last = t["x"], len(t["weights"]) - 1
    for i, (weight, bias, (ins, outs)) in enumerate(
        zip(t["weights"], t["biases"], pairwise(t["degrees"]), strict=True)
    ):
        h = F.linear(h, weight * linear_mask(ins, outs), bias)
        h = h + t["cond"] if i == 0 and t["cond"] is not None else h
        h = FORMULAS[case.options["activation"]](h) if i < last else h
    cotangent = torch.randn_like(h)
    y = made(**t, **case.options, backend="reference")
    torch.testing.assert_close(y, h, rtol=0, atol=1e-12)
    wanted = differentiable(t)
    grads = (torch.autograd.grad(out, wanted, cotangent) for out in (y, h))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@slow_where(lambda name, backend: name == "any order" and is_interpreted(backend))
@pytest.mark.parametrize("backend", backends_of("made"))
@pytest.mark.parametrize("name", ["plain", "condition", "any order", "some dead"])
def test_dead_weights_are_never_read(name: str, backend: str) -> None:
    case = CASES[name]
    t = case.tensors
    dead = [~linear_mask(ins, outs) for ins, outs in pairwise(t["degrees"])]
    assert all(one.any() for one in dead)
    poisoned = [w.masked_fill(one, torch.nan) for w, one in zip(t["weights"], dead, strict=True)]
    cotangent = [torch.ones(len(t["x"]), len(t["degrees"][-1]))]
    clean, grads = run(case, require(backend), cotangent)
    same, poisoned_grads = run(Case(case.name, case.op, {**t, "weights": poisoned}, case.options), backend, cotangent)
    assert clean[0].equal(same[0])
    for got, want in zip(poisoned_grads, grads, strict=True):
        assert got.equal(want)
    for grad, one in zip(grads[1:], dead, strict=False):
        assert (grad[one] == 0).all()


def test_degrees_that_change_in_place_are_other_degrees() -> None:
    """What follows from the degrees is kept from call to call."""
    require("cpu")
    case = made_layers_case(4, 6, (12, 9))
    before = made(**case.tensors, backend="cpu")
    case.tensors["degrees"][1].fill_(3)
    case.tensors["degrees"][2].fill_(2)
    after = made(**case.tensors, backend="cpu")
    assert not after.equal(before)
    torch.testing.assert_close(after, made(**case.tensors, backend="reference"))


def test_degrees_written_to_before_the_backward_are_refused() -> None:
    t = leaves(CASES["plain"])
    t["degrees"] = [d.clone() for d in t["degrees"]]
    y = made(**t)
    t["degrees"][1].fill_(1)
    with pytest.raises(RuntimeError, match=r"made: degrees\[1\] must be as it was in forward, got one"):
        y.sum().backward()


def test_nothing_is_kept_without_a_gradient() -> None:
    t = CASES["plain"].tensors
    recorded = made(**leaves(CASES["plain"]))
    with torch.no_grad():
        assert made(**leaves(CASES["plain"])).equal(recorded)
    assert made(**t).grad_fn is None and recorded.grad_fn is not None


def test_compile_fullgraph_and_autocast() -> None:
    t = leaves(CASES["condition"])
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    wanted = differentiable(t)
    (y, got), (want_y, want) = (
        (out, torch.autograd.grad(out.square().sum(), wanted))
        for out in (function(**t, activation="elu") for function in (compiled, made))
    )
    torch.testing.assert_close(y, want_y)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = made(**t, activation="elu")
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), want_y, rtol=0.05, atol=0.05)


X, D = torch.zeros(2, 3), [torch.arange(3), torch.arange(4), torch.arange(5)]
W, B = [torch.zeros(4, 3), torch.zeros(5, 4)], [torch.zeros(4), torch.zeros(5)]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"x": torch.zeros(2, 3, 1)}, r"x must be a floating-point tensor \[B, D\] with D >= 1, got"),
        ({"weights": W[:1]}, r"weights, biases, degrees must have S L, S L and L \+ 1 entries .*, got \(1, 2, 3\)"),
        ({"weights": W * 2, "biases": B * 2}, "weights must be those of one MADE, 2, got 4"),
        (
            {"weights": [W[0], torch.zeros(5, 3)]},
            r"weights\[1\], biases\[1\] must be \[5, 4\], \[5\], as degrees has it",
        ),
        ({"biases": [B[0], B[0]]}, r"weights\[1\], biases\[1\] must be .*, got \(\(5, 4\), \(4,\)\)"),
        ({"degrees": [D[0], D[1][None], D[2]]}, r"degrees\[1\] must be \[units of layer 1\], got \(1, 4\)"),
        ({"degrees": [D[0], D[1].float(), D[2]]}, r"degrees\[1\] must be integers, got torch.float32"),
        ({"cond": torch.zeros(2, 5)}, r"cond must be \[2, 4\], got \(2, 5\)"),
        ({"activation": "none"}, "activation must be one of relu, elu, tanh, got 'none'"),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"made: {match}"):
        made(**{"x": X, "weights": W, "biases": B, "degrees": D, **kwargs})


def test_dtype_error() -> None:
    with pytest.raises(TypeError, match=r"made: weights must have the dtype of x, torch.float32, got torch.float64"):
        made(X, [W[0].double(), W[1]], B, D)


def test_native_checks_what_it_is_given() -> None:
    """The library is called without the contract's checks too."""
    require("cpu")
    ops, y = torch.ops.vlae_fast_cpu, torch.zeros(2, 5)
    both = {"x": X, "weights": W, "degrees": D, "activation": "relu", "isa": ""}
    forward = both | {"biases": B, "cond": None, "with_hidden": True}
    backward = both | {"grad": y, "hidden": [torch.zeros(2, 4)], "needs": [1] * 6}
    for wrong, match in (
        ({"x": torch.zeros(3)}, r"x must be \[B, 3\], got \(3,\)"),
        ({"x": torch.zeros(2, 4)}, r"x must be \[B, 3\], got \(2, 4\)"),
        ({"x": X.double()}, "x must be float32, got"),
        ({"weights": W[:1]}, "weights, degrees must have L and L \\+ 1 entries, got 1, 3"),
        ({"degrees": D[:1]}, "degrees must have L \\+ 1 entries with L >= 1, got 1"),
        ({"weights": [W[0], torch.zeros(4, 5).T]}, r"weights\[1\] must be contiguous, got strides"),
        ({"weights": [W[0], W[0]]}, r"weights\[1\] must be \(5, 4\), got \(4, 3\)"),
        ({"degrees": [D[0], D[1].int(), D[2]]}, r"degrees\[1\] must be int64, got"),
        ({"degrees": [D[0], D[1][None], D[2]]}, r"degrees\[1\] must be 1-D, got \(1, 4\)"),
        ({"degrees": [D[0], D[1] + 2**31, D[2]]}, r"degrees\[1\] must fit in 32 bits, got 2147483648"),
        ({"activation": "none"}, "activation must be one of relu, elu, tanh, got none"),
        ({"isa": "mmx"}, "isa must be empty or one of .*, got mmx"),
    ):
        with pytest.raises(RuntimeError, match=f"made: {match}"):
            ops.made(**forward | wrong)
        with pytest.raises(RuntimeError, match=f"made_backward: {match}"):
            ops.made_backward(**backward | wrong)
    for wrong, match in (
        ({"biases": B[:1]}, "biases must have 2 entries, got 1"),
        ({"biases": [B[0], B[0]]}, r"biases\[1\] must be \(5,\), got \(4,\)"),
        ({"cond": torch.zeros(2, 3)}, r"cond must be \(2, 4\), got \(2, 3\)"),
    ):
        with pytest.raises(RuntimeError, match=f"made: {match}"):
            ops.made(**forward | wrong)
    for wrong, match in (
        ({"grad": torch.zeros(2, 4)}, r"grad must be \(2, 5\), got \(2, 4\)"),
        ({"hidden": []}, "hidden must have 1 entries, got 0"),
        ({"hidden": [y]}, r"hidden\[0\] must be \(2, 4\), got \(2, 5\)"),
        ({"needs": [1] * 5}, "needs must have 6 entries, got 5"),
    ):
        with pytest.raises(RuntimeError, match=f"made_backward: {match}"):
            ops.made_backward(**backward | wrong)
