"""masked_linear: every backend against the reference, the reference against plain PyTorch, the contract's errors."""

import pytest
import torch
import torch.nn.functional as F
from conftest import backends_of, require

from vlae_fast.layers import MADE, MaskedLinear
from vlae_fast.masks import linear_mask
from vlae_fast.ops import masked_linear
from vlae_fast.testing import Case, check_op, linear_case, opcheck, run

CASES = [
    linear_case(5, 8, 12),
    linear_case(1, 1, 1, activation="relu"),
    linear_case(7, 33, 70, activation="elu"),
    linear_case(3, 64, 130, activation="tanh"),
    linear_case(4, 9, 6, adjacency=True, activation="relu"),
    linear_case(0, 4, 6),
    linear_case(16, 130, 257),
]


@pytest.mark.parametrize("backend", backends_of("masked_linear"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    check_op(linear_case(5, 8, 12, activation="elu", dtype=dtype), "reference")


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
