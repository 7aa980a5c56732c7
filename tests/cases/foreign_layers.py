"""Masked layers as people write them whose class is no `nn.Conv2d` or `nn.Linear`, or whose mask is one level up."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def raster(kind: str, side: int) -> Tensor:
    """``[side, side]``: the pixels before the centre, and the centre itself under ``B``."""
    flat = torch.arange(side * side) < side * side // 2 + (kind == "B")
    return flat.view(side, side).float()


class OwnConv(nn.Module):
    """Its own weight under its own name, and `F.conv2d`."""

    def __init__(self, kind: str, inputs: int, outputs: int, side: int, dilation: int = 1) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.offset = nn.Parameter(torch.randn(outputs))
        self.register_buffer("mask", raster(kind, side))
        self.step = dilation

    def forward(self, x: Tensor) -> Tensor:
        pad = self.step * (self.kernel.shape[-1] // 2)
        return F.conv2d(x, self.kernel * self.mask, self.offset, padding=pad, dilation=self.step)


class OwnLinear(nn.Module):
    """``x @ (W * M) + b`` with W ``[I, O]``, as those write it who think of rows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(inputs, outputs))
        self.b = nn.Parameter(torch.randn(1, outputs))
        self.register_buffer("m", torch.ones(inputs, outputs).triu())

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.w * self.m) + self.b


class AroundLinear(nn.Module):
    """The mask is a buffer beside a plain `nn.Linear`; a condition may be added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs).tril())

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = F.linear(x, self.linear.weight * self.mask, self.linear.bias)
        return h if cond is None else h + cond


class Called(nn.Conv2d):
    """Masks in ``__call__`` and goes around `nn.Module.__call__`."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__(inputs, outputs, side, padding=side // 2)
        self.register_buffer("mask", raster("B", side))

    def __call__(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class TwoCrops(nn.Conv2d):
    """The vertical stack's convolution: rows to the pixel's own, and the same from one row further up."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__(inputs, outputs, (side // 2 + 1, side), padding=(side // 2 + 1, side // 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, height = super().forward(x), x.shape[2]
        return y[:, :, 1 : 1 + height], y[:, :, :height]


class Stack(nn.Module):
    """A child is called ``modules``, another attribute of the class is no method any more."""

    named_modules = "a name that torch has a method under"  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.modules = nn.ModuleList([OwnConv("A", 1, 4, 5), OwnConv("B", 4, 1, 3)])  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        for part in self._modules["modules"]:  # type: ignore[union-attr]
            x = part(x).relu()
        return x


class Conditioned(nn.Module):
    """``tanh(a) * sigmoid(b)`` of a masked convolution and of a part of z, given as people give it."""

    def __init__(self, form: str, width: int = 4, latent: int = 3) -> None:
        super().__init__()
        self.conv, self.form = OwnConv("B", width, 2 * width, 3), form
        self.from_z = nn.Linear(latent, 2 * width) if form == "linear" else nn.Conv2d(latent, 2 * width, 1)

    def added(self, x: Tensor, z: Tensor) -> Tensor:
        if self.form == "linear":
            return self.from_z(z)[:, :, None, None]
        if self.form == "expanded":
            z = z[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.from_z(z)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = self.conv(x)
        a, b = (h if z is None else h + self.added(x, z)).chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)

    def z(self, batch: int, height: int, width: int) -> Tensor:
        return torch.randn(batch, 3, height, width) if self.form == "map" else torch.randn(batch, 3)


class ConditionedBesides(Conditioned):
    """The same with what is no gate of it: a residual."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        a, b = (self.conv(x) + self.added(x, z)).chunk(2, 1)
        return x + torch.tanh(a) * torch.sigmoid(b)
