"""Random decoders and programs that the sampling tests share."""

import random

import torch
from torch import nn

import vlae_fast as vf
from vlae_fast.masks import live_taps
from vlae_fast.plan import Source, Stage


def random_decoder(seed: int) -> vf.PixelCNNDecoder:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size = (
        [(1, 1), (33, 29), (28, 28), (1, 12), (12, 1)][seed] if seed < 5 else (rng.randint(2, 14), rng.randint(2, 14))
    )
    decoder = vf.PixelCNNDecoder(
        input_dim=rng.choice([1, 1, 2, 3]),
        latent_dim=(latent_dim := rng.choice([0, 3, 16])),
        hidden_dim=rng.choice([8, 9, 16, 17, 31, 32, 40, 63, 96]) if seed not in (1, 2) else 13,
        n_layers=rng.randint(0, 5),
        kernel_size=rng.choice([3, 5, 7]),
        initial_kernel=rng.choice([3, 5, 7]),
        z_channels=5 if latent_dim and seed % 3 == 1 else 0,
        residual=rng.random() < 0.4,
        image_size=size,
    )
    return randomize(decoder)


def randomize(decoder: vf.PixelCNNDecoder) -> vf.PixelCNNDecoder:
    """Weights that give logits that are neither all certain nor all alike."""
    for p in decoder.parameters():
        nn.init.normal_(p, std=1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
    return decoder


def small_decoder(input_dim: int = 1, latent_dim: int = 3, z_channels: int = 0) -> vf.PixelCNNDecoder:
    """A decoder that an interpreted backend draws from in seconds."""
    return randomize(
        vf.PixelCNNDecoder(
            input_dim, latent_dim, 6, 1, initial_kernel=3, z_channels=z_channels, residual=True, image_size=(3, 4)
        )
    )


def inputs(decoder: vf.PixelCNNDecoder, batch: int, *, z_map: bool = False) -> tuple[torch.Tensor | None, torch.Tensor]:
    size = decoder.image_size if z_map else ()
    channels = decoder.z_channels if z_map else decoder.latent_dim
    z = torch.randn(batch, channels, *size) if decoder.latent_dim else None
    return z, torch.rand(batch, decoder.input_dim, *decoder.image_size)


def chain(kernels: list[int]) -> list[Stage]:
    types = ["A"] + ["B"] * (len(kernels) - 1)
    return [
        Stage(1, "none", -1, 0, (Source(i, live_taps(t, (k, k))),))
        for i, (t, k) in enumerate(zip(types, kernels, strict=True))
    ]


def gated_stacks(layers: int) -> list[Stage]:
    """Vertical and horizontal stacks of a Gated PixelCNN."""
    stages: list[Stage] = []
    vertical = horizontal = 0
    for kind in ["A"] + ["B"] * (layers - 1):
        stages.append(Stage(1, "none", -1, 0, (Source(vertical, live_taps(f"vertical_{kind}", (3, 3))),)))
        vertical = len(stages)
        sources = (Source(horizontal, live_taps(f"horizontal_{kind}", (3, 3))), Source(vertical, ((0, 0),)))
        stages.append(Stage(1, "none", -1, 0, sources))
        horizontal = len(stages)
    return stages
