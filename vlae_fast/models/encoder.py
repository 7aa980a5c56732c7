"""The posterior's network: image -> mean and log-variance of z."""

from __future__ import annotations

from torch import Tensor, nn


class ConvEncoder(nn.Module):
    """Three convolutions of stride 1, 2, 2 and a linear layer: x ``[B, C, H, W]`` -> mu, logvar ``[B, D]`` each."""

    def __init__(self, input_dim: int, latent_dim: int, hidden_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_shape = (input_dim, *image_size)
        self.features = nn.Sequential(
            nn.Conv2d(input_dim, hidden_dim // 2, 3, padding=1),
            nn.ELU(),
            nn.Conv2d(hidden_dim // 2, hidden_dim, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(hidden_dim, hidden_dim, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Flatten(),
        )
        height, width = ((side + 3) // 4 for side in image_size)
        self.head = nn.Linear(hidden_dim * height * width, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"ConvEncoder: x must be [B, {', '.join(map(str, self.image_shape))}], got {tuple(x.shape)}"
            )
        mu, logvar = self.head(self.features(x)).chunk(2, dim=1)
        return mu, logvar
