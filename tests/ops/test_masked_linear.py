"""masked_linear: every backend against the reference, the reference against plain PyTorch, the contract's errors."""

import pytest
import torch
import torch.nn.functional as F
from cases.properties import any_call, backend_of, dtypes, laid_out, layouts, use_isa
from conftest import backends_and_dtypes, backends_of, require
from hypothesis import strategies as st

from vlae_fast.backends import cpu
from vlae_fast.layers import MADE, MaskedLinear
from vlae_fast.masks import linear_mask
from vlae_fast.ops import masked_linear
from vlae_fast.reference.arguments import Mask
from vlae_fast.testing import Case, budget, check_op, linear_case, opcheck, run


def any_degrees(case: Case, seed: int = 0, span: int = 10) -> Case:
    """The case with degrees in no order, inputs that no output reads and outputs that read no input among them."""
    g = torch.Generator().manual_seed(seed)
    out_dim, in_dim = case.tensors["weight"].shape
    degrees = {
        "in_degrees": torch.randint(-span, span + 2, (in_dim,), generator=g),
        "out_degrees": torch.randint(-span - 2, span, (out_dim,), generator=g),
    }
    return Case(f"{case.name}-any_degrees", case.op, {**case.tensors, **degrees}, case.options)


def tiled_degrees(case: Case) -> Case:
    """The case with the outputs of a MADE with two parameters a dimension: sorted, twice."""
    half = case.tensors["out_degrees"][::2]
    degrees = {"out_degrees": half.repeat(2)[: len(case.tensors["out_degrees"])]}
    return Case(f"{case.name}-tiled", case.op, {**case.tensors, **degrees}, case.options)


def dead_blocks(case: Case) -> Case:
    """The case with an adjacency that has empty rows, columns and blocks."""
    adjacency = case.tensors["adjacency"].clone()
    adjacency[: len(adjacency) // 2, adjacency.shape[1] // 3 :] = False
    adjacency[1::5] = False
    adjacency[:, 2::7] = False
    return Case(f"{case.name}-dead_blocks", case.op, {**case.tensors, "adjacency": adjacency}, case.options)


CASES = [
    linear_case(5, 8, 12),
    linear_case(1, 1, 1, activation="relu"),
    linear_case(7, 33, 70, activation="elu"),
    linear_case(3, 64, 130, activation="tanh"),
    linear_case(4, 9, 6, adjacency=True, activation="relu"),
    linear_case(0, 4, 6),
    linear_case(16, 130, 257),
    linear_case(1, 40, 30, adjacency=True, activation="elu"),
    linear_case(33, 90, 71, adjacency=True, activation="tanh"),
    linear_case(200, 20, 50, activation="relu"),
    linear_case(29, 16, 32, activation="elu"),
    any_degrees(linear_case(15, 67, 95, activation="relu")),
    any_degrees(linear_case(3, 5, 4), span=1),
    tiled_degrees(linear_case(31, 120, 128)),
    linear_case(130, 640, 640, activation="relu"),
    pytest.param(linear_case(256, 1024, 1568), marks=pytest.mark.slow),
    pytest.param(linear_case(1024, 784, 1024, activation="relu"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("backend", backends_of("masked_linear"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize(
    "case",
    [
        linear_case(100, 70, 45, activation="elu"),
        any_degrees(linear_case(130, 66, 33, activation="tanh")),
        linear_case(61, 40, 77, adjacency=True, activation="relu"),
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


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4]], ids=str)
def test_opcheck(case: Case) -> None:
    opcheck(case, "reference")


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
def test_reference_is_plain_pytorch(case: Case) -> None:
    t = {k: v.double().requires_grad_() if v.is_floating_point() else v for k, v in case.tensors.items()}
    mask = t["adjacency"] if "adjacency" in t else linear_mask(t["in_degrees"], t["out_degrees"])
    y = F.linear(t["x"], t["weight"] * mask, t["bias"])
    y = y.relu() if case.options["activation"] == "relu" else y
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
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
def test_dead_weights_are_never_read(case: Case, backend: str) -> None:
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
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made(x).dtype == torch.bfloat16


def test_double_backward_says_no() -> None:
    layer = MaskedLinear(torch.arange(3), torch.arange(3), activation="tanh")
    x = torch.randn(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="masked_linear: double backward is not implemented"):
        grad.sum().backward()


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
    with pytest.raises(ValueError, match="mask must be out_degrees >= in_degrees"):
        layer.load_state_dict({**plain, "mask": torch.ones(4, 3)})


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
        ({"activation": "gate"}, "activation must be one of none, relu, elu, tanh, got 'gate'"),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"masked_linear: {match}"):
        masked_linear(**{"x": X, "weight": W, "in_degrees": I, "out_degrees": O, **kwargs})


def test_native_checks_what_it_is_given() -> None:
    """The library is called without the contract's checks too."""
    require("cpu")
    ops = torch.ops.vlae_fast_cpu
    y = torch.zeros(2, 4)
    forward = {"x": X, "weight": W, "bias": None, "i": I, "o": O, "adjacency": None, "activation": "relu", "isa": ""}
    backward = {"grad": y, "y": y, **{k: v for k, v in forward.items() if k != "bias"}}
    backward = {**backward, "isa": True, "w": True, "b": True, "name": ""}  # isa's place is that of needs_x
    for wrong, match in (
        ({"x": torch.zeros(3)}, r"x must be \[B, I\], got \(3,\)"),
        ({"x": X.double()}, "x must be float32, got"),
        ({"weight": torch.zeros(4, 5)}, r"weight must be \[O, 3\], got \(4, 5\)"),
        ({"weight": torch.zeros(3, 4).T}, "weight must be contiguous, got strides"),
        ({"i": O}, r"in_degrees must be \(3,\), got \(4,\)"),
        ({"o": O.int()}, "out_degrees must be int64, got"),
        ({"i": I + 2**31}, "in_degrees must fit in 32 bits, got 2147483648"),
        ({"o": None}, "in_degrees, out_degrees must be given together, or else adjacency, got"),
        ({"i": None, "o": None}, "in_degrees, out_degrees must be given together, or else adjacency, got"),
        ({"i": None, "o": None, "adjacency": torch.ones(3, 4).bool()}, r"adjacency must be \(4, 3\), got \(3, 4\)"),
        ({"activation": "gate"}, "activation must be one of none, relu, elu, tanh, got gate"),
    ):
        with pytest.raises(RuntimeError, match=f"masked_linear: {match}"):
            ops.masked_linear(*{**forward, **wrong}.values())
        with pytest.raises(RuntimeError, match=f"masked_linear_backward: {match}"):
            ops.masked_linear_backward(*{**backward, **wrong}.values())
    with pytest.raises(RuntimeError, match=r"masked_linear: bias must be \(4,\), got \(3,\)"):
        ops.masked_linear(*{**forward, "bias": torch.zeros(3)}.values())
    with pytest.raises(RuntimeError, match=r"masked_linear: isa must be empty or one of .*, got mmx"):
        ops.masked_linear(*{**forward, "isa": "mmx"}.values())
    for wrong, match in (
        ({"grad": torch.zeros(2, 3)}, r"grad must be \(2, 4\), got \(2, 3\)"),
        ({"y": torch.zeros(3, 4)}, r"y must be \(2, 4\), got \(3, 4\)"),
        ({"y": None}, "y must be given with an activation, got None"),
    ):
        with pytest.raises(RuntimeError, match=f"masked_linear_backward: {match}"):
            ops.masked_linear_backward(*{**backward, **wrong}.values())


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
