"""What a plan launches again by itself is what Triton's launcher would have launched."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases.rows import require

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> Any:
    require("triton", "cpu")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-m", "cases.kept_binaries"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_steps(found: Any) -> None:
    assert len(found["steps"]) == 3
    for (asked, first), (asked_again, second) in found["steps"].values():
        assert asked == [kernel for kernel, *_ in first] and len(asked) >= 4
        assert asked_again == [] and second == first


def test_other_tensors_have_their_own_binary(found: Any) -> None:
    """Of unaligned memory, or of another dtype, Triton's launcher is asked; the binary that is kept stays."""
    parts = found["parts"]
    (_, (first,)), (_, (unaligned,)), (_, (narrow,)) = (parts[n] for n in ("first", "unaligned", "another dtype"))
    assert [asked for asked, _ in parts.values()] == [["parts_add_kernel"], [], *[["parts_add_kernel"]] * 2, []]
    assert len({binary for _, binary, *_ in (first, unaligned, narrow)}) == 3
    assert parts["second"][1] == parts["aligned again"][1] == [first]
