"""Masked autoregressive flows of nobody's library, as people write them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Masked(nn.Linear):
    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def made(dim: int, hidden: int, params: int = 2, act: Any = nn.ReLU, interleaved: bool = False) -> nn.Sequential:
    a, b = torch.arange(dim), torch.arange(hidden) % (dim - 1)
    last = (a[:, None] > b).float()
    last = last.repeat_interleave(params, 0) if interleaved else last.repeat(params, 1)
    return nn.Sequential(Masked(b[:, None] >= a), act(), Masked(b[:, None] >= b), act(), Masked(last))


class Base(nn.Module):
    """x to u ``(x - m) exp(-a)`` in one pass, u to x in D."""

    def __init__(self, dim: int = 6, hidden: int = 12, **options: Any) -> None:
        super().__init__()
        self.net, self.dim = made(dim, hidden, **options), dim

    def params(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, a = self.net(x).chunk(2, 1)
        return m, a

    def there(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, a = self.params(x)
        return (x - m) * torch.exp(-a), -a.sum(1)

    def back(self, u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(self.dim):
            m, a = self.params(x)
            x[:, i] = u[:, i] * torch.exp(a[:, i]) + m[:, i]
        return x


class Own(Base):
    def forward(self, x: Tensor) -> Any:
        return self.there(x)

    def inverse(self, u: Tensor) -> Any:
        return self.back(u)


class Sigmoids(Own):
    """Two hidden layers of sigmoids, which are those of tanh up to a scale."""

    def __init__(self) -> None:
        super().__init__(act=nn.Sigmoid)


class Interleaved(Base):
    """Parameters side by side, 0.5 log variance, a tuple with log|det dx/du|; other names."""

    def __init__(self) -> None:
        super().__init__(act=nn.Tanh, interleaved=True)

    def params(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, a = self.net(x).view(len(x), self.dim, 2).unbind(2)
        return m, 0.5 * a + 0.1

    def encode(self, x: Tensor) -> Any:
        return self.there(x)

    def decode(self, u: Tensor) -> Any:
        x = self.back(u)
        return x, self.params(x)[1].sum(1)


class Added(Base):
    """``x exp(s) + t`` with dimensions turned around, two networks, f and g."""

    def __init__(self) -> None:
        super().__init__()
        self.other = made(self.dim, 9, 1)
        self.net = made(self.dim, 12, 1)

    def f(self, x: Tensor) -> Any:
        s, t = self.net(x), self.other(x)
        return (x * torch.exp(s) + t).flip(1), s.sum(1, keepdim=True)

    def g(self, u: Tensor) -> Any:
        u, x = u.flip(1), torch.zeros_like(u)
        for i in range(self.dim):
            s, t = self.net(x.clone()), self.other(x.clone())
            x[:, i] = (u[:, i] - t[:, i]) * torch.exp(-s[:, i])
        return x, -s.sum(1, keepdim=True)


class Moded(Base):
    """One method for both directions; log-determinants of each dimension."""

    def forward(self, x: Tensor, cond: Tensor | None = None, mode: str = "direct") -> Any:
        if mode == "direct":
            m, a = self.params(x)
            return (x - m) * torch.exp(-a), -a
        x = self.back(x)
        return x, -self.params(x)[1]


class Functional(nn.Module):
    """Weights ``[I, O]`` in the flow itself, ``x @ (W * M) + b``; mean only; a dict."""

    def __init__(self, dim: int = 5, hidden: int = 8) -> None:
        super().__init__()
        a, b = torch.arange(dim), torch.arange(hidden) % (dim - 1)
        self.w1, self.b1 = nn.Parameter(torch.randn(dim, hidden)), nn.Parameter(torch.randn(hidden))
        self.w2, self.b2 = nn.Parameter(torch.randn(hidden, dim)), nn.Parameter(torch.randn(dim))
        self.register_buffer("m1", (b >= a[:, None]).float())
        self.register_buffer("m2", (a > b[:, None]).float())

    def shift(self, x: Tensor) -> Tensor:
        return F.elu(x @ (self.w1 * self.m1) + self.b1) @ (self.w2 * self.m2) + self.b2

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"u": x - self.shift(x), "log_det": x.new_zeros(len(x))}

    def inverse(self, u: Tensor) -> dict[str, Tensor]:
        x = torch.zeros_like(u)
        for _ in range(u.shape[1]):
            x = u + self.shift(x)
        return {"x": x, "log_det": u.new_zeros(len(u))}


class Clamped(Own):
    """The log-scale is cut off where the probes do not go."""

    def params(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, a = super().params(x)
        return m, a.clamp(-3, 3)


class Gelu(Own):
    def __init__(self) -> None:
        super().__init__(act=nn.GELU)


class Softly(Own):
    """``(x - m) / softplus(a)``: no scale of the op's."""

    def forward(self, x: Tensor) -> Any:
        m, a = self.params(x)
        return (x - m) / F.softplus(a)

    def inverse(self, u: Tensor) -> Any:
        x = torch.zeros_like(u)
        for i in range(self.dim):
            m, a = self.params(x)
            x[:, i] = u[:, i] * F.softplus(a[:, i]) + m[:, i]
        return x
