"""made_inverse: every backend against the reference; the reference against the transform it inverts."""

import pytest
import torch
from conftest import backends_of, require

from vlae_fast import reference
from vlae_fast.ops import made_inverse
from vlae_fast.testing import Case, check_op, made_case, opcheck

CASES = [
    made_case(5, 6, (16, 16)),
    made_case(1, 9, (32,), activation="tanh"),
    made_case(3, 4, (8, 8, 8), affine=False, activation="elu"),
    made_case(4, 5, (12, 12), cond=True),
    made_case(4, 5, (12, 12), reverse=True),
    made_case(2, 1, (4,)),
    made_case(0, 3, (8,)),
    made_case(33, 17, (70, 45)),
]


def forward(case: Case, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    t = case.tensors
    params, _, _ = reference.made(x, (t["weights"], t["biases"], t["degrees"]), t["cond"], case.options["activation"])
    shift, log_scale = reference.shift_and_log_scale(params, x.shape[1])
    return (x - shift) * torch.exp(-log_scale), -log_scale.sum(1)


@pytest.mark.parametrize("backend", backends_of("made_inverse"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inverts_the_transform(case: Case) -> None:
    case = case.to(torch.float64)
    x, log_det = made_inverse(**case.tensors, **case.options)
    eps, forward_log_det = forward(case, x)
    torch.testing.assert_close(eps, case.tensors["eps"], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, forward_log_det, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[3], CASES[4]], ids=str)
def test_log_det_is_that_of_the_jacobian(case: Case) -> None:
    case = case.to(torch.float64)
    x, log_det = made_inverse(**case.tensors, **case.options)
    for b in range(x.shape[0]):
        cond = case.tensors["cond"]
        one = Case("", "", {**case.tensors, "cond": None if cond is None else cond[b : b + 1]}, case.options)
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: forward(one, v[None])[0][0], x[b])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[b], rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
def test_opcheck(case: Case) -> None:
    opcheck(case, "reference")


@pytest.mark.parametrize("affine", [True, False])
def test_gradcheck(affine: bool) -> None:
    case = made_case(2, 3, (6, 6), affine=affine, activation="tanh", cond=True, dtype=torch.float64)
    t = case.tensors
    inputs = [v.clone().requires_grad_() for v in (t["eps"], t["cond"], *t["weights"], *t["biases"])]
    n = len(t["weights"])

    def call(eps: torch.Tensor, cond: torch.Tensor, *layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return made_inverse(eps, layers[:n], layers[n:], t["degrees"], cond, activation="tanh")

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


def test_double_backward_says_no() -> None:
    t = made_case(2, 3, (6,)).tensors
    eps = t["eps"].clone().requires_grad_()
    x, _ = made_inverse(eps, t["weights"], t["biases"], t["degrees"])
    (grad,) = torch.autograd.grad(x.sum(), eps, create_graph=True)
    with pytest.raises(RuntimeError, match="made_inverse: double backward is not implemented"):
        grad.sum().backward()


T = made_case(2, 3, (6,)).tensors


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"eps": torch.zeros(3)}, r"eps must be a floating-point tensor \[B, D\] with D >= 1, got"),
        ({"biases": []}, r"weights, biases, degrees must have L, L and L \+ 1 entries with L >= 1, got \(2, 0, 3\)"),
        ({"weights": [torch.zeros(6, 4), T["weights"][1]]}, r"weights\[0\], degrees\[0\] must be \[O, 3\], \[3\], got"),
        ({"biases": [torch.zeros(5), T["biases"][1]]}, r"biases\[0\] must be \[6\], got \(5,\)"),
        (
            {"degrees": [T["degrees"][0] - 1, *T["degrees"][1:]]},
            r"degrees\[0\] must be a permutation of 1..3, got \[0, 1, 2\]",
        ),
        ({"degrees": [*T["degrees"][:2], T["degrees"][2].sort().values]}, r"degrees\[-1\] must be degrees\[0\] - 1"),
        ({"cond": torch.zeros(2, 5)}, r"cond must be \[2, 6\], got \(2, 5\)"),
        ({"activation": "gate"}, "activation must be one of relu, elu, tanh, got 'gate'"),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"made_inverse: {match}"):
        made_inverse(**{**T, **kwargs})


def test_dtype_error() -> None:
    with pytest.raises(
        TypeError, match=r"made_inverse: weights must have the dtype of eps, torch.float64, got torch.float32"
    ):
        made_inverse(**{**T, "eps": T["eps"].double()})
