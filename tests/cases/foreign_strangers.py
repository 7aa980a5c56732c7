"""Forms that one public code base each is written in, cut to their structure, as kinds of `cases.foreign_kinds`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .foreign import ProductMaskedConv, randomized
from .foreign_kinds import K, Kind, black, colour, grey, simple


class Thirds(nn.Module):
    """Colours in groups of features, each group normalised by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ProductMaskedConv("A", 3, 12, 3, padding=1, thirds=True)
        self.last = ProductMaskedConv("B", 12, 3 * K, 1, thirds=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).permute(0, 2, 3, 1)
        h = self.norm(h.reshape(*h.shape[:3], 3, 4)).reshape(h.shape).permute(0, 3, 1, 2)
        return self.last(F.relu(h)).unflatten(1, (3, K))


class Scripted(torch.jit.ScriptModule):
    """Fills memory that is not a number, colour by colour."""

    def __init__(self) -> None:
        super().__init__()
        self.red, self.green = nn.Conv2d(1, 3, 1), nn.Conv2d(2, 3, 1)

    @torch.jit.script_method
    def forward(self, x: Tensor) -> Tensor:
        out = torch.full([x.shape[0], 9, x.shape[2], x.shape[3]], float("nan"))
        out[:, :3] = 0.0
        out[:, 3:6] = self.red(x[:, :1])
        out[:, 6:] = self.green(x[:, :2])
        return out


class OfScripts(nn.Module):
    """Sub-pixel layers of TorchScript beside those of the pixels before."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.own = ProductMaskedConv("A", 3, 9, 3, padding=1, thirds=False), Scripted()
        self.last = ProductMaskedConv("B", 9, 3 * K, 1, thirds=True)
        self.act = torch.jit.script(_doubled)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.act(self.before(x) + self.own(x)))).unflatten(1, (3, K))


def _doubled(x: Tensor) -> Tensor:
    return x + x


def crops_that_share_memory(net: Any, x: Tensor) -> Tensor:
    """Both sums are written to the memory that the second crop reads too."""
    h = F.pad(net.first(x), (0, 0, 1, 0))
    own, above = h[:, :, 1:, :], h[:, :, :-1, :]
    own += net.beside(x)
    own += 0.5
    return net.last(F.elu(own) - F.elu(above))


def written_through_a_view(net: Any, x: Tensor) -> Tensor:
    rows = net.first(x).permute(0, 2, 3, 1).reshape(-1, 6)
    h = net.inner(rows).view(len(x), *x.shape[2:], 6).unsqueeze(1)
    h += net.beside(x).permute(0, 2, 3, 1).unsqueeze(1)
    return net.last(h.squeeze(1).permute(0, 3, 1, 2).relu())


def windows(net: Any, x: Tensor) -> Tensor:
    """A convolution by `unfold`, masked place by place: 0 where a window leaves the image too."""
    b, c, height, width = x.shape
    inside = F.unfold(torch.ones(1, 1, height, width), 3, padding=1)
    mask = inside * (torch.arange(9) < 4)[:, None]
    seen = F.unfold(x, 3, padding=1).view(b * c, 9, -1) * mask
    h = net.first.weight.view(6, -1).matmul(seen.view(b, c * 9, -1)) + net.first.bias[:, None]
    return net.last(h.view(b, 6, height, width).relu())


def free_first_site(net: Any, x: Tensor) -> Tensor:
    """Log-probabilities, of one half at the first site."""
    free = torch.ones(5, 6)
    free[0, 0] = 0
    return simple(net, x).log_softmax(1) * free + (1 - free) * torch.tensor(1 / K).log()


def free_site_of_probabilities(net: Any, x: Tensor) -> Tensor:
    free = torch.ones(5, 6)
    free[2, 3] = 0
    return simple(net, x).softmax(1) * free + (1 - free) / K


def _own_colours(net: nn.Module, x: Tensor, z: Any) -> Tensor:
    return net(x).transpose(1, 2)


def _coloured(make: Any) -> Kind:
    return Kind(lambda: randomized(make()), (3, 4, 5), K, _own_colours, {}, None)


BESIDE = {"beside": ProductMaskedConv("A", 1, 6, 3, padding=1)}
KINDS: dict[str, Kind] = {
    "a norm of each colour's features": _coloured(Thirds),
    "parts in TorchScript": _coloured(OfScripts),
    "crops that share memory": black(crops_that_share_memory, **BESIDE),
    "written through a view": black(written_through_a_view, inner=nn.Linear(6, 6), **BESIDE),
    "windows as channels": black(windows),
    "log-probabilities with a free first site": grey(free_first_site),
    "probabilities with a free site": grey(free_site_of_probabilities, lambda net, x, z: net(x).log()[:, :, None]),
    "pixels joined to the batch": colour(
        lambda net, x: simple(net, x).permute(0, 2, 3, 1).reshape(-1, 2 * K),
        lambda net, x, z: net(x).view(len(x), 4, 5, 2, K).permute(0, 4, 3, 1, 2),
        layout="BHWCK",
    ),
}


class PixelMADE(nn.Module):
    """A MADE over the pixels of an image, in an order of its own."""

    def __init__(self, height: int, width: int, end: nn.Module) -> None:
        super().__init__()
        order = torch.randperm(height * width, generator=torch.Generator().manual_seed(3))
        hidden = torch.arange(40) % (height * width - 1)
        self.first, self.last, self.end = nn.Linear(len(order), 40), nn.Linear(40, len(order)), end
        self.masks = (hidden[:, None] >= order).float(), (order[:, None] > hidden).float()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.linear(x.view(len(x), -1), self.first.weight * self.masks[0], self.first.bias))
        return self.end(F.linear(h, self.last.weight * self.masks[1], self.last.bias)).view(x.shape)


class BeliefNetwork(nn.Module):
    """A linear layer for each pixel, of those before it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(max(1, i), 1) for i in range(count))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        parts = [self.parts[0](torch.zeros(len(x), 1))]
        parts += [part(rows[:, :i]) for i, part in enumerate(self.parts) if i]
        return torch.stack(parts, 1).view(x.shape)
