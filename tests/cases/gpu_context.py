"""Tests on a GPU: an error is that of the test that made it, and a process whose CUDA context is lost is replaced."""

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch

LOST = 77  # exit status


def _on_gpu(item: pytest.Item) -> bool:
    return item.get_closest_marker("gpu") is not None and torch.cuda.is_available()


@pytest.fixture(autouse=True)
def synchronized(request: pytest.FixtureRequest) -> Iterator[None]:
    """Waits for the GPU after a test: what failed there fails here, not in the next test."""
    yield
    if _on_gpu(request.node):
        torch.cuda.synchronize()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: Any) -> Generator[None, Any, Any]:
    """After a sticky error every call of CUDA in this process fails: a worker of xdist ends, and another goes on."""
    result = yield
    if _on_gpu(item):
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            if "PYTEST_XDIST_WORKER" in os.environ:
                os._exit(LOST)
            pytest.exit(f"the CUDA context is lost, what follows is not run: {error}", LOST)
    return result
