"""The Variational Lossy Autoencoder of Chen et al. 2017, arXiv 1611.02731."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..sampling import FactorizedSampler, PixelCNNSampler
from .decoders.make import OPTIONS, make_decoder
from .encoder import Sizes, make_encoder
from .flow import standard_normal_log_prob
from .labels import check_no_labels, one_hot
from .likelihood import make_likelihood
from .objectives import LossTerms, loss_function, loss_terms
from .options import check_options
from .posterior import InverseAutoregressivePosterior, PosteriorSample, gaussian_log_prob
from .precision import wide_under_autocast
from .prior import make_prior

__all__ = ["VLAE", "LossTerms", "VLAEOutput", "loss_function", "loss_terms"]


class VLAEOutput(NamedTuple):
    """What a VLAE makes of a batch of images, in the order that `loss_function` takes it apart from x."""

    logits: Tensor  # [B, P, H, W], the parameters of the likelihood
    mu: Tensor  # [B, D], with log q(z|x) = log N(z; mu, exp(logvar))
    logvar: Tensor  # [B, D]
    z: Tensor  # [B, D], drawn from q(z|x)
    log_pz: Tensor  # [B], log p(z) under the model's prior, in nats


class VLAE(nn.Module):
    """Encoder, autoregressive-flow prior, and a PixelCNN decoder whose window is too small to do without z.

    Args:
        input_dim: image channels C. latent_dim: D. hidden_dim: channels of encoder and decoder. n_layers: of decoder.
        use_flow: AF prior (``log p(z) = log N(eps; 0, I) + log|det d eps/d z|``, eps = flow(z)); else N(0, I).
        image_size: (H, W).
        likelihood: ``bernoulli``, ``categorical`` of ``levels``, ``logistic_mixture`` of ``levels`` and ``components``.
        decoder: ``gated``, ``two-stack``, ``resnet``, ``pixelcnn++``, or ``mlp`` and ``deconv``, which do not look at
            the image. kernel_size, initial_kernel, receptive_field, residual, tied, n_pointwise: where a kind has them,
            see its class in `models.decoders`.
        z_channels: 0: every pixel is given the same z, as in the tutorials (``resnet``: its own 4 maps); a small window
            then cannot know where it is and tends to ignore z. Else z is spread over the image in so many channels
            (`CodeMap`), and ``decoder_layers[i](h, z_map)`` takes ``z_map = model.decoder.spread(z)``. 16 trains well.
        encoder: ``conv``, ``strided``, ``mlp``, ``resnet``, see `models.encoder`. encoder_hidden: its hidden_dim, where
            it has one of its own. weight_norm: of the convolutions of ``resnet``.
        posterior: ``gaussian``, or ``iaf``, an inverse autoregressive flow of one.
        flow_hidden, flow_steps, flow_layers, flow_transform: of the prior: units, steps, hidden layers of a step,
            ``affine`` or ``mean-only``; the first three also of an ``iaf`` posterior.
        latent_map: (h, w): z is a map of ``D / (h w)`` channels, flattened, and the prior a convolutional flow.
        n_classes: class-conditional where positive: encoder and decoder are given labels, ``[B]`` integers.
        backend: of every layer.

    ``model(x [B, C, H, W], labels=None)`` gives logits (the likelihood's parameters), mu, logvar, z, log_pz.

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
        decoder: str = "gated",
        receptive_field: int | None = None,
        tied: bool = False,
        n_pointwise: int = 4,
        likelihood: str = "bernoulli",
        levels: int = 256,
        components: int = 10,
        encoder: str = "conv",
        encoder_hidden: int | None = None,
        weight_norm: bool = False,
        posterior: str = "gaussian",
        flow_hidden: int = 256,
        flow_steps: int = 2,
        flow_layers: int = 2,
        flow_transform: str = "affine",
        latent_map: tuple[int, int] | None = None,
        n_classes: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        as_in_json = {"image_size": list(image_size), "latent_map": latent_map and list(latent_map)}
        self.config: dict[str, Any] = arguments | as_in_json
        check_options(self.config)
        size = (image_size[0], image_size[1])
        self.latent_dim, self.n_classes, self.backend = latent_dim, n_classes, backend
        self.latent_map = latent_map and (latent_map[0], latent_map[1])
        # what a flow posterior is told of the image is as wide as mu and logvar
        context_dim = 2 * latent_dim if posterior == "iaf" else 0
        sizes = Sizes(
            input_dim, latent_dim, encoder_hidden or hidden_dim, size, context_dim, n_classes, self.latent_map
        )
        self.encoder = make_encoder(encoder, sizes, weight_norm=weight_norm)
        self.prior = (
            make_prior(
                latent_dim,
                self.latent_map,
                flow_hidden,
                n_steps=flow_steps,
                n_hidden=flow_layers,
                transform=flow_transform,
                backend=backend,
            )
            if use_flow
            else None
        )
        self.likelihood = make_likelihood(likelihood, input_dim, levels=levels, components=components)
        self.decoder = make_decoder(
            decoder,
            input_dim=input_dim,
            latent_dim=latent_dim + n_classes,
            hidden_dim=hidden_dim,
            n_layers=n_layers,
            image_size=size,
            likelihood=self.likelihood,
            backend=backend,
            **{name: self.config[name] for name in OPTIONS},
        )
        self.posterior = (
            InverseAutoregressivePosterior(
                latent_dim,
                flow_hidden,
                context_dim=context_dim,
                n_steps=flow_steps,
                n_hidden=flow_layers,
                backend=backend,
            )
            if posterior == "iaf"
            else None
        )

    @property
    def initial_conv(self) -> nn.Module:
        return self.decoder.get_submodule("initial_conv")

    @property
    def decoder_layers(self) -> Any:
        return self.decoder.get_submodule("decoder_layers")

    @property
    def final_conv(self) -> nn.Module:
        return self.decoder.get_submodule("final_conv")

    def reparameterize(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z = mu + exp(logvar / 2) * N(0, I)."""
        mu, logvar = wide_under_autocast(mu), wide_under_autocast(logvar)
        return mu + torch.exp(0.5 * logvar) * _noise_like(mu, generator)

    def posterior_sample(
        self, x: Tensor, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> PosteriorSample:
        """z ~ q(z|x), with the mu and logvar that score it: ``log q(z|x) = log N(z; mu, exp(logvar))``."""
        if self.posterior is None:
            # an encoder that was put in this one's place may take x alone
            mu, logvar = self.encoder(x) if labels is None else self.encoder(x, labels)
            return PosteriorSample(self.reparameterize(mu, logvar, generator), mu, logvar)
        mu, logvar, context = self.encoder.with_context(x, labels)
        return self.posterior(mu, logvar, context, _noise_like(mu, generator))

    def log_prior(self, z: Tensor) -> Tensor:
        """``log p(z)`` in nats, ``[B]``, of z ``[B, D]``."""
        if self.prior is None:
            return standard_normal_log_prob(z)
        eps, log_det = self.prior(z.unflatten(1, self.prior.shape))
        return standard_normal_log_prob(eps.flatten(1)) + log_det

    def kl_per_dim(self, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        """Each dimension's share of ``log q(z|x) - log p(z)`` in nats, ``[B, D]``, of a draw z.

        mu and logvar ``[B, D]`` are those that score it (`posterior_sample`); the shares of a flow prior are those of
        `Flow.log_prob_per_dim`.
        """
        if self.prior is None:
            log_pz = gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))
        else:
            log_pz = self.prior.log_prob_per_dim(z.unflatten(1, self.prior.shape)).flatten(1)
        return gaussian_log_prob(z, mu, logvar) - log_pz

    def condition(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """What decoder and sampler take: z, joined with one-hot labels where the model is class-conditional."""
        if not self.n_classes:
            check_no_labels("VLAE", labels)
            return z
        return torch.cat([z, one_hot("VLAE", labels, self.n_classes, z)], 1)

    def forward(self, x: Tensor, labels: Tensor | None = None, *, seen: Tensor | None = None) -> VLAEOutput:
        """x ``[B, C, H, W]`` in [0, 1], encoded, and decoded given one draw of z.

        seen: what the encoder is given in place of x, as for a model that removes noise.
        """
        z, mu, logvar = self.posterior_sample(x if seen is None else seen, labels)
        return VLAEOutput(self.decoder(x, self.condition(z, labels)), mu, logvar, z, self.log_prior(z))

    def loss_terms(self, x: Tensor, labels: Tensor | None = None, *, seen: Tensor | None = None) -> LossTerms:
        """The two terms of the negative ELBO, of one draw of z an image.

        seen: what the encoder is given in place of x, as for a model that removes noise.
        """
        out = self(x, labels, seen=seen)
        return loss_terms(out.logits, x, out.mu, out.logvar, out.z, out.log_pz, self.likelihood)

    @torch.no_grad()
    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of z from the prior, ``[n, D]``: eps ~ N(0, I), then the flow's inverse."""
        if n < 0:
            raise ValueError(f"VLAE: n must not be negative, got {n}")
        weight = next(self.decoder.parameters())
        eps = torch.randn(n, self.latent_dim, dtype=weight.dtype, device=weight.device, generator=generator)
        return eps if self.prior is None else self.prior.inverse(eps.unflatten(1, self.prior.shape))[0].flatten(1)

    def sampler(self, backend: str = "auto") -> PixelCNNSampler | FactorizedSampler:
        """Draws images from the current weights, of ``model.condition(z, labels)``.

        A decoder that does not look at the image has no loop that a backend would be for.
        """
        if not self.decoder.autoregressive:
            return FactorizedSampler(self.decoder)
        return PixelCNNSampler(self.decoder, backend=backend)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, labels: Tensor | None = None) -> Tensor:
        """n images ``[n, C, H, W]``: z from the prior, then the sampler on the current weights."""
        z = self.condition(self.sample_prior(n, generator), labels)
        return self.sampler(self.backend).sample(z, generator=generator)


def _noise_like(mu: Tensor, generator: torch.Generator | None) -> Tensor:
    """The numbers of torch.randn, which torch.compile refuses ``generator=None`` where the batch size is open."""
    return mu.new_empty(mu.shape).normal_(generator=generator)
