"""Notebooks that are executed, and the pictures that their cells show."""

import base64
import io
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EXECUTE = Path(__file__).resolve().parents[2] / "examples" / "notebooks" / "execute.py"


def executed(sources: Sequence[str], folder: Path, timeout: int = 300) -> list[Any]:
    """The cells of a new notebook with this code, after they have run in a kernel of their own."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    runpy.run_path(str(EXECUTE))["execute"](notebook, folder, timeout)
    return notebook.cells


def pictures(cell: Any) -> list[Tensor]:
    """The PNG pictures in a cell's outputs, in their order, each from 0 to 1, [H, W, 3]."""
    return [torch.from_numpy(_decoded(data))[..., :3] for data in _pngs(cell)]


def _pngs(cell: Any) -> Iterator[bytes]:
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            yield base64.b64decode(output.data["image/png"])


def _decoded(data: bytes) -> Any:
    from matplotlib import image

    return image.imread(io.BytesIO(data), format="png")
