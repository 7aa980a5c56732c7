"""The CUDA library where there is no GPU: it loads on any torch, and its absence is a reason."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vlae_fast
from benchmarks import cuda_kernels, cycle_model, machine_code
from vlae_fast import backends
from vlae_fast.backends import cuda, library

LIBRARY = Path(vlae_fast.__file__).with_name("_native_cuda.so")
WITHOUT_CUDA = "torch was built without CUDA"

without_cuda = pytest.mark.skipif(torch.backends.cuda.is_built(), reason="torch was built with CUDA")


@without_cuda
def test_a_torch_without_cuda_is_the_reason() -> None:
    assert cuda.why_not() == WITHOUT_CUDA
    assert f"cuda       absent: {WITHOUT_CUDA}" in backends.report()
    with pytest.raises(RuntimeError, match="cuda: runs on cuda, the input is on cpu"):
        backends.pick("pixelcnn_sample", torch.zeros(1), "cuda")


def test_the_build_in_use_agrees_with_its_report() -> None:
    report = library.build_report().get("cuda", {"built": False, "why_not": "unknown"})
    assert LIBRARY.is_file() == report["built"] == (not report["why_not"])


def test_the_library_loads_and_gives_the_reason() -> None:
    """One binary for every torch: nothing in it asks for a CUDA build, or for a GPU, until it is run."""
    if not LIBRARY.is_file():
        pytest.skip(f"the cuda library was not built: {library.build_report().get('cuda', {}).get('why_not')}")
    code = f"import torch; torch.ops.load_library({str(LIBRARY)!r}); print(torch.ops.vlae_fast_cuda.why_not())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.backends.cuda.is_built() or done.stdout.strip() == WITHOUT_CUDA


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_the_library_asks_for_torch_alone() -> None:
    """By soname: libtorch.so pulls in libtorch_cuda.so where there is one; CUDA's runtime is inside."""
    if not LIBRARY.is_file():
        pytest.skip("the cuda library was not built")
    said = subprocess.run(["readelf", "-d", str(LIBRARY)], capture_output=True, text=True, check=True).stdout
    assert "[libtorch.so]" in said and "cudart" not in said
    assert "PATH)" not in said


@pytest.mark.parametrize(
    ("present", "reason"),
    [(False, "not built because no luck"), (True, "failed to load because")],
    ids=["absent", "broken"],
)
def test_why_there_is_no_library(present: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "_native_cuda.so"
    if present:
        file.write_bytes(b"not a library")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(cuda, "_LIBRARY", file)
    monkeypatch.setattr(cuda, "_OPS", object())
    monkeypatch.setattr(library, "build_report", lambda: {"cuda": {"why_not": "no luck"}})
    assert cuda._load().startswith(reason)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the host computes before a launch, and a check of every kind of divisor."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    program = tmp_path_factory.mktemp("numbers") / "numbers"
    sources = ["tests/cases/cuda_host/numbers.cpp", "csrc/cuda/pixelcnn_sample/tiling.cpp"]
    subprocess.run([compiler, "-std=c++20", "-Icsrc", *sources, "-o", str(program)], cwd=cuda_kernels.ROOT, check=True)
    return program


@pytest.mark.parametrize(
    ("batch", "fitting", "tile", "tiles", "last"),
    [(1, 6, 1, 1, 1), (133, 6, 2, 67, 1), (793, 6, 4, 199, 1), (4096, 6, 6, 683, 4), (4096, 7, 7, 586, 1)],
)
def test_tiles_are_as_equal_as_their_rounds_allow(
    numbers: Path, batch: int, fitting: int, tile: int, tiles: int, last: int
) -> None:
    """132 processors. 793 samples need two rounds of tiles: of four samples each, not of six and then of one."""
    done = subprocess.run([str(numbers), str(batch), "132", str(fitting)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.split() == [str(tile), str(tiles), str(last)]


@pytest.mark.slow
@pytest.mark.skipif(cuda_kernels.nvcc() is None, reason="nvcc is not installed")
def test_resources_and_cycles_of_the_kernels() -> None:
    """No spills, no stack; with the same compiler no more registers or cycles than the committed tables say."""
    compiler = cuda_kernels.nvcc()
    assert compiler is not None
    found = cuda_kernels.report(compiler)
    assert cuda_kernels.offences(found.kernels, cuda_kernels.committed_rows()) == []
    if cuda_kernels.disassembler(compiler) is None:
        pytest.skip("nvdisasm is not installed: registers were compared, cycles were not")
    assert len(found.events) == len(cuda_kernels.committed_rows(cuda_kernels.CYCLES))
    assert cuda_kernels.slower(found.events, cuda_kernels.committed_rows(cuda_kernels.CYCLES)) == []


def test_a_profiler_shows_family_and_work_of_a_kernel() -> None:
    """`<family>_<what>_kernel`, the family being the folder of its source."""
    for row in cuda_kernels.committed_rows():
        assert re.fullmatch(rf"{Path(row['source']).parent.name}_[a-z]+_kernel<.*>", row["kernel"]), row


def test_instructions_are_counted() -> None:
    listing = """
.text.first:
        /*0000*/  LDC R1, c[0x0][0x28] ;             /* 0x00000a00ff017b82 */
                                                     /* 0x000fe20000000800 */
        /*0010*/  @!P0 LDC.64 R2, c[0x0][R4] ;       /* 0x00000a00ff017b82 */
                                                     /* 0x000fe20000000800 */
        /*0020*/  I2F.U32.RP R4, R5 ;                /* 0x00000a00ff017b82 */
                                                     /* 0x000fe20000000800 */
.text.second:
        /*0000*/  HMMA.16816.F32 R0, R4, R8, R0 ;    /* 0x00000a00ff017b82 */
                                                     /* 0x000fe20000000800 */
"""
    first, second = map(cuda_kernels.counts, cycle_model.functions(listing).values())
    assert (first["instructions"], first["constant_loads"], first["integer_divisions"]) == ("3", "2", "1")
    assert (second["instructions"], second["matrix_products"], second["conversions"]) == ("1", "1", "0")


def test_no_kernel_of_the_sampler_divides_integers() -> None:
    """What is divided by is known before the launch: a `Divisor`."""
    rows = [row for row in cuda_kernels.committed_rows() if "sample_sample" in row["kernel"]]
    assert rows and all(row["integer_divisions"] == "0" for row in rows)


def test_spills_and_more_registers_are_offences() -> None:
    row = {**dict.fromkeys(cuda_kernels.COLUMNS, "0"), "kernel": "k", "arch": "sm_80", "registers": "40"}
    assert cuda_kernels.offences([row], [row]) == []
    assert "8 bytes of spills" in cuda_kernels.offences([{**row, "spill_bytes": "8"}])[0]
    assert "41 registers, 40 in the table" in cuda_kernels.offences([{**row, "registers": "41"}], [row])[0]
    assert "lists other kernels" in cuda_kernels.offences([row], [])[0]
    more = cuda_kernels.offences([{**row, "hot_divisions": "2"}], [{**row, "hot_divisions": "0"}])
    assert more == ["k sm_80: 2 hot divisions, 0 in the table"]


def control(stall: int, writes: int = 7, waits: int = 0) -> str:
    """The upper half of an instruction: cycles to the next, the scoreboard of its result, those that it waits for."""
    return f"0x{(stall | writes << 5 | 7 << 8 | waits << 11) << 41:016x}"


def kernel(*lines: tuple[str, str]) -> str:
    """A listing of one kernel, of instructions with their control; an instruction of no text is a label."""
    listing = ["", ".text.kernel:"]
    for text, bits in lines:
        if text:
            listing += [f"        /*0000*/  {text} ;  /* 0x{0:016x} */", f"              /* {bits} */"]
        else:
            listing.append(f"{bits}:")
    return "\n".join([*listing, ""])


def cycles_of(work: dict[str, int], *lines: tuple[str, str]) -> int | None:
    return cycle_model.cycles(cycle_model.blocks_of(cycle_model.functions(kernel(*lines))["kernel"]), work)


BARRIER = ("BAR.SYNC.DEFER_BLOCKING 0x0", control(1))


def test_cycles_are_issues_and_waits() -> None:
    """280 for a load whose result is waited for, 2 and 4 to issue, 1 for the barrier."""
    load, use = ("LDG.E R2, [R4]", control(2, writes=3)), ("FADD R2, R2, R2", control(4, waits=1 << 3))
    assert cycles_of({"FADD": 1}, BARRIER, load, use, BARRIER) == 280 + 4 + 1
    assert cycles_of({"FADD": 1}, BARRIER, load, ("FADD R3, R5, R5", control(4)), BARRIER) == 2 + 4 + 1
    assert cycles_of({"FADD": 2}, BARRIER, load, use, BARRIER) is None
    off = ("@P0 LDG.E R2, [R4]", control(2, writes=3))
    assert cycles_of({"LDG": 0, "FADD": 1}, BARRIER, off, use, BARRIER) == 4 + 1
    assert cycles_of({"LDG": 0, "FADD": 1}, BARRIER, load, use, BARRIER) is None


def test_the_shortest_path_of_the_work_counts() -> None:
    """A loop of 10 cycles and a jump, three times, and past what is not the work."""
    loop = [("", ".L_x_0"), ("FFMA R0, R1, R2, R0", control(10)), ("@P0 BRA `(.L_x_0)", control(5))]
    past = [("@P1 BRA `(.L_x_1)", control(5)), ("FMUL R0, R1, R2", control(15)), ("", ".L_x_1")]
    jump = 5 + machine_code.JUMP
    assert cycles_of({"FFMA": 3}, BARRIER, *loop, *past, BARRIER) == 3 * (10 + jump) + jump + 1
    assert cycles_of({"FFMA": 1, "FMUL": 1}, BARRIER, *loop, *past, BARRIER) == 10 + 2 * jump + 15 + 1


def test_more_cycles_and_lost_events_are_offences() -> None:
    row = {"kernel": "k", "arch": "sm_90a", "event": "gate", "cycles": "1000", "compiler": "nvcc"}
    assert cuda_kernels.slower([{**row, "cycles": "1030"}], [row]) == []
    assert "gate: 1031 cycles, 1000 in the table" in cuda_kernels.slower([{**row, "cycles": "1031"}], [row])[0]
    assert cuda_kernels.slower([{**row, "cycles": "1031", "compiler": "another"}], [row]) == []
    assert "no path" in cuda_kernels.slower([{**row, "cycles": "0"}], [row])[0]
    assert "not in cuda_cycles.csv" in cuda_kernels.slower([row], [])[0]
