"""The notebooks of examples/: they run as they are, and what is committed of their outputs is what they show."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from cases.notebooks import pictures

nbformat = pytest.importorskip("nbformat")
for needed in ("nbclient", "ipykernel", "matplotlib", "sklearn"):
    pytest.importorskip(needed)

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SCRIPT = runpy.run_path(str(FOLDER / "execute.py"))
A_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|usr|opt|work|Users|var|mnt)/|[A-Z]:\\\\|site-packages")
LIMIT = 600_000  # bytes of a notebook


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run once, from the top
    for cell in code:
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.source
        texts = [str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in cell.outputs]
        assert not A_PATH.search("".join(texts)), texts
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], texts
        assert all(picture.std() > 0.01 for picture in pictures(cell))
    assert sum(len(pictures(cell)) for cell in code) >= 5
    before = path.read_text(encoding="utf-8")
    SCRIPT["normalise"](notebook)
    assert nbformat.writes(notebook).rstrip() == before.rstrip() and len(before) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_shows_what_is_committed(name: str, tmp_path: Path) -> None:
    """Each cell shows as many pictures as its committed output has; which numbers come out is the machine's."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    committed = [len(pictures(cell)) for cell in notebook.cells if cell.cell_type == "code"]
    SCRIPT["execute"](notebook, tmp_path, timeout=600)
    assert [len(pictures(cell)) for cell in notebook.cells if cell.cell_type == "code"] == committed
