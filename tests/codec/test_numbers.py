"""Functions of additions, products and quotients alone: near the true ones, with the bits that any machine has."""

import hashlib

import numpy as np
import pytest

from vlae_fast.codec import numbers


def test_functions_are_near_the_true_ones() -> None:
    x = np.random.default_rng(0).uniform(-700, 700, 100_000)
    assert np.abs(numbers.exp(x) / np.exp(x) - 1).max() < 4e-16
    assert np.abs(numbers.tanh(x / 100) - np.tanh(x / 100)).max() < 4e-16
    y = x[np.abs(x) < 30]
    assert np.abs(numbers.sigmoid(y) * (1 + np.exp(-y)) - 1).max() < 1e-15


def test_every_machine_has_these_bits() -> None:
    """Whatever the library of exponentials, the vectors of numpy and the place in memory: a file lives on this."""
    x = np.arange(-40_000, 40_000) / 1001
    found = hashlib.sha256()
    for function in (numbers.exp, numbers.sigmoid, numbers.tanh):
        whole = function(x)
        assert (np.concatenate([function(x[i : i + 7]) for i in range(0, 700, 7)]) == whole[:700]).all()
        found.update(whole.tobytes())
    logits = np.arange(-3000, 3000, dtype=np.float32) / 100
    found.update(numbers.of_logits(logits).tobytes())
    assert found.hexdigest()[:16] == "c804f5c8a06b4416"


def test_a_rounded_logit_loses_almost_nothing() -> None:
    logits = np.random.default_rng(0).normal(0, 3, 100_000).astype(np.float32)
    p, q = 1 / (1 + np.exp(-logits.astype(np.float64))), numbers.of_logits(logits)
    loss = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert loss.max() < 8e-6 and loss.mean() < 2e-6


@pytest.mark.parametrize("p", [-1.0, 0.0, 1e-9, 0.3, 1.0, 2.0])
def test_no_decision_is_certain(p: float) -> None:
    found = float(numbers.decision(np.array([p]))[0])
    assert 0 < found < 1 and (found * numbers.ONE).is_integer()
