"""Triton kernels with one thing about them changed, in the place of the package's own."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vlae_fast
from vlae_fast.kept import plans_anew

NAME = "vlae_fast.kernels"


@contextmanager
def kernels_with(folder: Path, file: str, old: str, new: str) -> Iterator[None]:
    """``vlae_fast.kernels`` is a copy in an empty folder in which a file has ``new`` in the place of ``old``."""
    import vlae_fast.kernels as own

    shutil.copytree(own.__path__[0], folder / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "kernels" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} has {old!r} {source.count(old)} times"
    path.write_text(source.replace(old, new), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, plans_anew():
        for name in [n for n in sys.modules if n == NAME or n.startswith(f"{NAME}.")]:
            patch.delitem(sys.modules, name)
        spec = importlib.util.spec_from_file_location(
            NAME, folder / "kernels" / "__init__.py", submodule_search_locations=[str(folder / "kernels")]
        )
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, NAME, module)
        patch.setattr(vlae_fast, "kernels", module)
        spec.loader.exec_module(module)
        try:
            yield
        finally:
            for name in [n for n in sys.modules if n.startswith(f"{NAME}.")]:
                del sys.modules[name]
