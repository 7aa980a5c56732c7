"""What is run where a GPU is there for minutes: rehearsed without one."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from cases.rows import require

from benchmarks import on_gpu
from benchmarks.on_gpu import Command
from vlae_fast import backends

ROOT = Path(__file__).parents[2]
STAY = [name for name in on_gpu.STEPS if name != "models"]  # which has a stay of its own
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def python(name: str, code: str, seconds: int = 60) -> Command:
    return Command(name, ("-c", code), seconds)


@pytest.mark.slow
def test_dry_run_in_a_tree_that_nobody_installed(tmp_path: Path) -> None:
    """Says what every step would start, and finds the kernels without an install."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "out")
    shutil.copytree(ROOT, tmp_path / "tree", ignore=left_out)
    tree = tmp_path / "tree"
    words = [tree / "benchmarks" / "on_gpu.sh", "--dry-run", tmp_path / "out", *STAY]
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in STAY:
        assert (
            f"{name}: at most {sum(c.seconds for c in on_gpu.STEPS[name])} s, leaves {tmp_path}/out/{name}.tar.gz"
            in done.stdout
        )
    tests = re.search(r": (\d+) tests$", done.stdout, re.MULTILINE)
    assert tests is not None and int(tests[1]) > 500, done.stdout
    assert done.stdout.count("compute-sanitizer --tool") == len(on_gpu.TOOLS)
    assert f"{len(STAY)} steps, {len(STAY)} archives" in done.stdout
    assert torch.cuda.is_available() or "no step would start here: torch sees no CUDA device" in done.stdout
    assert not (tmp_path / "out").exists() and not (tree / "vlae_fast" / "kernels").exists()


def test_all_steps_fit_a_stay_of_30_minutes() -> None:
    seconds = {name: sum(command.seconds for command in commands) for name, commands in on_gpu.STEPS.items()}
    assert max(seconds.values()) <= 480 and len(seconds) <= 8
    assert sum(seconds[name] for name in STAY) <= 29 * 60 and 3 * seconds["models"] <= 25 * 60


def test_a_plan_that_is_too_long_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(on_gpu, "STEPS", {"long": (python("long", "", 481),)})
    assert on_gpu.rehearse(["long"], Path("out")) == 1
    assert "long may last 481 s, at most 480 are allowed" in capsys.readouterr().out


@without_a_gpu
def test_nothing_starts_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main([str(tmp_path / "out"), "small", "test"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_rows_must_be_able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rows = [
        row._replace(absent=lambda: "no luck") if row.name == "cuda" else row._replace(absent=lambda: None)
        for row in backends.table.TABLE
    ]
    monkeypatch.setattr("vlae_fast.backends.table.TABLE", tuple(rows))
    assert on_gpu.unable() == ["cuda: no luck"]


def test_a_step_leaves_one_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all its commands, the failed one's output too; the environment asks for the rows."""
    code = "import os; print(os.environ['VLAE_FAST_REQUIRE_CUDA'], os.environ['VLAE_FAST_REQUIRE_TRITON'])"
    write = Command("write", ("-c", "import sys; open(sys.argv[1], 'w').write('x')", "{files}/rows.csv"), 60)
    commands = (python("env", code), write, python("fails", "raise SystemExit(3)"))
    monkeypatch.setattr(on_gpu, "STEPS", {"all": commands})
    assert on_gpu.run_step("all", tmp_path) == 3
    told = capsys.readouterr().out
    assert "1 1\n== env: exit 0" in told and "== fails: exit 3" in told
    assert [path.name for path in tmp_path.iterdir()] == ["all.tar.gz"]
    with tarfile.open(tmp_path / "all.tar.gz") as archive:
        assert {*archive.getnames()} == {"all", "all/env.log", "all/write.log", "all/rows.csv", "all/fails.log"}


def test_a_command_ends_in_time_and_what_it_started_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '300'])"
    status = on_gpu.start(python("slow", code, seconds=2), tmp_path)
    assert status == 124 and (tmp_path / "slow.log").read_text() == "begun\n"


@pytest.mark.slow
@without_a_gpu
def test_small_calls_run_in_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    require("triton")
    from benchmarks import small_calls

    assert small_calls.main(["--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "triton float32 sampler" in told and int(told.split()[-2]) >= 2 * (len(small_calls.SMALL) + 1)


def test_targets_are_the_issue_s_and_rows_tell_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("triton")
    from benchmarks import targets

    monkeypatch.setattr(targets, "milliseconds", lambda *_: 0.5)
    monkeypatch.setattr(targets, "kernels_of", lambda replay: replay() or {"a": (2, 30.0), "b": (1, 400.0)})
    monkeypatch.setattr(targets, "TARGETS", {"one": targets.Target(1, 2, lambda device: lambda: None)})
    assert targets.main(["--device", "cpu", "--out", str(tmp_path / "rows.csv")]) == 0
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines == [
        "target,floor_us,asked_us,whole_us,kernel,launches,us",
        "one,1,2,500.0,b,1,400.0",
        "one,1,2,500.0,a,2,30.0",
    ]
