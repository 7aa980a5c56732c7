"""The model behind docs/gpu.md: cycles of a warp, rounds of programs, passes of a loop; and what the page says."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.rows import require

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


def test_a_warp_waits_for_what_it_reads() -> None:
    from benchmarks.machine_code import Instruction, warp_cycles

    load, use = Instruction("LDG.E", 2, written=3), Instruction("FADD", 4, waits=1 << 3)
    assert warp_cycles([load, use]) == 280 + 4
    assert warp_cycles([load, Instruction("FADD", 4)]) == 2 + 4
    assert warp_cycles([load, *[Instruction("FADD", 4)] * 100, use]) == 2 + 400 + 4
    assert warp_cycles([Instruction("LDS", 1, read=0), Instruction("STS", 1, waits=1)]) == 20 + 1
    assert warp_cycles([Instruction("BRA", 5)]) == 11


def test_control_fields_are_read() -> None:
    from benchmarks.machine_code import Instruction, parts_of

    bits = 13 | 1 << 4 | 2 << 5 | 7 << 8 | 0b100101 << 11
    code = f"        /*0000*/     LDG.E R1, [R2] ;   /* 0x0000000000000000 */\n   /* 0x{bits << 41:016x} */\n"
    assert parts_of(code) == ([], [Instruction("LDG.E", 13, 2, 7, 0b100101)])


def test_rounds_of_programs() -> None:
    from benchmarks.estimates import ISSUED, PROCESSORS, PRODUCTS, Code, Loop, rounds_cycles

    code = Code(warps=8, resident=2, in_loop=100, outside=50, outside_cycles=1000)
    loop = Loop(passes=1.0, products=PRODUCTS * 600, loaded=0)
    one = 1000 + 600
    assert rounds_cycles(code, 1, [loop]) == one
    per_program = [loop._replace(passes=float(n)) for n in (2 * PROCESSORS, 2 * PROCESSORS + 1)]
    assert rounds_cycles(code, 2 * PROCESSORS, [per_program[0]]) == one  # side by side
    assert rounds_cycles(code, 2 * PROCESSORS + 1, [per_program[1]]) == 2 * one
    busy = Loop(passes=10.0 * 2 * PROCESSORS, products=PRODUCTS, loaded=0)
    assert rounds_cycles(code, 2 * PROCESSORS, [busy]) == 2 * (10 * 100 + 50) * 8 / ISSUED  # bound by what is issued


def test_passes_of_a_convolution() -> None:
    from benchmarks.estimates import Loop, loop_of

    x = torch.zeros(1, dtype=torch.bfloat16)
    args: dict[str, Any] = {"p_x": x, "T": 5, "C_in": 128, "PER_TAP": 2, "ACTIVATION": "gate", "BM": 128, "BN": 64}
    args |= {"BK": 64}
    assert loop_of("masked_conv_forward_kernel", args, {}, (7,)) == [Loop(7 * 10, 128 * 128 * 64, 2 * 256 * 64)]
    flat = args | {"PER_TAP": 0, "C_in": 20}
    assert loop_of("masked_conv_forward_kernel", flat, {}, (7,))[0].passes == 7 * 2
    assert loop_of("masked_conv_pack_kernel", args, {}, (7,)) == []
    both = args | {"P": 256, "weight_programs": 3, "pixels_per_part": 512}
    both |= {"WEIGHT_BM": 64, "WEIGHT_BN": 128, "WEIGHT_BK": 32}
    weight, of_x = loop_of("masked_conv_backward_kernel", both, {}, (7,))
    assert weight == Loop(3 * 8, 32 * 128 * 64, 2 * (32 + 128) * 64) and of_x.passes == 4 * 10


def test_passes_of_a_linear_layer_are_its_live_tiles() -> None:
    from vlae_fast.kernels.live_tiles import Mask

    from benchmarks.estimates import loop_of

    mask = Mask(torch.arange(64), torch.arange(64))
    blocks = {"B": 40, "BM": 32, "BN": 16, "BK": 16, "BO": 16, "BI": 32, "BB": 8}
    args = {"p_x": torch.zeros(1), "p_walks": mask.walks(16, 16), "p_tiles": mask.tiles(16, 32), **blocks}
    forward, weight = loop_of("masked_linear_backward_kernel", args, {}, (1,))
    assert forward.passes == 2 * (1 + 2 + 3 + 4) and forward.products == 32 * 16 * 16
    assert weight.passes == 5 * (1 + 1 + 2 + 2) and weight.loaded == 4 * (16 + 32) * 8
    assert len(loop_of("masked_linear_forward_kernel", args, {}, (1,))) == 1


def test_the_page_has_a_row_for_every_target() -> None:
    from benchmarks.estimates import time_of
    from benchmarks.targets import TARGETS

    lines = (ROOT / "docs" / "gpu.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == list(TARGETS)
    for row, target in zip(rows, TARGETS.values(), strict=True):
        assert row[1:3] == [time_of(target.floor_us), target.before] and row[4] == time_of(target.asked_us)
        assert row[3].endswith((" us", " ms"))


@pytest.mark.slow
def test_every_target_launches_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, with launches stubbed: what is called is made as on a GPU."""
    from benchmarks import cuda_calls, host_time, targets

    checked = targets.vf.PixelCNNSampler

    def sampler(decoder: torch.nn.Module) -> Any:
        """One of triton's, whose check of the decoder ran by the reference."""
        made = checked(decoder, "reference")
        made.backend = "triton"
        made._packed = made._pack(made.program.weights)
        return made

    monkeypatch.setattr(targets.vf, "PixelCNNSampler", sampler)
    monkeypatch.setattr(targets, "make_decoder", partial(targets.make_decoder, backend="reference"))
    kernels = {"conv": "masked_conv", "made": "masked_linear"}
    with host_time.stubbed() as names:
        for name, target in targets.TARGETS.items():
            if name.startswith("maf"):
                continue  # of the CUDA library
            call = target.make("cpu")
            names.clear()
            call()
            kernel = kernels.get(name.partition("-")[0], "pixelcnn_sample")
            assert any(one.startswith(kernel) for one in names), name
    with cuda_calls.called() as calls:
        targets.TARGETS["maf-784-batch100"].make("cpu")()
    assert [(one.name, one.batch) for one in calls] == [("made_inverse", 100)]
