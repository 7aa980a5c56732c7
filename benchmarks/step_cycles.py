"""How long the CUDA library's samplers and inverses would take on an H100, from the cycles of their events.

Both wait for one step after another, so their time is a sum. A step of a sampler is its sections in turn, and a section
the time of the warp that is busy longest with its turns of 16 columns: rows, turns and tiles are the library's own
(`cuda_plans`). Cycles of a turn are those of an event in ``results/cuda_cycles.csv`` (`cycle_model`: one warp, from a
barrier to the next). For a stage of another size than the event's they are scaled: a fixed part, and one in proportion
to the products of the turn. Two events of other numbers of products give both; where there is one alone, a product
instruction adds the cycle that it takes to issue. No section is shorter than its weights take from L2 or its products
take the processor. Where sections are located one by one, what is beyond one pass of all threads counts. Where a step
is located whole, that runs beside the section before a draw, and what a draw finds out before its parameters counts
too. A norm counts as a stage without products.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import ceil
from typing import NamedTuple

import torch

from .cuda_kernels import CYCLES
from .cuda_plans import DTYPES, Flow, Sampler, Stage
from .h100 import FMAS, L2_BYTES, PROCESSORS, PRODUCTS
from .machine_code import LATENCIES

NAMES = dict(zip(DTYPES, ("float", "__nv_bfloat16", "__half"), strict=True))
WARPS, WARP_COLUMNS = 8, 16  # of a sampler's thread block; that a warp multiplies at once
AHEAD = 384  # products of an output whose weights are under way at once in 16 bits
ROWS = {torch.float32: 8, torch.bfloat16: 16, torch.float16: 16}  # to which a block of rows is filled up
GATE, PLAIN, RESIDUAL = (
    re.compile(rf"{kind} of (\d+) channels, (\d+) taps?, (\d+) rows") for kind in ("gate", "relu", "residual")
)
INVERSE_WARPS = 16  # of a thread block


class Events:
    """Cycles of a kernel's events, by name; of its template arguments the first ones decide."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.kernel = f"{name}<{', '.join(map(str, arguments))}>"
        starts = (self.kernel, self.kernel[:-1] + ",")
        with CYCLES.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kernel"].startswith(starts)]
        self.cycles = {row["event"]: int(row["cycles"]) for row in rows}

    def named(self, event: str) -> int:
        if not self.cycles.get(event):
            raise self.lacking(repr(event))
        return self.cycles[event]

    def lacking(self, what: str) -> ValueError:
        rule = f"must have a row of {self.kernel} for {what} with its cycles"
        return ValueError(f"{CYCLES.name} {rule}, got {list(self.cycles)}: run python -m benchmarks.cuda_kernels")


class Line(NamedTuple):
    """Cycles of a turn in a stage of a kind: a fixed part, and a rate of products in one tile of rows, or in two."""

    fixed: float
    rate: float
    rate_of_two: float

    def at(self, products: float, rows: int, tile: int) -> float:
        return self.fixed + (self.rate if rows <= tile else self.rate_of_two) * products


def products_of_turn(dtype: torch.dtype, products: int, rows: int) -> int:
    """Of 16 columns and all rows, to which a block of them is filled up."""
    return products * WARP_COLUMNS * ceil(rows / ROWS[dtype]) * ROWS[dtype]


class StageCycles:
    """Cycles of sections and draws of the sampler's kernel for a dtype, whose activations are in shared memory.

    is_whole: a step is located at once; else an event of a stage has a pass of what is located.
    """

    def __init__(self, dtype: torch.dtype, is_whole: bool) -> None:
        self.dtype, self.is_whole = dtype, is_whole
        self.events = Events("pixelcnn_sample_sample_kernel", NAMES[dtype], "true", str(is_whole).lower())
        gates = self._points(GATE)
        if not gates:
            raise self.events.lacking("'gate of C channels, T taps, R rows'")
        self.gate = self._line(gates)
        plain = [
            self.gate._replace(fixed=cycles - self.gate.rate * products) for products, _, cycles in self._points(PLAIN)
        ]
        self.plain = plain[0] if plain else self.gate
        residual = [cycles for _, _, cycles in self._points(RESIDUAL)]
        relu = [cycles for _, _, cycles in self._points(PLAIN)]
        self.joined = residual[0] - relu[0] if residual and relu else 0  # more, where a stage has a residual
        if is_whole:
            self.draw = self.events.named("a pixel")
            self.around = self.events.named("no columns")
            self.before = self.events.named("no columns, then a draw") - self.around
            first, second = (self.events.named(f"what is located, {n}") for n in ("1 pass", "2 passes"))
        else:
            first, second = (self.events.named(f"a pixel, {n}") for n in ("1 pass", "2 passes"))
            self.draw = first
        self.first, self.located = first, second - first

    def _line(self, gates: list[tuple[int, int, int]]) -> Line:
        """From the least and the most products in one tile of rows, and the most in two."""
        one = sorted(point for point in gates if point[1] == ROWS[self.dtype])
        two = sorted(point for point in gates if point[1] > ROWS[self.dtype])
        (least, _, first), (most, _, last) = one[0], (one if len(one) > 1 else [*one, *two])[-1]
        rate = (last - first) / (most - least) if most > least else self._issue_rate()
        fixed = first - rate * least
        return Line(fixed, rate, (two[-1][2] - fixed) / two[-1][0] if two else rate)

    def _points(self, kind: re.Pattern[str]) -> list[tuple[int, int, int]]:
        """Products of a turn, rows and cycles of each event of a kind of stage."""
        found = []
        for event, cycles in self.events.cycles.items():
            if cycles and (match := kind.search(event)):
                channels, taps, rows = map(int, match.groups())
                found.append((products_of_turn(self.dtype, channels * taps, rows), rows, cycles))
        return found

    def _issue_rate(self) -> float:
        """Cycles of a warp for a product, where each instruction of 32 lanes takes one."""
        return 1 / 32 if self.dtype == torch.float32 else 1 / 2048

    def turn(self, stage: Stage, rows: int) -> float:
        """Of a warp for 16 columns of a block of so many rows."""
        if stage.is_norm:
            return self.plain.fixed
        waits = LATENCIES["LDG"] * (ceil(stage.products / AHEAD) - 1) if self.dtype != torch.float32 else 0
        line = self.gate if stage.is_pair else self.plain
        products = products_of_turn(self.dtype, stage.products, rows)
        return line.at(products, rows, ROWS[self.dtype]) + waits + (self.joined if stage.is_joined else 0)

    def section(self, stages: Sequence[Stage], rows: Sequence[int], at_once: int) -> float:
        """Of stages that share a barrier, and of each its rows; ``at_once`` is how many rows a warp multiplies."""
        cycles = 0.0
        for first in range(0, max(rows), at_once):
            some = [min(max(n - first, 0), at_once) for n in rows]
            cycles += max(self.warps(stages, some), self.bound(stages, some))
            if not self.is_whole:
                passes = ceil(sum(stage.entries for stage in stages) * at_once / (32 * WARPS))
                cycles += (passes - 1) * self.located
        return cycles

    def warps(self, stages: Sequence[Stage], rows: Sequence[int]) -> float:
        """Of the warp that is busy longest."""
        busy = [0.0] * WARPS
        for stage, some in zip(stages, rows, strict=True):
            for number in range(stage.columns // WARP_COLUMNS if some else 0):
                busy[(stage.warp + number) % WARPS] += self.turn(stage, some)
        return max(busy)

    def bound(self, stages: Sequence[Stage], rows: Sequence[int]) -> float:
        """Cycles that weights take from L2, or products the processor."""
        rate = FMAS if self.dtype == torch.float32 else PRODUCTS
        weights = products = 0.0
        for stage, some in zip(stages, rows, strict=True):
            weights += (stage.products * stage.columns * self.dtype.itemsize) if some else 0
            products += stage.products * stage.columns * ceil(some / ROWS[self.dtype]) * ROWS[self.dtype]
        return max(weights / L2_BYTES, products / rate)


def sampler_cycles(sampler: Sampler, dtype: torch.dtype) -> float:
    """Of all tiles, in rounds of one for each processor."""
    if not sampler.in_shared:
        raise ValueError(f"a tile's activations must fit shared memory to be estimated, got {sampler.samples} samples")
    cycles = StageCycles(dtype, sampler.is_whole)
    steps = list(zip(*(stage.rows for stage in sampler.stages), strict=True))
    tile = float(sampler.draws * cycles.draw)
    for number, numbers in groupby(range(len(sampler.stages)), lambda s: sampler.stages[s].section):
        section = list(numbers)
        stages = [sampler.stages[s] for s in section]
        for rows, count in Counter(tuple(step[s] for s in section) for step in steps).items():
            one = cycles.section(stages, rows, sampler.rows)
            if sampler.is_whole and number + 1 in sampler.drawn_after:
                one += cycles.before
                if number + 1 == sampler.drawn_after[-1]:
                    one = _with_located(one, sampler, cycles)
            tile += count * one
    return ceil(sampler.tiles / PROCESSORS) * tile


def _with_located(section: float, sampler: Sampler, cycles: StageCycles) -> float:
    """The last section before a draw, beside which idle warps locate the next step; else all do it behind."""
    entries = sum(stage.entries for stage in sampler.stages)
    passes = ceil(entries * sampler.rows / (32 * (WARPS - sampler.busy)))
    located = cycles.first + (passes - 1) * cycles.located
    return max(section, located) if sampler.busy else section + located - cycles.around - cycles.before


def samples_of_tile(batch: int) -> int:
    """The smallest tile of a flow's inverse with which all samples have a processor: `run_inverse` in inverse.cu."""
    return next((size for size in (1, 2, 4) if ceil(batch / PROCESSORS) <= size), 8)


def inverse_cycles(flow: Flow, batch: int, steps: int) -> float:
    """Of a flow of ``steps`` MADEs of one walk, in float32.

    A block is what its warps multiply, each four rows with all values before at a time, then its events in turn: units
    of a degree, or a dimension. Live weights are read once a tile, at the rate of L2.
    """
    samples = samples_of_tile(batch)
    events = Events("made_inverse_inverse_kernel", "float", samples)
    one, dimension, both = map(events.named, ("a unit", "a dimension", "a unit, then a dimension"))
    around = one + dimension - both  # of the chain of a block
    two, four = (events.named(f"{n} units at once") for n in (2, 4))
    chain = 0.0
    for event in flow.events:
        at_once = two + (four - two) / 2 * (event.count - 2) if event.count > 1 else one
        chain += (dimension if event.is_dimension else at_once) - around
    products = _products_of_blocks(flow, samples, events)
    opened = events.named("a block's rows, then a unit") - one + around
    read = 4 * 4 * flow.fours / L2_BYTES
    step = max(sum(products), read) + len(products) * opened + chain
    return ceil(ceil(batch / samples) / PROCESSORS) * steps * step


def _products_of_blocks(flow: Flow, samples: int, events: Events) -> list[float]:
    """Of each block the cycles of the warp that multiplies longest."""
    first, second = events.named("4 rows, 256 values"), events.named("4 rows, 512 values")
    at_once = 32 * (8 if samples == 1 else 16 // samples)  # `kAhead` in multiply.h
    of_warps: dict[int, dict[int, float]] = {}
    for number, quad in enumerate(flow.quads):
        warps = of_warps.setdefault(quad.block, {})
        cycles = first + (max(ceil(quad.count / at_once), 1) - 1) * (second - first)
        warps[number % INVERSE_WARPS] = warps.get(number % INVERSE_WARPS, 0) + cycles
    return [max(warps.values()) for warps in of_warps.values()]
