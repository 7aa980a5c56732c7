"""masked_linear: every backend against the reference, the reference against plain PyTorch, the contract's errors."""

import pytest
import torch
import torch.nn.functional as F
from cases.activations import FORMULAS
from cases.masked_linear import CASES, LARGE_CASES, any_degrees, dead_blocks, tiled_degrees
from cases.properties import any_call, backend_of, dtypes, laid_out, layouts, use_isa
from cases.rows import backends_and_cases, backends_and_dtypes, backends_of, require
from hypothesis import strategies as st

from vlae_fast.backends import cpu
from vlae_fast.layers import MADE, MaskedLinear
from vlae_fast.masks import linear_mask
from vlae_fast.ops import masked_linear
from vlae_fast.reference.arguments import Mask
from vlae_fast.testing import Case, budget, check_op, linear_case, opcheck, run


@pytest.mark.parametrize(
    ("backend", "case"),
    backends_and_cases("masked_linear", CASES.values(), lambda case: case.tensors["weight"].numel() > 1e5),
    ids=str,
)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends_of("masked_linear"))
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_large_cases_agree_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize(
    "case",
    [
        linear_case(100, 70, 45, activation="elu"),
        any_degrees(linear_case(130, 66, 33, activation="tanh")),
        linear_case(61, 40, 77, adjacency=True, activation="relu"),
        linear_case(8200, 66, 77, activation="relu"),  # x is larger than the second cache: panels go in groups
    ],
    ids=str,
)
def test_same_bits(case: Case, isa: str) -> None:
    """The same call twice and any number of threads; outputs also whatever the batch. On every instruction set."""
    require("cpu")
    t = {"in_degrees": None, "out_degrees": None, "adjacency": None, **case.tensors}
    mask, activation = Mask(t["in_degrees"], t["out_degrees"], t["adjacency"]), case.options["activation"]
    grad = torch.randn(t["x"].shape[0], t["weight"].shape[0])

    def call(rows: slice) -> list[torch.Tensor]:
        y = cpu.masked_linear(t["x"][rows], t["weight"], t["bias"], mask, activation, isa)
        args = (grad[rows], y, t["x"][rows], t["weight"], mask, activation, (True, True, True), isa)
        return [y, *cpu.masked_linear_backward(*args)]

    double, _ = run(case.to(torch.float64), "reference")
    single, _ = run(case, "reference")
    whole = call(slice(None))
    assert (whole[0].double() - double[0]).abs().max() <= budget(double[0], single[0])
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3, 16):
            torch.set_num_threads(n)
            for got, want in zip(call(slice(None)), whole, strict=True):
                assert got.equal(want)
            for got, want in zip(call(slice(3, 40))[:2], whole[:2], strict=True):
                assert got.equal(want[3:40])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize("name", ["pieces meet inside a vector", "an odd number of vectors", "any degrees"])
def test_memory_of_an_earlier_backward_is_not_read(name: str, isa: str) -> None:
    """Scratch is kept from call to call: a call with NaN everywhere and a larger batch leaves none in the next one."""
    require("cpu")
    t = CASES[name].tensors
    mask, batch = Mask(t["in_degrees"], t["out_degrees"]), t["x"].shape[0]
    y, grad = torch.rand(2, batch + 30, t["weight"].shape[0]).sub(0.5).unbind()
    x = torch.randn(batch + 30, t["weight"].shape[1])

    def call(rows: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
        weight = t["weight"] if not tensors[0].isnan().any() else t["weight"] * torch.nan
        parts = (tensor[:rows] for tensor in tensors)
        return [*cpu.masked_linear_backward(*parts, weight, mask, "elu", (True, True, True), isa)]

    before = call(batch, grad, y, x)
    live = linear_mask(*mask[:2])
    want = torch.where(live, (grad[:batch] * torch.where(y[:batch] > 0, 1, y[:batch] + 1)).T @ x[:batch], 0)
    torch.testing.assert_close(before[1], want, rtol=1e-4, atol=1e-4)
    assert call(batch + 30, *(tensor * torch.nan for tensor in (grad, y, x)))[0].isnan().any()
    for got, expected in zip(call(batch, grad, y, x), before, strict=True):
        assert got.equal(expected)


def test_no_node_without_a_gradient() -> None:
    """The output is that with a node, bit for bit; a call that is recorded later has its gradient."""
    layer = MaskedLinear(torch.arange(40), torch.arange(40), activation="elu")
    x = torch.randn(3, 40)
    with torch.no_grad():
        y = layer(x)
    with torch.inference_mode():
        assert layer(x).equal(y)
    assert y.grad_fn is None and not y.requires_grad
    recorded = layer(x)
    assert recorded.equal(y)
    recorded.sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()


@any_call(
    batch=st.integers(0, 50),
    in_dim=st.integers(1, 80),
    out_dim=st.integers(1, 80),
    kind=st.sampled_from([None, tiled_degrees, any_degrees, dead_blocks, "adjacency"]),
    activation=st.sampled_from(["none", "relu", "elu", "tanh"]),
    layout=layouts,
    dtype=dtypes,
    isa=st.sampled_from(cpu.isas() or ["absent"]),
)
def test_any_call(batch, in_dim, out_dim, kind, activation, layout, dtype, isa) -> None:
    require("cpu")
    case = linear_case(batch, in_dim, out_dim, adjacency=kind in ("adjacency", dead_blocks), activation=activation)
    case = kind(case) if callable(kind) else case
    with pytest.MonkeyPatch.context() as patch:
        use_isa(isa, patch)
        check_op(laid_out(case.to(dtype), layout), backend_of(dtype), nudges=3)


@pytest.mark.parametrize("backend", backends_of("masked_linear"))
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_one_by_one(backend: str, needs: tuple[bool, ...]) -> None:
    t = dict(linear_case(9, 20, 30, activation="relu").tensors)
    names = ("x", "weight", "bias")
    for name, need in zip(names, needs, strict=True):
        t[name] = t[name].clone().requires_grad_(need)
    y = masked_linear(**t, activation="relu", backend=require(backend))
    y.square().sum().backward()
    assert [t[name].grad is not None for name in names] == list(needs)


@pytest.mark.parametrize(("backend", "dtype"), backends_and_dtypes("masked_linear"))
@pytest.mark.parametrize("adjacency", [False, True], ids=["degrees", "adjacency"])
def test_dtypes(adjacency: bool, backend: str, dtype: torch.dtype) -> None:
    case = linear_case(21, 70, 43, adjacency=adjacency, activation="elu", dtype=dtype)
    check_op(case, require(backend))


@pytest.mark.parametrize("name", ["plain", "elu", "adjacency"])
def test_opcheck(name: str) -> None:
    opcheck(CASES[name], "reference")


@pytest.mark.parametrize("name", ["plain", "adjacency", "elu", "tanh", "adjacency, tanh"])
def test_reference_is_plain_pytorch(name: str) -> None:
    case = CASES[name]
    t = {k: v.double().requires_grad_() if v.is_floating_point() else v for k, v in case.tensors.items()}
    mask = t["adjacency"] if "adjacency" in t else linear_mask(t["in_degrees"], t["out_degrees"])
    y = F.linear(t["x"], t["weight"] * mask, t["bias"])
    y = FORMULAS[case.options["activation"]](y)
    cotangent = torch.randn_like(y)
    outs, grads = run(case.to(torch.float64), "reference", [cotangent])
    torch.testing.assert_close(outs[0], y.detach(), rtol=0, atol=1e-13)
    expected = torch.autograd.grad(y, [t["x"], t["weight"], t["bias"]], cotangent)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["none", "relu", "elu", "tanh"])
def test_gradcheck(activation: str) -> None:
    case = linear_case(3, 4, 5, activation=activation, dtype=torch.float64)
    x, weight, bias = (case.tensors[k].clone().requires_grad_() for k in ("x", "weight", "bias"))
    degrees = {k: case.tensors[k] for k in ("in_degrees", "out_degrees")}
    assert torch.autograd.gradcheck(
        lambda *a: masked_linear(*a, **degrees, activation=activation, backend="reference"), (x, weight, bias)
    )


@pytest.mark.parametrize("backend", backends_of("masked_linear"))
@pytest.mark.parametrize("name", ["plain", "adjacency", "pieces meet inside a vector"])
def test_dead_weights_are_never_read(name: str, backend: str) -> None:
    case = CASES[name]
    t = case.tensors
    dead = ~(t["adjacency"] if "adjacency" in t else linear_mask(t["in_degrees"], t["out_degrees"]))
    assert dead.any()
    poisoned = Case(case.name, case.op, {**t, "weight": t["weight"].masked_fill(dead, torch.nan)}, case.options)
    cotangent = [torch.ones(t["x"].shape[0], t["weight"].shape[0])]
    clean, grads = run(case, require(backend), cotangent)
    same, poisoned_grads = run(poisoned, backend, cotangent)
    assert clean[0].equal(same[0]) and (grads[1][dead] == 0).all()
    assert grads[0].equal(poisoned_grads[0]) and grads[1].equal(poisoned_grads[1])


def test_compile_fullgraph_and_autocast() -> None:
    made = MADE(6, 16, 12)
    x = torch.randn(4, 6)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), made(x))
    got, want = (torch.autograd.grad(module(x).sum(), list(made.parameters())) for module in (compiled, made))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = made(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), made(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("dim", "hidden", "n_params", "n_hidden"), [(1, 4, 2, 1), (5, 7, 2, 2), (8, 32, 1, 3), (6, 3, 3, 2)]
)
def test_made_jacobian_is_exactly_zero_ahead(dim: int, hidden: int, n_params: int, n_hidden: int) -> None:
    made = MADE(dim, hidden, n_params * dim, n_hidden=n_hidden, activation="tanh").double()
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x[None])[0], torch.randn(dim, dtype=torch.float64))
    for k in range(n_params * dim):
        assert (jacobian[k, k % dim :] == 0).all()
    if dim > 1 and hidden >= dim - 1:
        assert all((jacobian[k, : k % dim] != 0).all() for k in range(n_params * dim))


def test_state_dict_is_that_of_a_plain_linear() -> None:
    layer = MaskedLinear(torch.arange(3), torch.arange(4))
    assert list(layer.state_dict()) == ["weight", "bias"]
    plain = {
        "weight": torch.randn(4, 3),
        "bias": torch.randn(4),
        "mask": linear_mask(torch.arange(3), torch.arange(4)).float(),
    }
    layer.load_state_dict(plain)
    assert layer.weight.equal(plain["weight"])
    for wrong in (torch.ones(4, 3), torch.ones(1, 3), torch.ones(3, 4)):
        with pytest.raises(ValueError, match="mask must be out_degrees >= in_degrees"):
            layer.load_state_dict({**plain, "mask": wrong})
    sees_all = MaskedLinear(torch.zeros(3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    sees_all.load_state_dict({**plain, "mask": torch.ones(1, 3)})


X, W, I, O = torch.zeros(2, 3), torch.zeros(4, 3), torch.arange(3), torch.arange(4)  # noqa: E741


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"x": torch.zeros(2, 3, 1)}, r"x must be a floating-point tensor \[B, I\], got"),
        ({"weight": torch.zeros(4, 5)}, r"weight must be \[O, I\] with I = 3 of x, got \(4, 5\)"),
        ({"bias": torch.zeros(3)}, r"bias must be \[O\] = \[4\], got \(3,\)"),
        ({"in_degrees": O}, r"in_degrees must be integers \[3\], got torch.int64 \(4,\)"),
        ({"out_degrees": O.float()}, r"out_degrees must be integers \[4\], got torch.float32"),
        ({"out_degrees": None}, "out_degrees must be given where adjacency is not, got None"),
        ({"adjacency": torch.ones(4, 3).bool()}, "give degrees or adjacency, got both"),
        ({"in_degrees": None, "out_degrees": None, "adjacency": torch.ones(4, 3)}, "adjacency must be boolean"),
        ({"activation": "gate"}, "activation must be one of none, .*, got 'gate'"),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"masked_linear: {match}"):
        masked_linear(**{"x": X, "weight": W, "in_degrees": I, "out_degrees": O, **kwargs})


def test_native_checks_what_it_is_given() -> None:
    """The library is called without the contract's checks too."""
    require("cpu")
    ops, y = torch.ops.vlae_fast_cpu, torch.zeros(2, 4)
    both = {"x": X, "weight": W, "in_degrees": I, "out_degrees": O, "adjacency": None, "activation": "relu", "isa": ""}
    forward = both | {"bias": None}
    backward = both | {"grad": y, "y": y, "needs_x": True, "needs_weight": True, "needs_bias": True}
    no_degrees = {"in_degrees": None, "out_degrees": None}
    for wrong, match in (
        ({"x": torch.zeros(3)}, r"x must be \[B, I\], got \(3,\)"),
        ({"x": X.double()}, "x must be float32, got"),
        ({"weight": torch.zeros(4, 5)}, r"weight must be \[O, 3\], got \(4, 5\)"),
        ({"weight": torch.zeros(3, 4).T}, "weight must be contiguous, got strides"),
        ({"in_degrees": O}, r"in_degrees must be \(3,\), got \(4,\)"),
        ({"out_degrees": O.int()}, "out_degrees must be int64, got"),
        ({"in_degrees": I + 2**31}, "in_degrees must fit in 32 bits, got 2147483648"),
        ({"out_degrees": None}, "in_degrees, out_degrees must be given together, or else adjacency, got"),
        (no_degrees, "in_degrees, out_degrees must be given together, or else adjacency, got"),
        (no_degrees | {"adjacency": torch.ones(3, 4).bool()}, r"adjacency must be \(4, 3\), got \(3, 4\)"),
        ({"activation": "gate"}, "activation must be one of none, .*, got gate"),
    ):
        with pytest.raises(RuntimeError, match=f"masked_linear: {match}"):
            ops.masked_linear(**forward | wrong)
        with pytest.raises(RuntimeError, match=f"masked_linear_backward: {match}"):
            ops.masked_linear_backward(**backward | wrong)
    with pytest.raises(RuntimeError, match=r"masked_linear: bias must be \(4,\), got \(3,\)"):
        ops.masked_linear(**forward | {"bias": torch.zeros(3)})
    with pytest.raises(RuntimeError, match=r"masked_linear: isa must be empty or one of .*, got mmx"):
        ops.masked_linear(**forward | {"isa": "mmx"})
    for wrong, match in (
        ({"grad": torch.zeros(2, 3)}, r"grad must be \(2, 4\), got \(2, 3\)"),
        ({"y": torch.zeros(3, 4)}, r"y must be \(2, 4\), got \(3, 4\)"),
        ({"y": None}, "y must be given with an activation, got None"),
    ):
        with pytest.raises(RuntimeError, match=f"masked_linear_backward: {match}"):
            ops.masked_linear_backward(**backward | wrong)


def test_dtype_error() -> None:
    with pytest.raises(
        TypeError, match=r"masked_linear: weight must have the dtype of x, torch.float32, got torch.float64"
    ):
        masked_linear(X, W.double(), in_degrees=I, out_degrees=O)


def test_made_errors() -> None:
    with pytest.raises(ValueError, match="MADE: output_dim must be a multiple of input_dim = 3, got 4"):
        MADE(3, 8, 4)
    with pytest.raises(ValueError, match=r"MADE: x must be \[B, 3\], got \(2, 4\)"):
        MADE(3, 8, 6)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"MADE: context must be \[B, 5\], got None"):
        MADE(3, 8, 6, context_dim=5)(torch.zeros(2, 3))
