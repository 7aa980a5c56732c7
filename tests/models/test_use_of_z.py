"""The tutorials' own call makes a model that uses z: what their text says of it."""

from __future__ import annotations

import pytest
import torch

import vlae_fast as vf
from vlae_fast import data


def kl_after(steps: int, **options: object) -> float:
    """The mean KL of the last 50 updates by the tutorials' loop on the digits, nats per image."""
    images = data.load("digits")
    torch.manual_seed(0)
    model = vf.VLAE(
        input_dim=1, latent_dim=32, hidden_dim=16, n_layers=3, use_flow=True,
        flow_hidden=32, image_size=images.image_size, **options,
    )  # fmt: skip
    optimizer, order = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    kls: list[float] = []
    while True:
        for x in images.batches("train", 32, generator=order, shuffle=True):
            logits, mu, logvar, z, log_pz = model(x)
            kls.append(model.kl_per_dim(z, mu, logvar).sum(1).mean().item())
            optimizer.zero_grad()
            (vf.loss_function(logits, x, mu, logvar, z, log_pz) / len(x)).backward()
            optimizer.step()
            if len(kls) == steps:
                return sum(kls[-50:]) / 50


@pytest.mark.slow  # trains twice
def test_the_default_uses_z() -> None:
    """400 updates: about 3 nats with the default map; about 0.5 where every pixel is given the same z, and a loss of 17
    nats more.
    """
    used, ignored = kl_after(400), kl_after(400, z_channels=0)
    assert used > 2 and ignored < 1.5 and used > ignored + 1
