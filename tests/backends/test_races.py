"""ThreadSanitizer finds races that are planted in the CPU library; `make tsan` finds none in the library itself."""

import shutil
import sys
from pathlib import Path

import pytest
from cases.races import RACE, ROOT, build, run

PLANTED = {
    "parts of a wave that nobody waits for": (
        "cpu/team.cpp",
        "helped_.load(std::memory_order_acquire) != job.parts - own",
        "false && own",
    ),
    "one memory for the scratch of all threads": (
        "cpu/masked_conv/grad_weight.cpp",
        "partial(chunk)});",
        "partial(0)});",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of `make tsan`, which need compile nothing again."""
    folder = ROOT / "build" / "tsan"
    folder.mkdir(parents=True, exist_ok=True)
    build(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None or not (ROOT / "csrc").is_dir(),
    reason="ThreadSanitizer is GCC's, on Linux, and needs the sources",
)
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_race_is_caught(built: Path, tmp_path: Path, planted: tuple[str, str, str]) -> None:
    shutil.copytree(built, tmp_path / "planted")
    library = build(tmp_path / "planted", planted)
    for _ in range(6):  # one thread may have done all of an op before the others began
        done = run(library)
        if done.returncode == RACE:
            break
    assert done.returncode == RACE, done.stdout
    assert "WARNING: ThreadSanitizer: data race" in done.stdout
