"""Shared by the tests of other people's code: what is timed elsewhere is decided here without a clock."""

import pytest

from vlae_fast.foreign import fast_forward
from vlae_fast.foreign.flows import inverses


@pytest.fixture(autouse=True)
def _fast_is_faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever version a busy machine would find the faster one, tests run the fast one; those of the clock do not."""
    if "clock" not in request.keywords:
        for module in (fast_forward, inverses):
            monkeypatch.setattr(module, "ratio_of", lambda *_: float("inf"))
