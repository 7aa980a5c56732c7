"""Loads and stores stay inside their tensors, of more than 2^31 elements too; what does not is caught."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.extents import Choice, Memory, some_programs
from cases.kernel_copies import kernels_with
from cases.pixelcnn_sample import CASES as SAMPLERS
from cases.pixelcnn_sample import sample
from cases.rows import require
from torch import Tensor

from vlae_fast.backends.memory_format import nchw
from vlae_fast.masks import conv_taps
from vlae_fast.testing import Case, conv_case, linear_case, made_case, run

require("triton", "cpu", allow_module_level=True)

from vlae_fast.kernels import launch  # noqa: E402

GATED = conv_case("B", (2, 20, 5, 7), 36, 3, activation="gate", cond="vector")
GAPPED = Case(
    "gapped", "masked_conv", {**GATED.tensors, "weight": torch.ones(40, 22, 5, 5)[2:38, 1:21, 1:4, 1:4]}, GATED.options
)
FLAT = conv_case("A", (2, 3, 6, 5), 9, 5, activation="elu", image_channels=3, cond="map")
LINEAR = linear_case(5, 33, 65, activation="elu")
INVERSE = made_case(3, 5, (9, 12))
SAMPLER = "one pixel"


def call(what: Case | str) -> None:
    """Forward and backward of a case, or the sampler of that name."""
    if isinstance(what, str):
        sample(SAMPLERS[what], SAMPLERS[what].plan())
        return
    outs, _ = run(what, "triton", poisoned=False)
    if what.op != "made_inverse":
        run(what, "triton", [torch.ones_like(out) for out in outs], poisoned=False)


MUTANTS = {  # file, what stands there, what takes its place, a call, the argument that is left
    "linear: no mask along K": (
        "masked_linear.py",
        "p_x + i_k * BK + o_x, m_m & (o_k < K)[None, :], other",
        "p_x + i_k * BK + o_x, m_m, other",
        LINEAR,
        "p_x",
    ),
    "linear: no mask of the store": (
        "masked_linear.py",
        "p_y.dtype.element_ty), m_y)",
        "p_y.dtype.element_ty))",
        LINEAR,
        "p_y",
    ),
    "linear: rows too long": ("masked_linear_backward.py", "o_b[:, None] * IN", "o_b[:, None] * OUT", LINEAR, "p_x"),
    "linear: a walk too far": (
        "masked_linear.py",
        "(3 + 2 * tl.cdiv(K, BK))",
        "(40 + 2 * tl.cdiv(K, BK))",
        LINEAR,
        "p_walks",
    ),
    "conv: a row too long": ("masked_conv.py", "o_dy * W + o_dx", "o_dy * (W + 1) + o_dx", GATED, "p_x"),
    "conv: no mask of the bias": (
        "masked_conv.py",
        "tl.load(p_bias + C + o_n, o_n < C, other=0.0)",
        "tl.load(p_bias + C + o_n)",
        GATED,
        "p_bias",
    ),
    "conv: columns unmasked": (
        "masked_conv.py",
        "m_k[:, None] & (o_p < P)[None, :]",
        "m_k[:, None]",
        GATED,
        "p_weight",
    ),
    "conv: pixels after the last": (
        "masked_conv.py",
        "m_out = (o_m < pixels)[:, None] & (o_n < C)",
        "m_out = (o_m >= 0)[:, None] & (o_n < C)",
        FLAT,
        "p_cond",
    ),
    "conv: a tap's place in a weight with gaps": ("taps.py", "x * s_x", "(x + 1) * s_x", GAPPED, "p_weight"),
    "conv: the parts of a weight": (
        "masked_conv_weight.py",
        "b_sum, m_k[:, None] & (o_n < P)",
        "b_sum, m_k[:, None] & (o_n < P + 1)",
        GATED,
        "p_parts",
    ),
    "conv: a tap that is dead": (
        "masked_conv_weight.py",
        "o_packed < tl.where(i_tap < 0, 0, C_in * P)",
        "o_packed < C_in * P",
        GATED,
        "p_parts",
    ),
    "slope: the gate's second half": ("slope.py", "p_pre + o_pre + C,", "p_pre + o_pre + C + 1,", GATED, "p_pre"),
    "slope: rows after the last": (
        "slope.py",
        "m_grad = (o_m < end)[:, None]",
        "m_grad = (o_m < end + 1)[:, None]",
        GATED,
        "p_grad",
    ),
    "parts: after the last": (
        "parts.py",
        "m_parts = (o_p < parts)[:, None] & (o_n < N)",
        "m_parts = (o_p <= parts)[:, None] & (o_n < N)",
        GATED,
        "p_sums",
    ),
    "inverse: samples after the last": (
        "made_inverse_walk.py",
        "tl.maximum(event[3], 0), o_m < n_m, other",
        "tl.maximum(event[3], 0), o_m <= n_m, other",
        INVERSE,
        "p_eps",
    ),
    "inverse: units that are no dimension": (
        "made_inverse.py",
        "(o_m < n_m)[:, None] & (o_layer == 0)[None, :]",
        "(o_m < n_m)[:, None] & (o_layer <= 1)[None, :]",
        INVERSE,
        "p_x",
    ),
    "inverse: a slot of another block": (
        "made_inverse_pack.py",
        "(first_slot + o_s) * 3",
        "(first_slot + o_s + 1) * 3",
        INVERSE,
        "p_slots",
    ),
    "sampler: the noise of a sample after the last": ("pixelcnn_stage.py", "(sample0 + o_s < B) & ", "", SAMPLER, "p_"),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_caught(mutant: tuple[str, str, str, Case | str, str], tmp_path: Path) -> None:
    file, old, new, what, argument = mutant
    call(what)
    with (
        kernels_with(tmp_path, file, old, new),
        pytest.raises(Exception, match=rf"of \d bytes at element .* of {argument}"),
    ):
        call(what)


def test_what_is_watched(ran: list[Memory]) -> None:
    call(GATED)
    assert {"masked_conv_pack_kernel", "masked_conv_forward_kernel", "masked_conv_backward_kernel"} <= {
        memory.kernel for memory in ran
    }
    out = next(memory for memory in ran if memory.kernel == "masked_conv_forward_kernel")["p_out"]
    assert len(out.touched) == 2 * 18 * 5 * 7 and out.touched.all()


HUGE = 1 << 31  # elements: one more has no offset in 32 bits


def of_zeros(folder: Path, *shape: int) -> Tensor:
    """A tensor in bfloat16 whose memory is a file with holes, which takes no place."""
    path, size = folder / "zeros", torch.Size(shape).numel()
    with path.open("wb") as file:
        file.truncate(2 * size)
    found = torch.from_file(str(path), shared=True, size=size, dtype=torch.bfloat16).view(shape)
    path.unlink()
    return found


def last(count: int) -> Choice:
    """The last programs of a grid along its first axis, all of them along the others and of kernels that pack."""

    def chosen(kernel: str, grid: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
        first = 0 if "pack" in kernel or kernel == "masked_conv_slope_kernel" else max(grid[0] - count, 0)
        return product(range(first, grid[0]), range(grid[1]), range(grid[2]))

    return chosen


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def a_linear_layer(inputs: int, outputs: int) -> tuple[Tensor, Any]:
    from vlae_fast.kernels.live_tiles import Mask

    ins, outs = (torch.arange(n) * 64 // n for n in (inputs, outputs))
    return torch.randn(outputs, inputs, dtype=torch.bfloat16) * inputs**-0.5, Mask(outs, ins)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(2048, 64), pytest.param(64, 2048, marks=pytest.mark.slow)], ids=["x", "y"]
)
def test_a_linear_layer_of_more_rows(inputs: int, outputs: int, tmp_path: Path) -> None:
    from vlae_fast.kernels import masked_linear, masked_linear_backward

    weight, mask = a_linear_layer(inputs, outputs)
    few, batch, columns = torch.randn(128, inputs, dtype=torch.bfloat16), HUGE // 2048 + 128, 16  # tiles at most
    x, grad = of_zeros(tmp_path, batch, inputs), of_zeros(tmp_path, batch, outputs)
    x[-128:] = few
    y = masked_linear.forward(few, weight, None, mask, "none")
    with some_programs(last(columns)):
        close(masked_linear.forward(x, weight, None, mask, "none")[-128:], y)
    grad[-128:] = y
    args = (weight, mask, "none", [True, False, False])
    expected = masked_linear_backward.backward(y, None, few, *args)[0]
    with some_programs(last(columns)):
        close(masked_linear_backward.backward(grad, None, x, *args)[0][-128:], expected)


def test_a_convolution_of_more_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import masked_conv, masked_conv_backward, masked_conv_weight
    from vlae_fast.kernels.taps import Live

    live, weight = Live(conv_taps("B", (3, 3))), torch.randn(32, 64, 3, 3, dtype=torch.bfloat16) / 16
    few, images = nchw(torch.randn(2, 8, 8, 64, dtype=torch.bfloat16)), HUGE // (64 * 64) + 2
    x, grad = (nchw(of_zeros(tmp_path, images, 8, 8, channels)) for channels in (64, 32))
    x[-2:] = few
    out, _ = masked_conv.forward(few, weight, None, None, live, "elu", False)
    with some_programs(last(1)):
        close(masked_conv.forward(x, weight, None, None, live, "elu", False)[0][-2:], out)
    grad[-2:] = out
    args = (weight, live, "none", [True, False, False, False], None)
    expected = masked_conv_backward.backward(out, None, None, few, *args)[0]
    with some_programs(last(1)):
        close(masked_conv_backward.backward(grad, None, None, x, *args)[0][-2:], expected)
    monkeypatch.setattr(masked_conv_weight, "PROGRAMS", 20_000)  # else a part of so many pixels takes a minute
    of_few, of_all = (parts_of_weight(live, grad, x) for grad, x in ((out, few), (grad, x)))
    of_few.products(out, None, None, few, few_parts := of_few.parts())
    with some_programs(lambda kernel, grid: [(grid[0] - len(live), 0, 0)]):
        of_all.products(grad, None, None, x, parts := of_all.parts())
    close(parts[-1, 0], few_parts.sum(0)[0])  # the first tap of the last part


def parts_of_weight(live: Any, grad: Tensor, x: Tensor) -> Any:
    """What is known of a weight's gradient of parts alone before its tensors are."""
    from vlae_fast.kernels import masked_conv_backward

    shape, strides = (grad.shape[1], x.shape[1], 3, 3), (9 * x.shape[1], 9, 3, 1)
    needs = (False, True, False, False)
    return masked_conv_backward._plan(live, x.shape, x.dtype, x.device, shape, strides, "none", needs, "ieee")


def test_a_made_of_more_rows(tmp_path: Path) -> None:
    from vlae_fast.kernels import made, made_backward

    layers = [a_linear_layer(2048, 48), a_linear_layer(48, 64)]
    weights, masks, biases = [w for w, _ in layers], [m for _, m in layers], [torch.zeros(48), torch.zeros(64)]
    biases = [bias.bfloat16() for bias in biases]
    few, batch, rows = torch.randn(16, 2048, dtype=torch.bfloat16), HUGE // 2048 + 16, slice(-16, None)
    x, hidden, grad = (of_zeros(tmp_path, batch, units) for units in (2048, 48, 64))
    x[rows] = few
    h, y = made.forward(few, weights, biases, masks, None, "tanh")
    with some_programs(last(1)):
        close(made.forward(x, weights, biases, masks, None, "tanh")[1][rows], y)
    hidden[rows], grad[rows] = h, y
    args = (weights, masks, "tanh", [True] + [False] * 5)
    expected = made_backward.backward(y, few, [h], *args)[0]
    with some_programs(last(1)):
        close(made_backward.backward(grad, x, [hidden], *args)[0][rows], expected)


def test_an_inverse_of_more_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import made_inverse

    dim = 256
    t = made_case(8, dim, (64,), dtype=torch.bfloat16).tensors
    few, *layers, cond = t.values()
    few = few.contiguous()
    args = (*layers, cond, "relu", "exp")
    x, log_det = made_inverse.inverse(few, *args)
    eps = of_zeros(tmp_path, HUGE // dim + 8, dim)
    eps[-8:] = few
    monkeypatch.setattr(Tensor, "new_zeros", lambda _, *shape: of_zeros(tmp_path, *shape))  # what is known
    with some_programs(last(1)):
        found = made_inverse.inverse(eps, *args)
    close(found[0][-8:], x)
    close(found[1][-8:], log_det)


def test_slopes_of_more_rows(tmp_path: Path) -> None:
    few, images = nchw(torch.randn(1, 8, 8, 64, dtype=torch.bfloat16)), HUGE // (64 * 64) + 1
    grad = nchw(of_zeros(tmp_path, images, 8, 8, 64))
    grad[-1] = few[0]
    expected = slope_of(few)
    with some_programs(lambda kernel, grid: [(i, 0, 0) for i in range(grid[0] - launch.cdiv(64, 16), grid[0])]):
        close(slope_of(grad)[-1], expected[0])


def slope_of(grad: Tensor) -> Tensor:
    """The gradient of the pre-activation, whose activation's output is `grad` too."""
    from vlae_fast.kernels import masked_conv_backward
    from vlae_fast.kernels.taps import Live

    live, needs, strides = Live(()), (False, False, True, False), (1, 1, 1, 1)
    args = (grad.shape, grad.dtype, grad.device, (64, 1, 1, 1), strides, "elu", needs, "ieee")
    plan = masked_conv_backward._plan(live, *args)
    plan.slope(grad, grad, None, pre := plan.pre(), plan.sums(), None, plan.places, None, None)
    return pre


def test_an_offset_in_32_bits_is_caught(tmp_path: Path) -> None:
    weight, mask = a_linear_layer(2048, 64)
    x = of_zeros(tmp_path, HUGE // 2048 + 128, 2048)
    old, new = "p_x += i_m.to(tl.int64) * BM * K", "p_x += i_m * BM * K"
    with kernels_with(tmp_path, "masked_linear.py", old, new), some_programs(last(1)):
        from vlae_fast.kernels import masked_linear

        with pytest.raises(Exception, match=r"int32 overflow|of p_x"):
            masked_linear.forward(x, weight, None, mask, "none")
