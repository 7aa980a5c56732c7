"""How long the CUDA library's samplers and inverses would take on an H100, from the cycles of their events.

Both wait for one step after another, so their time is a sum: over steps, stages and blocks of rows of the cycles that
one takes. Steps, stages and tiles are the library's own (`cuda_plans`). Cycles of a stage kind are those of an event in
``results/cuda_cycles.csv`` (`cycle_model`: one warp, from a barrier to the next). For a stage of another size than the
event's they are scaled: a fixed part, and one in proportion to the products of a warp. Two events of other numbers of
rows give both; where there is one alone, a product instruction adds the cycle that it takes to issue. No stage is
shorter than its weights take from L2 or its products take the processor. A norm counts as a stage without products.
"""

from __future__ import annotations

import csv
import re
from math import ceil
from typing import NamedTuple

import torch

from .cuda_kernels import CYCLES
from .cuda_plans import DTYPES, Flow, Sampler, Stage
from .h100 import FMAS, L2_BYTES, PROCESSORS, PRODUCTS
from .machine_code import LATENCIES

NAMES = dict(zip(DTYPES, ("float", "__nv_bfloat16", "__half"), strict=True))
WARPS, WARP_COLUMNS = 8, 16  # of a sampler's thread block; that a warp multiplies at once in 16 bits
AHEAD = 320  # products of an output whose weights are under way at once in 16 bits
ROWS = {torch.float32: 4, torch.bfloat16: 16, torch.float16: 16}  # to which a block of rows is filled up
GATE, PLAIN = (re.compile(rf"{kind} of (\d+) channels, (\d+) taps?, (\d+) rows") for kind in ("gate", "relu"))
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
    """Cycles of a block of rows of a stage kind: ``fixed + rate * products`` of a warp."""

    fixed: float
    rate: float

    def at(self, products: float) -> float:
        return self.fixed + self.rate * products


def products_of_warp(dtype: torch.dtype, products: int, columns: int, rows: int) -> float:
    """In 16 bits a warp has 16 columns; in float32 all warps share all products."""
    filled = ceil(rows / ROWS[dtype]) * ROWS[dtype]
    if dtype == torch.float32:
        return products * columns * filled / WARPS
    return products * WARP_COLUMNS * filled


class StageCycles:
    """Cycles of the stages and draws of the sampler's kernel for a dtype, whose activations are in shared memory."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.events = Events("pixelcnn_sample_sample_kernel", NAMES[dtype], "true")
        gates = self._points(GATE, 2)
        if not gates:
            raise self.events.lacking("'gate of C channels, T taps, R rows'")
        (least, first), *more = sorted(gates)
        rate = (more[-1][1] - first) / (more[-1][0] - least) if more else self._issue_rate()
        # where outputs are an event of their own, another barrier is behind the products
        named = self.events.cycles.items()
        self.outputs = sum(cycles for event, cycles in named if event.startswith("outputs of a gate"))
        self.gate = Line(first - rate * least, rate)
        plain = [Line(cycles - rate * products, rate) for products, cycles in self._points(PLAIN, 1)]
        self.plain = plain[0] if plain else self.gate
        self.draw = self.events.named("draw")

    def _points(self, kind: re.Pattern[str], width: int) -> list[tuple[float, int]]:
        """Products of a warp and cycles of each event of a kind of stage, with ``width`` columns a channel."""
        found = []
        for event, cycles in self.events.cycles.items():
            if cycles and (match := kind.search(event)):
                channels, taps, rows = map(int, match.groups())
                found.append((products_of_warp(self.dtype, channels * taps, width * channels, rows), cycles))
        return found

    def _issue_rate(self) -> float:
        """Cycles of a warp for a product, where each instruction of 32 lanes takes one."""
        return 1 / 32 if self.dtype == torch.float32 else 1 / 2048

    def block(self, stage: Stage, rows: int) -> float:
        """Of one block of so many rows."""
        if stage.is_norm:
            return self.plain.fixed + self.outputs
        at_once = WARPS * WARP_COLUMNS
        own = products_of_warp(self.dtype, stage.products, min(stage.columns, at_once), rows)
        passes = ceil(stage.columns / at_once)
        waits = LATENCIES["LDG"] * (ceil(stage.products / AHEAD) - 1) if self.dtype != torch.float32 else 0
        channels = stage.columns / (2 if stage.is_pair else 1)
        outputs = self.outputs * ceil(rows * channels / (32 * WARPS))
        line = self.gate if stage.is_pair else self.plain
        return max(passes * (line.at(own) + waits) + outputs, self.bound(stage, rows))

    def bound(self, stage: Stage, rows: int) -> float:
        """Cycles that its weights take from L2, or its products the processor."""
        weights = stage.products * stage.columns * self.dtype.itemsize
        filled = ceil(rows / ROWS[self.dtype]) * ROWS[self.dtype]
        rate = FMAS if self.dtype == torch.float32 else PRODUCTS
        return max(weights / L2_BYTES, stage.products * stage.columns * filled / rate)


def sampler_cycles(sampler: Sampler, dtype: torch.dtype) -> float:
    """Of all tiles, in rounds of one for each processor."""
    if not sampler.in_shared:
        raise ValueError(f"a tile's activations must fit shared memory to be estimated, got {sampler.samples} samples")
    cycles = StageCycles(dtype)
    tile = float(sampler.draws * cycles.draw)
    for stage in sampler.stages:
        tile += sum(count * cycles.block(stage, rows) for rows, count in enumerate(stage.blocks, 1) if count)
    return ceil(sampler.tiles / PROCESSORS) * tile


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
    four, five, both = map(events.named, ("4 shuffles", "5 shuffles", "4 and 5 shuffles, in two events"))
    around = four + five - both  # of the chain of a block
    unit, dimension = events.named("a unit") - around, events.named("a dimension") - around
    more = (five - events.named("a unit")) / 4  # for each value that becomes known with the first
    chain = sum(dimension if event.is_dimension else unit + more * (event.count - 1) for event in flow.events)
    opened = events.named("a block's rows, then a unit") - unit
    products = _products_of_blocks(flow, samples, events)
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
