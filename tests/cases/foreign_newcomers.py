"""Forms of public code bases of a later round, cut to their structure, as kinds of `cases.foreign_kinds`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

from .foreign import randomized
from .foreign_kinds import K, Kind, black, by, given, grey, index

CODES_OF_PIXELS = torch.linspace(-1, 1, 3 * 3 * 5 * 6).view(3, 3, 5, 6)


class Shift(nn.Module):
    """Rows moved down, or columns to the right, by a roll whose first row is overwritten."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(x, shifts=1, dims=self.dim)
        if self.dim == 2:
            x[:, :, 0, :] = 0.0
        else:
            x[:, :, :, 0] = 0.0
        return x


class Rolled(nn.Module):
    """Two stacks of convolutions without masks, each shifted by a roll."""

    def __init__(self) -> None:
        super().__init__()
        self.above, self.before, self.last = nn.Conv2d(1, 6, (2, 3)), nn.Conv2d(1, 6, (1, 2)), nn.Conv2d(6, 1, 1)
        self.down, self.right = Shift(2), Shift(3)

    def forward(self, x: Tensor) -> Tensor:
        above = self.down(self.above(F.pad(x, (1, 1, 1, 0))))
        return self.last(F.elu(above + self.right(self.before(F.pad(x, (1, 0))))))


class RolledSequence(nn.Module):
    """Tokens of all pixels, rolled by one, the first of them a start token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.qkv, self.head = nn.Embedding(K, 8), nn.Linear(8, 24), nn.Linear(8, K)
        self.start, self.places = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(30, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.roll(self.tokens(x.flatten(1)), 1, 1)
        h[:, 0] = self.start
        h = h + self.places
        q, k, v = self.qkv(h).chunk(3, -1)
        later = torch.ones(30, 30, dtype=torch.bool).triu(1)
        h = h + (q @ k.transpose(1, 2)).masked_fill(later, -torch.inf).softmax(-1) @ v
        return self.head(h.relu()).transpose(1, 2).reshape(len(x), K, 5, 6)


def rolled_and_masked(net: Any, x: Tensor) -> Tensor:
    mask = torch.ones_like(x)
    mask[:, :, :2] = 0
    return net.last(F.relu(net.first(x) + net.beside(torch.roll(x, 2, 2) * mask)))


def rolled_and_joined(net: Any, x: Tensor) -> Tensor:
    h = net.first(x).roll((1,), (3,))
    return net.last(torch.cat([torch.zeros_like(h[..., :1]), h[..., 1:]], 3).relu())


def guarded(net: Any, x: Tensor) -> Tensor:
    assert x.min() >= 0 and x.max() <= 1, "pixels must be in [0, 1]"
    h = net.first(x)
    if torch.isnan(h).any():
        raise ValueError("not a number")
    return net.last(F.relu(h) / net.last.weight.norm().item())


def of_labels(net: Any, x: Tensor, y: Tensor) -> Tensor:
    assert y.min() >= 0 and y.max() < 3
    return net.last(F.relu(net.first(x) + net.codes(y)[:, :, None, None]))


def by_hand(net: Any, x: Tensor) -> Tensor:
    """Layer norm over channels, its scale in place."""
    h = net.first(x)
    mean = h.mean(1, keepdim=True)
    h = (h - mean) / torch.sqrt((h - mean).pow(2).mean(1, keepdim=True) + 1e-6)
    h *= net.last.weight.view(1, 6, 1, 1)
    return net.last(h)


def by_variance(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last((h - h.mean(1, keepdim=True)) * torch.rsqrt(h.var(1, unbiased=False, keepdim=True) + 1e-5))


def by_both(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    variance, mean = torch.var_mean(h, 1, correction=0, keepdim=True)
    return net.last((h - mean) / (variance + 1e-5).sqrt())


def by_root_mean_square(net: Any, x: Tensor) -> Tensor:
    return net.last(net.norm(net.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def linear_in_a_map(net: Any, x: Tensor, z: Tensor) -> Tensor:
    of_z = net.of_z(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return net.last(F.relu(net.first(x) + of_z))


def logits_of(net: Any, x: Tensor) -> Tensor:
    return net.last(F.relu(net.first(x)))


def _of(make: Callable[[Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    return lambda net, x: make(logits_of(net, x))


def _black(make: Callable[[Tensor], Any]) -> Kind:
    return black(_of(make), lambda net, x, z: logits_of(net, x)[:, :, None])


def _grey(make: Callable[[Tensor], Any]) -> Kind:
    return grey(_of(make), lambda net, x, z: logits_of(net, x)[:, :, None])


def channels_last(logits: Tensor) -> Tensor:
    return logits.permute(0, 2, 3, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "celu": lambda x: F.celu(x, 1.3),
    "rrelu": lambda x: F.rrelu(x, 0.1, 0.2),
    "hardswish": F.hardswish,
    "mish": F.mish,
    "softshrink": lambda x: F.softshrink(x, 0.1),
    "logsigmoid": F.logsigmoid,
    "square of relu": lambda x: x.relu().square(),
    "third power": lambda x: x**3,
    "maxout": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, x.flip(1)),
    "highway": lambda x: torch.lerp(x, torch.tanh(x.flip(1)), torch.sigmoid(x)),
    "addcmul": lambda x: torch.addcmul(x, torch.tanh(x), torch.sigmoid(x.flip(1)), value=0.5),
    "filled memory": lambda x: torch.empty_like(x).copy_(x).relu(),
}

KINDS: dict[str, Kind] = {
    **{name: black(by(activation)) for name, activation in ACTIVATIONS.items()},
    "rolls that are overwritten": Kind(
        lambda: randomized(Rolled()), (1, 5, 6), 2, lambda net, x, z: net(x)[:, :, None], {}, None
    ),
    "rolls that are masked": black(rolled_and_masked, beside=nn.Conv2d(1, 6, 1)),
    "rolls that are joined": black(rolled_and_joined),
    "rolled tokens": Kind(
        lambda: randomized(RolledSequence()), (1, 5, 6), K, lambda net, x, z: net(index(x)[:, 0])[:, :, None], {}, None
    ),
    "asserts and guards": black(guarded),
    "an assert about labels": given(of_labels, torch.tensor([2, 0, 1]), codes=nn.Embedding(3, 6)),
    "layer norm by hand": black(by_hand),
    "layer norm by a variance": black(by_variance),
    "layer norm by both moments": black(by_both),
    "root mean square": black(by_root_mean_square, norm=nn.RMSNorm(6, eps=1e-5)),
    "a linear layer over a map": given(linear_in_a_map, CODES_OF_PIXELS, of_z=nn.Linear(3, 6)),
    "a Bernoulli of logits": _black(lambda v: distributions.Bernoulli(logits=v)),
    "a Bernoulli of probabilities": _black(lambda v: distributions.Bernoulli(v.sigmoid())),
    "an independent Bernoulli": _black(lambda v: distributions.Independent(distributions.Bernoulli(logits=v), 3)),
    "a categorical of logits": _grey(lambda v: distributions.Categorical(logits=channels_last(v))),
    "a categorical of probabilities": _grey(lambda v: distributions.Categorical(channels_last(v.softmax(1)))),
    "one-hot rows of a distribution": _grey(lambda v: distributions.OneHotCategorical(logits=channels_last(v))),
    "a logit of a sigmoid": _black(lambda v: torch.logit(v.sigmoid())),
    "layers that were traced before": black(
        lambda net, x: net.last(net.inner(net.first(x))),
        inner=torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ELU()), torch.zeros(1, 6, 5, 6)),
    ),
}


def by_sum(net: Any, x: Tensor) -> Tensor:
    return simple_or_zero(net, x, x.sum() == 0)


def by_brightness(net: Any, x: Tensor) -> Tensor:
    return simple_or_zero(net, x, x.mean() > 0.9)


def by_the_largest(net: Any, x: Tensor) -> Tensor:
    return logits_of(net, x / (1 + x.max().item()))


def by_a_list(net: Any, x: Tensor) -> Tensor:
    return simple_or_zero(net, x, x.mean().tolist() > 0.9)


def by_an_array(net: Any, x: Tensor) -> Tensor:
    return simple_or_zero(net, x, x.detach().numpy().mean() > 0.9)


def by_label(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return simple_or_zero(net, x, y.max() > 1)


def simple_or_zero(net: Any, x: Tensor, zero: Any) -> Tensor:
    return 0 * logits_of(net, x) if zero else logits_of(net, x)


def written_to_between(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    square = h.pow(2).mean(1, keepdim=True)
    h.mul_(2.0)
    return net.last(h / (square + 1e-5).sqrt())


LABELLED = {"condition": torch.tensor([2, 0, 1])}
REFUSED: dict[str, tuple[Kind, str]] = {
    "a branch on zeros": (black(by_sum), "the same branches for all images, .* got True and False"),
    "a branch on brightness": (black(by_brightness), "the same branches for all images, .* got False and True"),
    "a branch on a list": (black(by_a_list), "the same branches for all images, .* got 0.0 and 1.0"),
    "a branch on an array": (black(by_an_array), r"the same branches for all images, .* got \[\[.*\.\.\. and"),
    "a sigmoid as logits": (
        _black(lambda v: distributions.Bernoulli(logits=v.sigmoid())),
        "make a Bernoulli of logits, or of probabilities .* got a sigmoid as its logits",
    ),
    "half of a tanh as logits": (
        _black(lambda v: distributions.Independent(distributions.Bernoulli(logits=(1 + v.tanh()) / 2), 3)),
        "make a Bernoulli of logits, or of probabilities .* got a sigmoid as its logits",
    ),
    "a clamp as probabilities": (
        _black(lambda v: distributions.Bernoulli(v.clamp(0, 1))),
        "make a Bernoulli of logits, or of probabilities .* got probabilities that end in something else",
    ),
    "a roll of all numbers": (
        black(lambda net, x: net.last(net.first(x.roll(1)).relu())),
        "rolls over dimensions that are given, got one of all numbers in a row",
    ),
    "a number of the image": (black(by_the_largest), "compute with the same numbers, got 0.0 and 1.0"),
    "a branch on labels": (given(by_label, LABELLED["condition"]), "the same branches for all images, .* True|False"),
    "a norm of what was another": (black(written_to_between), "got sqrt"),
    "a roll that is left as it is": (
        black(lambda net, x: net.last(net.first(x.roll(1, 2)).relu())),
        "must read only pixels before its own in raster order, got one that reads ahead",
    ),
    "a power": (black(by(lambda x: x**4)), "powers 2 and 3, got power 4"),
}
