"""docs/extending.md says which files a change touches: nothing else in the package lists what is to be added to."""

import re
from pathlib import Path

import pytest

from vlae_fast import backends, data
from vlae_fast.models.decoders.kinds import KINDS

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("vlae_fast", "kernels", "csrc")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".h", ".cpp", ".cu")
}
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

FORMULAS = {
    "vlae_fast/reference/activation.py",
    "csrc/cpu/activate.h",
    "csrc/cuda/activate.h",
    "kernels/activate.py",
    "vlae_fast/backends/torch/activate.py",
}
# The names of PyTorch's operations in a program: an operation that has no activation there is written as a sum.
TRANSLATION = {"vlae_fast/foreign/decoders/activation_stages.py"}
COMMANDS = [path.stem for path in (ROOT / "vlae_fast" / "commands").glob("*.py") if "@app.command" in path.read_text()]

LISTS = {
    "activation": (
        ["relu", "elu", "tanh"],
        {"vlae_fast/activations.py", "csrc/activation.h", *FORMULAS, *TRANSLATION},
    ),
    # activations.py says which op takes which activation.
    "op": (
        backends.OPS,
        {
            "vlae_fast/reference/__init__.py",
            "vlae_fast/ops/__init__.py",
            "vlae_fast/activations.py",
        },
    ),
    "backend": ([row.name for row in backends.TABLE], {"vlae_fast/backends/table.py"}),
    "decoder": (KINDS, {"vlae_fast/models/decoders/kinds.py"}),
    "data set": (data.NAMES, {"vlae_fast/data/datasets.py", "vlae_fast/data/names.py"}),
    "command": (COMMANDS, {"vlae_fast/commands/__init__.py"}),
}


def says(text: str, name: str) -> bool:
    return f'"{name}"' in text or re.search(rf"\bActivation::{re.escape(name)}\b", text) is not None


@pytest.mark.parametrize("what", LISTS)
def test_no_other_file_lists_them(what: str) -> None:
    names, files = LISTS[what]
    assert len(names) > 2
    assert {path for path, text in TEXTS.items() if all(says(text, name) for name in names)} == files


def test_the_page_names_the_files_of_an_activation() -> None:
    assert [path for path in LISTS["activation"][1] - TRANSLATION if f"`{path}`" not in PAGE] == []
