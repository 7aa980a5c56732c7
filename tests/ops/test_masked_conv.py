"""masked_conv: every backend against the reference, the reference against plain PyTorch, and the contract's errors."""

import pytest
import torch
import torch.nn.functional as F
from cases.activations import FORMULAS
from cases.deadline import slow_where
from cases.masked_conv import CASES
from cases.properties import use_isa
from cases.rows import backends_and_cases, backends_and_dtypes, backends_of, require

from vlae_fast.backends import cpu
from vlae_fast.masks import MASK_TYPES, conv_mask, live_taps
from vlae_fast.ops import masked_conv
from vlae_fast.testing import Case, check_op, conv_case, opcheck, run

WITH_MORE = [name for name in CASES if name.startswith(("context", "residual"))]
DILATED = [name for name, case in CASES.items() if "dilation" in case.options]


def work(case: Case) -> int:
    """Products of the dense convolution."""
    x, weight = case.tensors["x"], case.tensors["weight"]
    return x.shape[0] * x.shape[2] * x.shape[3] * weight.numel()


@pytest.mark.parametrize(
    ("backend", "case"), backends_and_cases("masked_conv", CASES.values(), lambda case: work(case) > 2e6), ids=str
)
def test_agrees_with_reference(case: Case, backend: str) -> None:
    check_op(case, require(backend))


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "cond", "context", "context_weight"])
def test_only_what_is_asked_for(wanted: str, backend: str) -> None:
    case = conv_case("B", (2, 5, 6, 5), 8, 3, activation="gate", cond="vector", context=3)
    cotangent = torch.randn(2, 4, 6, 5)
    everything = dict(zip(case.tensors, run(case, require(backend), [cotangent])[1], strict=True))
    tensors = {k: v.detach().requires_grad_(k == wanted) for k, v in case.tensors.items()}
    out = masked_conv(**tensors, **case.options, backend=backend)
    out.backward(cotangent)
    torch.testing.assert_close(tensors[wanted].grad, everything[wanted])
    assert all(t.grad is None for name, t in tensors.items() if name != wanted)


@pytest.mark.parametrize(("backend", "dtype"), backends_and_dtypes("masked_conv"))
@pytest.mark.parametrize("activation", ["elu", "gate"])
def test_dtypes(activation: str, backend: str, dtype: torch.dtype) -> None:
    require(backend)
    check_op(conv_case("B", (2, 8, 9, 7), 16, 3, activation=activation, cond="vector", dtype=dtype), backend)


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_bfloat16_on_the_cpu(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widened to float32, as where a processor has no matrix tiles."""
    require("cpu")
    use_isa(cpu.isas()[0], monkeypatch)
    check_op(case.to(torch.bfloat16), "cpu")


@slow_where(lambda name, **_: name not in ("gate, channels last", "no bias", "context"))
@pytest.mark.parametrize("backend", backends_of("masked_conv"))
@pytest.mark.parametrize(
    "name",
    ["gate", "gate, channels last", "elu, contiguous", "no bias", "one pixel", "context", "residual", *DILATED[:2]],
)
def test_opcheck(name: str, backend: str) -> None:
    opcheck(CASES[name], require(backend))


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
@pytest.mark.parametrize("activation", ["none", "elu", "gate"])
@pytest.mark.parametrize("residual", [False, True])
def test_opcheck_of_what_training_calls(residual: bool, activation: str, backend: str) -> None:
    require(backend)
    channels = 4 if activation == "gate" else 8
    x, weight, bias, cond = (
        torch.randn(2, channels, 5, 4),
        torch.randn(8, channels, 3, 3),
        torch.randn(8),
        torch.randn(2, 8, 5, 4),
    )
    context = (torch.randn(2, 3, 5, 4), torch.randn(8, 3))
    own = (x, weight, bias, cond, "B", 1, activation, [1, 2], backend)
    args = (*own, *context, residual)
    library = torch.ops.vlae_fast
    torch.library.opcheck(library.masked_conv_with_sigmoid.default, args, test_utils=("test_schema", "test_faketensor"))
    out, sigmoid, activated = library.masked_conv_with_sigmoid(*args)
    kept = None if activation == "none" else activated if residual else out
    needs = [True, True, False, True, False, True]
    args = (torch.randn_like(out), kept, sigmoid, *own, needs, *context, residual)
    torch.library.opcheck(library.masked_conv_backward.default, args, test_utils=("test_schema", "test_faketensor"))


def test_the_output_must_not_be_overwritten_where_the_gradient_needs_it() -> None:
    x, weight = torch.randn(1, 2, 3, 3), torch.randn(2, 2, 3, 3, requires_grad=True)
    masked_conv(x, weight, mask_type="B").add_(1).sum().backward()
    plain = F.conv2d(x, (weight * conv_mask("B", weight.shape)), padding=1)
    torch.testing.assert_close(weight.grad, torch.autograd.grad(plain.sum(), weight)[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        masked_conv(x, weight, mask_type="B", activation="elu").add_(1).sum().backward()


@pytest.mark.parametrize(
    "name",
    [
        "gate",
        "gate, channels last",
        "elu, contiguous",
        "rgb",
        "vertical A",
        "vertical B",
        "horizontal B",
        *WITH_MORE,
        *DILATED,
    ],
)
def test_reference_is_plain_pytorch(name: str) -> None:
    """The reference, and its hand-written gradients, against autograd of the formula in the docstring."""
    case = CASES[name].to(torch.float64)
    t = {k: None if v is None else v.clone().requires_grad_() for k, v in case.tensors.items()}
    mask = conv_mask(case.options["mask_type"], t["weight"].shape, image_channels=case.options["image_channels"])
    dilation = case.options.get("dilation", (1, 1))
    padding = [d * (t["weight"].shape[-1] // 2) for d in dilation]
    y = F.conv2d(t["x"], t["weight"] * mask, t["bias"], padding=padding, dilation=dilation)
    if t["cond"] is not None:
        y = y + (t["cond"] if t["cond"].dim() == 4 else t["cond"][:, :, None, None])
    if "context" in t:
        y = y + torch.einsum("pd,bdhw->bphw", t["context_weight"], t["context"])
    y = FORMULAS[case.options["activation"]](y)
    if case.options.get("residual"):
        y = y + t["x"]
    cotangent = torch.randn_like(y)
    outs, grads = run(case, "reference", [cotangent])
    torch.testing.assert_close(outs[0], y.detach(), rtol=0, atol=1e-13)
    expected = torch.autograd.grad(y, [v for v in t.values() if v is not None], cotangent)
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
@pytest.mark.parametrize("activation", ["none", "relu", "elu", "gate"])
def test_gradcheck(activation: str, dilation: int | tuple[int, int]) -> None:
    case = conv_case("B", (2, 2, 3, 4), 4, 3, activation=activation, cond="vector", context=1, dtype=torch.float64)
    tensors = {k: v.clone().requires_grad_() for k, v in case.tensors.items()}

    def call(*args: torch.Tensor) -> torch.Tensor:
        given = dict(zip(tensors, args, strict=True))
        return masked_conv(**given, mask_type="B", activation=activation, dilation=dilation, backend="reference")

    assert torch.autograd.gradcheck(call, tuple(tensors.values()))


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
def test_a_dilated_kernel_is_a_larger_one_with_dead_places(backend: str) -> None:
    x, weight = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 3, 3)
    spread = torch.zeros(5, 3, 5, 5)
    spread[:, :, ::2, ::2] = weight
    got = masked_conv(x, weight, mask_type="B", dilation=2, backend=require(backend))
    torch.testing.assert_close(got, masked_conv(x, spread, mask_type="B", backend=backend))
    assert got.equal(masked_conv(x, weight, mask_type="B", dilation=[2, 2], backend=backend))


@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("backend", backends_of("masked_conv"))
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_reads_what_the_mask_allows_and_nothing_else(mask_type: str, backend: str, dilation: tuple[int, int]) -> None:
    x, weight = torch.randn(1, 1, 7, 9, requires_grad=True), torch.ones(1, 1, 3, 3)
    y = masked_conv(x, weight, mask_type=mask_type, dilation=dilation, backend=require(backend))
    (grad,) = torch.autograd.grad(y[0, 0, 3, 4], x)
    assert {(i - 3, j - 4) for i, j in grad[0, 0].nonzero().tolist()} == {*live_taps(mask_type, (3, 3), dilation)}


@pytest.mark.parametrize("backend", backends_of("masked_conv"))
def test_sigmoid_is_that_of_the_gate(backend: str) -> None:
    case = conv_case("B", (2, 5, 6, 5), 8, 3, activation="gate", cond="vector", dilation=(1, 2))
    args = (*case.tensors.values(), "B", 1, "gate", (1, 2))
    _, sigmoid, _ = torch.ops.vlae_fast.masked_conv_with_sigmoid(*args, require(backend))
    _, expected, _ = torch.ops.vlae_fast.masked_conv_with_sigmoid(*args, "reference")
    torch.testing.assert_close(sigmoid, expected)


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
    plain = masked_conv(x, weight, mask_type="B", activation="gate")
    torch.testing.assert_close(y.float(), plain, rtol=0.05, atol=0.05)
    got, want = (torch.autograd.grad(out.float().sum(), (x, weight)) for out in (y, plain))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * b.abs().max().item())


X, W = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (
            {"x": torch.zeros(4, 5, 5)},
            r"x must be a floating-point tensor \[B, C_in, H, W\], got torch.float32 \(4, 5, 5\)",
        ),
        ({"x": X.int()}, "x must be a floating-point tensor.*got torch.int32"),
        ({"weight": torch.zeros(6, 4, 4, 4)}, r"weight must be \[P, C_in, k, k\] with k odd, got \(6, 4, 4, 4\)"),
        ({"x": torch.zeros(2, 3, 5, 5)}, "x must have the C_in of weight, 4 channels, got 3"),
        (
            {"x": X[:, :0], "weight": W[:, :0]},
            "x must have C_in, H, W >= 1 and weight P >= 1, got",
        ),
        ({"x": X[:, :, :0]}, r"x must have C_in, H, W >= 1 and weight P >= 1, got \(\(2, 4, 0, 5\)"),
        ({"weight": W[:0]}, r"x must have C_in, H, W >= 1 and weight P >= 1, got .*\(0, 4, 3, 3\)"),
        ({"weight": W[:5], "activation": "gate"}, "weight must have an even P under activation 'gate', got 5"),
        ({"bias": torch.zeros(5)}, r"bias must be \[P\] = \[6\], got \(5,\)"),
        ({"cond": torch.zeros(2, 5)}, r"cond must be \[2, 6\] or \[2, 6, 5, 5\], got \(2, 5\)"),
        ({"context": X}, "context_weight must be given with context, got None"),
        ({"context_weight": W[:, :, 0, 0]}, "context must be given with context_weight, got None"),
        (
            {"context": X[:, :, 1:], "context_weight": W[:, :, 0, 0]},
            r"context must be \[2, D, 5, 5\] with D >= 1, got \(2, 4, 4, 5\)",
        ),
        (
            {"context": X, "context_weight": W[:, :3, 0, 0]},
            r"context_weight must be \[P, D\] = \[6, 4\], got \(6, 3\)",
        ),
        ({"residual": True}, "residual must be False unless C_in = C = 6, got C_in = 4"),
        ({"mask_type": "C"}, "mask_type must be one of A, B.*got 'C'"),
        ({"activation": "tanh"}, "activation must be one of none, .*, got 'tanh'"),
        ({"image_channels": 4}, "image_channels must be positive and divide the 6 output channels, got 4"),
        ({"dilation": 0}, "dilation must be an int of 1 to 32768 or a pair of them, got 0"),
        ({"dilation": (1, 2, 3)}, r"dilation must be an int of 1 to 32768 or a pair of them, got \(1, 2, 3\)"),
        ({"dilation": (1, -2)}, r"dilation must be an int of 1 to 32768 or a pair of them, got \(1, -2\)"),
        ({"dilation": 1 << 40}, "dilation must be an int of 1 to 32768 or a pair of them, got 1099511627776"),
        ({"dilation": 1.5}, "dilation must be an int of 1 to 32768 or a pair of them, got 1.5"),
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
