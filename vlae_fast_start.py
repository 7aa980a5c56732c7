"""The script `vlae-fast`: help and version at once, every other command by the package, which imports torch.

It stands outside of the package, for importing any module of a package imports the package.
"""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path


def main() -> None:
    words = sys.argv[1:]
    if words == ["--version"]:
        print(f"vlae_fast {metadata.version('vlae-fast')}")
    elif words == ["--help"]:
        print(_overview(), end="")
    else:
        from vlae_fast.__main__ import main as run

        run()


def _overview() -> str:
    """What vlae_fast/commands/overview.py gives, without an import of the package."""
    package = importlib.util.find_spec("vlae_fast")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "commands" / "overview.py"
    spec = importlib.util.spec_from_file_location("vlae_fast_overview", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.overview()
    return text


if __name__ == "__main__":
    main()
