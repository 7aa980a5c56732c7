"""More shapes in which people write masked layers: where the mask is kept, how it is applied, what is around it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases.foreign import CroppedConv, ProductMaskedConv, ProductMaskedLinear, made_masks, raster_mask


class KeptMask(nn.Conv2d):
    """The mask as an attribute, a frozen parameter or a buffer, of any shape and dtype that broadcasts."""

    def __init__(self, keep: str, shape: str = "full", dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__(3, 4, 3, **{"padding": 1, **options})
        mask = raster_mask("B", self.weight.data).to(dtype)
        mask = {"full": mask, "1x1": mask[:1, :1].clone(), "kernel": mask[0, 0].clone()}[shape]
        if keep == "buffer":
            self.register_buffer("mask", mask)
        elif keep == "unsaved":
            self.register_buffer("mask", mask, persistent=False)
        else:
            self.mask = nn.Parameter(mask, requires_grad=False) if keep == "parameter" else mask

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, self.stride, self.padding, self.dilation, self.groups)


class FilledConv(KeptMask):
    """Fills with zeros instead of multiplying, and makes its mask anew in every call."""

    def forward(self, x: Tensor) -> Tensor:
        mask = raster_mask("B", self.weight) == 0
        return F.conv2d(x, self.weight.masked_fill(mask, 0.0), self.bias, padding=1)


class GroupedMask(nn.Conv2d):
    """Masked in each of two groups."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3, padding=1, groups=2)
        self.register_buffer("mask", raster_mask("B", self.weight.data))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class CyclingLinear(ProductMaskedLinear):
    """The next of several masks whenever it runs, as a MADE that is an ensemble over orders."""

    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__(masks[0])
        self.masks, self.calls = [m.float() for m in masks], 0

    def forward(self, x: Tensor) -> Tensor:
        self.mask = self.masks[self.calls % len(self.masks)]
        self.calls += 1
        return super().forward(x)


class Bottleneck(nn.Module):
    """Batch normalisation and ReLU before each of 1x1, masked 3x3, 1x1; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(2 * width, width, 1), ProductMaskedConv("B", width, width, 3, padding=1)]
        convs += [nn.Conv2d(width, 2 * width, 1)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.in_channels) for conv in convs)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.relu(norm(h)))
        return x + h


class ResidualPixelCNN(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = ProductMaskedConv("A", 1, 2 * width, 7, padding=3)
        self.blocks = nn.ModuleList(Bottleneck(width) for _ in range(2))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(2 * width, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.last(h)


class CausalAttention(nn.Module):
    """One head over the pixels before each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_key, self.value = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.query_key(x).flatten(2).chunk(2, 1)
        scores = query.transpose(1, 2) @ key / query.shape[1] ** 0.5
        ahead = torch.ones_like(scores[0]).triu().bool()
        weights = scores.masked_fill(ahead, -1e9).softmax(2).masked_fill(ahead, 0.0)
        return (self.value(x).flatten(2) @ weights.transpose(1, 2)).view_as(x)


class Snail(nn.Module):
    """Blocks of causal convolutions with gates, and attention between them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = CroppedConv(1, width, (2, 3), down=True)
        self.causal = nn.ModuleList(CroppedConv(2 * width, width, (2, 2), right=False) for _ in range(2))
        self.attention, self.last = CausalAttention(width), nn.Conv2d(2 * width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for conv in self.causal:
            h = h + conv(F.elu(torch.cat([h, -h], 1)))
        return self.last(torch.cat([h, self.attention(h)], 1))


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], 1))


class ShiftedConv(nn.Module):
    """Pads above and beside, then convolves with a weight-normalised kernel that is all alive."""

    def __init__(self, inputs: int, outputs: int, right: bool) -> None:
        super().__init__()
        kernel = (2, 2) if right else (2, 3)
        self.pad = nn.ZeroPad2d((1, 0 if right else 1, 1, 0))
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(inputs, outputs, kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pad(x))


class ShiftedResnet(nn.Module):
    """Residual blocks ``x + a sigmoid(b)`` of shifted convolutions; ``tanh``: with the tanh that others have there."""

    def __init__(self, width: int = 4, tanh: bool = False) -> None:
        super().__init__()
        self.tanh = tanh
        self.first = CroppedConv(1, width, (2, 3), down=True)
        self.enter = ShiftedConv(2 * width, width, right=True)
        self.leave = ShiftedConv(2 * width, 2 * width, right=False)
        self.dropout, self.last = nn.Dropout(0.5), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        a, b = self.leave(self.dropout(concat_elu(self.enter(concat_elu(h))))).chunk(2, 1)
        return self.last(F.elu(h + (a.tanh() if self.tanh else a) * b.sigmoid()))


class RunningNorm(nn.Module):
    """Batch normalisation between the steps of a flow, with its log-determinant."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_gamma, self.beta = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, 0) if self.training else (self.var, self.mean)
        if self.training:
            self.mean.lerp_(mean.detach(), 0.1)
            self.var.lerp_(var.detach(), 0.1)
        scale = self.log_gamma.exp() * (var + 1e-5).rsqrt()
        return scale * (x - mean) + self.beta, scale.log().sum()


class MaskedFlow(nn.Module):
    """MAF steps of masked linear layers in a Sequential with dropout, reversals and batch normalisation."""

    def __init__(self, dim: int = 5, hidden: int = 16, steps: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        first, middle, last = made_masks(dim, hidden)
        self.nets = nn.ModuleList(
            nn.Sequential(
                ProductMaskedLinear(first),
                nn.ReLU(),
                ProductMaskedLinear(middle),
                nn.Dropout(dropout),
                nn.Tanh(),
                ProductMaskedLinear(last.repeat(2, 1)),
            )
            for _ in range(steps)
        )
        self.norms = nn.ModuleList(RunningNorm(dim) for _ in range(steps))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """eps, and log|det d eps/d x|."""
        log_det = x.new_zeros(x.shape[0])
        for net, norm in zip(self.nets, self.norms, strict=True):
            shift, log_scale = net(x).chunk(2, 1)
            x, of_norm = norm(((x - shift) * (-log_scale).exp()).flip(1))
            log_det = log_det - log_scale.sum(1) + of_norm
        return x, log_det
