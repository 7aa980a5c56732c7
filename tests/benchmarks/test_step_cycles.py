"""The model of samplers and inverses: what the library plans, and cycles of a stage from those of events."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vlae_fast as vf
from benchmarks import cuda_plans, step_cycles
from benchmarks.cuda_kernels import EVENT_COLUMNS
from benchmarks.cuda_plans import Event, Flow, Quad, Sampler, Stage

BF16, F32 = torch.bfloat16, torch.float32
SAMPLER, INVERSE = "pixelcnn_sample_sample_kernel", "made_inverse_inverse_kernel<float, 1>"
GATE = Stage(
    0, is_norm=False, is_joined=False, is_pair=True, products=320, columns=128, warp=0, entries=7, rows=(0, 8, 8)
)
DRAWS = {"a_pixel,_1_pass": 700, "a_pixel,_2_passes": 850}
DRAWS |= {"a_pixel": 600, "no_columns": 50, "no_columns,_then_a_draw": 150}
DRAWS |= {"what_is_located,_1_pass": 900, "what_is_located,_2_passes": 1050}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def told(monkeypatch: pytest.MonkeyPatch, folder: Path, kernel: str, **cycles: int) -> None:
    """A table of events of one kernel; a name has _ for a space."""
    table = folder / "cycles.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(EVENT_COLUMNS)
        writer.writerows([kernel, "sm_90a", name.replace("_", " "), n, "nvcc"] for name, n in cycles.items())
    monkeypatch.setattr(step_cycles, "CYCLES", table)


def gate(rows: int) -> str:
    return f"gate_of_64_channels,_5_taps,_{rows}_rows"


@pytest.fixture
def cycles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> step_cycles.StageCycles:
    plain = {"relu_of_64_channels,_1_tap,_16_rows": 1620, "residual_of_64_channels,_1_tap,_16_rows": 1700}
    told(
        monkeypatch,
        tmp_path,
        f"{SAMPLER}<__nv_bfloat16, true, true>",
        **DRAWS,
        **{gate(16): 2000, gate(32): 2500},
        **plain,
    )
    return step_cycles.StageCycles(BF16, is_whole=True)


def test_a_turn_is_a_fixed_part_and_its_products(cycles: step_cycles.StageCycles) -> None:
    assert cycles.turn(GATE, 16) == cycles.turn(GATE, 3) == 2000
    assert cycles.turn(GATE, 32) == 2500
    assert cycles.turn(GATE._replace(products=160), 16) == 1750  # half the products: half of what rows cost
    plain = GATE._replace(is_pair=False, products=64, columns=64)
    assert cycles.turn(plain, 16) == 1620 and cycles.turn(plain._replace(products=128), 16) == 1720
    assert cycles.turn(plain._replace(is_joined=True), 16) == 1700
    assert cycles.turn(GATE._replace(is_joined=True), 16) == 2000 + 80
    assert cycles.turn(GATE._replace(products=640), 16) == 2500 + step_cycles.LATENCIES["LDG"]  # weights come twice


def test_a_section_is_its_busiest_warp(cycles: step_cycles.StageCycles) -> None:
    narrow, plain = GATE._replace(columns=64), GATE._replace(is_pair=False, products=64, columns=64)
    assert cycles.section([narrow, narrow._replace(warp=4)], [16, 16], 16) == 2000  # side by side
    assert cycles.section([narrow, narrow], [16, 16], 16) == 2 * 2000  # in the same warps
    assert cycles.section([narrow, plain._replace(warp=4)], [16, 16], 16) == 2000  # as long as the longer one
    assert cycles.section([GATE._replace(columns=256)], [16], 16) == 2 * 2000  # the warps go twice
    assert cycles.section([narrow, narrow._replace(warp=4)], [16, 0], 16) == 2000
    assert cycles.section([narrow], [0], 16) == 0
    assert cycles.section([narrow], [40], 16) == 3 * 2000  # block of rows by block of rows
    wide = GATE._replace(products=32000)
    assert cycles.bound([wide, wide], [16, 16]) == 2 * 32000 * 128 * 2 / 64
    assert cycles.section([wide], [16], 16) >= cycles.bound([wide], [16])


def test_one_tile_of_rows_has_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there are two events of one tile: two tiles are the fixed part and what their event leaves."""
    one_tap = {"gate_of_64_channels,_1_tap,_16_rows": 1200}
    told(
        monkeypatch,
        tmp_path,
        f"{SAMPLER}<__nv_bfloat16, true, true>",
        **DRAWS,
        **one_tap,
        **{gate(16): 2000, gate(32): 2600},
    )
    cycles = step_cycles.StageCycles(BF16, is_whole=True)
    assert cycles.turn(GATE._replace(products=192), 16) == 1600
    assert cycles.turn(GATE._replace(products=160), 32) == 1000 + (2600 - 1000) / 2


def sampler_of(stage: Stage, busy: int = 1, tiles: int = 1, drawn_after: tuple[int, ...] = (1,)) -> Sampler:
    return Sampler(1, tiles, True, True, 16, busy, [stage], draws=3, drawn_after=drawn_after)


def test_what_is_located_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a section what one pass of the threads does not do; a whole step beside the section before its draw."""
    told(monkeypatch, tmp_path, f"{SAMPLER}<__nv_bfloat16, true, false>", **DRAWS, **{gate(16): 2000, gate(32): 2500})
    apart = step_cycles.StageCycles(BF16, is_whole=False)
    assert apart.section([GATE._replace(entries=16)], [16], 16) == 2000
    assert apart.section([GATE._replace(entries=17)], [16], 16) == 2000 + (850 - 700)
    told(monkeypatch, tmp_path, f"{SAMPLER}<__nv_bfloat16, true, true>", **DRAWS, **{gate(16): 2000, gate(32): 2500})
    before = 150 - 50
    for entries, passes in ((14, 1), (15, 2), (14 * 12, 12)):  # 7 warps of 32 threads, 16 rows
        located = 900 + (passes - 1) * 150
        steps = located + 2 * max(2000 + before, located)  # no rows in the first
        assert step_cycles.sampler_cycles(sampler_of(GATE._replace(entries=entries)), BF16) == steps + 3 * 600
    by_all = 900 - 50 + 0 * 150
    assert step_cycles.sampler_cycles(sampler_of(GATE, busy=0), BF16) == 3 * by_all + 2 * 2000 + 3 * 600
    nowhere = sampler_of(GATE, drawn_after=(2,))  # another section is before the draw
    assert step_cycles.sampler_cycles(nowhere, BF16) == 2 * 2000 + 3 * 600


def test_float32_by_one_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told(monkeypatch, tmp_path, f"{SAMPLER}<float, true, true>", **DRAWS, **{gate(8): 3700})
    cycles = step_cycles.StageCycles(F32, is_whole=True)
    assert cycles.turn(GATE, 8) == 3700
    assert cycles.turn(GATE, 4) == 3700  # a tile is filled up
    assert cycles.turn(GATE._replace(products=160), 8) == 3700 - 640  # an instruction is 64 products
    assert cycles.turn(GATE._replace(columns=16), 8) == 3700  # a warp has 16 columns, however many there are
    assert cycles.bound([GATE], [8]) == max(320 * 128 * 4 / 64, 320 * 128 * 8 / 128)


def test_what_the_table_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told(monkeypatch, tmp_path, f"{SAMPLER}<float, true, true>", **{gate(8): 3700})
    with pytest.raises(ValueError, match=r"must have a row of .*<float, true, true> for 'a pixel'.*cuda_kernels"):
        step_cycles.StageCycles(F32, is_whole=True)
    with pytest.raises(ValueError, match=r"<__half, true, false> for 'gate of C channels, T taps, R rows'.*got \[\]"):
        step_cycles.StageCycles(torch.float16, is_whole=False)


@pytest.mark.usefixtures("cycles")
def test_tiles_come_in_rounds() -> None:
    one = 900 + 2 * (2000 + 100) + 3 * 600
    for tiles, rounds in ((1, 1), (132, 1), (133, 2)):
        assert step_cycles.sampler_cycles(sampler_of(GATE, tiles=tiles), BF16) == rounds * one


def test_an_inverse_is_its_events_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    events: dict[str, Any] = {"4 rows, 256 values": 1000, "4 rows, 512 values": 1400, "a unit": 500, "a dimension": 650}
    events |= {"a block's rows, then a unit": 900, "2 units at once": 600, "4 units at once": 700}
    events |= {"a unit, then a dimension": 1030}
    told(monkeypatch, tmp_path, INVERSE, **events)
    around = 500 + 650 - 1030
    quads = [Quad(0, 0)] * 17 + [Quad(1, 300)]
    flow = Flow(quads, [Event(0, 1, False), Event(0, 3, False), Event(1, 1, True)], fours=10)
    chain = (500 - around) + (650 - around) + (650 - around)  # a unit, three of them at once, a dimension
    step = 2 * 1000 + 1400 + 2 * (900 - (500 - around)) + chain
    assert around == 120 and step_cycles.inverse_cycles(flow, 100, 3) == 3 * step
    assert [step_cycles.samples_of_tile(batch) for batch in (1, 132, 133, 500, 600)] == [1, 1, 2, 4, 8]


@needs_compiler
def test_the_library_plans_the_sampler() -> None:
    """28 x 28, slope 4: 136 steps of at most 7 pixels."""
    decoder = vf.PixelCNNDecoder(1, hidden_dim=64, n_layers=1, z_channels=0, backend="reference").to(BF16)
    plan = vf.PixelCNNSampler(decoder, "reference").plan
    one = cuda_plans.sampler(plan, (28, 28), 1, BF16, (132, 227 * 1024))
    assert (one.samples, one.tiles, one.draws) == (1, 1, 136) and len(one.stages) == len(plan.stages)
    for stage, own in zip(one.stages, plan.stages, strict=True):
        assert sum(stage.rows) == 28 * 28
        assert stage.is_pair == (own.activation == "gate")
    assert one.is_whole and one.rows == 8 and [stage.section for stage in one.stages] == [0, 1, 2]
    assert one.busy == 1 and one.drawn_after == (3,)  # one warp has the outputs' columns
    many = cuda_plans.sampler(plan, (28, 28), 4096, BF16, (132, 227 * 1024))
    assert many.tiles == -(-4096 // many.samples) and many.in_shared and not many.is_whole


@needs_compiler
def test_the_library_plans_the_walk() -> None:
    degrees = torch.arange(5), torch.arange(12) % 4, torch.arange(5).repeat(2)
    flow = cuda_plans.flow(degrees)
    assert sum(event.is_dimension for event in flow.events) == 5
    assert sum(event.count for event in flow.events if not event.is_dimension) == 12
    assert {quad.block for quad in flow.quads} == {event.block for event in flow.events}
