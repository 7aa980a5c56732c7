"""Releases: workflow files, the notes of a tag, hashes of what is pinned, what the package says of itself."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import vlae_fast

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = "# Changelog\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- B.\n\n## [0.1.0] - Unreleased\n\n- A.\n"


def notes(*args: Any) -> str:
    text: str = runpy.run_path(str(ROOT / ".ci" / "release_notes.py"))["notes"](*args)
    return text


def read(path: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(path: Path) -> None:
    """Jobs need jobs of the same file, call files of this checkout and targets of the Makefile, and end in time."""
    jobs = read(path)["jobs"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name, job in jobs.items():
        needs = job.get("needs", [])
        assert ({needs} if isinstance(needs, str) else set(needs)) <= set(jobs)
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file() and "workflow_call" in (ROOT / job["uses"]).read_text()
            continue
        assert 0 < job["timeout-minutes"] <= 90, name
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            for target in re.findall(r"(?:^|&& )make ([\w-]+)", step.get("run", "")):
                assert target in targets, target
            for file in re.findall(r"\.ci/[\w.]+", step.get("run", "")):
                assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_set_no_variable_that_nobody_reads(path: Path) -> None:
    texts = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("setup.py", "csrc/toolchain.py", ".ci/aarch64")
    )
    given = set(re.findall(r"VLAE_FAST_\w+", path.read_text(encoding="utf-8")))
    assert [name for name in given if name not in texts] == []


def test_a_release_has_a_wheel_of_each_platform_that_was_tested() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "wheels.yml")["jobs"]
    built = set(jobs["build"]["strategy"]["matrix"]["os"])
    assert {row["dist"] for row in jobs["test"]["strategy"]["matrix"]["include"]} == built
    assert {"ubuntu-22.04", "ubuntu-22.04-arm", "macos-14"} <= built
    (release,) = [
        step["run"] for step in steps(ROOT / ".github" / "workflows" / "release.yml") if "gh " in step.get("run", "")
    ]
    assert "dist-*/*.whl" in release and "dist-ubuntu-22.04/*.tar.gz" in release and "--notes-file" in release


def test_notes_are_the_section_of_the_version() -> None:
    assert notes("v0.2.0", "0.2.0", CHANGELOG) == "### Added\n\n- B.\n"


@pytest.mark.parametrize(
    ("tag", "version", "message"),
    [
        ("v0.2.1", "0.2.0", "the tag must be v0.2.0, the version in vlae_fast/__init__.py, got v0.2.1"),
        ("v0.1.0", "0.1.0", r"must date the section \[0.1.0\], got Unreleased"),
        ("v0.3.0", "0.3.0", r"must have a section \[0.3.0\]"),
    ],
)
def test_notes_are_refused(tag: str, version: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        notes(tag, version, CHANGELOG)


def test_the_changelog_has_a_section_of_this_version() -> None:
    assert f"\n## [{vlae_fast.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def pins(text: str) -> set[str]:
    return {re.sub(r"[-_.]+", "-", pin).lower() for pin in re.findall(r"^([\w.-]+==[\w.]+)", text, re.MULTILINE)}


def test_the_lock_has_a_hash_of_every_pin() -> None:
    """But for torch and triton. `make lock` writes it."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    assert pins(lock) == {pin for pin in pinned if pin.partition("==")[0] not in ("torch", "triton")}
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", lock.strip()))


def test_extras_have_lower_bounds_that_the_pins_meet() -> None:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    pinned = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    for requirement in map(Requirement, wanted):
        assert [spec.operator for spec in requirement.specifier] == [">="], f"{requirement} has no lower bound"
        versions = [version for name, version in pinned if name.lower() == requirement.name.lower()]
        assert versions and all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_package_says_where_it_runs() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "[project.urls]" in text
    assert all(f'"Operating System :: {name}"' in text for name in ("POSIX :: Linux", "MacOS"))


def test_the_model_cards_have_a_licence() -> None:
    cards = list((Path(vlae_fast.__file__).parent / "pretrained").glob("*/README.md"))
    for card in cards:
        text = card.read_text(encoding="utf-8")
        assert re.search(r"^## Licence$", text, re.MULTILINE) and "MIT" in text, card
    assert cards
