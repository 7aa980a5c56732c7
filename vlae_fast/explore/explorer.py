"""What the page asks of a model, in values that JSON has."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import torch
from torch import Tensor

from ..data import Images, Split
from ..data.images import binarize
from ..evaluation import Codes, encode, subset
from ..generation import latent_space
from ..generation.decompression import mean_images, shows_means
from ..generation.inpainting import complete
from ..models.vlae import VLAE
from ..sampling.emit import make_noise
from ..sampling.known import fits
from .asked import Asked
from .pixels import bytes_of, in_base64

_CARRIES = 0.05  # bits an image from which on a dimension is one of those that carry some
_SPAN = 3.0  # standard deviations of the codes that a slider goes to either side
_PLANE_SIDE, _PARTICLES, _THUMBNAILS = 12, 128, 24


class Explorer:
    """A model and its data set, as the page of `vlae-fast explore` asks them.

    The methods take what a request says and give what JSON has. Pixels are bytes, row by row, the channels of a pixel
    side by side, in base64; a pixel's number is ``row * W + column``. The sampler is made once, of the weights
    as they are then; `refresh` takes them anew. Not thread-safe: `Server` calls it in one thread.

    Args:
        model: put into evaluation mode.
        images: of the model's shape. split: the one that images to encode are chosen from.
        name: of the model, on the page. backend: of the sampler, as in `VLAE.sampler`.
        statistics: images of the split, drawn at random with the seed, that say how many bits each dimension carries
            and how far it varies.

    Raises:
        RuntimeError: the named backend cannot draw from this model.
    """

    def __init__(
        self,
        model: VLAE,
        images: Images,
        *,
        split: Split = "test",
        name: str = "a model",
        backend: str = "auto",
        statistics: int = 1000,
        seed: int = 0,
    ) -> None:
        self.model, self.images, self.split, self.name = model.eval(), images, split, name
        self._pixels = images.pixels(split)
        self._order = torch.randperm(len(self._pixels), generator=torch.Generator().manual_seed(seed), device="cpu")
        self._like = next(model.decoder.parameters())
        self._codes = self._encoded(statistics, seed) if model.latent_dim else None
        self.sampler = model.sampler(backend)
        self.draw(Asked({"z": self._centre()}))  # the first call packs, and starts threads

    def refresh(self) -> None:
        """Takes the model's weights as they are now."""
        self.sampler.refresh()

    def about(self, asked: Asked) -> dict[str, Any]:
        """The model: sizes, and its dimensions, those that carry most bits first."""
        model, likelihood = self.model, self.model.likelihood
        return {
            "name": self.name,
            "data": self.images.name,
            "split": self.split,
            "images": len(self._pixels),
            "size": list(model.decoder.image_size),
            "channels": likelihood.channels,
            "levels": 0 if likelihood.is_density else likelihood.levels,
            "dims": self._dims(),
            "latent_dim": model.latent_dim,
            "classes": model.n_classes,
            "z": self._centre(),
            "means": shows_means(model),
            "backend": getattr(self.sampler, "backend", "none (one pass)"),
            "steps": self.sampler.steps,
            "plane": model.latent_dim == 2,
        }

    def draw(self, asked: Asked) -> dict[str, Any]:
        """The image of z; ``ms`` in the sampler; ``fits``: whether each pixel was drawn to go with all fixed ones."""
        z, labels = self._z(asked), self._labels(asked)
        fixed, mean = self._fixed(asked), asked.flag("mean")
        given, generator = self.model.condition(z, labels), self._generator(asked)
        if mean and fixed is not None:
            raise ValueError("mean: must be false where pixels are fixed, which are of a draw")
        temperature = asked.number("temperature", 1.0, 1e-3, 1e3)
        noise = make_noise(self.model.likelihood.emit, 1, self._shape, self._like, generator)
        start = time.perf_counter()
        if mean:
            drawn = mean_images(self.model, given, sampler=self.sampler, generator=generator).cpu()
        else:
            drawn = self.sampler.propose(given, noise, None, fixed, temperature).images.cpu()
        ms = 1e3 * (time.perf_counter() - start)
        return {"pixels": self._shown(drawn), "ms": ms, "fits": fixed is None or self._fits(fixed[0])}

    def complete(self, asked: Asked) -> dict[str, Any]:
        """An image that fits the fixed pixels whatever z was, and a code of it."""
        fixed, labels, generator = self._fixed(asked), self._labels(asked), self._generator(asked)
        if fixed is None:
            raise ValueError("fixed: must have a pixel, got none")
        mask, x, start = fixed[0].expand(1, *self._shape), fixed[1], time.perf_counter()
        if self._fits(mask):
            drawn = complete(self.model, x, mask, draws=1, labels=labels, generator=generator)[:, 0]
        else:
            found = complete(
                self.model, x, mask, method="importance", particles=_PARTICLES, labels=labels, generator=generator
            )
            drawn = found.draw(1, generator)[:, 0]
        ms = 1e3 * (time.perf_counter() - start)
        return {"pixels": self._shown(drawn), "ms": ms, "z": self._code(drawn, labels, generator)}

    def prior(self, asked: Asked) -> dict[str, Any]:
        """A code drawn from the prior."""
        return {"z": self.model.sample_prior(1, self._generator(asked))[0].tolist()}

    def encode(self, asked: Asked) -> dict[str, Any]:
        """The code of an image: ``row`` of the data set, or ``image``, bytes of the model's size."""
        row = None if asked.missing("row") else asked.whole("row", 0, 0, len(self._pixels) - 1)
        if row is None:
            height, width = self.model.decoder.image_size
            x, label = self._levels(asked.pixels("image", height, width, self.model.likelihood.channels)), None
        else:
            x = binarize(self._pixels[row : row + 1], self.images.binarization, torch.Generator().manual_seed(0))
            label = self._label_of(row)
        labels = self._labels(asked) if label is None or not self.model.n_classes else torch.tensor([label])
        x = x.to(self._like)
        code = self._code(x, None if labels is None else labels.to(x.device), self._generator(asked))
        return {"z": code, "pixels": self._shown(x), "label": label}

    def choices(self, asked: Asked) -> dict[str, Any]:
        """Some images of the split, from a place in a random order on."""
        start = asked.whole("start", 0, 0, 1 << 40)
        n = min(_THUMBNAILS, len(self._order))
        rows = self._order[(start + torch.arange(n)) % len(self._order)]
        factor = 255 if self.images.binarization == "fixed" else 1
        return {
            "images": [
                {"row": row, "label": self._label_of(row), "pixels": in_base64(self._pixels[row] * factor)}
                for row in rows.tolist()
            ]
        }

    def plane(self, asked: Asked) -> dict[str, Any]:
        """Images over the plane of a code of two dimensions, side by side in one, and the corners of the plane."""
        if self._codes is None or self.model.latent_dim != 2:
            raise ValueError(f"plane: the model must have 2 latent dimensions, got {self.model.latent_dim}")
        codes = (self._codes.mean + self._codes.again) / 2
        images, corners = latent_space.plane(
            self.model, codes, _PLANE_SIDE, self._labels(asked), generator=self._generator(asked)
        )
        rows = torch.cat([torch.cat(list(row), 2) for row in images], 1)[None]
        (low, high), (height, width) = corners.tolist(), rows.shape[2:]
        return {"pixels": self._shown(rows), "size": [height, width], "low": low, "high": high}

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.model.likelihood.channels, *self.model.decoder.image_size)

    def _encoded(self, statistics: int, seed: int) -> Codes:
        return encode(self.model, subset(self.images, self.split, statistics, seed), self.split, seed=seed)

    def _centre(self) -> list[float]:
        return [] if self._codes is None else self._codes.z.mean(0).tolist()

    def _dims(self) -> list[dict[str, Any]]:
        if self._codes is None:
            return []
        nats, centre = self._codes.kl.mean(0), self._codes.z.mean(0)
        spread = _SPAN * self._codes.z.std(0, correction=0).clamp(min=1e-3)
        bits = nats / math.log(2)
        return [
            {
                "dim": d,
                "bits": bits[d].item(),
                "carries": bits[d].item() >= _CARRIES,
                "low": (centre[d] - spread[d]).item(),
                "high": (centre[d] + spread[d]).item(),
            }
            for d in nats.argsort(descending=True).tolist()
        ]

    def _z(self, asked: Asked) -> Tensor:
        return torch.tensor([asked.numbers("z", self.model.latent_dim, 1e3)]).to(self._like)

    def _labels(self, asked: Asked) -> Tensor | None:
        if not self.model.n_classes:
            return None
        return torch.tensor([asked.whole("label", 0, 0, self.model.n_classes - 1)], device=self._like.device)

    def _label_of(self, row: int) -> int | None:
        return None if self.images.labels is None else int(self.images.labels[self.split][row])

    def _generator(self, asked: Asked) -> torch.Generator:
        return torch.Generator(self._like.device).manual_seed(asked.whole("seed", 0, 0, (1 << 53) - 1))

    def _fixed(self, asked: Asked) -> tuple[Tensor, Tensor] | None:
        """Mask ``[1, 1, H, W]`` and values ``[1, C, H, W]`` of the fixed pixels, None where there are none."""
        channels, height, width = self._shape
        at, values = asked.fixed(height * width, channels)
        if not at:
            return None
        mask, pixels = torch.zeros(height * width, dtype=torch.bool), torch.zeros(height * width, channels)
        mask[at], pixels[at] = True, torch.tensor(values, dtype=torch.float32)
        image = pixels.view(1, height, width, channels).permute(0, 3, 1, 2)
        return mask.view(1, 1, height, width).to(self._like.device), self._levels(image).to(self._like)

    def _levels(self, image: Tensor) -> Tensor:
        """Bytes -> the nearest values that the likelihood has."""
        likelihood, x = self.model.likelihood, image.float() / 255
        if likelihood.is_density or not likelihood.levels:
            return x
        return likelihood.index(x) / (likelihood.levels - 1)

    def _fits(self, mask: Tensor) -> bool:
        emit = self.model.likelihood.emit
        return fits(mask.expand(1, *self._shape), emit, self.sampler.offsets_seen, in_turn=self.sampler.in_turn)

    def _code(self, x: Tensor, labels: Tensor | None, generator: torch.Generator) -> list[float]:
        if not self.model.latent_dim:
            return []
        return cast(list[float], latent_space.code(self.model, x, labels, generator)[0].tolist())

    def _shown(self, images: Tensor) -> str:
        return in_base64(bytes_of(self.model.likelihood.clip(images)[0]))
