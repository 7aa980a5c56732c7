"""The table of backends: choosing, refusing, reporting."""

import re
import warnings

import pytest
import torch
from cases.rows import require

from vlae_fast import backends
from vlae_fast.backends import table, triton


def test_report_names_every_row_and_op() -> None:
    report = backends.report()
    assert all(row.name in report for row in backends.TABLE)
    assert all(op in report for op in backends.OPS)


def test_report_says_what_auto_takes_and_what_would_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    able = backends.report().partition("auto       float32 on cpu:\n")[2]
    assert able and all(op in able for op in backends.OPS)
    why = "not built because no C++ compiler was found (tried c++)"
    rows = [row._replace(absent=lambda: why) if row.name in ("cpu", "triton") else row for row in backends.TABLE]
    monkeypatch.setattr(table, "TABLE", tuple(rows))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    said = backends.report().partition("auto       float32 on cpu:\n")[2].splitlines()
    assert said[0].split() == ["reference", "masked_conv,", "masked_linear,", "made"]
    assert said[1].split() == ["torch", "made_inverse,", "made_sample,", "made_sample_levels,", "pixelcnn_sample"]
    assert re.search(rf"torch runs it on cpu in float32, .*; cpu {re.escape(why)}: install g\+\+ 11 or", said[-1])


@pytest.mark.parametrize("op", table.LOOPS)
def test_a_loop_without_kernels_warns_once(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_warned", [])
    wide = torch.zeros(1, dtype=torch.float64)
    message = rf"^{op}: torch runs it on cpu in float64, .* cpu computes in float32.*, the input is float64: convert"
    if table.TABLE[0].absent() is not None:
        message = rf"^{op}: torch runs it on cpu in float64, .*; cpu not built because"
    with pytest.warns(UserWarning, match=message):
        assert backends.pick(op, wide).name == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.pick(op, wide).name == "torch"


def test_who_names_a_row_or_has_kernels_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu")
    monkeypatch.setattr(table, "_warned", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.pick("pixelcnn_sample", torch.zeros(1, dtype=torch.float64), "torch")
        backends.pick("pixelcnn_sample", torch.zeros(1))
        backends.pick("masked_linear", torch.zeros(1, dtype=torch.float64))  # one pass, no loop
    assert not table._warned


def test_reference_runs_everything() -> None:
    for op in backends.OPS:
        assert backends.pick(op, torch.zeros(1, dtype=torch.bfloat16), "reference").name == "reference"


def test_auto_takes_the_first_able_row() -> None:
    for op in backends.OPS:
        x = torch.zeros(1)
        able = [r.name for r in backends.TABLE if r.why_not(op, x) is None and r.only_named(op) is None]
        assert backends.pick(op, x).name == able[0]


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"masked_conv: backend must be one of auto, .*reference, got 'fastest'"):
        backends.pick("masked_conv", torch.zeros(1), "fastest")


def test_named_backend_runs_or_says_why() -> None:
    require("cpu")
    with pytest.raises(
        RuntimeError, match="backend 'cpu' cannot run this: cpu: computes in float32, the input is float64"
    ):
        backends.pick("pixelcnn_sample", torch.zeros(1, dtype=torch.float64), "cpu")
    with pytest.raises(RuntimeError, match="cpu: runs on cpu, the input is on meta"):
        backends.pick("pixelcnn_sample", torch.zeros(1, device="meta"), "cpu")
    assert backends.pick("pixelcnn_sample", torch.zeros(1, dtype=torch.float64)).name == "torch"
    assert backends.pick("masked_linear", torch.zeros(1, dtype=torch.float64)).name == "reference"


def test_bfloat16_where_it_pays() -> None:
    require("cpu")
    narrow = torch.zeros(1, dtype=torch.bfloat16)
    assert backends.pick("masked_conv", narrow, "cpu").name == "cpu"
    with pytest.raises(RuntimeError, match="cpu: computes in float32, the input is bfloat16"):
        backends.pick("masked_linear", narrow, "cpu")
    with pytest.raises(RuntimeError, match="cpu: computes in float32, bfloat16, the input is float16"):
        backends.pick("masked_conv", narrow.half(), "cpu")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("find_spec", "triton is not installed"), ("is_built", "torch was built without CUDA"), ("", "no CUDA device")],
)
def test_triton_says_why_not(missing: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "INTERPRETED", False)
    monkeypatch.setattr(triton, "find_spec", lambda name: None if missing == "find_spec" else name)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: missing != "is_built")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reason in triton.why_not.__wrapped__()


def test_triton_refuses_old_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "INTERPRETED", False)
    monkeypatch.setattr(triton, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: ((9, 0), (7, 5))[i])
    assert "needs GPUs of compute capability 8.0, found 7.5" in triton.why_not.__wrapped__()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (8, 0))
    assert triton.why_not.__wrapped__() is None


def test_auto_passes_an_interpreter_over() -> None:
    require("triton")
    if triton.only_named("masked_conv") is None:
        pytest.skip("the kernels run on a GPU here")
    narrow = torch.zeros(1, dtype=torch.float16)  # what the cpu row does not take
    assert backends.pick("masked_conv", narrow).name == "reference"
    assert backends.pick("masked_conv", narrow, "triton").name == "triton"


def test_auto_passes_over_what_is_slower_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """For inverses of flows, the rows of a GPU have not been compared: triton first, where it is able."""
    able = [r._replace(devices=("cpu",), absent=lambda: None) if r.name == "cuda" else r for r in backends.TABLE]
    monkeypatch.setattr(table, "TABLE", tuple(r for r in able if r.name != "cpu"))
    monkeypatch.setattr(triton, "why_not", lambda: None)
    x = torch.zeros(1)
    assert backends.pick("made_inverse", x).name != "cuda"
    assert backends.pick("made_inverse", x, "cuda").name == "cuda"
    assert backends.pick("pixelcnn_sample", x).name == "cuda"
    assert "made_inverse     yes; auto passes it over: not timed against triton" in backends.report()
    monkeypatch.setattr(triton, "why_not", lambda: "triton is not installed")
    assert backends.pick("made_inverse", x).name == "cuda"


def test_absent_backend_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = backends.TABLE[0]._replace(absent=lambda: "no compiler was found")
    monkeypatch.setattr(table, "TABLE", (absent, *backends.TABLE[1:]))
    with pytest.raises(RuntimeError, match=f"{absent.name}: no compiler was found"):
        backends.pick("masked_conv", torch.zeros(1), absent.name)
    assert backends.pick("masked_conv", torch.zeros(1)).name == "reference"
    assert "absent: no compiler was found" in backends.report()
