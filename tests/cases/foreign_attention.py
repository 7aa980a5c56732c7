"""Causal self-attention in the forms that people write it: masks, heads, layouts, blocks of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .foreign import randomized
from .foreign_kinds import LABELS, K, Kind, black, index

N, E = 30, 6  # pixels of 5 x 6, features
Attend = Callable[[Any, Tensor], Tensor]


def attending(attend: Attend, **parts: Any) -> Kind:
    """Black and white pixels; attend: features ``[B, 6, 5, 6]`` -> as many, by ``net.qkv`` or parts of its own."""

    def forward(net: Any, x: Tensor) -> Tensor:
        h = F.elu(net.first(x))
        return net.last(F.relu(attend(net, h) + h))

    return black(forward, **({"qkv": nn.Conv2d(E, 3 * E, 1)} | parts))


def by_heads(net: Any, h: Tensor, heads: int) -> list[Tensor]:
    """q, k and v, ``[B, heads, pixels, channels]`` each."""
    return [t.view(len(h), heads, -1, N).mT for t in net.qkv(h).chunk(3, 1)]


def joined(out: Tensor) -> Tensor:
    return out.mT.reshape(len(out), -1, 5, 6)


def strict_with_a_start(net: Any, h: Tensor) -> Tensor:
    """As in ports of PixelSNAIL: what is masked is far below, and the first row of weights is multiplied by 0."""
    q, k, v = by_heads(net, h, 3)
    start = torch.ones(N)
    start[0] = 0
    scores = (q @ k.mT / math.sqrt(2)).masked_fill(torch.ones(N, N).tril(-1) == 0, -1e4)
    return joined(scores.softmax(3) * start[:, None] @ v)


def infinite_and_filled(net: Any, h: Tensor) -> Tensor:
    q, k, v = by_heads(net, h, 2)
    hidden = torch.ones(N, N).triu()[None, None].bool()
    return joined((q @ k.mT * 0.7).masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0) @ v)


def products_with_a_mask(net: Any, h: Tensor) -> Tensor:
    """``s m - 1e10 (1 - m)``, of one head, values on the left."""
    q, k, v = net.qkv(h).flatten(2).chunk(3, 1)
    mask = torch.ones(N, N).tril()
    weights = (torch.einsum("bcq,bck->bqk", q, k) * mask - 1e10 * (1 - mask)).softmax(2)
    return torch.bmm(v, weights.mT).view_as(h)


def keys_first(net: Any, h: Tensor) -> Tensor:
    """The softmax goes over rows; `torch.where` masks."""
    q, k, v = net.qkv(h).flatten(2).chunk(3, 1)
    scores = torch.where(torch.ones(N, N).triu() > 0, k.mT @ q / 2, torch.tensor(-1e9))
    return (v @ scores.softmax(1)).unflatten(2, (5, 6))


def first_sees_itself(net: Any, h: Tensor) -> Tensor:
    q, k, v = by_heads(net, h, 1)
    seen = torch.ones(N, N).tril(-1)
    seen[0, 0] = 1
    return joined((q @ k.mT).masked_fill(seen == 0, -1e10).softmax(3) @ v)


def temperature_by_head(net: Any, h: Tensor) -> Tensor:
    q, k, v = by_heads(net, h, 2)
    mask = torch.full((N, N), -torch.inf).triu(1)
    weights = (q @ k.mT * torch.tensor([0.5, 3.0])[:, None, None] + mask).softmax(3)
    return joined(weights * torch.tensor([2.0, -1.0]).view(1, 2, 1, 1) @ v)


def one_key_for_all_heads(net: Any, h: Tensor) -> Tensor:
    q, k, v = by_heads(net, h, 3)
    k, v = (t[:, :1].expand(-1, 3, -1, -1) for t in (k, v))
    return joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))


def fused(**options: Any) -> Attend:
    return lambda net, h: joined(F.scaled_dot_product_attention(*by_heads(net, h, 2), **options))


def multihead(net: Any, h: Tensor) -> Tensor:
    x = h.flatten(2)
    x = x.mT if net.mha.batch_first else x.permute(2, 0, 1)
    out, _ = net.mha(x, x, x, attn_mask=torch.ones(N, N).triu(1).bool(), need_weights=net.mha.batch_first)
    return (out.mT if net.mha.batch_first else out.permute(1, 2, 0)).unflatten(2, (5, 6))


def encoder(net: Any, h: Tensor) -> Tensor:
    out = net.encoder(h.flatten(2).mT, nn.Transformer.generate_square_subsequent_mask(N), is_causal=True)
    return out.mT.unflatten(2, (5, 6))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(E, 2, 12, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Block(nn.Module):
    """A pre-norm block of a GPT; ``first``: which dimension is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(E) for _ in range(2))
        self.qkv, self.out = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.mlp = nn.Sequential(nn.Linear(E, 2 * E), nn.GELU(), nn.Linear(2 * E, E))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in self.qkv(self.norms[0](h)).split(E, 2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.shape[-1]))
        scores = scores.masked_fill(torch.ones(N, N).tril() == 0, float("-inf"))
        h = h + self.out((scores.softmax(-1) @ v).transpose(1, 2).contiguous().view_as(h))
        return h + self.mlp(self.norms[1](h))


class GPT(nn.Module):
    """Embedded tokens ``[B, N]``, shifted by one behind a start token, with learnt places."""

    def __init__(self, start: Callable[[Any, Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.tokens, self.places, self.classes = nn.Embedding(K, E), nn.Embedding(N, E), nn.Embedding(3, E)
        self.sos, self.start = nn.Parameter(torch.randn(E)), start
        self.blocks, self.norm, self.head = nn.Sequential(Block(), Block()), nn.LayerNorm(E), nn.Linear(E, K)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.start(self, self.tokens(x), label) + self.places(torch.arange(N))
        return self.head(self.norm(self.blocks(h)))


def behind_a_parameter(net: Any, h: Tensor, label: Any) -> Tensor:
    return torch.cat([net.sos.expand(len(h), 1, E), h[:, :-1]], 1)


def behind_zeros(net: Any, h: Tensor, label: Any) -> Tensor:
    return F.pad(h, (0, 0, 1, 0))[:, :-1]


def behind_a_class(net: Any, h: Tensor, label: Tensor) -> Tensor:
    return torch.cat([net.classes(label)[:, None], h], 1)[:, :N]


def behind_two_tokens(net: Any, h: Tensor, label: Any) -> Tensor:
    return torch.cat([net.sos.expand(len(h), 1, E), net.sos.neg().expand(len(h), 1, E), h[:, :-2]], 1)


class LengthFirst(GPT):
    """Tokens ``[N, B]``, whose logits are ``[N, B, K]``."""

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.tokens(x)
        h = torch.cat([torch.ones(1, x.shape[1], E) * self.sos, h[:-1]], 0)
        h = h + self.places(torch.arange(N).unsqueeze(-1)).expand_as(h)
        return self.head(self.norm(self.blocks(h.transpose(0, 1)).transpose(0, 1)))


def gpt(start: Any, z: Any = None) -> Kind:
    def own(net: nn.Module, x: Tensor, z: Any) -> Tensor:
        tokens = index(x).flatten(1)
        return (net(tokens) if z is None else net(tokens, z)).mT.unflatten(2, (5, 6))[:, :, None]

    return Kind(lambda: randomized(GPT(start)), (1, 5, 6), K, own, {} if z is None else {"condition": z}, z)


def length_first() -> Kind:
    def own(net: nn.Module, x: Tensor, z: Any) -> Tensor:
        return net(index(x).flatten(1).T).permute(1, 2, 0).unflatten(2, (5, 6))[:, :, None]

    options = {"pixels": "index", "call": lambda net, x, z: net(x.flatten(1).T)}
    return Kind(lambda: randomized(LengthFirst(behind_zeros)), (1, 5, 6), K, own, options, None)


ATTENTION: dict[str, Kind] = {
    "strict, the first multiplied by 0": attending(strict_with_a_start),
    "strict by infinity, NaN filled": attending(infinite_and_filled),
    "a mask as a factor and a summand": attending(products_with_a_mask),
    "keys first": attending(keys_first),
    "strict, the first sees itself": attending(first_sees_itself),
    "a temperature and a gain of each head": attending(temperature_by_head),
    "one key for all heads": attending(one_key_for_all_heads),
    "fused, causal": attending(fused(is_causal=True)),
    "fused, a boolean mask": attending(fused(attn_mask=torch.ones(N, N).tril().bool(), scale=1.5)),
    "fused, a sum": attending(fused(attn_mask=torch.full((N, N), -torch.inf).triu(1))),
    "nn.MultiheadAttention": attending(multihead, mha=nn.MultiheadAttention(E, 2)),
    "nn.MultiheadAttention, batch first": attending(multihead, mha=nn.MultiheadAttention(E, 3, batch_first=True)),
    "nn.TransformerEncoder": attending(encoder, encoder=transformer()),
    "GPT behind a parameter": gpt(behind_a_parameter),
    "GPT behind zeros": gpt(behind_zeros),
    "GPT behind a class": gpt(behind_a_class, LABELS),
    "GPT behind two tokens": gpt(behind_two_tokens),
    "GPT, length first": length_first(),
}
