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
TARGET = re.compile(r"\((\.L_x?_?\d+)\)")


class Loops(NamedTuple):
    """Sums over the hot loops of a kernel: the innermost ones that multiply matrices, or all where none does."""

    loops: int = 0
    instructions: int = 0
    divisions: int = 0
    conversions: int = 0
    constant_loads: int = 0


def hot_loops(code: str) -> Loops:
    """Counts of a kernel's code, as ``nvdisasm -c`` writes it."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif found := INSTRUCTION.match(line):
            if found[1].startswith("BRA") and (target := TARGET.search(found[2])):
                jumps.append((len(opcodes), target[1]))
            opcodes.append(found[1])
    found_loops = {(labels[to], at) for at, to in jumps if labels.get(to, at) < at}
    inner = [loop for loop in found_loops if not any(_inside(other, loop) for other in found_loops)]
    bodies = [opcodes[first : last + 1] for first, last in inner]
    multiply = [body for body in bodies if any(opcode.startswith(MATRIX) for opcode in body)]
    hot = [opcode for body in multiply or bodies for opcode in body]
    counts = {kind: sum(opcode.startswith(starts) for opcode in hot) for kind, starts in KINDS.items()}
    return Loops(len(multiply or bodies), len(hot), **counts)


def _inside(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    return loop != other and other[0] <= loop[0] and loop[1] <= other[1]


def matrix_instruction(ptx: str) -> str:
    """Kind and shapes of the matrix instructions of a kernel, such as ``wgmma m64n128k16``; empty where it has none."""
    for kind, name in (("wgmma", "wgmma.mma_async.sync.aligned"), ("mma", "mma.sync.aligned")):
        if shapes := sorted(set(re.findall(rf"{re.escape(name)}\.(m\d+n\d+k\d+)", ptx))):
            return " ".join([kind, *shapes])
    return ""
