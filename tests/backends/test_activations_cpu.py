"""The error of every activation in every op and instruction set, over 60 decades: relative, never absolute."""

from collections.abc import Callable

import pytest
import torch
from cases.rows import require

from vlae_fast.backends import cpu
from vlae_fast.plan import Emit, Plan, Source, Stage
from vlae_fast.reference.arguments import ConvOptions, Layers, Mask, Transform

EPS, LEAST_NORMAL = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
TIMES_EPS = {"gelu": 6}  # the largest seen is 4.7, a product of three approximations
TIMES_EPS_OF_OTHERS = 4  # the largest seen is 2.5
PAIRS = ("gate", "glu")
N = 20_000


def numbers() -> torch.Tensor:
    """Half of them of any size from 1e-30 to 1e30, the others where exponentials are neither 0 nor infinite."""
    wide = 10 ** (60 * torch.rand(N // 2, dtype=torch.float64) - 30) * (2 * torch.rand(N // 2).round() - 1)
    near = torch.randn(N // 4, dtype=torch.float64)
    far = 180 * torch.rand(N - len(wide) - len(near), dtype=torch.float64) - 90
    return torch.cat([wide, near, far])[torch.randperm(N)].float()


def exact(activation: str, x: torch.Tensor) -> torch.Tensor:
    """The activation of x ``[N, 1]``, or ``[N, 2]`` for pairs."""
    x = x.double()
    a, b = x[:, :1], x[:, 1:]
    formulas: dict[str, Callable[[], torch.Tensor]] = {
        "gate": lambda: a.tanh() * b.sigmoid(),
        "glu": lambda: a * b.sigmoid(),
        "tanh": lambda: x.tanh(),
        "elu": lambda: torch.where(x > 0, x, x.expm1()),
        "sigmoid": lambda: x.sigmoid(),
        "softplus": lambda: x.clamp(min=0) + (-x.abs()).exp().log1p(),
        "silu": lambda: x * x.sigmoid(),
        "gelu": lambda: x * torch.special.erfc(-x / 2**0.5) / 2,
        "gelu_tanh": lambda: x * _tanh_argument(x).sigmoid(),
    }
    return formulas[activation]()


def _tanh_argument(x: torch.Tensor) -> torch.Tensor:
    return 2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)


def times_eps(activation: str, x: torch.Tensor) -> torch.Tensor:
    """The relative error that is allowed, in units of eps."""
    if activation != "gelu_tanh":
        return torch.tensor(TIMES_EPS.get(activation, TIMES_EPS_OF_OTHERS))
    # far below 0 it is the exponential of a number of three roundings, each of which moves it by that number's size
    return TIMES_EPS_OF_OTHERS * (1 + _tanh_argument(x.double()).clamp(-1e9, 0).abs())


def by_masked_conv(x: torch.Tensor, activation: str, isa: str) -> torch.Tensor:
    """Whole vectors of channels and a rest."""
    copies, channels = 19, x.shape[1]
    image = x.T.reshape(1, channels, 4, -1)
    weight = torch.eye(channels).repeat_interleave(copies, 0)[:, :, None, None]
    out = cpu.masked_conv(image, weight, None, None, ConvOptions("B", 1, activation), isa=isa)
    torch.testing.assert_close(out[:, :copies], out[:, :1].expand(-1, copies, -1, -1), rtol=0, atol=0, equal_nan=True)
    return out[:, :1].reshape(1, -1).T


def by_masked_linear(x: torch.Tensor, activation: str, isa: str) -> torch.Tensor:
    alive = torch.zeros(1, dtype=torch.long)
    return cpu.masked_linear(x, torch.ones(1, 1), None, Mask(alive, alive), activation, isa)


def by_made_inverse(x: torch.Tensor, activation: str, isa: str) -> torch.Tensor:
    """x_0 = eps_0, and x_1 = shift_1 = act(x_0)."""
    degrees = [torch.tensor(d) for d in ([1, 2], [1], [0, 1])]
    weights, biases = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]])], [torch.zeros(1), torch.zeros(2)]
    eps = torch.cat([x, torch.zeros_like(x)], 1)
    return cpu.made_inverse(eps, Layers(weights, biases, degrees, None), Transform(activation, "exp"), isa=isa)[0][
        0, :, 1:
    ]


def by_pixelcnn_sample(x: torch.Tensor, activation: str, isa: str) -> torch.Tensor:
    """The parameters of one pixel, which a stage makes of a context, copied by the last one."""
    columns, out = 2 * x.shape[1], 2
    stage = Stage(out, activation, -1, x.shape[1], (Source(0, ((0, -1),)),))
    copy = Stage(out, "none", -1, 0, (Source(1, ((0, 0),)),))
    plan = Plan(1, 0, (stage, copy), (0, 0), Emit("affine", 0))
    weights = [torch.zeros(columns, 1, 1), torch.zeros(columns), torch.eye(x.shape[1]).repeat_interleave(2, 0)]
    weights += [torch.eye(out)[:, :, None], torch.zeros(out)]
    packed = cpu.pixelcnn_pack(weights, plan, isa)
    params = cpu.pixelcnn_sample(torch.zeros(len(x), 1, 1, 1), packed, plan, x, None, None, 1.0)[1]
    return params[:, :1, 0, 0]


def by_activate(x: torch.Tensor, activation: str, isa: str) -> torch.Tensor:
    return cpu.activate(x, activation, isa)


OPS: dict[Callable, tuple[str, ...]] = {
    by_activate: ("elu", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh"),
    by_masked_conv: ("gate", "elu"),
    by_masked_linear: ("tanh", "elu"),
    by_made_inverse: ("tanh", "elu"),
    by_pixelcnn_sample: ("gate", "elu", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh", "glu"),
}


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize(
    ("op", "activation"), [(op, a) for op, names in OPS.items() for a in names], ids=lambda v: getattr(v, "__name__", v)
)
def test_the_error_is_relative_over_60_decades(op: Callable, activation: str, isa: str) -> None:
    require("cpu")
    x = torch.stack([numbers(), numbers()] if activation in PAIRS else [numbers()], 1)
    got, truth = op(x, activation, isa).double(), exact(activation, x)
    assert got.shape == truth.shape == (N, 1)
    allowed = (times_eps(activation, x) * EPS * truth.abs()).where(
        truth.abs() >= LEAST_NORMAL, torch.tensor(LEAST_NORMAL)
    )
    assert ((got - truth).abs() <= allowed).all()
    if activation not in ("sigmoid", "softplus"):  # of a small number they are 1/2 and log 2
        assert (truth.abs() < 1e-8).sum() > N / 20  # where an absolute error would be seen


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize("op", [by_masked_conv, by_masked_linear, by_activate], ids=lambda op: op.__name__)
def test_nan_passes(op: Callable, isa: str) -> None:
    require("cpu")
    for activation in OPS[op]:
        x = torch.zeros(4, 2 if activation == "gate" else 1)
        x[1, 0] = x[2, -1] = torch.nan
        assert op(x, activation, isa).isnan().flatten().tolist() == [False, True, True, False]
