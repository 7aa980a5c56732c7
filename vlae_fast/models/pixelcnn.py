"""A PixelCNN by itself."""

from __future__ import annotations

from typing import Any

from .vlae import VLAE


class PixelCNN(VLAE):
    """A decoder of a `VLAE` by itself: ``p(x) = prod_i p(x_i | x_<i)``, without a z. It is ``VLAE(latent_dim=0, ...)``.

    Args:
        input_dim: image channels C. hidden_dim: channels. n_layers: masked layers.
        options: those of `VLAE` for decoder and likelihood, and n_classes for p(x | label). decoder: "gated" (the
            default), "two-stack" (the Gated PixelCNN without a blind spot), "pixelcnn++", "resnet".

    ``-model.loss_terms(x).reconstruction`` is log p(x) in nats, ``[B]``, exactly, where a `VLAE` has a bound. Training,
    evaluation, samples and checkpoints are those of a `VLAE`; a checkpoint comes back as ``VLAE(latent_dim=0)``.

    Source: van den Oord et al. 2016, arXiv 1601.06759 and 1606.05328; Salimans et al. 2017, arXiv 1701.05517.

    >>> model = PixelCNN(hidden_dim=8, image_size=(6, 5))
    >>> model.sample(2).shape
    torch.Size([2, 1, 6, 5])
    """

    def __init__(self, input_dim: int = 1, hidden_dim: int = 64, n_layers: int = 3, **options: Any) -> None:
        super().__init__(input_dim, 0, hidden_dim, n_layers, False, **options)
