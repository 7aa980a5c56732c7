"""Prints a release's notes: the section of CHANGELOG.md of a tag's version.

.ci/release_notes.py v0.1.0; run by .github/workflows/release.yml. Exit status 1 where the tag is not of the version in
vlae_fast/__init__.py, or the CHANGELOG has no dated section of it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notes(tag: str, version: str, changelog: str) -> str:
    """The section without its heading. Raises: ValueError for a tag of another version, or a section without a date."""
    if tag != f"v{version}":
        raise ValueError(f"the tag must be v{version}, the version in vlae_fast/__init__.py, got {tag}")
    section = re.search(
        rf"^## \[{re.escape(version)}\] - ([^\n]*)\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if section is None:
        raise ValueError(f"CHANGELOG.md must have a section [{version}]")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", section[1]):
        raise ValueError(f"CHANGELOG.md must date the section [{version}], got {section[1]}")
    return section[2].strip() + "\n"


def version_of(package: Path) -> str:
    found = re.search(r'^__version__ = "(.*)"$', package.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    try:
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        print(notes(sys.argv[1], version_of(ROOT / "vlae_fast" / "__init__.py"), changelog), end="")
    except ValueError as error:
        sys.exit(f"release: {error}")
