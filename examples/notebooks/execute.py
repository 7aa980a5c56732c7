"""Executes the notebooks of this folder and writes them with their outputs: `make notebooks`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(notebook: Any, folder: Path, timeout: int) -> None:
    """Runs every cell in a fresh kernel, on one thread, from the folder; raises the error of a cell that fails."""
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name=KERNEL["name"], resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=os.environ | {"OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"})


def normalise(notebook: Any) -> None:
    """Leaves out of a notebook what differs from one machine and one run to the next, and is none of its content."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="notebooks, without the ending; default: all")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that a cell may take")
    given = parser.parse_args()
    for path in [FOLDER / f"{name}.ipynb" for name in given.names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        execute(notebook, FOLDER, given.timeout)
        normalise(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
