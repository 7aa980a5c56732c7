"""The report of kernels compiled ahead of time: what it calls an offence, and what it takes down of a launch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases.rows import require

GOOD = {"local_bytes": 0, "product": True, "dtype": "bfloat16", "matrix_instruction": "mma.sync"}


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, None),
        ({"local_bytes": 8}, "spills: 8 bytes of local memory"),
        ({"matrix_instruction": ""}, "without a matrix instruction"),
        ({"matrix_instruction": "", "dtype": "float32"}, None),
        ({"matrix_instruction": "", "product": False}, None),
    ],
)
def test_offences(change: dict[str, Any], wrong: str | None) -> None:
    from benchmarks.kernels import offence

    found = offence(GOOD | change)
    assert found is None if wrong is None else wrong in found


def test_specialisation_of_a_launch() -> None:
    """Ones and None are constants; multiples of 16 and aligned pointers are known to be."""
    from benchmarks.kernels import source_of

    names = ["p_x", "p_bias", "N", "s", "BN", "B"]
    parameters = [
        SimpleNamespace(name=name, is_constexpr=name == "BN", do_not_specialize=name == "B") for name in names
    ]
    kernel = SimpleNamespace(params=parameters, arg_names=names, __name__="kernel")
    x = torch.zeros(64, dtype=torch.bfloat16)
    source = source_of(kernel, {"p_x": x, "p_bias": None, "N": 48, "s": 1, "BN": 32, "B": 1})
    assert source.signature == {
        "p_x": "*bf16",
        "p_bias": "constexpr",
        "N": "i32",
        "s": "constexpr",
        "BN": "constexpr",
        "B": "i32",
    }
    assert source.constants == {(1,): None, (3,): 1, (4,): 32}
    assert set(source.attrs) == {(0,), (2,)}


def test_specialisation_of_tuples() -> None:
    from benchmarks.kernels import source_of

    parameters = [
        SimpleNamespace(name=name, is_constexpr=name == "BN", do_not_specialize=False) for name in ("p", "s", "BN")
    ]
    kernel = SimpleNamespace(params=parameters, arg_names=["p", "s", "BN"], __name__="kernel")
    x = torch.zeros(64, dtype=torch.bfloat16)
    source = source_of(kernel, {"p": (x, None), "s": (1, 48, 5), "BN": (16, 32)})
    assert source.signature == {"p": ("*bf16", "constexpr"), "s": ("constexpr", "i32", "i32"), "BN": "constexpr"}
    assert source.constants == {(0, 1): None, (1, 0): 1, (2,): (16, 32)}
    assert set(source.attrs) == {(0, 0), (1, 1)}


CODE = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   MUFU.RCP R2, R2 ;
.L_x_1:
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0030*/              @!P0 I2FP.F32.U32 R3, R4 ;
        /*0040*/                   F2FP.BF16.F32.PACK_AB R3, R3, R4 ;
        /*0050*/                   ULDC.64 UR4, c[0x0][0x208] ;
        /*0060*/              @P1  BRA `(.L_x_1) ;
        /*0070*/               @P2 BRA `(.L_x_2) ;
.L_x_3:
        /*0080*/                   FADD R1, R1, R2 ;
        /*0090*/               @P3 BRA `(.L_x_3) ;
        /*00a0*/                   EXIT ;
"""


def test_counts_of_hot_loops() -> None:
    """The innermost loop that multiplies matrices; without one, all innermost loops."""
    from benchmarks.machine_code import hot_loops

    assert hot_loops(CODE) == (1, 5, 0, 2, 1)
    assert hot_loops(CODE.replace("HGMMA", "FFMA")) == (2, 7, 0, 2, 1)
    assert hot_loops(CODE.replace("FADD", "MUFU.RCP").replace("HGMMA", "FFMA")).divisions == 1
    assert hot_loops("") == (0, 0, 0, 0, 0)


def test_matrix_instructions_by_kind_and_shape() -> None:
    from benchmarks.machine_code import matrix_instruction

    two = "\n".join(f"wgmma.mma_async.sync.aligned.{shape}.f32.bf16.bf16 {{" for shape in ("m64n64k16", "m64n128k16"))
    assert matrix_instruction(two) == "wgmma m64n128k16 m64n64k16"
    assert matrix_instruction("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {") == "mma m16n8k16"
    assert matrix_instruction("fma.rn.f32 %f1, %f2;") == ""


def test_a_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    """What others compiled does not count."""
    import triton

    from benchmarks.kernels import COLUMNS, missing, write

    row = dict.fromkeys(COLUMNS, "") | {"triton": triton.__version__, "case": "linear-32-64"}
    write(tmp_path / "report.csv", [row, row | {"triton": "3.5.0", "case": "sample-64ch"}])
    assert missing(tmp_path / "report.csv", ["sample-64ch", "linear-32-64"]) == ["sample-64ch"]


def test_a_report_keeps_rows_of_another_triton(tmp_path: Path) -> None:
    from benchmarks.kernels import COLUMNS, read, write

    def row(triton: str, case: str, registers: int) -> dict[str, Any]:
        return dict.fromkeys(COLUMNS, "") | {"triton": triton, "case": case, "registers": registers}

    path = tmp_path / "report.csv"
    write(path, [row("3.6.0", "conv-gated-3x3B-64ch", 1), row("3.6.0", "linear-32-64", 2)])
    write(path, [row("3.9.0", "linear-32-64", 3)])
    write(path, [row("3.6.0", "linear-32-64", 4)])
    found = [(r["triton"], r["case"], r["registers"]) for r in read(path)]
    assert found == [
        ("3.6.0", "conv-gated-3x3B-64ch", "1"),
        ("3.6.0", "linear-32-64", "4"),
        ("3.9.0", "linear-32-64", "3"),
    ]
