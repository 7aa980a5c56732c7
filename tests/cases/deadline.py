"""Slow tests: which cases are, and that none is begun after VLAE_FAST_SLOW_UNTIL, seconds since 1970 (see .ci/run)."""

import os
import time
from collections.abc import Callable

import pytest

NAME = "VLAE_FAST_SLOW_UNTIL"


def slow_where(is_slow: Callable[..., bool]) -> pytest.MarkDecorator:
    """The cases of a parametrized test that are `slow`, by its parameters: ``lambda backend, **_: ...``."""
    return pytest.mark.slow_where.with_args(is_slow)


def pytest_itemcollected(item: pytest.Item) -> None:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if any(mark.args[0](**parameters) for mark in item.iter_markers("slow_where")):
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that are last, and may be left out, are others each time; every worker has the same order."""
    if items and (until := os.environ.get(NAME)):
        turn = int(float(until)) % len(items)
        items[:] = items[turn:] + items[:turn]


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = os.environ.get(NAME)
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip(f"{NAME} is past: slow tests run where time allows")
