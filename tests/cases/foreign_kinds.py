"""Decoders of every kind that people write, each with the loop that its owner would sample it by."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .foreign import ProductMaskedConv, randomized

K = 5
LABELS = torch.tensor([2, 0, 1])
CODES = torch.linspace(-1, 1, 9).view(3, 3)
Forward = Callable[[Any, Tensor], Tensor]


class Kind(NamedTuple):
    """A decoder, how `fast_sampler` is told of it, and how its owner reads it.

    own: ``(decoder, x, z)`` with x in [0, 1] -> logits of all pixels ``[B, K, C, H, W]``, of Bernoulli pixels K = 1.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    levels: int
    own: Callable[[nn.Module, Tensor, Any], Tensor]
    options: dict[str, Any]
    z: Any


class Net(nn.Module):
    """A masked convolution, something of its own between it and the last one, and parts that this may use."""

    def __init__(
        self,
        forward: Callable[..., Any],
        channels: int = 1,
        outputs: int = 1,
        width: int = 6,
        last: int | None = None,
        **parts: nn.Module,
    ) -> None:
        super().__init__()
        self.function = forward
        self.first = ProductMaskedConv("A", channels, width, 3, padding=1)
        self.last = nn.Conv2d(last or width, outputs, 1)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, x, *args, **kwargs)


def black(forward: Forward, own: Any = None, size: tuple[int, int] = (5, 6), options: Any = None, **parts: Any) -> Kind:
    """A decoder of black and white pixels."""
    own = own or (lambda net, x, z: net(x)[:, :, None])
    return Kind(lambda: randomized(Net(forward, **parts)), (1, *size), 2, own, options or {}, None)


def grey(forward: Forward, own: Any = None, size: tuple[int, int] = (5, 6), options: Any = None, **parts: Any) -> Kind:
    """A decoder of K levels of grey."""
    own = own or (lambda net, x, z: net(x)[:, :, None])
    parts = {"outputs": K} | parts
    return Kind(lambda: randomized(Net(forward, **parts)), (1, *size), K, own, options or {}, None)


def colour(forward: Forward, own: Any, **options: Any) -> Kind:
    """A decoder of two channels of K levels each."""
    return Kind(lambda: randomized(Net(forward, 2, 2 * K)), (2, 4, 5), K, own, options, None)


def given(forward: Callable[..., Any], z: Any, own: Any = None, options: Any = None, **parts: Any) -> Kind:
    """A decoder of black and white pixels and a condition."""
    own = own or (lambda net, x, z: net(x, z)[:, :, None])
    options = {"condition": z} if options is None else options
    return Kind(lambda: randomized(Net(forward, **parts)), (1, 5, 6), 2, own, options, z)


def index(x: Tensor, levels: int = K) -> Tensor:
    return (x * (levels - 1)).round().long()


def logit(p: Tensor) -> Tensor:
    return torch.logit(p.double()).float()


def simple(net: Any, x: Tensor) -> Tensor:
    return net.last(F.relu(net.first(x)))


def by(activation: Callable[[Tensor], Tensor]) -> Forward:
    return lambda net, x: net.last(activation(net.first(x)))


def linear_inside(net: Any, x: Tensor) -> Tensor:
    h = net.first(x).permute(0, 2, 3, 1)
    b, height, width, c = h.shape
    return net.last(net.inner(h.reshape(-1, c)).view(b, height, width, -1).permute(0, 3, 1, 2).relu())


def assigned(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    down = torch.zeros_like(h)
    down[:, :, 1:] = h[:, :, :-1]
    return net.last(F.relu(h + down))


def added_in_part(net: Any, x: Tensor) -> Tensor:
    h = F.pad(net.first(x), (0, 0, 1, 0))
    rest, shifted = h[:, :, 1:], h[:, :, :-1]
    rest += net.beside(x)
    return net.last(F.elu(rest - shifted))


def kept(net: Any, x: Tensor) -> Tensor:
    if getattr(net, "ones", None) is None:
        net.ones = torch.ones_like(x)
    return net.last(F.relu(net.first(torch.cat([x, net.ones], 1))))


def kept_of_seven() -> nn.Module:
    net = randomized(Net(kept, 2))
    net(torch.zeros(7, 1, 5, 6))
    return net


def own_of_kept(net: nn.Module, x: Tensor, z: Any) -> Tensor:
    net = copy.deepcopy(net)
    vars(net).pop("ones", None)
    return net(x)[:, :, None]


def unmasked(net: Any, x: Tensor, z: Tensor) -> Tensor:
    maps = net.of_z(z).view(-1, 2, 5, 6)
    weight = net.first.weight.clone()
    weight[:, :1] = weight[:, :1] * net.first.mask[:, :1]
    return net.last(F.elu(F.conv2d(torch.cat([x, maps], 1), weight, padding=1)))


def free(x: Tensor) -> Tensor:
    """1 but at the first pixel."""
    out = torch.ones(x.shape[2:])
    out[0, 0] = 0
    return out


def spins(net: Any, x: Tensor) -> Tensor:
    return torch.sigmoid(simple(net, x)) * free(x) + 0.5 * (1 - free(x))


def assigned_sites(net: Any, x: Tensor) -> Tensor:
    p = torch.sigmoid(simple(net, x))
    p[:, :, 0, 0] = 0.5
    p[:, 0, 1:3, 2] = torch.tensor([0.3, 0.6])
    p[:, :, free(x).roll(-1) == 0] = 0.7
    return p


def assigned_features(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    h[:, :, 0] = 1.0
    h[:, 2:4, :, 1].zero_()
    h[:, 5] = -0.5
    return net.last(F.relu(h))


def clipped(net: Any, x: Tensor) -> Tensor:
    p = torch.sigmoid(simple(net, x))
    lack = p.clamp(0.2, 0.8) - p
    return p + lack


def taller(net: Any, x: Tensor) -> Tensor:
    rows = x.shape[2]
    above = net.above(x)[:, :, : rows + 1]  # row i reads the two rows above
    then = net.then(F.elu(above))[:, :, : rows + 1]
    return net.last(F.elu(net.first(x) + then[:, :, :rows]))


def shifted(net: Any, x: Tensor) -> Tensor:
    rows, columns = x.shape[2:]
    above = F.pad(net.above(x), (1, 0, 1, 0))[:, :, :rows, :columns]  # a row and a column of zeros, of no bias
    return net.last(F.elu(net.first(x)) + torch.tanh(above))


def causal_1d(net: Any, x: Tensor) -> Tensor:
    h = F.relu(net.start(F.pad(x, (3, -1))))
    return net.end(F.relu(h + net.middle(F.pad(h, (4, 0)))))


SEQUENCE = {
    "start": nn.Conv1d(1, 6, 3),
    "middle": nn.Conv1d(6, 6, 3, dilation=2),
    "end": nn.Conv1d(6, K, 1),
}


def sequence() -> Kind:
    def own(net: nn.Module, x: Tensor, z: Any) -> Tensor:
        return net(x[:, :, 0])[:, :, None, None]

    return Kind(lambda: randomized(Net(causal_1d, **SEQUENCE)), (1, 1, 11), K, own, {}, None)


def tokens(net: Any, x: Tensor) -> Tensor:
    h = net.codes(x).transpose(1, 2)
    return net.end(F.relu(net.start(F.pad(h, (3, -1))))).transpose(1, 2)


class Lost(nn.Module):
    """A decoder of another signature than its parts have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(simple)

    def forward(self, shift: Tensor, x: Tensor) -> Tensor:
        return self.net(x) + shift[:, None, None, None]


def stepped(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last(F.relu(torch.cat([h[:, ::2], h[:, 1::2], h.flip(1)], 1)))


def stacked(net: Any, x: Tensor) -> Tensor:
    a, b, c = torch.stack([net.first(x), x.expand(-1, 6, -1, -1) * 0, net.first(x).neg()]).unbind()
    return net.last(F.relu(a + b) - F.relu(c))


def film(net: Any, x: Tensor, z: Tensor) -> Tensor:
    gain, shift = net.gain(z)[:, :, None, None], net.shift(z)[:, :, None, None]
    return net.last(F.relu(gain * net.first(x) + shift))


KINDS: dict[str, Kind] = {
    # how logits are laid out
    "[B, K, C, H, W]": grey(lambda net, x: simple(net, x).unsqueeze(2), lambda net, x, z: net(x)),
    "[B, H, W, K]": grey(
        lambda net, x: simple(net, x).permute(0, 2, 3, 1).contiguous(),
        lambda net, x, z: net(x).permute(0, 3, 1, 2)[:, :, None],
    ),
    "[B, K, C, H, W] of two": colour(lambda net, x: simple(net, x).view(-1, K, 2, 4, 5), lambda net, x, z: net(x)),
    "[B, C, K, H, W] of two": colour(
        lambda net, x: simple(net, x).view(-1, 2, K, 4, 5), lambda net, x, z: net(x).transpose(1, 2)
    ),
    "[B, C, H, W, K] of two": colour(
        lambda net, x: simple(net, x).view(-1, K, 2, 4, 5).permute(0, 2, 3, 4, 1),
        lambda net, x, z: net(x).permute(0, 4, 1, 2, 3),
    ),
    "[B, H, W, C, K] of two": colour(
        lambda net, x: simple(net, x).permute(0, 2, 3, 1).unflatten(3, (2, K)),
        lambda net, x, z: net(x).permute(0, 4, 3, 1, 2),
        layout="BHWCK",
    ),
    "[B, K C, H, W] of two": colour(simple, lambda net, x, z: net(x).view(-1, K, 2, 4, 5), layout="BKCHW"),
    "[B, H, W, C K] of two": colour(
        lambda net, x: simple(net, x).movedim(1, 3),
        lambda net, x, z: net(x).movedim(3, 1).view(-1, 2, K, 4, 5).transpose(1, 2),
        layout="BHWCK",
    ),
    "[B, H, W]": black(lambda net, x: simple(net, x)[:, 0], lambda net, x, z: net(x)[:, None, None]),
    # of what scale, dtype and shape pixels are
    "levels as integers": grey(
        lambda net, x: simple(net, x.float() / (K - 1) * 2 - 1), lambda net, x, z: net(index(x))[:, :, None]
    ),
    "levels that forward scales": grey(
        lambda net, x: simple(net, 2 * (x / (K - 1)) - 1), lambda net, x, z: net((K - 1) * x)[:, :, None]
    ),
    "levels by what is told": grey(simple, lambda net, x, z: net((K - 1) * x)[:, :, None], options={"pixels": "index"}),
    "from -1 to 1": grey(simple, lambda net, x, z: net(2 * x - 1)[:, :, None], options={"pixels": (-1, 1)}),
    "from -1/2 to 1/2": grey(simple, lambda net, x, z: net(x - 0.5)[:, :, None], options={"pixels": (-0.5, 0.5)}),
    "codes [B, H, W]": grey(
        lambda net, x: simple(net, net.codes(x).permute(0, 3, 1, 2)),
        lambda net, x, z: net(index(x)[:, 0])[:, :, None],
        channels=4,
        codes=nn.Embedding(K, 4),
    ),
    "codes in a row, with a bias of their place": grey(
        lambda net, x: simple(
            net, (net.codes(x.flatten(1)) + net.places(torch.arange(30))).transpose(1, 2).unflatten(2, (5, 6))
        ),
        lambda net, x, z: net(index(x)[:, 0])[:, :, None],
        channels=4,
        codes=nn.Embedding(K, 4),
        places=nn.Embedding(30, 4),
    ),
    "one-hot of real numbers": grey(
        lambda net, x: simple(net, F.one_hot(x[:, 0].long(), K).permute(0, 3, 1, 2).float()),
        lambda net, x, z: net((K - 1) * x)[:, :, None],
        channels=K,
    ),
    "[B, H, W, C]": Kind(
        lambda: randomized(Net(lambda net, x: simple(net, x.permute(0, 3, 1, 2)), 2, 2)),
        (2, 4, 5),
        2,
        lambda net, x, z: net(x.permute(0, 2, 3, 1))[:, None],
        {},
        None,
    ),
    # dimensions
    "select and back": black(lambda net, x: simple(net, x[:, 0][:, None])),
    "squeeze and unsqueeze": black(lambda net, x: simple(net, x.squeeze(1).unsqueeze(1))),
    "a linear layer over channels": black(linear_inside, inner=nn.Linear(6, 6)),
    "a linear layer of four dimensions": black(
        lambda net, x: net.last(net.inner(net.first(x).movedim(1, 3)).movedim(3, 1).relu()), inner=nn.Linear(6, 6)
    ),
    "einsum": black(
        lambda net, x: net.last(torch.einsum("bchw,dc->bdhw", net.first(x), net.inner.weight).relu()),
        inner=nn.Linear(6, 6),
    ),
    "a bias with the channels last": given(
        lambda net, x, z: net.last(F.relu((net.first(x).permute(2, 3, 0, 1) + net.of_z(z)).permute(2, 3, 0, 1))),
        CODES,
        of_z=nn.Linear(3, 6),
        options={"latent_dim": 3},
    ),
    "rows and columns turned": black(
        lambda net, x: net.last(net.beside(F.pad(net.first(x).transpose(2, 3), (0, 0, 1, 0))).transpose(2, 3).relu()),
        beside=nn.Conv2d(6, 6, (2, 1)),
    ),
    "strided slices and a flip of channels": black(stepped, last=12),
    "stack and unbind": black(stacked),
    "a sample axis": black(
        lambda net, x: simple(net, x[:, None].expand(-1, 3, -1, -1, -1).flatten(0, 1)).unflatten(0, (-1, 3)).mean(1)
    ),
    "rows under rows": black(
        lambda net, x: net.last(
            F.relu(torch.cat([torch.zeros_like(x[:, :, :1]).expand(-1, 6, -1, -1), net.first(x)[:, :, :-1]], 2))
        )
    ),
    "assigned to zeros": black(assigned),
    "added to a part": black(added_in_part, beside=ProductMaskedConv("A", 1, 6, 3, padding=1)),
    "a sequence": sequence(),
    "tokens in a sequence": Kind(
        lambda: randomized(Net(tokens, codes=nn.Embedding(K, 4), start=nn.Conv1d(4, 6, 3), end=nn.Conv1d(6, K, 1))),
        (1, 1, 11),
        K,
        lambda net, x, z: net(index(x)[:, 0, 0]).transpose(1, 2)[:, :, None, None],
        {},
        None,
    ),
    # activations
    "leaky ReLU": black(by(lambda h: F.leaky_relu(h, 0.2))),
    "PReLU": black(lambda net, x: net.last(net.act(net.first(x))), act=nn.PReLU(6)),
    "one slope": black(lambda net, x: net.last(net.act(net.first(x))), act=nn.PReLU()),
    "ReLU6": black(by(F.relu6)),
    "hardtanh": black(by(lambda h: F.hardtanh(h, -0.5, 0.7))),
    "clamp": black(by(lambda h: h.clamp(max=0.4))),
    "hardsigmoid": black(by(F.hardsigmoid)),
    "SELU": black(by(F.selu)),
    "concat_elu": black(by(lambda h: F.elu(torch.cat([h, -h], 1))), last=12),
    "abs": black(by(torch.abs)),
    "sigmoid": black(by(torch.sigmoid)),
    "a crop after the activation": black(
        lambda net, x: net.last(F.elu(net.mid(net.first(x)))[:, :, :5, :6]), mid=nn.Conv2d(6, 6, 2, padding=1)
    ),
    "one row more than the image has": black(
        taller, above=nn.Conv2d(1, 6, (2, 3), padding=(2, 1)), then=nn.Conv2d(6, 6, (2, 3), padding=(1, 1))
    ),
    "one row more, moved down and to the right": black(shifted, above=nn.Conv2d(1, 6, (2, 3), padding=(1, 1))),
    # ends
    "log_softmax": grey(lambda net, x: simple(net, x).log_softmax(1)),
    "softmax of two": Kind(
        lambda: randomized(Net(lambda net, x: simple(net, x).view(-1, K, 2, 4, 5).softmax(1), 2, 2 * K)),
        (2, 4, 5),
        K,
        lambda net, x, z: net(x).log(),
        {},
        None,
    ),
    "sigmoid at the end": black(
        lambda net, x: torch.sigmoid(simple(net, x)), lambda net, x, z: logit(net(x))[:, :, None]
    ),
    "1 - sigmoid": black(lambda net, x: 1 - torch.sigmoid(simple(net, x)), lambda net, x, z: logit(net(x))[:, :, None]),
    "spins with a free first site": black(
        spins, lambda net, x, z: logit(net(2 * x - 1))[:, :, None], options={"pixels": (-1, 1)}
    ),
    "a clamped sigmoid": black(
        lambda net, x: torch.sigmoid(simple(net, x)).clamp(0.3, 0.6), lambda net, x, z: logit(net(x))[:, :, None]
    ),
    "a probability away from 0 and 1": black(
        lambda net, x: torch.sigmoid(simple(net, x)) * (1 - 2 * 0.1) + 0.1,
        lambda net, x, z: logit(net(x))[:, :, None],
    ),
    "a probability below 0.7": black(
        lambda net, x: 0.7 * torch.sigmoid(simple(net, x)), lambda net, x, z: logit(net(x))[:, :, None]
    ),
    "a probability above 0.3": black(
        lambda net, x: 1 - 0.7 * torch.sigmoid(simple(net, x)), lambda net, x, z: logit(net(x))[:, :, None]
    ),
    "a mean spin": black(
        lambda net, x: 0.5 * (1 + torch.tanh(simple(net, x))), lambda net, x, z: logit(net(x))[:, :, None]
    ),
    "clipped spins with a first site that is fixed": black(
        lambda net, x: (0.8 * torch.sigmoid(simple(net, x)) + 0.1) * free(x) + (1 - free(x)),
        lambda net, x, z: logit(net(2 * x - 1))[:, :, None],
        options={"pixels": (-1, 1)},
    ),
    "a first site by masked_fill": black(
        lambda net, x: torch.sigmoid(simple(net, x)).masked_fill(free(x) == 0, 0.5),
        lambda net, x, z: logit(net(x))[:, :, None],
    ),
    "a first site by where": black(
        lambda net, x: torch.where(free(x) > 0, 0.9 * torch.sigmoid(simple(net, x)), torch.tensor(0.25)),
        lambda net, x, z: logit(net(x))[:, :, None],
    ),
    "sites that are assigned": black(assigned_sites, lambda net, x, z: logit(net(x))[:, :, None]),
    "features that are assigned constants": black(assigned_features),
    "a choice of two features": black(
        lambda net, x: net.last(torch.where(torch.arange(6) % 2 > 0, F.relu(net.first(x)), net.first(x)))
    ),
    "a sigmoid that is clipped by what it lacks": black(clipped, lambda net, x, z: logit(net(x))[:, :, None]),
    "a tuple": black(lambda net, x: (simple(net, x), {}), lambda net, x, z: net(x)[0][:, :, None]),
    "a dict": black(
        lambda net, x: {"logits": simple(net, x), "loss": x.mean()}, lambda net, x, z: net(x)["logits"][:, :, None]
    ),
    "an entry by name": black(
        lambda net, x: {"other": x, "logits": simple(net, x)},
        lambda net, x, z: net(x)["logits"][:, :, None],
        options={"output": "logits"},
    ),
    "a distribution": black(
        lambda net, x: torch.distributions.Bernoulli(logits=simple(net, x), validate_args=False),
        lambda net, x, z: net(x).logits[:, :, None],
    ),
    # constants
    "coordinates": black(
        lambda net, x: net.last(F.relu(torch.cat([net.first(x), torch.linspace(-1, 1, 6).expand(len(x), 1, 5, 6)], 1))),
        last=7,
    ),
    "a bias of each place": black(
        lambda net, x: net.last(F.relu(net.first(x) + net.places.weight.view(6, 5, 6))), places=nn.Embedding(6, 30)
    ),
    "a map as a factor": black(lambda net, x: net.last(F.relu(net.first(x) * torch.linspace(-1, 2, 6)))),
    "a mask of sites": black(lambda net, x: net.last(F.relu(net.first(x) * (torch.arange(30).view(5, 6) % 3 > 0)))),
    "a channel of ones": black(lambda net, x: simple(net, F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)), channels=2),
    "a border of ones": black(
        lambda net, x: net.last(F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), value=1.0), net.first.weight * net.first.mask)))
    ),
    # conditions
    "a label": given(
        lambda net, x, y: net.last(F.relu(net.first(x) + net.of_class(y)[:, :, None, None])),
        LABELS,
        of_class=nn.Embedding(3, 6),
    ),
    "a label as z": given(
        lambda net, x, y: net.last(F.relu(net.first(x) + net.of_class(y)[:, :, None, None])),
        LABELS,
        of_class=nn.Embedding(3, 6),
        options={"latent_dim": 1},
    ),
    "a label by name, one-hot": given(
        lambda net, x, label: net.last(
            F.relu(net.first(x) + net.of_class(F.one_hot(label, 3).float())[..., None, None])
        ),
        {"label": LABELS},
        lambda net, x, z: net(x, **z)[:, :, None],
        of_class=nn.Linear(3, 6),
    ),
    "two conditions": given(
        lambda net, x, y, z: net.last(F.relu(net.first(x) + (net.of_class(y) * net.of_z(z).exp())[:, :, None, None])),
        (LABELS, CODES),
        lambda net, x, z: net(x, *z)[:, :, None],
        of_class=nn.Embedding(3, 6),
        of_z=nn.Linear(3, 6),
    ),
    "a map that is read on all sides": given(
        unmasked, CODES, options={"latent_dim": 3}, channels=3, of_z=nn.Linear(3, 60)
    ),
    "a map": given(
        lambda net, x, m: net.last(F.relu(net.first(x) + net.beside(m))),
        torch.linspace(-2, 2, 180).sin().view(3, 2, 5, 6),
        beside=nn.Conv2d(2, 6, 3, padding=1),
    ),
    "features scaled and shifted by the condition": given(
        film, torch.randn(3, 4), gain=nn.Sequential(nn.Linear(4, 6), nn.Tanh()), shift=nn.Linear(4, 6)
    ),
    "the condition first": Kind(
        lambda: randomized(Lost()),
        (1, 5, 6),
        2,
        lambda net, x, z: net(z, x)[:, :, None],
        {"condition": CODES[:, 0], "call": lambda net, x, z: net(z, x)},
        CODES[:, 0],
    ),
    # what a decoder keeps
    "ones of the batch": Kind(lambda: randomized(Net(kept, 2)), (1, 5, 6), 2, own_of_kept, {}, None),
    "ones of another batch": Kind(kept_of_seven, (1, 5, 6), 2, own_of_kept, {}, None),
}
