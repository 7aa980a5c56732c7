"""The documentation's code runs: the README's, the pages in docs and the examples in docstrings."""

import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch

import vlae_fast
from vlae_fast.backends import cpu

ROOT = Path(__file__).resolve().parent.parent
README, PAGES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
PACKAGE = ROOT / "vlae_fast"
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if "    >>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstring_examples(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path) -> None:
    """Their code runs, their links lead somewhere, and a page is short enough to be read."""
    if page.stem == "accelerate" and (reason := cpu.why_not()):
        pytest.skip(f"its report is that of a machine with the cpu backend: {reason}")
    if page.stem == "flows":
        pytest.importorskip("zuko")
    text = page.read_text(encoding="utf-8")
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.failed == 0 and (result.attempted > 0) == ("```python" in text)
    links = re.findall(r"\]\(([^):]+)\)", text)
    assert all((page.parent / link).is_file() for link in links), links
    assert len(text.splitlines()) <= 110


def test_pages_name_files_that_are_there() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = re.findall(r"`((?:vlae_fast|csrc|kernels|tests|benchmarks)/[\w/.]+)`", text)
    assert names and [name for name in names if not (ROOT / name).exists()] == []


def test_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", text, re.MULTILINE) == [vlae_fast.__version__]


def test_the_site_starts_with_install_speed_and_hardware() -> None:
    """The first page has the README's first screen, whose links lead to the README; charts have names of their own."""
    pytest.importorskip("pdoc")
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    text = build.start()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[:4] == ["Install", "How fast", "Hardware", "These pages"] and text.startswith("# vlae_fast\n")
    assert text.index("## How fast") < text.index("speedup.png") < text.index("## Hardware") and "](#" not in text
    files = list(build.pictures())
    assert len({name for _, name in files}) == len({path.resolve() for path, _ in files}) and all(
        path.is_file() for path, _ in files
    )
    assert build.flat("results/amd/speedup.png") == "amd-speedup.png" and build.flat("docs/mnist.png") == "mnist.png"


@pytest.mark.slow
def test_readme_code() -> None:
    """The before/after runs as printed, and so does the loop it is said to be equivalent to."""
    before_after, equivalent = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[:2]
    names: dict = {}
    exec(before_after, names)
    with torch.no_grad():
        exec(equivalent, names)
    assert names["image"].equal(names["after"])


def test_readme_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"\bmake ([a-z]+)", README.read_text(encoding="utf-8"))
    assert targets and all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize(
    "page",
    [
        README,
        ROOT / "docs" / "models.md",
        ROOT / "docs" / "growing.md",
        *sorted(PACKAGE.glob("pretrained/*/README.md")),
    ],
    ids=lambda page: page.parent.name + "-" + page.stem,
)
def test_commands_exist_with_their_options(page: Path) -> None:
    typer = pytest.importorskip("typer")
    from vlae_fast.commands import app

    commands = typer.main.get_command(app).commands
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    assert "python -m vlae_fast" not in text  # in a checkout python finds that folder first
    printed = re.findall(r"(?:^ *|`)vlae-fast (\w+)([^\n#`]*)", text, re.MULTILINE)
    for name, rest in printed:
        params = commands[name].params
        options = {option for p in params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, (name, rest)
    assert printed
