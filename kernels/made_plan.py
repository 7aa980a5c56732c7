"""The walk of `made_inverse` over a MADE: every unit in the order in which it can be known, cut into blocks.

The order is by degree; within a degree by layer, and last the dimension of x that its outputs give. One or two units
of a layer and degree, or a dimension, are an *event*: its *rows* of weights read nothing but earlier events. A block is
a run of events that fills S *slots*, one for each unit or dimension. The blocks before contribute to its rows by a
matrix product, K a prefix of the layer before in sorted order, cut into *jobs* of at most BN rows of a layer. Slots of
its own block contribute event by event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from . import launch
from .degrees import once

ROW = 9  # fields of a row
AHEAD = 2  # events that the kernel looks up before it is their turn


class Plan(NamedTuple):
    """Tables of int32 on the device, and sizes of what the kernel writes. -1 stands for none."""

    blocks: Tensor  # [n_blocks + 1, 3] first event, row and job
    events: Tensor  # [events + AHEAD, 4] two rows (a single one twice), first slot, dimension (-1: hidden units)
    rows: Tensor  # [rows, ROW] see `_Builder.row`
    jobs: Tensor  # [jobs, 2 + BN] K in whole blocks of BK, start of these K in a sample's known values, rows
    slots: Tensor  # [n_blocks * S, 3] layer, unit in the tensors, place in a sample's known values
    order: Tensor  # the units of every layer but the last, sorted by degree
    known: int  # values kept of a sample: the layers of `order`, each in whole blocks of BK
    widest: int  # K of the longest row, in whole blocks of BK
    bases: int  # rows of the largest block, and those of the events ahead


def plan_of(degrees: Sequence[Tensor], slots: int, block_n: int, block_k: int, device: torch.device) -> Plan:
    """The plan of a network, made once. Raises like `degrees.once`."""

    def make(values: list[tuple[int, ...]]) -> Plan:
        return _Builder(values, slots, block_n, block_k).plan(device)

    return once(degrees, device, (slots, block_n, block_k), make)


class _Builder:
    """Layers are numbered from the inputs, 0, to the outputs, L."""

    def __init__(self, values: list[tuple[int, ...]], slots: int, block_n: int, block_k: int) -> None:
        self.values, self.L, self.dim = values, len(values) - 1, len(values[0])
        self.S, self.BN, self.BK = slots, block_n, block_k
        self.blocks: list[list[int]] = []
        self.events: list[list[int]] = []
        self.rows: list[list[int]] = []
        self.jobs: list[list[int]] = []
        self.slots: list[list[int]] = []
        sizes = [len(v) for v in values]
        last = self.dim  # units of this degree and more feed no output; inputs have 1 .. dim
        self.order = [
            sorted((u for u in range(sizes[i]) if values[i][u] < last + (i == 0)), key=values[i].__getitem__)
            for i in range(self.L)
        ]
        self.order_start = [0, *accumulate(map(len, self.order))]
        self.known_start = [0, *accumulate(self.whole(len(units)) for units in self.order)]
        self.weight_start = [0, *accumulate(a * b for a, b in pairwise(sizes))]
        self.bias_start = [0, *accumulate(sizes[1:], initial=self.weight_start[-1])]
        self.made = [0] * self.L  # units of each layer that have a slot
        self.before = list(self.made)  # units of each layer that had one before this block
        self.rows_of: defaultdict[int, list[int]] = defaultdict(list)  # rows of this block by layer

    def whole(self, size: int) -> int:
        return launch.cdiv(size, self.BK) * self.BK

    def plan(self, device: torch.device) -> Plan:
        def table(values: list) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        self.walk()
        self.close_block()
        end = len(self.rows) - 1
        return Plan(
            table(self.blocks),
            table([*self.events, *[[end, end, 0, -1]] * AHEAD]),
            table(self.rows),
            table(self.jobs),
            table(self.slots),
            table([u for units in self.order for u in units]),
            known=self.known_start[-1],
            widest=max(row[3] for row in self.rows),
            bases=max(b[1] - a[1] for a, b in pairwise(self.blocks)) + 2 * AHEAD,
        )

    def walk(self) -> None:
        self.open_block()
        by_degree: defaultdict[int, list[list[int]]] = defaultdict(lambda: [[] for _ in range(self.L)])
        for layer, units in enumerate(self.order):
            for unit in units:
                by_degree[self.values[layer][unit] - (layer == 0)][layer].append(unit)
        for degree in sorted(by_degree):
            for layer in range(1, self.L):
                units = by_degree[degree][layer]
                for first in range(0, len(units), 2):
                    pair = units[first : first + 2]
                    self.event(layer, pair, layer, pair, -1)
            for unit in by_degree[degree][0]:
                outputs = list(range(unit, len(self.values[-1]), self.dim))
                self.event(self.L, outputs, 0, [unit], unit)

    def event(self, layer: int, units: list[int], made_layer: int, made: list[int], dimension: int) -> None:
        """Rows of ``units`` give the values of ``made``."""
        if len(self.slots) + len(made) > len(self.blocks) * self.S:
            self.close_block()
        block_slots = (len(self.blocks) - 1) * self.S
        known = len(self.slots) - block_slots
        self.events.append([len(self.rows), len(self.rows) + len(units) - 1, known, dimension])
        for unit in units:
            self.rows_of[layer].append(len(self.rows))
            self.rows.append(self.row(layer, unit, block_slots, known))
        for unit in made:
            self.slots.append([made_layer, unit, self.known_start[made_layer] + self.made[made_layer]])
            self.made[made_layer] += 1

    def row(self, layer: int, unit: int, block_slots: int, known: int) -> list[int]:
        """ROW fields: where a row's inputs, its bias and its condition are.

        Start in the flat weights, start in `order`, K, K in whole blocks of BK, first slot of its block, number of
        these slots that it may read, layer of its inputs, bias in the flat weights, column of cond (-1: none).
        """
        inputs = layer - 1
        k = self.before[inputs]
        start = self.weight_start[inputs] + unit * len(self.values[inputs])
        place = [start, self.order_start[inputs], k, self.whole(k), block_slots, known, inputs]
        return [*place, self.bias_start[layer] + unit, unit if layer == 1 else -1]

    def open_block(self) -> None:
        self.blocks.append([len(self.events), len(self.rows), len(self.jobs)])
        self.before = list(self.made)
        self.rows_of.clear()

    def close_block(self) -> None:
        """Ends a block, and opens the next one: after the last it is the end of the table."""
        self.slots += [[-1, 0, 0]] * (len(self.blocks) * self.S - len(self.slots))
        for layer, rows in sorted(self.rows_of.items()):
            job = [self.whole(self.before[layer - 1]), self.known_start[layer - 1]]
            for first in range(0, len(rows), self.BN):
                some = rows[first : first + self.BN]
                self.jobs.append([*job, *some, *[-1] * (self.BN - len(some))])
        self.open_block()
