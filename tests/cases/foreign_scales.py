"""Decoders of more than one resolution as people write them: down by strides, up again, shifted to stay causal."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .foreign import randomized
from .foreign_kinds import LABELS, Kind, Net, black, given


def down_shift(x: Tensor) -> Tensor:
    """Every row is the one above."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def right_shift(x: Tensor) -> Tensor:
    return F.pad(x[..., :-1], (1, 0))


def finished(net: Any, h: Tensor, u: Tensor) -> Tensor:
    return net.last(F.relu(h + u))


def transposed(net: Any, x: Tensor) -> Tensor:
    """The image at half its sides, for the rows below."""
    h = down_shift(F.elu(net.first(x)))
    d = F.elu(net.down(F.pad(h, (1, 1, 1, 0))))
    u = net.up(d)
    return finished(net, h, u[:, :, : h.shape[2], 1 : h.shape[3] + 1])


def pair(up: nn.Module, down: nn.Module | None = None, **parts: nn.Module) -> dict[str, Any]:
    return {"down": down or nn.Conv2d(6, 6, (2, 3), 2), "up": up, **parts}


def nearest(net: Any, x: Tensor) -> Tensor:
    h = F.elu(net.first(x))
    return finished(net, h, F.interpolate(net.mid(h[:, :, ::2, ::2]), scale_factor=2)[:, :, :5, :7])


def upsampled_module(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    return finished(net, h, net.up(F.relu(net.down(h))))


def shuffled(net: Any, x: Tensor) -> Tensor:
    """Blocks of pixels as channels, whose rows are shifted by one block."""
    return finished(net, net.first(x), F.pixel_shuffle(net.mid(down_shift(F.pixel_unshuffle(x, 2))).relu(), 2))


def pooled(net: Any, x: Tensor) -> Tensor:
    return finished(net, net.first(x), net.up(down_shift(F.avg_pool2d(net.mid(x), 2)).relu()))


def columns_alone(net: Any, x: Tensor) -> Tensor:
    """A stride along the rows alone, and another one down."""
    h = net.first(x)
    d = net.mid(F.elu(h[..., ::3]))
    u = d.repeat_interleave(3, 3)[..., : h.shape[3]] + F.elu(net.beside(h[:, :, ::2])).repeat_interleave(2, 2)
    return finished(net, h, u)


def twice(net: Any, x: Tensor) -> Tensor:
    """Every fourth pixel, by two strided convolutions, with skip connections at each resolution."""
    h = down_shift(F.elu(net.first(x)))
    d = F.elu(net.down(F.pad(h, (1, 1, 1, 0))))
    q = net.further(F.pad(d, (1, 1, 1, 0))) * torch.sigmoid(net.gate(d[:, :, ::2, ::2]))
    u = F.elu(net.middle(q)[:, :, : d.shape[2], 1 : d.shape[3] + 1] + d)
    return finished(net, h, net.up(u)[:, :, : h.shape[2], 1 : h.shape[3] + 1])


def normed(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    d = net.norm(F.relu(h[:, :, ::2, ::2]).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return finished(net, h, F.interpolate(d * net.mid(d), scale_factor=2))


def with_maps(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """A label, a bias of each place and a map of the condition, all at half the sides."""
    h = net.first(x)
    d = h[:, :, ::2, ::2] + net.of_class(y)[:, :, None, None] + net.places.weight.view(6, 3, 3)
    d = F.elu(d + net.of_map(y).unflatten(1, (6, 3, 3))) * torch.linspace(0.5, 2, 3)
    return finished(net, h, F.interpolate(net.mid(d), scale_factor=2)[:, :, :5])


def in_turn() -> nn.Module:
    parts = {"red": nn.Conv2d(1, 3, 1), "of_red": nn.Conv2d(3, 1, 1), "mid": nn.Conv2d(6, 6, 1)}
    return randomized(Net(red_first, 2, 2, **parts))


def red_first(net: Any, x: Tensor) -> Tensor:
    """The second channel sees the first one of its own pixel, by features of two resolutions."""
    h = F.relu(net.first(x))
    red = F.elu(net.red(x[:, :1]))
    u = F.interpolate(red[:, :, ::2, ::2], scale_factor=2)
    out = net.last(F.relu(h + F.interpolate(net.mid(h[:, :, ::2, ::2]), scale_factor=2)))
    return out + F.pad(net.of_red(u + red), (0, 0, 0, 0, 1, 0))


def sequence(net: Any, x: Tensor) -> Tensor:
    """Conv1d of stride 2 and back, over values in a row."""
    h = F.elu(net.start(F.pad(x[:, 0], (3, 0))[..., :-1]))
    return net.end(F.relu(h + net.up(F.elu(net.down(F.pad(h, (2, 0))))))).unsqueeze(2)


class Gated(nn.Module):
    """Of PixelCNN++: ``x + a sigmoid(b)``, of concatenated ELUs of x and of a skip connection."""

    def __init__(self, conv: Callable[[int, int], nn.Module], width: int, skip: int = 0) -> None:
        super().__init__()
        self.into, self.out = conv(2 * width, width), conv(2 * width, 2 * width)
        self.skip = weight_norm(nn.Conv2d(2 * skip, width, 1)) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        h = self.into(concat_elu(x))
        if self.skip is not None and skip is not None:
            h = h + self.skip(concat_elu(skip))
        a, b = self.out(F.dropout(concat_elu(h), 0.5, self.training)).chunk(2, 1)
        return x + a * torch.sigmoid(b)


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], 1))


class Shifted(nn.Module):
    """A convolution of the rows above and the own one (down), or of its columns to the left (right), strided or up."""

    def __init__(self, kind: str, inputs: int, outputs: int, stride: int = 1, *, up: bool = False) -> None:
        super().__init__()
        self.kind, self.up = kind, up
        kernel = (2, 3) if kind == "down" else (2, 2)
        if up:
            self.conv: nn.Module = nn.ConvTranspose2d(inputs, outputs, kernel, stride, output_padding=1)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        self.conv = weight_norm(self.conv, dim=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        side = 1 if self.kind == "down" else 0
        if self.up:
            h, w = x.shape[2] * 2, x.shape[3] * 2
            return self.conv(x)[:, :, :h, side : w + side]
        return self.conv(F.pad(x, (1, side, 1, 0)))


class SmallPlus(nn.Module):
    """PixelCNN++ in small: two streams, down to half the sides and up again, with skip connections across."""

    def __init__(self, channels: int, outputs: int, width: int = 4) -> None:
        super().__init__()

        def down(i: int, o: int) -> Shifted:
            return Shifted("down", i, o)

        def right(i: int, o: int) -> Shifted:
            return Shifted("right", i, o)

        self.first = nn.ModuleList([Shifted("down", channels + 1, width), Shifted("right", channels + 1, width)])
        self.above = nn.ModuleList([Gated(down, width), Gated(down, width), Gated(down, width, width)])
        self.beside = nn.ModuleList([Gated(right, width, width * k) for k in (1, 1, 2)])
        self.halved = nn.ModuleList([Shifted("down", width, width, 2), Shifted("right", width, width, 2)])
        self.doubled = nn.ModuleList(
            [Shifted("down", width, width, 2, up=True), Shifted("right", width, width, 2, up=True)]
        )
        self.last = weight_norm(nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        u = self.above[0](down_shift(self.first[0](x)))
        v = self.beside[0](down_shift(self.first[0](x)) + right_shift(self.first[1](x)), u)
        skips = (u, v)
        u, v = self.halved[0](u), self.halved[1](v)
        u = self.above[1](u)
        v = self.beside[1](v, u)
        u, v = self.doubled[0](u), self.doubled[1](v)
        u = self.above[2](u, skips[0])
        v = self.beside[2](v, torch.cat([u, skips[1]], 1))
        return self.last(F.elu(v))


def of_levels(net: nn.Module, x: Tensor, z: Any) -> Tensor:
    return net(2 * x - 1).unflatten(1, (2, -1)).transpose(1, 2)


SCALES: dict[str, Kind] = {
    "a transposed convolution": black(
        transposed, **pair(nn.ConvTranspose2d(6, 6, (2, 3), 2, output_padding=1)), size=(6, 8)
    ),
    "of odd sides": black(transposed, **pair(nn.ConvTranspose2d(6, 6, (3, 4), 2)), size=(5, 7)),
    "in groups, dilated": black(
        transposed,
        **pair(nn.ConvTranspose2d(6, 6, (2, 3), 2, groups=3, dilation=(1, 3), output_padding=1)),
        size=(6, 6),
    ),
    "a stride of 3": black(
        transposed, **pair(nn.ConvTranspose2d(6, 6, 3, 3, output_padding=2), nn.Conv2d(6, 6, (2, 3), 3)), size=(7, 8)
    ),
    "a transposed convolution of stride 1": black(
        lambda net, x: finished(net, net.first(x), net.up(F.elu(down_shift(net.first(x))))[:, :, :5, 1:7]),
        up=nn.ConvTranspose2d(6, 6, (2, 3)),
    ),
    "nearest, cropped": black(nearest, mid=nn.Conv2d(6, 6, 1), size=(5, 7)),
    "nn.Upsample": black(upsampled_module, **pair(nn.Upsample(scale_factor=2), nn.Conv2d(6, 6, 1, 2)), size=(4, 6)),
    "upsampling to a size": black(
        upsampled_module,
        **pair(nn.Upsample(size=(6, 6), mode="nearest-exact"), nn.Conv2d(6, 6, 1, (2, 3))),
        size=(6, 6),
    ),
    "pixel_shuffle": black(shuffled, mid=nn.Conv2d(4, 24, 1), size=(6, 4)),
    "average pooling": black(pooled, mid=nn.Conv2d(1, 6, 1), up=nn.ConvTranspose2d(6, 6, 2, 2), size=(4, 6)),
    "columns and rows apart": black(columns_alone, mid=nn.Conv2d(6, 6, 1), beside=nn.Conv2d(6, 6, 1), size=(6, 7)),
    "every fourth pixel": black(
        twice,
        **pair(nn.ConvTranspose2d(6, 6, (2, 3), 2, output_padding=1)),
        further=nn.Conv2d(6, 6, (2, 3), 2),
        gate=nn.Conv2d(6, 6, 1),
        middle=nn.ConvTranspose2d(6, 6, (2, 3), 2, output_padding=1),
        size=(8, 9),
    ),
    "norms and products": black(normed, norm=nn.LayerNorm(6), mid=nn.Conv2d(6, 6, 1), size=(4, 4)),
    "maps": given(
        with_maps,
        LABELS,
        of_class=nn.Embedding(3, 6),
        places=nn.Embedding(6, 9),
        of_map=nn.Embedding(3, 54),
        mid=nn.Conv2d(6, 6, 1),
    ),
    "a sequence": Kind(
        lambda: randomized(
            Net(
                sequence,
                start=nn.Conv1d(1, 6, 3),
                down=nn.Conv1d(6, 6, 3, 2),
                up=nn.ConvTranspose1d(6, 6, 2, 2),
                end=nn.Conv1d(6, 1, 1),
            )
        ),
        (1, 1, 12),
        2,
        lambda net, x, z: net(x)[:, :, None],
        {},
        None,
    ),
    "PixelCNN++ in small": Kind(
        lambda: randomized(SmallPlus(1, 1)), (1, 6, 8), 2, lambda net, x, z: net(x)[:, :, None], {}, None
    ),
    "PixelCNN++ in small, two channels of levels": Kind(
        lambda: randomized(SmallPlus(2, 10)), (2, 4, 6), 5, of_levels, {"pixels": (-1, 1), "layout": "BCKHW"}, None
    ),
}
