"""The Variational Lossy Autoencoder of Chen et al. 2017, arXiv 1611.02731."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import whole
from ..sampling import FactorizedSampler, PixelCNNSampler
from ..sampling.live import Structure
from .decoders import Decoder
from .decoders.make import make_decoder
from .encoder import Encoder, Sizes, make_encoder
from .flow import Flow, standard_normal_log_prob
from .labels import check_no_labels, one_hot
from .likelihood import make_likelihood
from .likelihood_base import Likelihood
from .objectives import LossTerms, loss_function, loss_terms
from .options import Options, chosen, takes_options
from .posterior import InverseAutoregressivePosterior, PosteriorSample, gaussian_kl, gaussian_log_prob
from .precision import wide_under_autocast
from .pretrained import Pretrained
from .prior import make_prior
from .shapes import each

__all__ = ["VLAE", "LossTerms", "VLAEOutput", "loss_function", "loss_terms"]


class VLAEOutput(NamedTuple):
    """The output of a VLAE for a batch of images, in the order that `loss_function` takes it apart from x."""

    logits: Tensor  # [B, P, H, W], the parameters of the likelihood
    mu: Tensor  # [B, D], with log q(z|x) = log N(z; mu, exp(logvar))
    logvar: Tensor  # [B, D]
    z: Tensor  # [B, D], drawn from q(z|x)
    log_pz: Tensor  # [B], log p(z) under the model's prior, in nats


class KeptSampler(NamedTuple):
    """A sampler that `VLAE.sample` made, of a decoder of that structure."""

    sampler: PixelCNNSampler | FactorizedSampler
    structure: Structure
    backend: str


@takes_options
class VLAE(Pretrained, nn.Module):
    """Encoder, autoregressive-flow prior, and a PixelCNN decoder whose window is too small to do without z.

    Args:
        {options}

    With use_flow, ``log p(z) = log N(eps; 0, I) + log|det d eps/d z|``, eps = flow(z). An ``iaf`` posterior has the
    units, steps and hidden layers of the prior. Encoders: `models.encoder`. More on options: `Options`.

    ``model(x [B, C, H, W], labels=None)`` gives logits (the likelihood's parameters), mu, logvar, z, log_pz;
    ``model.encode(x)`` mu and logvar, ``model.decode(z)`` the mean image. With latent_dim = 0 every z is ``[B, 0]``,
    encoder and prior are None, the KL is 0, and ``-loss_terms(x).reconstruction`` is log p(x) itself (`PixelCNN`).

    >>> model = VLAE(latent_dim=8, hidden_dim=16)
    >>> model(torch.zeros(2, 1, 28, 28)).logits.shape
    torch.Size([2, 1, 28, 28])
    """

    _kept_sampler: KeptSampler | None = None

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__()
        options = chosen(*args, **keywords)
        self.config = options.config()
        self.latent_dim, self.n_classes, self.backend = options.latent_dim, options.n_classes, options.backend
        self.latent_map = options.latent_map
        self.encoder = _encoder(options) if options.latent_dim else None
        self.prior = _prior(options) if options.use_flow and options.latent_dim else None
        self.likelihood = make_likelihood(
            options.likelihood,
            options.input_dim,
            levels=options.levels,
            components=options.components,
            sigma=options.likelihood_sigma,
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

    def reparameterize(
        self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """z = mu + exp(logvar / 2) * N(0, I); noise: that draw, in the shape of mu."""
        mu, logvar = wide_under_autocast(mu), wide_under_autocast(logvar)
        return mu + torch.exp(0.5 * logvar) * (_noise_like(mu, generator) if noise is None else noise)

    @property
    def kl_is_closed_form(self) -> bool:
        """True where posterior and prior are both Gaussian, so that the KL is known without a draw."""
        return self.posterior is None and self.prior is None

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and logvar ``[B, D]`` of x ``[B, C, H, W]``, as the encoder gives them.

        With a ``gaussian`` posterior, ``q(z|x) = N(z; mu, exp(logvar))``. With ``iaf`` they are of the Gaussian that
        the flow starts from: mu is not the mean of z, which `posterior_sample` draws.

        labels: ``[B]`` integers, of a class-conditional model.
        """
        if self.encoder is None:
            none = x.new_zeros((len(x), 0))
            return none, none
        # an encoder that was put in this one's place may take x alone
        found: tuple[Tensor, Tensor] = self.encoder(x) if labels is None else self.encoder(x, labels)
        return found

    def decode(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        draws: int = 16,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The mean image given z ``[B, D]``: probabilities of black and white pixels, else values; ``[B, C, H, W]``.

        Decoders that do not look at the image (mlp, deconv) give it in one pass, differentiable in z. Otherwise it is
        the mean of some images drawn independently given z; its standard error is at most ``1 / (2 sqrt(draws))``
        where pixels are in [0, 1].

        Args:
            labels: ``[B]`` integers, of a class-conditional model.
            draws: images that are averaged. generator: of their noise. Neither is used where one pass is enough.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"VLAE.decode: z must be [B, {self.latent_dim}], got {tuple(z.shape)}")
        if draws < 1:
            raise ValueError(f"VLAE.decode: draws must be at least 1, got {draws}")
        context = self.condition(z, labels)
        if not self.decoder.autoregressive:
            unseen = z.new_zeros((len(z), self.likelihood.channels, *self.decoder.image_size))
            return self.likelihood.mean(self.decoder(unseen, context))
        images = self.sampler(self.backend).sample(context.repeat_interleave(draws, 0), generator=generator)
        return images.unflatten(0, (len(z), draws)).mean(1)

    def posterior_sample(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        draws: int = 1,
    ) -> PosteriorSample:
        """z ~ q(z|x), with the mu and logvar that score it: ``log q(z|x) = log N(z; mu, exp(logvar))``.

        noise: standard normal, ``[B, D]``: given it, z is a function of x. draws: of every image, side by side: each of
        the three and the noise are ``[B draws, D]``, and the encoder sees an image once.
        """
        if self.posterior is None or self.encoder is None:
            mu, logvar = (each(of_x, draws) for of_x in self.encode(x, labels))
            return PosteriorSample(self.reparameterize(mu, logvar, generator, noise), mu, logvar)
        mu, logvar, context = (each(of_x, draws) for of_x in self.encoder.with_context(x, labels))
        return self.posterior(mu, logvar, context, _noise_like(mu, generator) if noise is None else noise)

    def log_prior(self, z: Tensor) -> Tensor:
        """``log p(z)`` in nats, ``[B]``, of z ``[B, D]``."""
        if self.prior is None:
            return standard_normal_log_prob(z)
        eps, log_det = self.prior(z.unflatten(1, self.prior.shape))
        return standard_normal_log_prob(eps.flatten(1)) + log_det

    def kl_per_dim(self, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        """Each dimension's share of the KL in nats, ``[B, D]``: in closed form where posterior and prior are Gaussian,
        else of ``log q(z|x) - log p(z)`` of a draw z.

        mu and logvar ``[B, D]`` are those that score it (`posterior_sample`); the shares of a flow prior are those of
        `Flow.log_prob_per_dim`.
        """
        if self.kl_is_closed_form:
            return gaussian_kl(mu, logvar)
        if self.prior is None:
            log_pz = gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))
        else:
            log_pz = self.prior.log_prob_per_dim(z.unflatten(1, self.prior.shape)).flatten(1)
        return gaussian_log_prob(z, mu, logvar) - log_pz

    def condition(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The input of decoder and sampler: z ``[B, D]``, joined with one-hot labels where the model is conditional."""
        if not self.n_classes:
            check_no_labels("VLAE", labels)
            return z
        return torch.cat([z, one_hot("VLAE", labels, self.n_classes, z)], 1)

    def forward(
        self, x: Tensor, labels: Tensor | None = None, *, seen: Tensor | None = None, noise: Tensor | None = None
    ) -> VLAEOutput:
        """x ``[B, C, H, W]`` in [0, 1], encoded, and decoded given one draw of z.

        seen: the encoder's input in place of x, as for a model that removes noise. noise: as in `posterior_sample`.
        """
        given: Any = {} if noise is None else {"noise": noise}  # a posterior in this one's place may take none
        z, mu, logvar = self.posterior_sample(x if seen is None else seen, labels, **given)
        return VLAEOutput(self.decoder(x, self.condition(z, labels)), mu, logvar, z, self.log_prior(z))

    def loss_terms(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        seen: Tensor | None = None,
        noise: Tensor | None = None,
        closed_form: bool = True,
        path_derivative: bool = False,
    ) -> LossTerms:
        """The two terms of the negative ELBO in nats, ``[B]`` each: the reconstruction of one draw of z, and the KL.

        Args:
            seen: the encoder's input in place of x, as for a model that removes noise.
            noise: as in `posterior_sample`.
            closed_form: takes the KL itself where posterior and prior are Gaussian, free of the noise of a draw. False:
                ``log q(z|x) - log p(z)`` of the draw, as for importance weights ``exp(-(reconstruction + kl))``.
            path_derivative: takes the gradient of log q(z|x) through z alone where the posterior is Gaussian. What is
                left out has mean 0 over draws, so the gradient of the KL keeps its mean, and near a good posterior it
                loses its noise (Roeder et al. 2017, arXiv 1703.09194). Values are the same.
        """
        given = {} if noise is None else {"noise": noise}
        out = self(x, labels, seen=seen, **given)
        scored_by = out.mu, out.logvar
        if path_derivative and self.posterior is None:  # those of a flow posterior are functions of z
            scored_by = out.mu.detach(), out.logvar.detach()
        terms = loss_terms(out.logits, x, *scored_by, out.z, out.log_pz, self.likelihood)
        if closed_form and self.kl_is_closed_form:
            return terms._replace(kl=gaussian_kl(out.mu, out.logvar).sum(1))
        return terms

    @torch.no_grad()
    def sample_prior(self, n: int, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """n draws of z from the prior, ``[n, D]``: eps ~ N(0, I), then the flow's inverse. noise: that eps."""
        if whole("VLAE", "n", n) < 0:
            raise ValueError(f"VLAE: n must not be negative, got {n}")
        if noise is not None and tuple(noise.shape) != (n, self.latent_dim):
            raise ValueError(f"VLAE: noise must be [{n}, {self.latent_dim}], got {tuple(noise.shape)}")
        _check_generator(generator)
        weight = next(self.decoder.parameters())
        how: Any = {"dtype": weight.dtype, "device": weight.device}
        eps = torch.randn(n, self.latent_dim, generator=generator, **how) if noise is None else noise
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
        """n images ``[n, C, H, W]``: z from the prior, then the sampler on the current weights.

        The sampler is kept, and refreshed at every call: no version of a parameter tells of a write to its ``.data``.
        """
        z = self.condition(self.sample_prior(n, generator), labels)
        return self._current_sampler().sample(z, generator=generator)

    def _current_sampler(self) -> PixelCNNSampler | FactorizedSampler:
        """The sampler of the last call, refreshed; a new one where the decoder is made of other things since."""
        kept = self._kept_sampler
        if kept is None or kept.backend != self.backend or not kept.structure.is_current_of(self.decoder):
            structure = Structure(self.decoder)
            kept = self._kept_sampler = KeptSampler(self.sampler(self.backend), structure, self.backend)
        else:
            kept.sampler.refresh()
        return kept.sampler

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept_sampler": None}


def _check_generator(generator: object) -> None:
    if not isinstance(generator, torch.Generator | None):
        where = "images are drawn on the model's device, which model.to(device) chooses"
        raise TypeError(f"VLAE: generator must be a torch.Generator or None, got {generator!r}: {where}")


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
        options.encoder_norm,
        options.encoder_activation,
        options.encoder_units,
        options.tapered,
    )
    return make_encoder(options.encoder, sizes)


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
