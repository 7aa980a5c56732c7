"""Layers and models as people write them, cut to their structure: what `accelerate` and `fast_sampler` are tried on."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlae_fast.foreign.swap import Swap, swap_of


def is_fast(model: nn.Module) -> bool:
    """True where a module of the model has a fast forward or inverse."""
    return any(swap_of(part, Swap) is not None for part in model.modules())


def raster_mask(kind: str, weight: Tensor) -> Tensor:
    kh, kw = weight.shape[2:]
    mask = torch.ones_like(weight)
    mask[:, :, kh // 2, kw // 2 + (kind == "B") :] = 0
    mask[:, :, kh // 2 + 1 :] = 0
    return mask


class DataMaskedConv(nn.Conv2d):
    """Writes the mask into its weight whenever it runs."""

    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", raster_mask(kind, self.weight.data))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class ProductMaskedConv(DataMaskedConv):
    """Multiplies by the mask where autograd sees it; ``thirds`` makes the centre tap autoregressive over RGB."""

    def __init__(self, kind: str, *args: Any, thirds: bool = False, **kwargs: Any) -> None:
        super().__init__(kind, *args, **kwargs)
        if thirds:
            out, inp = (torch.arange(n) * 3 // n for n in self.weight.shape[:2])
            seen = out[:, None] > inp if kind == "A" else out[:, None] >= inp
            self.mask[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2] = seen.float()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def writes_data(model: nn.Module) -> bool:
    """True where a layer of the model writes to ``weight.data`` when it runs, which it cannot under `torch.func`."""
    return any(isinstance(m, DataMaskedConv) and not isinstance(m, ProductMaskedConv) for m in model.modules())


class CroppedConv(nn.Conv2d):
    """Pads on every side and throws away what looks ahead: ``down`` and ``right`` shift what is left."""

    def __init__(self, *args: Any, down: bool = False, right: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.down, self.right = down, right

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        kh, kw = self.kernel_size
        top, left = (kh if self.down else kh - 1), (kw if self.right else kw - 1 if kh == 1 else kw // 2)
        x = F.pad(x, (left, kw // 2, top, 0))
        return super().forward(x)[:, :, :h, :w]


class ProductMaskedLinear(nn.Linear):
    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mask * self.weight, self.bias)


def made_masks(dim: int, hidden: int) -> list[Tensor]:
    """Hidden units in turn of every degree, as most MADE code has them: not sorted."""
    degrees = [torch.arange(dim), torch.arange(hidden) % (dim - 1), torch.arange(hidden) % (dim - 1)]
    masks = [o[:, None] >= i for i, o in pairwise(degrees)]
    return [*masks, torch.arange(dim)[:, None] > degrees[-1]]


def randomized(module: nn.Module) -> nn.Module:
    """Weights that give logits that are neither all certain nor all alike, and running statistics of some batch."""
    for name, p in module.named_parameters():
        nn.init.normal_(p, std=1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.3)
        if name.endswith(("weight_g", "original0")):
            nn.init.uniform_(p, 0.5, 1.5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module


class Plain(nn.Sequential):
    """A convolution of type A, then type B with batch normalisation, as tutorials have it."""

    def __init__(self, channels: int = 1, hidden: int = 6, outputs: int = 1) -> None:
        layers: list[nn.Module] = []
        for i in range(3):
            masked = DataMaskedConv("B" if i else "A", hidden if i else channels, hidden, 3, padding=1, bias=False)
            layers += [masked, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Conv2d(hidden, outputs, 1))


class Gated(nn.Module):
    """The gate of a convolution, the halves as most have them or ``swapped``."""

    def __init__(self, conv: nn.Module, swapped: bool = False) -> None:
        super().__init__()
        self.conv, self.swapped = conv, swapped

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, dim=1)
        return b.tanh() * a.sigmoid() if self.swapped else torch.tanh(a) * torch.sigmoid(b)


class GatedBlock(nn.Module):
    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(ProductMaskedConv("B", width, 2 * width, 3, padding=1))
        self.from_z = nn.Linear(latent_dim, 2 * width, bias=False)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        b, c = x.shape[:2]
        y = self.conv(F.elu(x)) + self.from_z(z).view(b, 2 * c, 1, 1)
        return x + self.out(y[:, :c].tanh() * y[:, c:].sigmoid())


class Conditional(nn.Module):
    """Residual gated blocks that are weight-normalised and see z, which is also a map beside the image."""

    def __init__(self, latent_dim: int = 3, width: int = 5, channels: int = 1) -> None:
        super().__init__()
        self.first = ProductMaskedConv("A", channels, width, 5, padding=2)
        self.beside = nn.Conv2d(latent_dim, width, 1)
        self.blocks = nn.ModuleList(GatedBlock(width, latent_dim) for _ in range(2))
        self.dropout, self.last = nn.Dropout2d(0.5), nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        z_map = z[:, :, None, None].expand(-1, -1, *x.shape[2:])
        h = self.first(2 * x - 1) + self.beside(z_map)
        for block in self.blocks:
            h = block(h, z)
        return self.last(F.relu(self.dropout(h)))


class MappedCode(nn.Module):
    """z as a map that a convolution pads, sums and activations in place, channels in another order."""

    def __init__(self, latent_dim: int = 3, width: int = 4) -> None:
        super().__init__()
        self.first, self.of_map = (
            ProductMaskedConv("A", 1, width, 3, padding=1),
            nn.Conv2d(latent_dim, width, 3, padding=1),
        )
        self.norm, self.last = nn.BatchNorm2d(width, affine=False), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.first(x)
        h += self.of_map(z.view(-1, z.shape[1], 1, 1).repeat(1, 1, *x.shape[2:]))
        h = self.norm(h.relu_())
        return self.last(torch.cat([h[:, 2:], h[:, :2]], 1))


class DecodedCode(nn.Module):
    """z through a network of its own: a map from transposed convolutions beside x, and a nonlinear bias of a layer."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        self.of_z = nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True))
        self.up = nn.Sequential(nn.ConvTranspose2d(2, 4, 4, stride=2, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 2, 1))
        self.first, self.beside = ProductMaskedConv("A", 1, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        code = self.of_z(z)
        beside = F.interpolate(self.up(code.view(-1, 2, 2, 2)), size=self.size)
        h = F.elu(self.first(x) + self.beside(beside))
        return self.last(F.relu(h + code[:, :4, None, None]))


class StackedLayer(nn.Module):
    """Vertical and horizontal stacks by padding and cropping; the first layer hides the pixel itself."""

    def __init__(self, first: bool, inputs: int, width: int, k: int) -> None:
        super().__init__()
        self.first = first
        self.vertical = nn.Conv2d(inputs, 2 * width, (k // 2 + 1, k), padding=(k // 2, k // 2))
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, k // 2 + 1), padding=(0, k // 2 + first))
        self.link, self.out = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = v.size(2), v.size(3)
        above = self.vertical(v)[:, :, :rows]
        down = F.pad(above, (0, 0, 1, 0))[:, :, :-1]
        left = self.horizontal(h)[..., :columns] + self.link(down)
        new_v, new_h = (torch.tanh(a) * torch.sigmoid(b) for a, b in (above.chunk(2, 1), left.chunk(2, 1)))
        new_h = self.out(new_h)
        return new_v, new_h if self.first else h + new_h


class TwoStacks(nn.Module):
    def __init__(self, channels: int = 1, width: int = 4, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            StackedLayer(i == 0, width if i else channels, width, 3 if i else 5) for i in range(3)
        )
        self.final = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 8, 1), nn.ReLU(), nn.Conv2d(8, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        v = h = x
        for layer in self.layers:
            v, h = layer(v, h)
        return self.final(h)


class ShiftedStreams(nn.Module):
    """Two streams of shifted, padded convolutions with concatenated ELUs, a plane of ones and grouped convolutions."""

    def __init__(self, channels: int = 1, width: int = 4, outputs: int = 1) -> None:
        super().__init__()
        self.up = CroppedConv(channels + 1, width, (2, 3), down=True)
        self.left = CroppedConv(channels + 1, width, (1, 2), right=True)
        self.down = nn.ModuleList(CroppedConv(2 * width, width, (2, 3), groups=2, down=True) for _ in range(2))
        self.skip = nn.Conv2d(4 * width, width, 1)
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([2 * x - 1, x.new_ones(x.shape[0], 1, *x.shape[2:])], 1)
        u = self.up(x)
        h = u + self.left(x)
        for down in self.down:
            u = u + down(F.elu(torch.cat([u, -u], 1)))
            h = h - self.skip(F.leaky_relu(torch.cat([u, h, -u, torch.tanh(h)], 1), 0.1))
        return self.last(F.elu(h, alpha=0.5)) * 2 + torch.sigmoid(h[:, :1]) / 3


def made() -> nn.Sequential:
    first, middle, last = made_masks(5, 12)
    layers = [ProductMaskedLinear(mask) for mask in (first, middle, last)]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
