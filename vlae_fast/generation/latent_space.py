"""Walks through the latent space: what each dimension draws, what lies between two images, and a map of the codes.

All images of a walk are drawn with the same noise, so that they differ by z alone. With ``mean`` True they are means
E[x | z], with False draws from p(x | z); with None, means where the decoder has no pixel loop (``mlp``, ``deconv``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._extras import require
from ..models.mode import in_evaluation
from ..models.vlae import VLAE
from ..sampling.emit import make_noise
from .decompression import mean_images, shows_means


@torch.no_grad()
def draw(
    model: VLAE,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    mean: bool | None = None,
) -> Tensor:
    """Images ``[B, C, H, W]`` of z, in [0, 1]: draws from p(x | z) by the cached sampler, or the means E[x | z].

    noise and temperature: of draws, as in `PixelCNNSampler.sample`. mean: see the module; with None, a noise or another
    temperature than 1 asks for draws.
    """
    of_draws = noise is not None or temperature != 1
    if mean and of_draws:
        raise ValueError("draw: noise and temperature are of draws, and must not be given with mean=True")
    given = model.condition(z, labels)
    if not of_draws and shows_means(model, mean):
        return mean_images(model, given, generator=generator)
    drawn = model.sampler().sample(given, noise=noise, generator=generator, temperature=temperature)
    return model.likelihood.clip(drawn)


@in_evaluation
@torch.no_grad()
def code(model: VLAE, x: Tensor, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """One z per image: the mean of a Gaussian posterior, a draw from any other; ValueError where there is no z."""
    if not model.latent_dim:
        raise ValueError("code: model must have a z, got one with latent_dim 0, a PixelCNN by itself")
    z, mu, _ = model.posterior_sample(x, labels, generator)
    return mu if model.posterior is None else z


def traverse(
    model: VLAE,
    z: Tensor,
    dims: Tensor,
    values: Tensor,
    labels: Tensor | None = None,
    *,
    mean: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images ``[len(dims), steps, C, H, W]``: z ``[1, D]`` with one dimension at a time set to each of its values.

    dims: which dimensions. values: ``[len(dims), steps]``, what z_d is set to. mean: see the module.
    """
    if z.dim() != 2 or len(z) != 1:
        raise ValueError(f"traverse: z must be one code, [1, D], got {tuple(z.shape)}")
    size = z.shape[1]
    if dims.dim() != 1 or len(dims) == 0 or not ((dims >= 0) & (dims < size)).all():
        raise ValueError(f"traverse: dims must be some of 0..{size - 1}, got {dims.tolist()}")
    if values.dim() != 2 or len(values) != len(dims):
        raise ValueError(f"traverse: values must be [{len(dims)}, steps], got {tuple(values.shape)}")
    walk = z.repeat(len(dims), values.shape[1], 1)  # [dims, steps, D]
    at = dims.to(z.device)[:, None, None].expand(-1, values.shape[1], 1)
    walk.scatter_(2, at, values.to(walk)[:, :, None])
    return _same_noise(model, _conditions(model, walk, labels), mean, generator)


def interpolate(
    model: VLAE,
    start: Tensor,
    stop: Tensor,
    steps: int = 9,
    labels: Tensor | None = None,
    *,
    stop_labels: Tensor | None = None,
    mean: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images ``[B, steps, C, H, W]`` along the straight lines from `start` to `stop`, codes ``[B, D]`` each.

    labels: of a class-conditional model, the classes of the starts. stop_labels: those of the stops: the one-hot labels
    then go along straight lines too, and each walk ends at its stop as a member of its class. Without them all of a
    walk is drawn as the class of its start. mean: see the module.
    """
    if steps < 2:
        raise ValueError(f"interpolate: steps must be at least 2, got {steps}")
    if start.shape != stop.shape or start.dim() != 2 or len(start) == 0:
        raise ValueError(
            f"interpolate: start and stop must be codes of one shape, got {tuple(start.shape)} and {tuple(stop.shape)}"
        )
    ends = model.condition(start, labels), model.condition(stop, labels if stop_labels is None else stop_labels)
    weight = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    return _same_noise(model, torch.lerp(ends[0][:, None], ends[1][:, None], weight), mean, generator)


def plane(
    model: VLAE,
    codes: Tensor,
    side: int = 12,
    labels: Tensor | None = None,
    *,
    mean: bool | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """A map of a latent plane: images ``[side, side, C, H, W]`` over a grid, and its corners ``[[z1, z2], [z1, z2]]``.

    The grid covers the middle 96 % of `codes` ``[N, 2]``; rows go from the largest z2 down, as in a plot. mean: see the
    module.
    """
    if codes.dim() != 2 or codes.shape[1] != 2 or len(codes) == 0:
        raise ValueError(f"plane: codes must be [N, 2] with N > 0, got {tuple(codes.shape)}")
    if side < 2:
        raise ValueError(f"plane: side must be at least 2, got {side}")
    corners = codes.quantile(torch.tensor([0.02, 0.98]).to(codes), dim=0)
    steps = torch.linspace(0, 1, side).to(codes)[:, None]
    z1, z2 = (corners[0] + steps * (corners[1] - corners[0])).unbind(1)
    grid = torch.stack(torch.meshgrid(z1, z2.flip(0), indexing="xy"), -1)  # [side, side, 2]
    given = _conditions(model, grid.to(next(model.parameters())), labels)
    return _same_noise(model, given, mean, generator), corners


def embed(mu: Tensor, *, seed: int = 0, perplexity: float = 30.0) -> Tensor:
    """t-SNE of posterior means mu ``[N, D]`` -> ``[N, 2]``, float32 (van der Maaten and Hinton 2008; scikit-learn's).

    The perplexity is lowered to a third of N - 1 where there are few images.
    """
    if mu.dim() != 2 or len(mu) < 4:
        raise ValueError(f"embed: mu must be [N, D] with N >= 4, got {tuple(mu.shape)}")
    if not perplexity > 0:
        raise ValueError(f"embed: perplexity must be > 0, got {perplexity}")
    settings = {"perplexity": min(perplexity, (len(mu) - 1) / 3), "init": "pca", "random_state": seed}
    if mu.shape[1] < 2:
        settings["init"] = "random"
    flat = require("sklearn.manifold").TSNE(**settings).fit_transform(mu.detach().float().cpu().numpy())
    return torch.from_numpy(flat)


def _conditions(model: VLAE, z: Tensor, labels: Tensor | None) -> Tensor:
    """The input of a decoder for z ``[rows, columns, D]``; labels: one, or one per row."""
    rows, columns = z.shape[:2]
    each = None if labels is None else labels.expand(rows).repeat_interleave(columns, 0)
    return model.condition(z.flatten(0, 1), each).unflatten(0, (rows, columns))


@torch.no_grad()
def _same_noise(model: VLAE, given: Tensor, mean: bool | None, generator: torch.Generator | None) -> Tensor:
    """Images ``[rows, columns, C, H, W]`` of what the decoder is given, ``[rows, columns, D]``."""
    rows, columns = given.shape[:2]
    given = given.flatten(0, 1)
    if shows_means(model, mean):
        images = mean_images(model, given, generator=generator)
    else:
        shape = (model.likelihood.channels, *model.decoder.image_size)
        noise = make_noise(model.likelihood.emit, 1, shape, given, generator)
        images = model.likelihood.clip(model.sampler().sample(given, noise=noise.expand(len(given), -1, -1, -1)))
    return images.unflatten(0, (rows, columns))
