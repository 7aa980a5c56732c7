"""Attention over the pixels before: its stage, on every backend, and its place in schedules and levels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.rows import backends_of, require

import vlae_fast as vf
from vlae_fast import backends, reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Emit, Plan, Sites, Source, Stage
from vlae_fast.sampling.levels import in_turn
from vlae_fast.sampling.program import Program
from vlae_fast.sampling.schedule import derive
from vlae_fast.sampling.window import offsets_seen

A, B, HERE = live_taps("A", (3, 3)), live_taps("B", (3, 3)), ((0, 0),)


def able(row: str, plan: Plan) -> str:
    """The row's name; skips where it is absent, or lacks attention and says so."""
    require(row)
    table = next(r for r in backends.TABLE if r.name == row)
    if (reason := table.lacks(plan, None)) is not None:
        assert "attend" in reason
        pytest.skip(reason)
    return row


def block(
    program: Program,
    heads: int = 2,
    keys: int = 6,
    values: int = 10,
    *,
    itself: bool = True,
    scale: float | None = None,
    **options: Any,
) -> int:
    """Features of the pixels before, attention over them, and a convolution of what it gives."""
    h = program.add([(0, torch.randn(8, program.image_channels, 3, 3), A)], torch.randn(8), "elu")
    q, k = (program.add([(h, torch.randn(keys, 8, 1, 1), HERE)], torch.randn(keys)) for _ in range(2))
    v = program.add([(h, torch.randn(values, 8, 3, 3) / 4, B)], torch.randn(values), "tanh")
    options = {name: v if value == "v" else value for name, value in options.items()}
    return program.attend(q, k, v, heads, scale, itself=itself, **options)


def finished(program: Program, size: tuple[int, int], order: str = "wavefront", out: int = 1) -> Plan:
    last = len(program.stages)
    program.add([(last, torch.randn(out, program.channels(last), 3, 3) / 3, B)], torch.randn(out) / 4)
    return plan_of(program, size, order)


def plan_of(program: Program, size: tuple[int, int], order: str = "wavefront") -> Plan:
    schedule = derive(program.stages, size, order=order)
    return Plan(program.image_channels, schedule.slope, tuple(program.stages), schedule.leads)


CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "its own pixel too": ((5, 6), {}),
    "pixels before alone": ((5, 6), {"itself": False}),
    "one head": ((4, 3), {"heads": 1, "itself": False, "values": 1}),
    "activation, factor and residual": ((3, 5), {"activation": "silu", "factor": "v", "residual": "v"}),
    "before alone, all that follows": (
        (3, 4),
        {"itself": False, "activation": "sigmoid", "factor": "v", "residual": "v"},
    ),
    "many channels": ((3, 4), {"heads": 3, "keys": 51, "values": 201}),
    "more keys than a block": ((12, 13), {"keys": 4, "values": 34, "itself": False}),
    "scores far apart": ((4, 5), {"scale": 300.0}),
    "scores far below 0": ((4, 5), {"scale": -40.0, "heads": 1}),
    "one row": ((1, 9), {"itself": False}),
    "one column": ((9, 1), {"itself": False}),
    "one pixel": ((1, 1), {"itself": False}),
}


@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
@pytest.mark.parametrize("name", CASES)
def test_images_and_logits_are_the_reference_s(row: str, name: str) -> None:
    size, options = CASES[name]
    torch.manual_seed(0)
    program = Program(1)
    block(program, **options)
    plan, noise = finished(program, size), torch.rand(3, 1, *size)
    packed = pixelcnn_pack(program.weights, plan, backend=able(row, plan))
    images, logits = pixelcnn_sample(noise, packed, plan, backend=row)
    naive, _ = reference.naive_sample(lambda x: reference.run_program(plan.stages, program.weights, None, x), noise, 1)
    assert images.equal(naive)
    wide = [w.double() for w in program.weights]
    truth = reference.run_program(plan.stages, wide, None, images.double())
    near = reference.run_program(plan.stages, program.weights, None, images)
    error = (near - truth).abs().max()
    if row == "torch":  # whose products round alike pixels apart: scores of hundreds that were equal no longer are
        moved = images.double() * (1 + 2 * torch.finfo(torch.float32).eps * (2 * torch.rand_like(images) - 1))
        error = torch.maximum(error, (reference.run_program(plan.stages, wide, None, moved) - truth).abs().max())
    budget = 4 * error + 1e-6 * truth.abs().max()
    assert (logits - truth).abs().max() <= budget


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
def test_the_stage_is_scaled_dot_product_attention(heads: int, itself: bool) -> None:
    """Pixels are a sequence in raster order; the first one, which sees nobody, gets 0."""
    torch.manual_seed(1)
    program = Program(4)
    first = [program.add([(0, torch.randn(6, 4, 1, 1), HERE)], torch.randn(6)) for _ in range(3)]
    program.attend(*first, heads, itself=itself)
    x, weights = torch.randn(2, 4, 3, 5).double(), [w.double() for w in program.weights]
    q, k, v = (
        reference.run_program(program.stages[i : i + 1], weights[2 * i : 2 * i + 2], None, x)
        .flatten(2)
        .unflatten(1, (heads, -1))
        .mT
        for i in range(3)
    )
    mask = torch.ones(15, 15).tril(0 if itself else -1).bool()
    mask[0, 0] = True
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).mT.reshape(2, 6, 3, 5)
    if not itself:
        expected[:, :, 0, 0] = 0
    weights[-1][:] = (6 // heads) ** -0.5  # not rounded to float32
    got = reference.run_program(program.stages, weights, None, x)
    torch.testing.assert_close(got, expected)


def test_bits_do_not_depend_on_batch_order_or_threads() -> None:
    require("cpu")
    torch.manual_seed(2)
    program, size = Program(1), (11, 14)
    block(program, heads=2, keys=10, values=38)
    finished(program, size)
    noise, threads = torch.rand(5, 1, *size), torch.get_num_threads()
    plans = [plan_of(program, size, order) for order in ("wavefront", "raster")]
    assert [plan.slope for plan in plans] == [13, 14]
    packed = [pixelcnn_pack(program.weights, plan, backend="cpu") for plan in plans]
    images, logits = pixelcnn_sample(noise, packed[0], plans[0], backend="cpu")
    try:
        for n, rows, count in ((0, slice(2, 3), 1), (1, slice(0, 5), 3), (0, slice(4, 5), 4), (1, slice(1, 2), 2)):
            torch.set_num_threads(count)
            got = pixelcnn_sample(noise[rows], packed[n], plans[n], backend="cpu")
            assert got[0].equal(images[rows]) and got[1].equal(logits[rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("itself", [True, False])
def test_pixels_are_drawn_in_raster_order(itself: bool) -> None:
    """The first pixel of a row is in the step of the last of the row above, which these features do not see there."""
    torch.manual_seed(3)
    program, size = Program(1), (5, 6)
    block(program, itself=itself)
    plan = finished(program, size)
    assert derive(plan.stages, size).steps == 6 + 4 * 5


def test_values_that_see_their_own_pixel_are_seen_from_the_next_one_on() -> None:
    torch.manual_seed(4)
    program, size = Program(1), (4, 5)
    q = program.add([(0, torch.randn(4, 1, 3, 3), A)], torch.randn(4))
    k, v = (program.add([(0, torch.randn(4, 1, 3, 3), B)], torch.randn(4)) for _ in range(2))
    program.attend(q, k, v, itself=False)
    plan, noise = finished(program, size), torch.rand(2, 1, *size)
    assert derive(plan.stages, size).steps == 20
    naive, _ = reference.naive_sample(lambda x: reference.run_program(plan.stages, program.weights, None, x), noise, 1)
    for row in ("cpu", "reference"):
        packed = pixelcnn_pack(program.weights, plan, backend=require(row))
        assert pixelcnn_sample(noise, packed, plan, backend=row)[0].equal(naive)
    itself = program.stages[3]._replace(sources=tuple(Source(n, HERE) for n in (q, k, v)))
    with pytest.raises(ValueError, match="got one that reads its own pixel"):
        derive([*program.stages[:3], itself, program.stages[4]], size)


def colour(program: Program) -> None:
    """Queries of three levels, keys and values that see channels of their own pixel."""
    groups, order = torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(3)
    first = torch.randn(6, 3, 3, 3) / 2
    first[:, :, 1, 1] *= groups[:, None] > order
    q = program.add([(0, first, B)], torch.randn(6), "elu")
    k = program.add([(0, torch.randn(6, 3, 3, 3), B)], torch.randn(6))
    v = program.add([(k, torch.randn(4, 6, 1, 1), HERE)], None, "tanh")
    before = program.attend(q, k, v, 2, itself=False)  # level 1 by its queries; k and v are of level 2
    image = program.attend(program.add([(q, torch.randn(3, 6, 1, 1), HERE)]), 0, 0, itself=False)
    own = program.attend(q, q, q, 3, residual=q)
    low = program.add([(0, torch.randn(6, 3, 3, 3), A)], torch.randn(6))
    seen = program.attend(low, k, v, itself=False)  # of level none
    last = [torch.randn(3, n, 1, 1) / 2 for n in (4, 3, 6, 4)]
    for weight in last[:3]:
        weight[:2] = 0
    program.add([(b, w, HERE) for b, w in zip((before, image, own, seen), last, strict=True)], torch.randn(3))


@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_attention_in_the_levels_of_a_colour_image(row: str) -> None:
    torch.manual_seed(5)
    program, size = Program(3), (4, 5)
    colour(program)
    parts, noise = in_turn(program, Emit(), size), torch.rand(2, 3, *size)
    schedule = derive(parts.stages, size, draws=parts.draws)
    plan = Plan(3, schedule.slope, parts.stages, schedule.leads, Emit(), parts.draws)
    assert len(plan.draws) == 3
    x = (torch.rand(2, 3, *size) < 0.5).float()
    dense = reference.run_program(program.stages, program.weights, None, x)
    torch.testing.assert_close(reference.run_plan(plan, parts.weights, None, x), dense)
    naive, _ = reference.naive_sample(
        lambda image: reference.run_program(program.stages, program.weights, None, image), noise, 3
    )
    packed = pixelcnn_pack(parts.weights, plan, backend=able(row, plan))
    assert pixelcnn_sample(noise, packed, plan, backend=row)[0].equal(naive)


@pytest.mark.parametrize("itself", [True, False])
def test_the_window_is_every_pixel_that_has_an_influence(itself: bool) -> None:
    torch.manual_seed(6)
    program, size = Program(1), (4, 5)
    block(program, itself=itself)
    plan = finished(program, size)
    seen = set()
    x = torch.rand(1, 1, *size, dtype=torch.float64, requires_grad=True)
    out = reference.run_program(plan.stages, [w.double() for w in program.weights], None, x)
    for i in range(4):
        for j in range(5):
            (slope,) = torch.autograd.grad(out[0, 0, i, j], x, retain_graph=True)
            seen |= {(y - i, x - j) for y, x in slope[0, 0].nonzero().tolist()}
    found = offsets_seen(plan.stages, size)
    before = {(dy, dx) for dy in range(-3, 1) for dx in range(-4, 5) if (dy, dx) < (0, 0)}
    assert found == seen == before - {(-1, 4)}  # features of the next row's first pixel do not see the last of the row


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.attend(1, 2, 2), "q and k must have the same channels, got 4 and 6"),
        (lambda p: p.attend(1, 1, 2, 4), r"heads must divide the channels of q, k and v, \[4, 4, 6\], got 4"),
        (lambda p: p.attend(1, 1, 2, 0), r"heads must divide the channels of q, k and v, \[4, 4, 6\], got 0"),
        (lambda p: p.attend(1, 1, 3), "a buffer that is read must be 0 to 2, those written so far, got 3"),
        (lambda p: p.attend(1, 1, 2, activation="gate"), "activation of attention must be one of none, .*, got 'gate'"),
        (lambda p: p.attend(1, 1, 2, residual=1), "residual must be a buffer of 6 channels, got 4"),
        (lambda p: Program(1).attend(0, 0, 0), "attention must follow a stage with weights, got none"),
    ],
)
def test_errors_of_a_program(call: Callable[[Program], int], message: str) -> None:
    program = Program(1)
    program.add([(0, torch.randn(4, 1, 3, 3), A)])
    program.add([(0, torch.randn(6, 1, 3, 3), A)])
    with pytest.raises(ValueError, match=f"Program.add: {message}"):
        call(program)


def stage(**changes: Any) -> Plan:
    reads = (Source(1, HERE), Source(1, HERE), Source(1, HERE))
    own = Stage(4, "none", -1, 0, reads, "attend", heads=2)._replace(**changes)
    first = Stage(4, "none", -1, 0, (Source(0, ((0, -1),)),))
    return Plan(1, 3, (first, own, Stage(1, "none", -1, 0, (Source(2, HERE),))), (0, 0, 0))


LEFT, ABOVE = ((0, -1),), ((-1, 0),)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (stage(heads=0), r"\(heads\) must be in 1\.\.65536, got 0"),
        (stage(heads=3), "stage 1 of kind 2 must have heads that divide 4 and 4 channels, got 3"),
        (stage(kind="norm"), r"\(heads\) must be in 0\.\.0, got 2"),
        (stage(sources=(Source(1, HERE),) * 2), "stage 1 of kind 2 must have three sources, got 2"),
        (
            stage(sources=tuple(Source(1, t) for t in (HERE, HERE, LEFT))),
            r"must read q at \(0, 0\), k and v both",
        ),
        (stage(sources=tuple(Source(1, t) for t in (HERE, ABOVE, ABOVE))), r"must read q at \(0, 0\), k and v both"),
        (
            stage(sources=tuple(Source(1, t) for t in (LEFT, HERE, HERE))),
            r"must read q at \(0, 0\), k and v both",
        ),
        (stage(sources=(Source(1, HERE), Source(0, HERE), Source(1, HERE))), "must read k of 4 and v of 4 channels"),
        (stage(out_channels=2), "must read k of 4 and v of 2 channels, got 4 and 4"),
        (stage(activation="gate", out_channels=4), "must have an activation of one value and no context, got"),
        (stage(sites=Sites(2, 0, 0)), "stage 1 of kind 2 must have sites everywhere, got stride 2"),
        (stage(context_dim=3), "must have an activation of one value and no context, got"),
        (stage()._replace(slope=2), r"lead of stage 1 must be at most -1 to read buffer 1 at \(-1, 3\), got 0"),
    ],
)
def test_plans_that_no_library_takes(plan: Plan, message: str) -> None:
    """A hostile plan ends in an error of the C++ library; the last one would read what is not computed yet."""
    require("cpu")
    weights = [torch.zeros(4, 1, 1), torch.zeros(4), torch.ones(1), torch.zeros(1, 4, 1), torch.zeros(1)]
    with pytest.raises(RuntimeError, match=message):
        packed = torch.ops.vlae_fast_cpu.pixelcnn_pack(weights, plan.words, "")
        torch.ops.vlae_fast_cpu.pixelcnn_sample(torch.rand(1, 1, 2, 4), packed, plan.words, None, None, None, 1.0)


def test_rows_that_lack_attention_say_so() -> None:
    for row in (row for row in backends.TABLE if hasattr(row.namespace, "pixelcnn_sample")):
        has_it = row.name in ("cpu", "torch", "reference")
        assert row.lacks(stage(), None) == (None if has_it else "has no stage of kind attend")
    assert vf.backends.pick("pixelcnn_sample", torch.zeros(1), "auto", stage()).name in ("cpu", "torch")
