"""The benchmarks: every shape of the table against the reference, the timing itself, and the files of results."""

import csv
import dataclasses
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cases.deadline import slow_where
from cases.rows import is_interpreted, require

from benchmarks import cases, checks, gpu, measure, records, run, suites, table
from benchmarks.cases import (
    CPU_SUITES,
    FLOWS,
    LAYERS,
    SAMPLING,
    SUITES,
    ConvCase,
    InverseCase,
    LinearCase,
    SamplingCase,
    TrainingCase,
)
from vlae_fast import testing

SHAPES = {str(op_case): (case, op_case) for case in (*LAYERS, *FLOWS) for op_case in case.op_cases()}
ROW = dict.fromkeys(records.COLUMNS, "1")


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_agree_with_the_reference(name: str) -> None:
    case, op_case = SHAPES[name]
    if op_case.op == "made_inverse" and case.dim > 500:
        pytest.skip("the reference takes D passes; test_wide_flows has it")
    of_flow = op_case.op == "made_inverse"  # whose log-determinants, one of a sample, may be near by luck
    testing.check_op(op_case, require("cpu"), grad=not of_flow, nudges=3 if of_flow else 0)


@pytest.mark.slow
def test_wide_flows() -> None:
    case = next(case for case in FLOWS if case.dim > 500)
    testing.check_op(case.op_cases()[0], require("cpu"), grad=False)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", {str(case.decoder): case for case in SAMPLING}.values(), ids=lambda c: c.name)
def test_samplers_draw_the_same_images(decoder: SamplingCase) -> None:
    contest = suites.prepare(dataclasses.replace(decoder, batch=2, naive_rows=None), suites.Setup(require("cpu")))
    assert "of 2 images differ, at ties" in contest.checked


def test_a_differing_image_is_not_timed() -> None:
    """Also one in a row that the naive sampler does not reach."""
    case = SamplingCase("small", 3, {"hidden_dim": 8, "n_layers": 1, "image_size": (6, 5)})
    decoder = case.build()
    z, noise = torch.randn(3, decoder.latent_dim), torch.rand(3, 1, 6, 5)
    drawn = suites.vf.PixelCNNSampler(decoder).sample_with_logits(z, noise)
    expected = drawn.images.clone()
    checks.check_images(case, drawn, noise, expected, "its own", 6)
    expected[1, 0, 5, 4] = 1 - expected[1, 0, 5, 4]
    with pytest.raises(checks.WrongResultError, match="small: images differ from those of whose"):
        checks.check_images(case, drawn, noise, expected, "whose", 6)


def test_work_of_a_case_by_hand() -> None:
    conv = next(case for case in LAYERS if case.name == "elu-3x3B-12ch-28x28-batch64")
    x, live, weights = 64 * 784 * 12, 5 * 12 * 12 + 12, 9 * 12 * 12 + 12
    assert conv.flops == 6 * 64 * 784 * 5 * 12 * 12
    assert conv.bytes == 4 * (x + live + x + x + x + live + x + weights)
    assert dataclasses.replace(conv, dtype="bfloat16").bytes == conv.bytes // 2


def test_the_first_call_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compilation of any length is no part of a time; slow contenders are timed twice."""
    monkeypatch.setattr(measure, "SLOW_S", 0.01)
    pauses = {"compiled": [0.3, 0.0], "slow": [0.02, 0.02]}

    def contender(name: str) -> measure.Call:
        return lambda: time.sleep(pauses[name].pop(0) if len(pauses[name]) > 1 else pauses[name][0])

    contenders = {name: contender(name) for name in pauses}
    assert measure.warmed_up(contenders) == {}
    times = measure.interleaved(contenders, 3, slice_s=0.0)
    assert max(times["compiled"]) < 0.2 and len(times["compiled"]) == 3 and len(times["slow"]) == 2
    assert measure.quantile([1.0, 3.0], 0.5) == 2.0


def test_peak_counts_what_a_call_takes() -> None:
    peak = measure.peak_mb(lambda: torch.ones(64 * 2**18))
    if peak != peak:
        pytest.skip("this system does not tell the high-water mark")
    assert 63 < peak < 68  # of 64; the system counts pages when it gets to it


def test_other_columns_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "mkl_path", lambda: "")  # it starts a process
    path = tmp_path / "layers.csv"
    path.write_text("suite,case,old\nlayers,a,1\n")
    with pytest.raises(ValueError, match=r"layers\.csv: columns must be .* \(missing: .*peak_mb.*; unknown: old\)"):
        records.append(path, [ROW])
    with pytest.raises(ValueError, match="columns must be"):  # before anything is timed
        run.main(["--suite", "layers", "--out", str(tmp_path)])
    assert path.read_text() == "suite,case,old\nlayers,a,1\n"


def test_a_last_run_is_of_one_commit(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    old, new = ROW | {"contender": records.OURS, "commit": "old"}, ROW | {"contender": records.OURS, "commit": "new"}
    records.append(path, [old | {"case": "gone"}])
    records.append(path, [new, new | {"contender": "eager"}])
    assert [row["contender"] for row in records.last_run(path)["1"]] == [records.OURS, "eager"]
    assert "gone" not in records.last_run(path)


def test_a_processor_has_a_folder_and_a_column_of_its_own(tmp_path: Path) -> None:
    """The README shows the chosen cases of all processors side by side, the page in benchmarks/ every case of each."""
    case = next(iter(table.CHOSEN))
    for device, fraction, speedup in (("Intel(R) Xeon(R) CPU", "0.84", "2.16"), ("AMD EPYC", "1.93", "2.33")):
        about = {"device": device, "isa": "avx512", "suite": "sampling", "mkl": f"code for {device}"}
        ours = ROW | about | {"case": case, "contender": records.OURS, "fraction_of_matmul": fraction}
        folder = tmp_path / "benchmarks" / "results" / records.folder_of(ours)
        folder.mkdir(parents=True)
        peer = ours | {"contender": "naive eager (2 of 28 rows, scaled)", "speedup": speedup}
        records.append(folder / "sampling.csv", [ours, peer, ours | {"case": "another"}])
    found = records.by_processor(tmp_path / "benchmarks" / "results")
    assert list(found) == ["amd-epyc-avx512", "intel-r-xeon-r-cpu-avx512"]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}old\n{table.END}\nbehind\n")
    table.write(found, readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("behind\n") and "old" not in text and "another" not in text
    cells = "193%; **2.33x** naive eager; 1.00 ms | 84%; **2.16x** naive eager; 1.00 ms |"
    assert f"| {table.CHOSEN[case][0]} | {cells}" in text
    assert "| AMD EPYC, avx512, 1 thread | Intel(R) Xeon(R) CPU, avx512, 1 thread |" in text
    page = (tmp_path / "benchmarks" / "README.md").read_text()
    assert page.count("| another | ") == 2 and page.index("code for AMD") < page.index("code for Intel")
    table.write(found, readme)
    assert readme.read_text() == text
    with pytest.raises(FileNotFoundError, match="no results; run"):
        records.by_processor(tmp_path)


def test_the_ceiling_is_that_of_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run, "timed", lambda calls, *_, **__: {name: [{"onednn": 0.5}.get(name, 1.0)] for name in calls}
    )
    rows = run.time_case("layers", LAYERS[0], suites.Contest(lambda: 0, "cpu", {}, ""), suites.Setup())
    if "onednn" not in measure.matmuls(torch.device("cpu"), torch.float32):
        pytest.skip("torch was built without oneDNN")
    assert rows[0]["matmul_by"] == "onednn"
    assert float(rows[0]["matmul_gflops"]) == pytest.approx(2 * 1024**3 / 0.5 / 1e9, abs=0.1)
    assert f"{float(rows[0]['fraction_of_matmul']):.0%} of" in run.describe(rows, "")


def test_every_library_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is the product, and MKL says which processors its code is for."""
    for ceiling in measure.matmuls(torch.device("cpu"), torch.float32).values():
        assert ceiling.call().shape == (1024, 1024)
    assert bool(measure.mkl_path()) == torch.backends.mkl.is_available()


@pytest.mark.slow
@pytest.mark.parametrize("suite", CPU_SUITES)
def test_quick_runs_append_rows_and_draw(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--suite", suite, "--quick", "--plot", "--out", str(tmp_path), "--backend", require("cpu")]
    run.main([*arguments, "--threads", str(torch.get_num_threads())])
    with (tmp_path / f"{suite}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == records.COLUMNS and all(None not in row.values() for row in rows)
    quick = [case for case in SUITES[suite] if case.quick]
    assert [row["case"] for row in rows if row["contender"] == records.OURS] == [case.name for case in quick]
    assert (tmp_path / "speedup.png").exists()
    assert (tmp_path / "roofline.png").exists() == (not isinstance(quick[0], TrainingCase))


TINY = {"hidden_dim": 8, "n_layers": 1, "image_size": (6, 5)}
TINY_GPU = (
    ConvCase("conv-bf16", "B", 4, 8, 16, 3, 8, "gate", dtype="bfloat16"),
    ConvCase("conv-tf32-forward", "A", 4, 1, 8, 3, 8, "elu", backward=False, dtype="tf32"),
    SamplingCase("sampling", 3, TINY, naive_rows=2),
    SamplingCase("sampling-bf16", 3, TINY, naive_rows=1, dtype="bfloat16"),
    InverseCase("inverse", 5, 6, (16, 16)),
    LinearCase("made-bf16", 8, 6, (16, 16), dtype="bfloat16"),
    TrainingCase("training-bf16", 2, {"hidden_dim": 8, "n_layers": 1}, dtype="bfloat16"),
)


def rehearse(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    """The GPU's suite on a CPU: tiny cases, every contender called once and not timed. Exit status and rows."""

    def timed(contenders: dict[str, measure.Call], *_: object, **__: object) -> dict[str, list[float]]:
        return {name: [2.0] for name, call in contenders.items() if call() is not NotImplemented}

    monkeypatch.setattr(run, "timed", timed)
    monkeypatch.setattr(run, "matmuls", lambda *_: {"blas": measure.Ceiling(lambda: 0, 1.0)})  # seconds in bfloat16
    monkeypatch.setattr(run, "mkl_path", lambda: "")  # it starts a process
    monkeypatch.setitem(SUITES, "gpu", TINY_GPU)
    status = run.main(["--suite", "gpu", "--device", "cpu", "--out", str(out), *arguments])
    path = out / "gpu.csv"
    return status, list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def test_the_suite_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, rows = rehearse(monkeypatch, tmp_path, "--no-compile")
    assert status == 0 and "left out" not in capsys.readouterr().out
    assert [row["case"] for row in rows if row["contender"] == records.OURS] == [case.name for case in TINY_GPU]
    contenders = {(row["case"], row["contender"]): row for row in rows}
    assert contenders["conv-tf32-forward", "eager channels_last with TF32"]["dtype"] == "tf32"
    assert float(contenders["sampling", "naive in a CUDA graph (2 of 6 rows, scaled) without TF32"]["speedup"]) == 3
    assert ("inverse", "D passes in a CUDA graph without TF32") in contenders
    assert ("conv-bf16", "eager") in contenders


def test_what_the_time_does_not_suffice_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(monkeypatch, tmp_path, "--minutes", "0") == (1, [])
    told = capsys.readouterr().out
    assert all(f"left out: {case.name}: not started" in told for case in TINY_GPU)
    with pytest.raises(run.OutOfTime), run.at_most(0.02):
        time.sleep(10)


def test_a_case_that_fails_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "check_ops", lambda *_: 1 / 0)
    status, rows = rehearse(monkeypatch, tmp_path, "--no-compile", "--case", "bf16")
    assert status == 1 and {row["case"] for row in rows} == {"sampling-bf16", "training-bf16"}
    assert "left out: conv-bf16: ZeroDivisionError" in capsys.readouterr().out


def test_a_peer_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "timed", lambda contenders, *_, **__: {name: [1.0] for name in contenders})
    contest = suites.Contest(lambda: 0, "cpu", {"broken": lambda: 1 / 0, "eager": lambda: 0}, "")
    rows = run.time_case("layers", LAYERS[0], contest, suites.Setup())
    assert [row["contender"] for row in rows] == [records.OURS, "eager"]
    assert "broken is left out: ZeroDivisionError" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run.time_case("layers", LAYERS[0], suites.Contest(lambda: 1 / 0, "cpu", {}, ""), suites.Setup())


@slow_where(lambda name: name == "sampling" and is_interpreted("triton"))
@pytest.mark.parametrize("name", ["conv-bf16", "sampling", "inverse", "made-bf16"])
def test_triton_in_the_suite_of_a_gpu(name: str) -> None:
    case = next(case for case in TINY_GPU if case.name == name)
    contest = suites.prepare(case, suites.Setup(require("triton"), on_gpu=True))
    assert contest.backend == "triton" and contest.checked


def test_every_row_of_a_gpu_competes_in_inverses(cuda: ModuleType) -> None:
    contest = suites.prepare(
        next(case for case in TINY_GPU if case.name == "inverse"), suites.Setup(require("triton"), on_gpu=True)
    )
    contest.peers["vlae_fast cuda"]()
    assert "; cuda: largest error" in contest.checked


def test_times_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls fill a slice, each from the event before it to the one behind it; one longer than a slice is one time."""

    class Event:
        def __init__(self, **_: bool) -> None: ...

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, other: "Event") -> float:
            return 1e3 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    times = gpu.event_times(lambda: time.sleep(0.005), 0.04)
    assert 2 <= len(times) <= 8 and all(0.005 <= t < 0.2 for t in times)
    assert len(gpu.event_times(lambda: time.sleep(0.02), 0.01)) == 1
    assert len(gpu.event_times(lambda: None, 0.1)) == gpu.MOST


def test_precision_is_set_and_set_back() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for dtype in ("tf32", "float32"):
        with gpu.precision(dtype):
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (dtype == "tf32")
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_cases_have_names_of_their_own_and_known_dtypes() -> None:
    every = [case for suite in SUITES.values() for case in suite]
    assert len({case.name for case in every}) == len(every)
    assert all(case.dtype in checks.TOLERANCE and case.dtype in checks.GAP for case in cases.GPU)


def test_a_roofline_says_why_points_lie_above_it() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plot

    below = ROW | {"gflops": "90", "matmul_gflops": "100", "matmul_by": "onednn", "gb_per_s": "1", "copy_gb_per_s": "9"}
    above = below | {"gflops": "150", "mkl": "Intel(R) Architecture processors"}
    for rows, said in (([below], ""), ([above, below], "1 of 2 points lie above the roof: it is a library's")):
        figure = plot.roofline_figure({"layers": rows})
        label = figure.axes[0].get_xlabel()
        assert said in label and ("above" in label) == bool(said)
        assert any("onednn" in text.get_text() for text in figure.axes[0].texts)
    assert "MKL runs its code for Intel(R) Architecture processors" in label
