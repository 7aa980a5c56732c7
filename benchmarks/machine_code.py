"""What a compiled kernel does in its hot loops, counted in its machine code."""

from __future__ import annotations

import re
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
# Cycles until a scoreboard is released, by the start of an opcode; 20 of any other.
LATENCIES = {"LDS": 30, "LDSM": 33, "LDG": 280, "LDC": 45, "MUFU": 24, "SHFL": 25, "I2F": 24, "F2I": 24, "S2R": 30}
JUMP = 6  # cycles of a branch beside its stall


class Instruction(NamedTuple):
    """An opcode, and what the compiler wrote beside it: stall in cycles, scoreboards that it sets and waits for."""

    opcode: str
    stall: int = 1
    written: int = 7  # scoreboard of its result, 7: none
    read: int = 7  # scoreboard of its operands
    waits: int = 0  # a bit for each scoreboard


class Loops(NamedTuple):
    """Sums over the hot loops of a kernel: the innermost ones that multiply matrices, or all where none does."""

    loops: int = 0
    instructions: int = 0
    divisions: int = 0
    conversions: int = 0
    constant_loads: int = 0


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
            bits = int(control[1], 16) >> 41
            fields = (bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63)
            found[-1] = Instruction(found[-1].opcode, *fields)
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


def warp_cycles(path: list[Instruction]) -> int:
    """Cycles that one warp takes for a path of instructions, alone on its processor."""
    time, released = 0, [0] * 6
    for instruction in path:
        time = max(time, *(released[b] for b in range(6) if instruction.waits >> b & 1), 0)
        opcode = instruction.opcode.partition(".")[0]
        latency = LATENCIES.get(opcode, 20)
        for scoreboard, cycles in ((instruction.written, latency), (instruction.read, min(latency, 20))):
            if scoreboard < 6:
                released[scoreboard] = max(released[scoreboard], time + cycles)
        time += max(1, instruction.stall) + (JUMP if opcode == "BRA" else 0)
    return time


def _inside(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    return loop != other and other[0] <= loop[0] and loop[1] <= other[1]


def matrix_instruction(ptx: str) -> str:
    """Kind and shapes of the matrix instructions of a kernel, such as ``wgmma m64n128k16``; empty where it has none."""
    for kind, name in (("wgmma", "wgmma.mma_async.sync.aligned"), ("mma", "mma.sync.aligned")):
        if shapes := sorted(set(re.findall(rf"{re.escape(name)}\.(m\d+n\d+k\d+)", ptx))):
            return " ".join([kind, *shapes])
    return ""
