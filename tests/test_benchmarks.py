"""The benchmarks: every shape of the table against the reference, the timing itself, and the files of results."""

import csv
import dataclasses
import time
from pathlib import Path

import pytest
import torch
from conftest import require

from benchmarks import measure, records, run, suites
from benchmarks.cases import FLOWS, LAYERS, SAMPLING, SUITES, SamplingCase, TrainingCase
from vlae_fast import testing

SHAPES = {str(op_case): (case, op_case) for case in (*LAYERS, *FLOWS) for op_case in case.op_cases()}
ROW = dict.fromkeys(records.COLUMNS, "1")


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_agree_with_the_reference(name: str) -> None:
    case, op_case = SHAPES[name]
    if op_case.op == "made_inverse" and case.dim > 500:
        pytest.skip("the reference takes D passes; test_wide_flows has it")
    testing.check_op(op_case, require("cpu"), grad=op_case.op != "made_inverse")


@pytest.mark.slow
def test_wide_flows() -> None:
    case = next(case for case in FLOWS if case.dim > 500)
    testing.check_op(case.op_cases()[0], require("cpu"), grad=False)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", {str(case.decoder): case for case in SAMPLING}.values(), ids=lambda c: c.name)
def test_samplers_draw_the_same_images(decoder: SamplingCase) -> None:
    suites.prepare(dataclasses.replace(decoder, batch=2, naive_rows=None), suites.Setup(require("cpu")))


def test_a_differing_image_is_not_timed() -> None:
    """Also one in a row that the naive sampler does not reach."""
    case = SamplingCase("small", 3, {"hidden_dim": 8, "n_layers": 1, "image_size": (6, 5)})
    decoder = case.build()
    z, noise = torch.randn(3, decoder.latent_dim), torch.rand(3, 1, 6, 5)
    drawn = suites.vf.PixelCNNSampler(decoder).sample_with_logits(z, noise)
    expected = drawn.images.clone()
    suites._check_images("small", drawn, noise, expected, "its own", 6)
    expected[1, 0, 5, 4] = 1 - expected[1, 0, 5, 4]
    with pytest.raises(suites.WrongResultError, match="small: images differ from whose"):
        suites._check_images("small", drawn, noise, expected, "whose", 6)


def test_work_of_a_case_by_hand() -> None:
    conv = next(case for case in LAYERS if case.name == "elu-3x3B-12ch-28x28-batch64")
    x, live, weights = 64 * 784 * 12, 5 * 12 * 12 + 12, 9 * 12 * 12 + 12
    assert conv.flops == 6 * 64 * 784 * 5 * 12 * 12
    assert conv.bytes == 4 * (x + live + x + x + x + live + x + weights)


def test_the_first_call_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compilation of any length is no part of a time; slow contenders are timed twice."""
    monkeypatch.setattr(measure, "SLOW_S", 0.01)
    pauses = {"compiled": [0.3, 0.0], "slow": [0.02, 0.02]}

    def contender(name: str) -> measure.Call:
        return lambda: time.sleep(pauses[name].pop(0) if len(pauses[name]) > 1 else pauses[name][0])

    times = measure.interleaved({name: contender(name) for name in pauses}, 3, slice_s=0.0)
    assert max(times["compiled"]) < 0.2 and len(times["compiled"]) == 3 and len(times["slow"]) == 2
    assert measure.quantile([1.0, 3.0], 0.5) == 2.0


def test_peak_counts_what_a_call_takes() -> None:
    peak = measure.peak_mb(lambda: torch.ones(8 * 2**18))
    if peak != peak:
        pytest.skip("this system does not tell the high-water mark")
    assert 7.9 < peak < 12  # of 8; the system counts pages when it gets to it


def test_other_columns_are_refused(tmp_path: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
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
