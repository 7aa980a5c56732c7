"""The Variational Lossy Autoencoder of Chen et al. 2017, arXiv 1611.02731."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..sampling import FactorizedSampler, PixelCNNSampler
from .decoders import Decoder
from .decoders.make import make_decoder
from .encoder import Encoder, Sizes, make_encoder
from .flow import Flow, standard_normal_log_prob
from .labels import check_no_labels, one_hot
from .likelihood import Likelihood, make_likelihood
from .objectives import LossTerms, loss_function, loss_terms
from .options import Options, chosen, takes_options
from .posterior import InverseAutoregressivePosterior, PosteriorSample, gaussian_log_prob
from .precision import wide_under_autocast
from .prior import make_prior

__all__ = ["VLAE", "LossTerms", "VLAEOutput", "loss_function", "loss_terms"]


class VLAEOutput(NamedTuple):
    """The output of a VLAE for a batch of images, in the order that `loss_function` takes it apart from x."""

    logits: Tensor  # [B, P, H, W], the parameters of the likelihood
    mu: Tensor  # [B, D], with log q(z|x) = log N(z; mu, exp(logvar))
    logvar: Tensor  # [B, D]
    z: Tensor  # [B, D], drawn from q(z|x)
    log_pz: Tensor  # [B], log p(z) under the model's prior, in nats


@takes_options
class VLAE(nn.Module):
    """Encoder, autoregressive-flow prior, and a PixelCNN decoder whose window is too small to do without z.

    Args:
        {options}

    With use_flow, ``log p(z) = log N(eps; 0, I) + log|det d eps/d z|``, eps = flow(z). An ``iaf`` posterior has the
    units, steps and hidden layers of the prior. Encoders: `models.encoder`. More on options: `Options`.

    ``model(x [B, C, H, W], labels=None)`` gives logits (the likelihood's parameters), mu, logvar, z, log_pz.

    >>> model = VLAE(latent_dim=8, hidden_dim=16)
    >>> model(torch.zeros(2, 1, 28, 28)).logits.shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__()
        options = chosen(*args, **keywords)
        self.config = options.config()
        self.latent_dim, self.n_classes, self.backend = options.latent_dim, options.n_classes, options.backend
        self.latent_map = options.latent_map
        self.encoder = _encoder(options)
        self.prior = _prior(options) if options.use_flow else None
        self.likelihood = make_likelihood(
            options.likelihood, options.input_dim, levels=options.levels, components=options.components
        )
        self.decoder = _decoder(options, self.likelihood)
        self.posterior = _flow_posterior(options) if options.posterior == "iaf" else None

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
        """The input of decoder and sampler: z, joined with one-hot labels where the model is class-conditional."""
        if not self.n_classes:
            check_no_labels("VLAE", labels)
            return z
        return torch.cat([z, one_hot("VLAE", labels, self.n_classes, z)], 1)

    def forward(self, x: Tensor, labels: Tensor | None = None, *, seen: Tensor | None = None) -> VLAEOutput:
        """x ``[B, C, H, W]`` in [0, 1], encoded, and decoded given one draw of z.

        seen: the encoder's input in place of x, as for a model that removes noise.
        """
        z, mu, logvar = self.posterior_sample(x if seen is None else seen, labels)
        return VLAEOutput(self.decoder(x, self.condition(z, labels)), mu, logvar, z, self.log_prior(z))

    def loss_terms(self, x: Tensor, labels: Tensor | None = None, *, seen: Tensor | None = None) -> LossTerms:
        """The two terms of the negative ELBO, of one draw of z an image.

        seen: the encoder's input in place of x, as for a model that removes noise.
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


def _context_dim(options: Options) -> int:
    """Channels of the context of a flow posterior."""
    return 2 * options.latent_dim if options.posterior == "iaf" else 0


def _encoder(options: Options) -> Encoder:
    sizes = Sizes(
        options.input_dim,
        options.latent_dim,
        options.encoder_hidden or options.hidden_dim,
        options.image_size,
        _context_dim(options),
        options.n_classes,
        options.latent_map,
    )
    return make_encoder(options.encoder, sizes, weight_norm=options.weight_norm)


def _prior(options: Options) -> Flow:
    return make_prior(
        options.latent_dim,
        options.latent_map,
        options.flow_hidden,
        n_steps=options.flow_steps,
        n_hidden=options.flow_layers,
        transform=options.flow_transform,
        backend=options.backend,
    )


def _decoder(options: Options, likelihood: Likelihood) -> Decoder:
    return make_decoder(
        options.decoder,
        input_dim=options.input_dim,
        latent_dim=options.latent_dim + options.n_classes,
        hidden_dim=options.hidden_dim,
        n_layers=options.n_layers,
        image_size=options.image_size,
        likelihood=likelihood,
        backend=options.backend,
        **options.of_part("decoder"),
    )


def _flow_posterior(options: Options) -> InverseAutoregressivePosterior:
    return InverseAutoregressivePosterior(
        options.latent_dim,
        options.flow_hidden,
        context_dim=_context_dim(options),
        n_steps=options.flow_steps,
        n_hidden=options.flow_layers,
        backend=options.backend,
    )
