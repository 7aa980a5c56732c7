"""What a compiled kernel does in its hot loops, counted in its machine code, and the cycles that a warp takes for it.

Every instruction carries the cycles until the next may issue, and the scoreboards that it sets and waits for. With an
assumed latency for each kind of instruction a path through the code has a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MATRIX = ("HMMA", "HGMMA", "IMMA", "DMMA")
KINDS = {  # start of an opcode
    "divisions": ("MUFU.RCP", "CALL"),  # of integers too: they go by a reciprocal; a call is the slow path of one
    "conversions": ("I2F", "F2I", "I2I", "F2F", "I2FP", "F2FP", "FRND"),
    "constant_loads": ("LDC", "ULDC"),
}
LABEL = re.compile(r"^(\.L_x?_?\d+):")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*?);")
CONTROL = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")  # the second half of an instruction, by -hex
TARGET = re.compile(r"\((\.L_x?_?\d+)\)")
# Cycles until a result can be read; 20 for the others that set a scoreboard. LDG: a hit in L2.
LATENCIES = {
    "LDS": 30,
    "LDG": 280,
    "LDC": 45,
    "MUFU": 24,
    "I2F": 24,
    "F2I": 24,
    "SHFL": 25,
    "LDSM": 33,
    "HMMA": 33,
    "S2R": 30,
    "R2UR": 12,
    "POPC": 16,
    "FLO": 16,
}
OTHER, SOURCES, JUMP = 20, 20, 6  # of an operation; until its sources may be overwritten; added by a jump
SCOREBOARDS = 6


class Instruction(NamedTuple):
    """An opcode, and what the compiler wrote beside it: stall in cycles, scoreboards that it sets and waits for."""

    opcode: str
    stall: int = 1
    written: int = 7  # scoreboard of its result, 7: none
    read: int = 7  # scoreboard of its operands
    waits: int = 0  # a bit for each scoreboard

    @property
    def kind(self) -> str:
        return self.opcode.partition(".")[0]


class Step(NamedTuple):
    """What an instruction does to a clock."""

    waits: tuple[int, ...]  # scoreboards
    holds: tuple[tuple[int, int], ...]  # scoreboard and cycles
    issue: int


class Clock(NamedTuple):
    """Cycles so far, and when each scoreboard is free."""

    now: int = 0
    free: tuple[int, ...] = (0,) * SCOREBOARDS


class Loops(NamedTuple):
    """Sums over the hot loops of a kernel: the innermost ones that multiply matrices, or all where none does."""

    loops: int = 0
    instructions: int = 0
    divisions: int = 0
    conversions: int = 0
    constant_loads: int = 0


def scheduled(opcode: str, half: int) -> Instruction:
    """An opcode with what stands in the second half of its instruction."""
    bits = half >> 41
    return Instruction(opcode, bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63)


def parts_of(code: str) -> tuple[list[list[Instruction]], list[Instruction]]:
    """The hot loops of a kernel's code, as ``nvdisasm -c`` writes it, and all that is in none of them."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := INSTRUCTION.match(line):
            if instruction[1].startswith("BRA") and (target := TARGET.search(instruction[2])):
                jumps.append((len(found), target[1]))
            found.append(Instruction(instruction[1]))
        elif found and (control := CONTROL.match(line)):
            found[-1] = scheduled(found[-1].opcode, int(control[1], 16))
    spans = {(labels[to], at + 1) for at, to in jumps if labels.get(to, at) < at}
    inner = sorted(span for span in spans if not any(_inside(other, span) for other in spans))
    multiply = [s for s in inner if any(i.opcode.startswith(MATRIX) for i in found[slice(*s)])]
    hot = multiply or inner
    in_loops = {place for span in hot for place in range(*span)}
    return [found[slice(*span)] for span in hot], [i for n, i in enumerate(found) if n not in in_loops]


def hot_loops(code: str) -> Loops:
    """Counts of a kernel's code, as ``nvdisasm -c`` writes it."""
    loops, _ = parts_of(code)
    opcodes = [instruction.opcode for loop in loops for instruction in loop]
    counts = {kind: sum(opcode.startswith(starts) for opcode in opcodes) for kind, starts in KINDS.items()}
    return Loops(len(loops), len(opcodes), **counts)


def steps_of(path: Iterable[Instruction]) -> list[Step]:
    """Of each instruction what it waits for, which scoreboards it holds until when, and how long it takes to issue."""
    found = []
    for instruction in path:
        latency = LATENCIES.get(instruction.kind, OTHER)
        holds = ((instruction.written, latency), (instruction.read, min(latency, SOURCES)))
        issue = max(1, instruction.stall) + (JUMP if instruction.kind == "BRA" else 0)
        waits = tuple(board for board in range(SCOREBOARDS) if instruction.waits >> board & 1)
        found.append(Step(waits, tuple(hold for hold in holds if hold[0] < SCOREBOARDS), issue))
    return found


def run(steps: Iterable[Step], clock: Clock) -> Clock:
    """The clock of a warp behind some instructions."""
    now, free = clock.now, list(clock.free)
    for waits, holds, issue in steps:
        for board in waits:
            now = max(now, free[board])
        for board, latency in holds:
            free[board] = max(free[board], now + latency)
        now += issue
    return Clock(now, tuple(free))


def warp_cycles(path: Iterable[Instruction]) -> int:
    """Cycles that one warp takes for a path of instructions, alone on its processor."""
    return run(steps_of(path), Clock()).now


def _inside(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    return loop != other and other[0] <= loop[0] and loop[1] <= other[1]


def matrix_instruction(ptx: str) -> str:
    """Kind and shapes of the matrix instructions of a kernel, such as ``wgmma m64n128k16``; empty where it has none."""
    for kind, name in (("wgmma", "wgmma.mma_async.sync.aligned"), ("mma", "mma.sync.aligned")):
        if shapes := sorted(set(re.findall(rf"{re.escape(name)}\.(m\d+n\d+k\d+)", ptx))):
            return " ".join([kind, *shapes])
    return ""
