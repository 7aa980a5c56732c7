"""The tuner, without a GPU: tiny launches in the interpreter, a timer that has favourites."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vlae_fast.backends import triton

pytest.importorskip("triton")
if not triton.INTERPRETED:
    pytest.skip("there is a GPU: tune on it", allow_module_level=True)

from vlae_fast.kernels import launch

from benchmarks import launches, tune
from benchmarks.candidates import CANDIDATES

CASE = "tiny"
DTYPE = torch.bfloat16


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tune.Tuner:
    monkeypatch.setitem(launches.LAUNCHES, CASE, partial(launches.conv, "B", (2, 16, 4, 3), 32, 3, "gate"))
    monkeypatch.setitem(CANDIDATES, "masked_conv", [{"BM": 32}, {"BM": 64, "BK": 32}, {"BM": 16, "NONE": 1}])
    monkeypatch.setattr(tune, "TUNED_FOR", {DTYPE: tune.TUNED_FOR[DTYPE]})
    for kernel in ("slope", "masked_conv_weight"):
        monkeypatch.delitem(CANDIDATES, kernel)
    shutil.copy(launch.TABLE, tmp_path / "configs.json")
    return tune.Tuner("cpu", tmp_path / "configs.json", timer=favouring(64))


def favouring(block: int) -> Callable[[Callable[[], object], str], float]:
    """A timer that makes a call of `masked_conv` the faster, the nearer its blocks are to a size."""

    def timer(call: Callable[[], object], device: str) -> float:
        with tune.lookups({}) as seen:
            call()
        return 1.0 + sum(abs(config["BM"] - block) for entry, config in seen.items() if entry[0] == "masked_conv")

    return timer


@pytest.mark.slow
def test_the_fastest_is_written_for_the_device(tuner: tune.Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = tune.run(tuner, [CASE], float("inf"))
    assert [reason.partition(":")[0].partition("/")[0] for reason in left_out] == ["slope", "masked_conv_weight"]
    table = json.loads(tuner.table.read_text())
    assert table["default"] == json.loads(launch.TABLE.read_text())["default"]
    sizes = ("16-16", "32-16")  # forward; gradient of x
    found = table["interpreter"]
    assert set(found) == {f"masked_conv/{dtype}/{size}" for dtype in ("bfloat16", "float16") for size in sizes}
    assert all((config["BM"], config["BK"]) == (64, 32) for config in found.values())
    monkeypatch.setattr(launch, "_table", lambda: table)
    monkeypatch.setattr(launch, "_config", launch._config.__wrapped__)  # not its cache
    assert launch.config("masked_conv", torch.empty(0, dtype=DTYPE), 12, 9)["BM"] == 64


@pytest.mark.slow
def test_the_table_s_own_stays_where_nothing_is_faster(tuner: tune.Tuner) -> None:
    tuner.timer = favouring(launch.config("masked_conv", torch.empty(0, dtype=DTYPE), 16, 16)["BM"])
    tune.run(tuner, [CASE], float("inf"))
    assert "interpreter" not in json.loads(tuner.table.read_text())


@pytest.mark.slow
def test_what_fails_or_is_wrong_is_left_out(
    tuner: tune.Tuner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "agree", lambda *_: False)
    tune.run(tuner, [CASE], float("inf"))
    told = capsys.readouterr().out
    assert "wrong results" in told and "'NONE': 1" in told and "interpreter" not in tuner.table.read_text()


def test_equal_code_is_timed_once(
    tuner: tune.Tuner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two candidates whose machine code and launches are those of one that was timed before them."""

    @contextmanager
    def code() -> Iterator[list[tuple]]:
        found: list[tuple] = []
        yield found
        found.append(("code", (1,)))

    timed: list[float] = []
    monkeypatch.setattr(tune, "compiled_code", code)
    monkeypatch.setitem(CANDIDATES, "masked_conv", [{"num_stages": 4}, {"num_stages": 5}])
    tuner.timer = lambda call, device: timed.append(1.0) or 1.0
    tune.run(tuner, [CASE], float("inf"))
    assert capsys.readouterr().out.count("compiles to the code of one before it") == 4 and len(timed) == 2


def test_what_counts_as_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.jit import JITFunction

    def run(self: object, *args: object, grid: tuple[int, ...], warmup: bool, **options: bytes) -> SimpleNamespace:
        return SimpleNamespace(asm={"cubin": options["cubin"]}, metadata=SimpleNamespace(num_warps=4, shared=0))

    monkeypatch.setattr(JITFunction, "run", run)
    with tune.compiled_code() as code:
        for cubin, grid in ((b"a", (1,)), (b"a", (1,)), (b"b", (1,)), (b"a", (2,))):
            JITFunction.run(None, grid=grid, warmup=False, cubin=cubin)
    assert code[0] == code[1] and len({*code}) == 3


def test_no_time(tuner: tune.Tuner) -> None:
    assert any("not started" in reason for reason in tune.run(tuner, [CASE], 0.0))


def test_results_agree_up_to_rounding() -> None:
    a = torch.randn(50)
    assert tune.agree([a * 1.001, None], [a, None], torch.float32)
    assert not tune.agree([a * 1.1, None], [a, None], torch.float32)
    assert not tune.agree([a * torch.nan], [a], torch.float32) and not tune.agree([None], [a], torch.float32)


def test_writing_keeps_the_table_as_it_is_laid_out(tmp_path: Path) -> None:
    shutil.copy(launch.TABLE, path := tmp_path / "configs.json")
    tune.write(path, "default", {})
    assert path.read_text() == launch.TABLE.read_text()


def test_candidates_name_what_a_kernel_is_configured_by() -> None:
    for entry, config in json.loads(launch.TABLE.read_text())["default"].items():
        tried = CANDIDATES[entry.partition("/")[0]]
        assert len(tried) <= 12 and all(candidate.keys() <= config.keys() for candidate in tried)


def test_a_device_without_a_table_takes_its_architecture_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name first, then the architecture, then the default."""
    key = "masked_conv/bfloat16/64-64"
    table = {"H1": {key: {"BM": 1}}, "sm_90": {key: {"BM": 2}}, "default": {"masked_conv/bfloat16": {"BM": 3}}}
    monkeypatch.setattr(launch, "_table", lambda: table)
    for name, capability, block in (("H1", (9, 0), 1), ("H2", (9, 0), 2), ("A1", (8, 0), 3)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        found = launch._config.__wrapped__("masked_conv", torch.bfloat16, (64, 64), torch.device("cuda"))
        assert found["BM"] == block
