"""The numbers that portable files are coded by have these bits on every machine. It takes no entropy coder."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cases.codec import hashed, of_integers

from vlae_fast import VLAE, checkpoint
from vlae_fast.backends import cpu
from vlae_fast.codec import portable
from vlae_fast.codec.bits_back import Latent

pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")

_SMALL: dict[str, Any] = {"latent_dim": 3, "hidden_dim": 6, "n_layers": 2, "image_size": (9, 10), "flow_hidden": 8}


MODELS: dict[str, Callable[[], VLAE]] = {
    "shipped": lambda: checkpoint.load(checkpoint.MNIST).model,
    "elu": lambda: of_integers(VLAE(1, **_SMALL)),
    "gated": lambda: of_integers(VLAE(1, **_SMALL, decoder="gated", encoder="strided", encoder_activation="relu")),
    "weight-normed": lambda: of_integers(VLAE(1, **_SMALL, decoder="resnet", encoder="resnet", encoder_norm="weight")),
    "in colour": lambda: of_integers(VLAE(3, **_SMALL, likelihood="categorical", levels=4, encoder_norm="batch")),
}
BITS = {
    "shipped": "f1f9071c92a08928",
    "elu": "0fa2403104826c13",
    "gated": "8ed0f389a6ab3ede",
    "weight-normed": "f9013c5ef9198a47",
    "in colour": "56ba3a3e5bf9e9aa",
}


@pytest.mark.parametrize("wide", [portable.WIDE, "none"])
@pytest.mark.parametrize("name", MODELS)
def test_every_machine_has_these_bits(name: str, wide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "WIDE", wide)
    model, n, found = portable.plain(MODELS[name]()), 9, hashlib.sha256()
    levels = model.likelihood.levels - 1
    x = (hashed((n, model.likelihood.channels, *model.decoder.image_size), 0).abs() * levels).round() / levels
    z = 2 * hashed((n, model.latent_dim), 1)
    latent, sampler = Latent(model, portable.PORTABLE), portable.PortableSampler(model.decoder)
    numbers = [sampler.params_of(x, z).numpy(), *latent.posterior_of(x)[:2]]
    for step in (latent.first, latent.prior.last):
        numbers += step(z) if step is not None else ()
    for array in numbers:
        found.update((array + 0.0).astype(f"<f{array.itemsize}").tobytes())  # without the sign of a zero
    assert found.hexdigest()[:16] == BITS[name]
