"""Imports run one way, from the command line down to the kernels: the table is the order. No test imports a test."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The lowest first. A unit (a module or a sub-package) imports from itself and from the rows listed before its own.
ROWS = [
    {"activations", "arguments", "masks", "kept", "processes", "_extras", "_moved"},
    {"kernels", "plan", "data"},
    {"reference"},
    {"backends"},
    {"ops"},
    {"layers"},
    {"sampling"},
    {"foreign", "models"},
    {"testing", "evaluation", "checkpoint", "generation", "codec"},
    {"training", "visualization"},
    {"experiments", "explore"},
    {"__init__"},
    {"commands"},
    {"__main__"},
]
# Modules of vlae_fast/ itself; every other one is in a folder.
LOOSE = {"__init__", "__main__", "_extras", "_moved", "activations", "arguments", "kept", "masks", "plan", "processes"}
LOOSE |= {"testing"}

# Packages that may be missing are imported where they are used. The kernels need triton, the commands typer.
OPTIONAL = (
    *("triton", "typer", "matplotlib", "sklearn", "tqdm", "safetensors", "pooch", "zuko", "nflows", "normflows"),
    *("PIL", "huggingface_hub", "tensorboard", "torchvision"),
    *("vlae_fast.kernels", "vlae_fast.commands"),
)
RANK = {unit: rank for rank, row in enumerate(ROWS) for unit in row}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module, kernels under the name that they are installed by."""
    for folder, package in ((ROOT / "vlae_fast", "vlae_fast"), (ROOT / "kernels", "vlae_fast.kernels")):
        for path in sorted(folder.rglob("*.py")):
            yield ".".join((package, *path.relative_to(folder).with_suffix("").parts)), path


UNITS = {name.split(".")[1] for name, _ in modules()}


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """Full names of what code imports, inside functions and for its types too; `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            yield from (".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def unit(name: str) -> str:
    """vlae_fast.ops.masked_conv -> ops; a name that vlae_fast/__init__.py itself gives -> __init__."""
    first = name.split(".")[1] if "." in name else "__init__"
    return first if first in UNITS else "__init__"


def test_imports_run_one_way() -> None:
    wrong = []
    for name, path in modules():
        here = unit(name)
        assert here in RANK, f"{here} has no row in {Path(__file__).name}"
        for target in imported(name, tree_of(path)):
            there = unit(target) if target.split(".")[0] == "vlae_fast" else here
            if there != here and RANK[there] >= RANK[here]:
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_kernels_import_two_modules_of_the_package() -> None:
    """Host helpers of their launchers; no kernel knows a contract, a backend or the specification."""
    targets = {
        unit(t)
        for name, path in modules()
        if unit(name) == "kernels"
        for t in imported(name, tree_of(path))
        if t.startswith("vlae_fast.")
    }
    assert targets - {"kernels"} == {"kept", "masks"}


def test_every_module_has_a_room_but_for_these() -> None:
    loose = {path.stem for path in (ROOT / "vlae_fast").glob("*.py")}
    assert loose == LOOSE


def test_only_optional_packages_are_imported_inside_functions() -> None:
    wrong = []
    for name, path in modules():
        functions = (n for n in ast.walk(tree_of(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
        targets = {target for function in functions for target in imported(name, function)}
        optional = tuple(f"{package}." for package in OPTIONAL)
        wrong += [f"{path.relative_to(ROOT)} imports {t}" for t in targets if not f"{t}.".startswith(optional)]
    assert not wrong, "\n".join(wrong)


def test_no_test_imports_a_test() -> None:
    """Tests share code in tests/cases alone; only pytest imports a conftest."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")} | {"conftest"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {target}"
        for path in files
        for target in imported(path.stem, tree_of(path))
        if not tests.isdisjoint(target.split("."))
    ]
    assert len(tests) > 50 and not wrong, "\n".join(wrong)


def test_kernels_refuse_to_be_a_top_level_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=r"vlae_fast\.kernels: run `pip install -e \.`"):
        __import__("kernels")


def test_kernels_are_found_under_their_own_name() -> None:
    import vlae_fast.kernels

    assert Path(vlae_fast.kernels.__file__).parent == ROOT / "kernels"


@pytest.mark.slow
def test_importing_the_package_prints_and_warns_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:vlae_fast", "-c", "import vlae_fast"],
        text=True,
        capture_output=True,
        cwd=ROOT.parent,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_import_takes_little_more_than_that_of_torch(tmp_path: Path) -> None:
    """As a share of torch's own in the same process, for machines differ; the best of five, for other work only adds.

    Compiled files are kept from the first run on, as they are for users: elsewhere, compiling is all that counts.
    """
    code = (
        "import time; start = time.perf_counter(); import torch; between = time.perf_counter(); import vlae_fast; "
        "print((time.perf_counter() - between) / (between - start))"
    )
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, text=True, capture_output=True, check=True, env=kept) for _ in range(5)]
    assert min(float(run.stdout) for run in runs) < 0.25
