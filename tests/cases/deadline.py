"""Slow tests where time allows: none is begun after VLAE_FAST_SLOW_UNTIL, seconds since 1970 (see .ci/run)."""

import os
import time

import pytest

NAME = "VLAE_FAST_SLOW_UNTIL"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that are last, and may be left out, are others each time; every worker has the same order."""
    if items and (until := os.environ.get(NAME)):
        turn = int(float(until)) % len(items)
        items[:] = items[turn:] + items[:turn]


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = os.environ.get(NAME)
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip(f"{NAME} is past: slow tests run where time allows")
