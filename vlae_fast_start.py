"""The script `vlae-fast`: help and version at once, every other command by the package, which imports torch.

It stands outside of the package, for importing any module of a package imports the package.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    words = sys.argv[1:]
    if words == ["--version"]:
        from importlib import metadata

        _say(f"vlae_fast {metadata.version('vlae-fast')}\n")
    elif words == ["--help"]:
        _say(_overview().overview())
    elif len(words) == 2 and words[1] == "--help" and (page := _overview().page(words[0])):
        _say(page)
    else:
        from vlae_fast.__main__ import main as run

        run()


def _say(text: str) -> None:
    """Prints; who reads no further ends it without a word."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python writes at its end goes there
        sys.exit(1)


def _overview() -> ModuleType:
    """vlae_fast/commands/overview.py, without an import of the package."""
    package = importlib.util.find_spec("vlae_fast")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "commands" / "overview.py"
    spec = importlib.util.spec_from_file_location("vlae_fast_overview", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
