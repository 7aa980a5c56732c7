"""masked_conv of bfloat16 by a processor's matrix tiles: any call, exact sums, what no pixel reads, its own errors."""

import subprocess
import sys

import pytest
import torch
from cases.masked_conv import CALLS, CASES, case_of
from cases.properties import any_call, laid_out, use_isa
from cases.rows import require
from hypothesis import strategies as st

from vlae_fast.backends import cpu
from vlae_fast.ops import masked_conv
from vlae_fast.testing import Case, check_op, conv_case

with_tiles = pytest.mark.skipif(not cpu.has_matrix_tiles(), reason="the processor has no matrix tiles")


@with_tiles
@pytest.mark.parametrize("case", [c for c in CASES.values() if c.tensors["x"].numel()], ids=str)
def test_every_case(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    use_isa("amx", monkeypatch)
    check_op(case.to(torch.bfloat16), require("cpu"))


@with_tiles
@any_call(**CALLS | {"c_in": st.sampled_from([1, 2, 3, 12, 16, 17, 32, 33])})  # those of whole blocks too
def test_any_call(layout, **call) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_isa("amx", patch)
        check_op(laid_out(case_of(**call).to(torch.bfloat16), layout), "cpu", nudges=3)


def _integers(*shape: int) -> torch.Tensor:
    return torch.randint(-2, 3, shape).to(torch.bfloat16)


@with_tiles
@pytest.mark.parametrize("channels", [1, 5, 16, 31, 32, 48, 80])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (13, 9), (28, 28)])
def test_sums_are_exact(size: tuple[int, int], channels: int) -> None:
    """Of whole numbers: the sums are whole and below 2^24, and each is rounded once."""
    x, weight, cond = _integers(3, channels, *size), _integers(channels + 3, channels, 3, 3), _integers(3, channels + 3)
    context, of_context = _integers(3, 5, *size), _integers(channels + 3, 5)
    tensors = (x, weight, _integers(channels + 3), cond, context, of_context)
    grad = _integers(3, channels + 3, *size)

    def results(backend: str, dtype: torch.dtype) -> list[torch.Tensor]:
        own = [t.to(dtype).requires_grad_() for t in tensors]
        x, weight, bias, cond, context, of_context = own
        y = masked_conv(
            x, weight, bias, cond, mask_type="B", context=context, context_weight=of_context, backend=backend
        )
        return [y, *torch.autograd.grad(y, own, grad.to(dtype))]

    for got, exact in zip(results("cpu", torch.bfloat16), results("reference", torch.float64), strict=True):
        assert exact.abs().max() < 2**24
        assert got.equal(exact.to(torch.float32).to(torch.bfloat16))


@with_tiles
def test_what_is_not_finite_reaches_who_reads_it_alone() -> None:
    """A pixel that is NaN is in no output before it, also where channels do not fill a tile."""
    x, weight = torch.randn(2, 17, 9, 11).bfloat16(), torch.randn(17, 17, 5, 5).bfloat16()
    clean = masked_conv(x, weight, mask_type="B", backend="cpu")
    x[0, 3, 4, 5] = torch.nan
    y = masked_conv(x, weight, mask_type="B", backend="cpu")
    raster = torch.arange(99).view(9, 11)
    reached = (raster >= raster[4, 5]) & (raster // 11 <= 6) & ((raster % 11 - 5).abs() <= 2)
    assert y[0].isnan().all(0).equal(reached)
    assert y[0][:, ~reached].equal(clean[0][:, ~reached]) and y[1].equal(clean[1])


@with_tiles
def test_bits_depend_on_no_neighbour_and_no_thread() -> None:
    case = conv_case("B", (5, 20, 13, 11), 40, 3, activation="gate", cond="vector").to(torch.bfloat16)
    x, weight, bias, cond = (case.tensors[name] for name in ("x", "weight", "bias", "cond"))
    leaves = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), cond.requires_grad_()]

    def run() -> list[torch.Tensor]:
        y = masked_conv(*leaves, mask_type="B", activation="gate", backend="cpu")
        return [y, *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        torch.set_num_threads(3)
        assert all(a.equal(b) for a, b in zip(alone, run(), strict=True))
    finally:
        torch.set_num_threads(threads)
    one = masked_conv(x[2:3], weight, bias, cond[2:3], mask_type="B", activation="gate", backend="cpu")
    assert one.equal(alone[0][2:3])


@with_tiles
@pytest.mark.parametrize("closed", [-87.4, -100.0, -1000.0])
def test_a_closed_gate_has_no_gradient(closed: float) -> None:
    """Its sigmoid is 0 in bfloat16, which is no divisor."""
    x, weight = torch.zeros(1, 8, 3, 3).bfloat16(), torch.zeros(16, 8, 3, 3).bfloat16()
    bias = torch.cat([torch.full((8,), 0.5), torch.full((8,), closed)]).bfloat16().requires_grad_()
    masked_conv(x, weight, bias, mask_type="B", activation="gate", backend="cpu").sum().backward()
    assert bias.grad is not None and bias.grad.abs().max() < 1e-30


@with_tiles
def test_a_gate_that_is_certain_has_no_negative_slope() -> None:
    """Its output and its sigmoid were both rounded to 8 bits: their quotient may pass 1, as that of these two does."""
    ops, x, weight = torch.ops.vlae_fast_cpu, torch.zeros(1, 1, 1, 1).bfloat16(), torch.zeros(4, 1, 1, 1)
    bias = torch.tensor([13.104135, 10.167985, -6.224697, -3.690445])
    out, sigmoid, _ = ops.masked_conv_tiles(
        x, weight, bias, None, (0, 0, 0), None, "gate", True, None, None, False, False
    )
    out, sigmoid = (t.permute(0, 2, 3, 1).contiguous() for t in (out, sigmoid))
    assert (out > sigmoid).all()
    needs, grad = (0, 0, 1, 0, 0, 0), torch.ones_like(out)
    (found,) = ops.masked_conv_tiles_backward(
        grad, out, sigmoid, x, weight, (0, 0, 0), None, "gate", needs, False, None, None, False
    )
    assert found[:2].equal(torch.zeros(2)) and found[2:].min() > 0


@with_tiles
def test_peak_memory_of_an_image_s_gradient() -> None:
    """Of few channels: what a pixel adds to each tap, 101 MB in all, is kept for a band of rows."""
    code = """
import resource, torch
from vlae_fast.ops import masked_conv
x, weight = torch.randn(1, 4, 512, 512).bfloat16().requires_grad_(), torch.randn(32, 4, 7, 7).bfloat16()
y = masked_conv(x, weight, mask_type="A", backend="cpu")
grad = torch.ones_like(y)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.autograd.grad(y, x, grad)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    megabytes = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert megabytes < 40


@with_tiles
def test_few_weights_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a tile would be padding."""
    taken: list[str] = []
    monkeypatch.setattr(cpu, "_native", lambda op, *args, real=cpu._native: taken.append(op) or real(op, *args))
    for channels in (3, 12):
        weight = torch.randn(channels, channels, 3, 3).bfloat16().requires_grad_()
        masked_conv(torch.randn(1, channels, 4, 4).bfloat16(), weight, mask_type="B", backend="cpu").sum().backward()
    assert taken == ["masked_conv", "masked_conv_backward", "masked_conv_tiles", "masked_conv_tiles_backward"]


@with_tiles
def test_nearer_than_pytorchs_own_bfloat16() -> None:
    """A step rounds its output once; a composition of PyTorch's rounds the sum, both halves and their product."""
    case = conv_case("B", (4, 32, 14, 14), 64, 3, activation="gate", cond="vector").to(torch.bfloat16)
    x, weight, bias, cond = (case.tensors[name] for name in ("x", "weight", "bias", "cond"))
    exact, got, composed = (
        masked_conv(*(t.to(dtype) for t in (x, weight, bias, cond)), mask_type="B", activation="gate", backend=backend)
        for dtype, backend in ((torch.float64, "reference"), (torch.bfloat16, "cpu"), (torch.bfloat16, "reference"))
    )
    assert (got - exact).abs().mean() < 0.7 * (composed - exact).abs().mean()


def _native() -> dict:
    return {
        "x": torch.zeros(2, 5, 5, 4, dtype=torch.bfloat16),
        "weight": torch.zeros(6, 4, 3, 3),
        "bias": None,
        "cond": None,
        "taps": (3, 0, -1, 4, 0, 0),
        "live": None,
        "activation": "none",
        "with_sigmoid": False,
        "context": None,
        "context_weight": None,
        "residual": False,
        "with_activated": False,
    }


def _halves(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.bfloat16)


@with_tiles
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"x": torch.zeros(2, 5, 5, 4)}, "x must be bfloat16"),
        ({"x": _halves(2, 5, 5, 8)[..., ::2]}, "x must be contiguous"),
        ({"weight": _halves(6, 4, 3, 3)}, "weight must be float32"),
        ({"bias": torch.zeros(5)}, r"bias must be \(6,\), got \(5,\)"),
        ({"cond": torch.zeros(2, 6)}, "cond must be bfloat16"),
        ({"cond": _halves(2, 5)}, r"cond must be \(2, 6\), got \(2, 5\)"),
        ({"cond": _halves(2, 6, 5, 5)}, r"cond must be \(2, 5, 5, 6\), got \(2, 6, 5, 5\)"),
        ({"with_sigmoid": True}, "with_sigmoid must be false without activation gate, got true"),
        ({"context": _halves(2, 5, 5, 3)}, "context_weight must be given with context, and only with it, got None"),
        (
            {"context": _halves(2, 5, 4, 3), "context_weight": torch.zeros(6, 3)},
            r"context must be \(2, 5, 5, 3\), got \(2, 5, 4, 3\)",
        ),
        (
            {"context": _halves(2, 5, 5, 3), "context_weight": torch.zeros(6, 4)},
            r"context_weight must be \(6, 3\), got \(6, 4\)",
        ),
        ({"residual": True}, "residual must be false unless C_in is C, 6, got C_in 4"),
    ],
)
def test_errors_of_the_library(changed: dict, match: str) -> None:
    with pytest.raises(RuntimeError, match=f"masked_conv_tiles: {match}"):
        torch.ops.vlae_fast_cpu.masked_conv_tiles(**_native() | changed)


@with_tiles
def test_errors_of_the_library_backward() -> None:
    given = {
        name: _native()[name] for name in ("x", "weight", "taps", "live", "activation", "context", "context_weight")
    }
    grad = _halves(2, 5, 5, 6)
    given |= {
        "grad": grad,
        "out": None,
        "sigmoid": None,
        "needs": (1, 1, 1, 1, 0, 0),
        "cond_map": False,
        "residual": False,
    }
    for changed, match in (
        ({"grad": torch.zeros(2, 5, 5, 6)}, "grad must be bfloat16"),
        ({"grad": _halves(2, 6, 5, 5)}, r"grad must be \(2, 5, 5, 6\), got \(2, 6, 5, 5\)"),
        ({"activation": "elu"}, "out must be given with this activation, got None"),
        ({"activation": "elu", "out": grad[1:]}, r"out must be \(2, 5, 5, 6\), got \(1, 5, 5, 6\)"),
        ({"needs": (1, 1)}, "needs must have 6 entries, got 2"),
        ({"needs": (0, 0, 0, 0, 1, 0)}, "context must be given where its gradients are wanted, got None"),
    ):
        with pytest.raises(RuntimeError, match=f"masked_conv_tiles_backward: {match}"):
            torch.ops.vlae_fast_cpu.masked_conv_tiles_backward(**given | changed)


@pytest.mark.skipif(cpu.why_not() is not None or cpu.has_matrix_tiles(), reason="of a processor without matrix tiles")
def test_where_there_are_no_tiles() -> None:
    with pytest.raises(RuntimeError, match="masked_conv_tiles: isa must be one that this machine has, got amx"):
        torch.ops.vlae_fast_cpu.masked_conv_tiles(**_native())


def test_float32_has_no_tiles() -> None:
    require("cpu")
    x, weight = torch.zeros(1, 3, 3, 2), torch.zeros(2, 2, 3, 3)
    with pytest.raises(RuntimeError, match=r"masked_conv: isa must be empty or one of .*, got amx"):
        torch.ops.vlae_fast_cpu.masked_conv(x, weight, None, None, (4, 0, 0), None, "none", False, "amx")
