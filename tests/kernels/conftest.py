"""Triton kernels that are interpreted here are held to their tensors."""

from collections.abc import Iterator

import pytest
from cases.extents import ran  # noqa: F401 - a fixture of every test in the folder

from vlae_fast.kept import plans_anew


@pytest.fixture(autouse=True)
def _plans_anew() -> Iterator[None]:
    """Tests change block sizes, which plans are made of."""
    with plans_anew():
        yield
