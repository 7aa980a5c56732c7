"""Cycles that one warp takes for a piece of work, from a kernel's machine code: what no profiler can say without a GPU.

A path through the code has a time by `machine_code`. Of all paths from a barrier of the block to the next that do
exactly the work of an event (so many matrix products, loads, stores), the time of the shortest is the event's: what the
code can take at best. Other warps of the scheduler, bank conflicts and misses of a cache are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from itertools import count, pairwise
from typing import Any, NamedTuple

from . import machine_code
from .machine_code import CONTROL, LABEL, Clock, run, steps_of

Opcodes = str | tuple[str, ...]
FUNCTION = re.compile(r"^\.text\.(\S+):", re.MULTILINE)
LOW = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*?)\s*;\s*/\* 0x[0-9a-f]{16} \*/")
TARGET = re.compile(r"\.L_x?_?\d+")
ENDS = ("BRA", "BRX", "JMP", "EXIT", "RET", "CALL", "BAR")  # of a block of instructions


class Instruction(NamedTuple):
    scheduled: machine_code.Instruction
    targets: tuple[str, ...]  # labels to which it may jump
    conditional: bool

    @property
    def opcode(self) -> str:
        return self.scheduled.opcode

    @property
    def kind(self) -> str:
        return self.scheduled.kind


class Block(NamedTuple):
    """Instructions that run in a row, and the blocks that may follow."""

    instructions: tuple[Instruction, ...]
    after: tuple[int, ...]

    @property
    def is_barrier(self) -> bool:
        return self.instructions[-1].kind == "BAR"


def functions(listing: str) -> dict[str, str]:
    """Code of each kernel in what ``nvdisasm -c -hex`` writes."""
    parts = FUNCTION.split(listing)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks_of(code: str) -> list[Block]:
    """The blocks of a kernel, in the order of their addresses."""
    instructions, labels = _parse(code)
    bounds = sorted(
        {0, len(instructions), *labels.values(), *(i + 1 for i, x in enumerate(instructions) if x.kind in ENDS)}
    )
    index = {start: number for number, start in enumerate(bounds[:-1])}
    found = []
    for number, (first, end) in enumerate(pairwise(bounds)):
        last = instructions[end - 1]
        after = [index[labels[target]] for target in last.targets if labels.get(target) in index]
        falls = last.kind not in ("BRA", "BRX", "JMP", "EXIT", "RET", "CALL") or last.conditional
        if falls and number + 2 < len(bounds):
            after.append(number + 1)
        found.append(Block(tuple(instructions[first:end]), tuple(after)))
    return found


def _parse(code: str) -> tuple[list[Instruction], dict[str, int]]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    low: re.Match[str] | None = None
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := LOW.match(line):
            low = found
        elif low is not None and (high := CONTROL.match(line)):
            opcode, operands = low[2], low[3]
            jumps = opcode.split(".")[0] in ("BRA", "BRX")
            targets = tuple(TARGET.findall(operands)) if jumps and ".DIV" not in opcode else ()
            by_operand = re.match(r"!?U?P\d", operands) is not None or ".DIV" in opcode
            own = machine_code.scheduled(opcode, int(high[1], 16))
            instructions.append(Instruction(own, targets, low[1] is not None or by_operand))
            low = None
    return instructions, labels


def cycles(blocks: list[Block], work: Mapping[Opcodes, int]) -> int | None:
    """The least time from a barrier to the next in which exactly this much work is done; None where no path does it.

    Args:
        work: how many instructions begin with each opcode, or one of several (`STS$`: with no more than that), in the
            order in which blocks do them: a block begins with one when those before are done. Of those with 0 none
            runs: they are off where they have a predicate, and no path leads through one without.
    """
    return min((time for time, _ in paths(blocks, work)), default=None)


def paths(blocks: list[Block], work: Mapping[Opcodes, int]) -> Iterator[tuple[int, list[int]]]:
    """From each barrier the least time of the work, and the blocks that do it."""
    absent = tuple(start for start, number in work.items() if number == 0 and isinstance(start, str))
    live = [block._replace(instructions=_without(block.instructions, absent)) for block in blocks]
    search = _Search(live, work)
    for start, block in enumerate(live):
        if block.is_barrier and (found := search.shortest(start)):
            yield found


def _without(instructions: tuple[Instruction, ...], absent: tuple[str, ...]) -> tuple[Instruction, ...]:
    """Those that run: of the absent ones those without a predicate, by which a path is seen to be of other work."""
    return tuple(x for x in instructions if not (x.conditional and any(_begins(x.opcode, start) for start in absent)))


def _begins(opcode: str, starts: Opcodes) -> bool:
    """True where it begins with one of these, or is what stands before a $."""
    return f"{opcode}$".startswith(starts)


# Time, number of the state, clock, block, work done before it, and the path to it: the last block and the path before.
_State = tuple[int, int, Clock, int, tuple[int, ...], Any]


class _Search:
    """Takes the earliest state again and again: a block and the work done before it, at a clock."""

    def __init__(self, blocks: list[Block], work: Mapping[Opcodes, int]) -> None:
        order = sorted(work, key=lambda start: work[start] > 0)  # of those that are wanted as they stand
        self._blocks, self._wanted = blocks, tuple(work[start] for start in order)
        self._done = [tuple(sum(_begins(x.opcode, s) for x in b.instructions) for s in order) for b in blocks]
        self._steps = [steps_of(x.scheduled for x in block.instructions) for block in blocks]

    def shortest(self, start: int) -> tuple[int, list[int]] | None:
        """The least time from a barrier to the next, and the blocks between."""
        order, seen = count(), set()
        nothing = (0,) * len(self._wanted)
        queue: list[_State] = [
            (0, next(order), Clock(), after, nothing, (after, None)) for after in self._blocks[start].after
        ]
        while queue:
            _, _, clock, at, before, path = heappop(queue)
            if (at, before) in seen:
                continue
            seen.add((at, before))
            now = tuple(a + b for a, b in zip(before, self._done[at], strict=True))
            if not self._in_order(now):
                continue
            clock = run(self._steps[at], clock)
            if self._blocks[at].is_barrier:
                if now == self._wanted:
                    return clock.now, _listed(path)
                continue
            for after in self._blocks[at].after:
                if (after, now) not in seen:
                    heappush(queue, (clock.now, next(order), clock, after, now, (after, path)))
        return None

    def _in_order(self, done: tuple[int, ...]) -> bool:
        """True where none is done more often than wanted, and of what comes behind something undone nothing."""
        first = next((i for i, n in enumerate(done) if n != self._wanted[i]), len(done))
        return not any(done[first + 1 :]) and done[first : first + 1] <= self._wanted[first : first + 1]


def _listed(path: Any) -> list[int]:
    """The blocks of a path, given as the last and the path before it."""
    found = []
    while path is not None:
        at, path = path
        found.append(at)
    return found[::-1]
