"""masked_conv: every backend against the reference, the reference against plain PyTorch, and the contract's errors."""

import pytest
import torch
import torch.nn.functional as F
from conftest import backends_of, require

from vlae_fast import reference
from vlae_fast.masks import MASK_TYPES, conv_mask
from vlae_fast.ops import masked_conv
from vlae_fast.testing import Case, check_op, conv_case, opcheck, run

CASES = [
    conv_case("A", (2, 1, 9, 7), 8, 7),
    conv_case("B", (2, 8, 9, 7), 16, 3, activation="gate", cond="vector"),
    conv_case("B", (1, 5, 6, 6), 6, 3, activation="gate", cond="map", layout="channels_last"),
    conv_case("B", (3, 12, 8, 8), 12, 3, activation="elu", layout="contiguous"),
    conv_case("A", (2, 3, 5, 5), 6, 5, activation="relu", image_channels=3),
    conv_case("B", (2, 6, 5, 4), 12, 3, activation="gate", image_channels=3, cond="vector"),
    conv_case("vertical_A", (2, 4, 6, 5), 4, 3),
    conv_case("vertical_B", (2, 4, 6, 5), 7, 5, activation="elu"),
    conv_case("horizontal_A", (2, 4, 6, 5), 3, 3, bias=False),
    conv_case("horizontal_B", (2, 4, 6, 5), 10, 7, activation="gate"),
    conv_case("B", (2, 4, 1, 1), 4, 3, activation="gate"),
    conv_case("B", (1, 1, 1, 9), 1, 1),
    conv_case("B", (4, 6, 5, 5), 6, 3, layout="expanded"),
    conv_case("B", (0, 4, 5, 5), 4, 3, activation="gate", cond="vector"),
    conv_case("B", (2, 33, 7, 5), 34, 3, activation="gate", cond="vector"),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    check_op(conv_case("B", (2, 8, 9, 7), 16, 3, activation="gate", cond="vector", dtype=dtype), "reference")


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[3], CASES[8], CASES[10]], ids=str)
def test_opcheck(case: Case) -> None:
    opcheck(case, "reference")


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[4], CASES[9]], ids=str)
def test_reference_is_plain_pytorch(case: Case) -> None:
    """The reference, and its hand-written gradients, against autograd of the formula in the docstring."""
    case = case.to(torch.float64)
    t = {k: None if v is None else v.clone().requires_grad_() for k, v in case.tensors.items()}
    mask = conv_mask(case.options["mask_type"], t["weight"].shape, image_channels=case.options["image_channels"])
    y = F.conv2d(t["x"], t["weight"] * mask, t["bias"], padding=t["weight"].shape[-1] // 2)
    if t["cond"] is not None:
        y = y + (t["cond"] if t["cond"].dim() == 4 else t["cond"][:, :, None, None])
    y = reference.activate(y, case.options["activation"])
    cotangent = torch.randn_like(y)
    outs, grads = run(case, "reference", [cotangent])
    torch.testing.assert_close(outs[0], y.detach(), rtol=0, atol=1e-13)
    expected = torch.autograd.grad(y, [v for v in t.values() if v is not None], cotangent)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["none", "relu", "elu", "gate"])
def test_gradcheck(activation: str) -> None:
    case = conv_case("B", (2, 2, 3, 4), 4, 3, activation=activation, cond="vector", dtype=torch.float64)
    tensors = {k: v.clone().requires_grad_() for k, v in case.tensors.items()}
    assert torch.autograd.gradcheck(
        lambda *a: masked_conv(*a, mask_type="B", activation=activation, backend="reference"), tuple(tensors.values())
    )


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_dead_weights_are_never_read(mask_type: str, backend: str) -> None:
    case = conv_case(mask_type, (2, 3, 5, 5), 4, 3)
    dead = ~conv_mask(mask_type, (4, 3, 3, 3))
    poisoned = Case(
        case.name,
        case.op,
        {**case.tensors, "weight": case.tensors["weight"].masked_fill(dead, torch.nan)},
        case.options,
    )
    cotangent = [torch.ones(2, 4, 5, 5)]
    clean, grads = run(case, require(backend), cotangent)
    same, poisoned_grads = run(poisoned, backend, cotangent)
    assert clean[0].equal(same[0])
    assert (grads[1][dead] == 0).all() and grads[1].equal(poisoned_grads[1]) and grads[0].equal(poisoned_grads[0])


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
def test_output_is_channels_last(backend: str) -> None:
    x = torch.randn(2, 3, 5, 4)
    y = masked_conv(x, torch.randn(4, 3, 3, 3), mask_type="B", backend=require(backend))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
def test_compile_fullgraph(backend: str) -> None:
    require(backend)
    x = torch.randn(2, 4, 6, 5, requires_grad=True)
    weight, bias, cond = torch.randn(8, 4, 3, 3, requires_grad=True), torch.randn(8), torch.randn(2, 8)

    def f(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return masked_conv(x, weight, bias, cond, mask_type="B", activation="gate", backend=backend).square().sum()

    expected = torch.autograd.grad(f(x, weight), (x, weight))
    got = torch.autograd.grad(torch.compile(f, fullgraph=True, backend="aot_eager")(x, weight), (x, weight))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast() -> None:
    x, weight = torch.randn(2, 4, 6, 5, requires_grad=True), torch.randn(8, 4, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = masked_conv(x, weight, mask_type="B", activation="gate")
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32 and weight.grad is not None


def test_double_backward_says_no() -> None:
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    y = masked_conv(x, torch.randn(2, 2, 3, 3), mask_type="B", activation="elu")
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="masked_conv: double backward is not implemented"):
        grad.sum().backward()


X, W = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (
            {"x": torch.zeros(4, 5, 5)},
            r"x must be a floating-point tensor \[B, C_in, H, W\], got torch.float32 \(4, 5, 5\)",
        ),
        ({"x": X.int()}, "x must be a floating-point tensor.*got torch.int32"),
        ({"weight": torch.zeros(6, 4, 4, 4)}, r"weight must be \[C_out, C_in, k, k\] with k odd, got \(6, 4, 4, 4\)"),
        ({"x": torch.zeros(2, 3, 5, 5)}, "x must have the C_in of weight, 4 channels, got 3"),
        ({"weight": W[:5], "activation": "gate"}, "weight must have an even C_out under activation 'gate', got 5"),
        ({"bias": torch.zeros(5)}, r"bias must be \[C_out\] = \[6\], got \(5,\)"),
        ({"cond": torch.zeros(2, 5)}, r"cond must be \[2, 6\] or \[2, 6, 5, 5\], got \(2, 5\)"),
        ({"mask_type": "C"}, "mask_type must be one of A, B.*got 'C'"),
        ({"activation": "tanh"}, "activation must be one of none, relu, elu, gate, got 'tanh'"),
        ({"image_channels": 4}, "image_channels must be positive and divide the 6 output channels, got 4"),
        ({"backend": "quantum"}, "backend must be one of auto.*got 'quantum'"),
    ],
)
def test_errors(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"masked_conv: {match}"):
        masked_conv(**{"x": X, "weight": W, "mask_type": "B", **kwargs})


def test_dtype_error() -> None:
    with pytest.raises(
        TypeError, match=r"masked_conv: weight must have the dtype of x, torch.float32, got torch.float64"
    ):
        masked_conv(X, W.double(), mask_type="B")
