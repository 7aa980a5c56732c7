"""The base of every decoder: sizes, a likelihood, z or the map it is spread to, and the checks of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn

from ...layers.conv import is_expanded, without_expansion
from ...masks import Offset
from ...sampling.window import receptive_field
from ..likelihood import make_likelihood
from ..likelihood_base import Likelihood
from ..shapes import check_images, each
from .code_map import CodeMap
from .handed import HandedZ

CENTRE: tuple[Offset, ...] = ((0, 0),)  # of a 1x1 convolution


class Decoder(nn.Module):
    """z and the image itself -> parameters of the likelihood of every pixel, ``[B, P, H, W]``.

    Args:
        input_dim: image channels C. latent_dim: D of z, 0 for no z. hidden_dim, n_layers: what a kind makes of them.
        image_size: (H, W).
        z_channels: 0: every pixel is given z as it is; else z is spread over the image in so many channels, by a
            network of the type ``spread_by(latent_dim, z_channels, image_size)``. None: ``default_z_channels`` where
            there is a z.
        likelihood: its ``params`` is P; None: Bernoulli, P = C.

    Subclasses are autoregressive (the parameters of a pixel depend on z and on the pixels before it in raster order)
    unless ``autoregressive`` is False: then they depend on z alone, and an image is drawn in one pass.
    """

    autoregressive: ClassVar[bool] = True
    default_z_channels: ClassVar[int] = 0
    least: ClassVar[dict[str, int]] = {
        "input_dim": 1,
        "latent_dim": 0,
        "hidden_dim": 1,
        "n_layers": 0,
        "z_channels": 0,
    }

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        hidden_dim: int,
        n_layers: int,
        image_size: tuple[int, int],
        *,
        z_channels: int | None = None,
        spread_by: Callable[[int, int, tuple[int, int]], nn.Module] = CodeMap,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        if z_channels is None:
            z_channels = self.default_z_channels if latent_dim else 0
        given = (input_dim, latent_dim, hidden_dim, n_layers, z_channels)
        for (argument, least), value in zip(self.least.items(), given, strict=True):
            if value < least:
                self._refuse(f"{argument} must be at least {least}", value)
        if len(image_size) != 2 or min(image_size) < 1:
            self._refuse("image_size must be (H, W), both positive", tuple(image_size))
        if z_channels and not latent_dim:
            self._refuse("z_channels must be 0 where latent_dim is 0", z_channels)
        if likelihood is not None and likelihood.channels != input_dim:
            self._refuse(f"likelihood must be of input_dim = {input_dim} channels", likelihood.channels)
        self.input_dim, self.latent_dim = input_dim, latent_dim
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.z_channels = z_channels or latent_dim
        self.code_map = spread_by(latent_dim, z_channels, self.image_size) if z_channels else None
        self.handed = HandedZ(type(self).__name__, latent_dim, self.z_channels, self.code_map)
        self.likelihood = make_likelihood("bernoulli", input_dim) if likelihood is None else likelihood

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "code_map" and "handed" in self.__dict__:  # the layers spread z by the map of the moment
            self.handed.network = value

    def _refuse(self, rule: str, got: object) -> NoReturn:
        raise ValueError(f"{type(self).__name__}: {rule}, got {got}")

    def _kernels(self, sizes: list[int], receptive_field: int | None) -> list[int]:
        """The kernel sizes of the masked layers: as given, or those that together see a window."""
        if receptive_field is None:
            return sizes
        return kernels_of_window(type(self).__name__, receptive_field, len(sizes), self.image_size)

    def check_z(self, z: Tensor | None) -> None:
        """Raises ValueError where z does not fit this decoder."""
        height, width = self.image_size
        shapes = ((self.latent_dim,), (self.z_channels, height, width))
        if self.latent_dim and (z is None or tuple(z.shape[1:]) not in shapes) and not self._is_code(z):
            rule = f"z must be [B, {self.latent_dim}] or [B, {self.z_channels}, {height}, {width}]"
            self._refuse(rule, None if z is None else tuple(z.shape))
        if not self.latent_dim and z is not None and tuple(z.shape[1:]) != (0,):
            self._refuse("z must be None or [B, 0] where latent_dim is 0", tuple(z.shape))

    def spread(self, z: Tensor) -> Tensor:
        """The context of the layers: z itself, or its map ``[B, z_channels, H, W]``.

        z: ``[B, D]``, expanded over the image or not. What has four dimensions and is not expanded is a map already.
        """
        if self.code_map is None or (z.dim() == 4 and not self._is_code(z)):
            return z
        return self.code_map(without_expansion(z))

    def _is_code(self, z: Tensor | None) -> bool:
        """True of z ``[B, D]`` expanded over the image."""
        return z is not None and is_expanded(z) and tuple(z.shape[1:]) == (self.latent_dim, *self.image_size)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Parameters ``[B, P, H, W]`` of the image x, given z ``[B, D]`` or its map ``[B, z_channels, H, W]``.

        z may be expanded over the image, as by ``z.view(B, D, 1, 1).expand(-1, -1, H, W)``.
        """
        return self.parameters_of(x, self._context(x, z))

    def of_draws(self, x: Tensor, z: Tensor | None, draws: int) -> Tensor:
        """Parameters ``[B draws, P, H, W]`` of every image of x ``[B, C, H, W]`` given so many codes of its own.

        z: as in `forward`, ``B draws`` of them, those of an image side by side. What depends on x alone is computed
        once an image. Equivalent to ``decoder(x.repeat_interleave(draws, 0), z)``.
        """
        return self.parameters_of_draws(x, self._context(x, z), draws)

    def _context(self, x: Tensor, z: Tensor | None) -> Tensor | None:
        check_images(type(self).__name__, x, (self.input_dim, *self.image_size))
        self.check_z(z)
        return None if z is None or not self.latent_dim else self.spread(z)

    def parameters_of_draws(self, x: Tensor, context: Tensor | None, draws: int) -> Tensor:
        """Parameters as from `of_draws`, for a checked x and the context of the codes."""
        return self.parameters_of(each(x, draws), context)

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Parameters as from `Decoder.forward`, for a checked x and the context that `Decoder.spread` makes of z."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        try:
            window = str(receptive_field(self))
        except (AttributeError, ValueError):  # a layer was replaced by one that no program expresses
            window = "unknown pixels"
        return f"likelihood={self.likelihood}, sees {window}"


def kernels_of_window(name: str, side: int, n_layers: int, image_size: tuple[int, int]) -> list[int]:
    """Kernel sizes of ``n_layers`` convolutions that together see ``side`` columns and ``(side + 1) / 2`` rows.

    The first, of type A, is never below 3; they differ by no more than one tap on each side, the larger ones first.

    >>> kernels_of_window("PixelCNNDecoder", 13, 4, (28, 28))
    [5, 5, 3, 3]

    Raises:
        ValueError: the side is even or below 3, or the image cannot hold the window.
    """
    if side < 3 or side % 2 == 0:
        raise ValueError(f"{name}: receptive_field must be odd and at least 3, got {side}")
    rows, (height, width) = (side + 1) // 2, image_size
    if side > width or rows > height:
        raise ValueError(
            f"{name}: receptive_field {side} sees {side} columns and {rows} rows, "
            f"which must fit into the image, got {height} x {width}"
        )
    radius = side // 2
    return [1 + 2 * (radius // n_layers + (i < radius % n_layers)) for i in range(n_layers)]
