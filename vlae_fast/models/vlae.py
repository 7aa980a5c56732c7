"""The Variational Lossy Autoencoder of Chen et al. 2017, arXiv 1611.02731."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import backends
from ..sampling import PixelCNNSampler
from .decoder import PixelCNNDecoder
from .encoder import ConvEncoder
from .flow import AutoregressiveFlow, standard_normal_log_prob
from .likelihood import bernoulli_log_prob


class VLAEOutput(NamedTuple):
    logits: Tensor  # [B, C, H, W]
    mu: Tensor  # [B, D]
    logvar: Tensor  # [B, D]
    z: Tensor  # [B, D]
    log_pz: Tensor  # [B], nats


class LossTerms(NamedTuple):
    """Nats per image, ``[B]`` each; their sum is the negative ELBO."""

    reconstruction: Tensor
    kl: Tensor


class VLAE(nn.Module):
    """Encoder, autoregressive-flow prior, and a PixelCNN decoder whose window is too small to do without z.

    Args:
        input_dim: image channels C. latent_dim: D. hidden_dim: channels of encoder and decoder. n_layers: gated layers.
        use_flow: AF prior (``log p(z) = log N(eps; 0, I) + log|det d eps/d z|``, eps = flow(z)); else N(0, I).
        image_size: (H, W). kernel_size, initial_kernel, residual: of the decoder.
        z_channels: 0: every pixel is given the same z, as in the tutorials; a small window then cannot know
            where it is and tends to ignore z. Else z is spread over the image in so many channels (`CodeMap`), and
            ``decoder_layers[i](h, z_map)`` takes ``z_map = model.decoder.spread(z)``. 16 trains well.
        flow_hidden, flow_steps: of the prior.
        backend: of every layer.

    ``model(x [B, C, H, W])`` gives logits, mu, logvar, z, log_pz; pixels are Bernoulli.

    >>> model = VLAE(latent_dim=8, hidden_dim=16)
    >>> model(torch.zeros(2, 1, 28, 28)).logits.shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 64,
        n_layers: int = 3,
        use_flow: bool = True,
        *,
        image_size: tuple[int, int] = (28, 28),
        kernel_size: int = 3,
        initial_kernel: int = 7,
        z_channels: int = 0,
        residual: bool = False,
        flow_hidden: int = 256,
        flow_steps: int = 2,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("latent_dim", latent_dim, 1),
            ("hidden_dim", hidden_dim, 2),
            ("flow_hidden", flow_hidden, 1),
        ):
            if value < least:
                raise ValueError(f"VLAE: {name} must be at least {least}, got {value}")
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"VLAE: image_size must be (H, W), both positive, got {tuple(image_size)}")
        if backend not in backends.NAMES:
            raise ValueError(f"VLAE: backend must be one of {', '.join(backends.NAMES)}, got {backend!r}")
        self.config: dict[str, Any] = {
            "input_dim": input_dim,
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "n_layers": n_layers,
            "use_flow": use_flow,
            "image_size": list(image_size),
            "kernel_size": kernel_size,
            "initial_kernel": initial_kernel,
            "z_channels": z_channels,
            "residual": residual,
            "flow_hidden": flow_hidden,
            "flow_steps": flow_steps,
            "backend": backend,
        }
        self.latent_dim, self.backend = latent_dim, backend
        self.encoder = ConvEncoder(input_dim, latent_dim, hidden_dim, (image_size[0], image_size[1]))
        self.prior = (
            AutoregressiveFlow(latent_dim, flow_hidden, n_steps=flow_steps, backend=backend) if use_flow else None
        )
        self.decoder = PixelCNNDecoder(
            input_dim,
            latent_dim,
            hidden_dim,
            n_layers,
            kernel_size=kernel_size,
            initial_kernel=initial_kernel,
            z_channels=z_channels,
            residual=residual,
            image_size=(image_size[0], image_size[1]),
            backend=backend,
        )

    @property
    def initial_conv(self) -> nn.Module:
        return self.decoder.initial_conv

    @property
    def decoder_layers(self) -> nn.ModuleList:
        return self.decoder.decoder_layers

    @property
    def final_conv(self) -> nn.Module:
        return self.decoder.final_conv

    def reparameterize(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z = mu + exp(logvar / 2) * N(0, I)."""
        noise = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device, generator=generator)
        return mu + torch.exp(0.5 * logvar) * noise

    def log_prior(self, z: Tensor) -> Tensor:
        """``log p(z)`` in nats, ``[B]``."""
        if self.prior is None:
            return standard_normal_log_prob(z)
        eps, log_det = self.prior(z)
        return standard_normal_log_prob(eps) + log_det

    def forward(self, x: Tensor) -> VLAEOutput:
        mu, logvar = self.encoder(x)
        z = self.reparameterize(mu, logvar)
        return VLAEOutput(self.decoder(x, z), mu, logvar, z, self.log_prior(z))

    @torch.no_grad()
    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of z from the prior, ``[n, D]``: eps ~ N(0, I), then the flow's inverse."""
        if n < 0:
            raise ValueError(f"VLAE: n must not be negative, got {n}")
        weight = self.decoder.final_conv.weight
        eps = torch.randn(n, self.latent_dim, dtype=weight.dtype, device=weight.device, generator=generator)
        return eps if self.prior is None else self.prior.inverse(eps)[0]

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n images ``[n, C, H, W]``: z from the prior, then the cached sampler on the current weights."""
        z = self.sample_prior(n, generator)
        return PixelCNNSampler(self.decoder, backend=self.backend).sample(z, generator=generator)


def loss_terms(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, log_pz: Tensor) -> LossTerms:
    """``-log p(x|z)`` and the Monte Carlo KL ``log q(z|x) - log p(z)`` in nats per image, right for any prior."""
    log_qz = -0.5 * (logvar + (z - mu) ** 2 * torch.exp(-logvar) + math.log(2 * math.pi)).sum(1)
    return LossTerms(-bernoulli_log_prob(logits, x), log_qz - log_pz)


def loss_function(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, z: Tensor, log_pz: Tensor) -> Tensor:
    """Negative ELBO in nats, summed over the batch: reconstruction + log q(z|x) - log p(z)."""
    terms = loss_terms(logits, x, mu, logvar, z, log_pz)
    return (terms.reconstruction + terms.kl).sum()
