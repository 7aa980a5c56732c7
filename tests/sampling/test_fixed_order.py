"""Maps of z: the same bits in any batch and for any number of threads, the values of PyTorch's own products."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from cases.deadline import slow_where
from cases.rows import require
from torch import nn

import vlae_fast as vf
from vlae_fast import checkpoint
from vlae_fast.backends import cpu
from vlae_fast.models.decoders.code_map import CodeMap
from vlae_fast.models.decoders.make import make_decoder
from vlae_fast.sampling.fixed_order import FixedOrder, NativeProducts, Products, Spread


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("isa", [None, *cpu.isas()[1:]])
def test_logits_of_the_shipped_model_do_not_depend_on_threads_or_batch(isa: str | None) -> None:
    require("cpu")
    sampler = vf.PixelCNNSampler(checkpoint.load(checkpoint.MNIST).model.decoder, "cpu", isa=isa)
    assert sampler.isa == (isa or cpu.isas()[0])
    z, noise = torch.randn(64, 32), torch.rand(64, 1, 28, 28)
    expected = sampler.sample_with_logits(z, noise)
    for threads in (1, 2, 3, 4, 8):
        torch.set_num_threads(threads)
        for batch in (1, 7, 64):
            images, logits = sampler.sample_with_logits(z[-batch:], noise[-batch:])
            assert logits.equal(expected.logits[-batch:]) and images.equal(expected.images[-batch:])


def map_of(kind: str, size: tuple[int, int], channels: int) -> nn.Module:
    options = {"hidden_dim": 8, "n_layers": 1, "image_size": size, "z_channels": channels}
    return make_decoder(kind, input_dim=1, latent_dim=5, **options).code_map


MAPS: dict[str, Callable[[], nn.Module]] = {
    "code map": lambda: (
        make_decoder(
            "gated", input_dim=1, latent_dim=5, hidden_dim=8, n_layers=1, image_size=(27, 30), z_channels=7
        ).code_map
    ),
    "deconvolutional map": lambda: (
        make_decoder(
            "resnet", input_dim=1, latent_dim=5, hidden_dim=8, n_layers=1, image_size=(30, 27), z_channels=3
        ).code_map
    ),
    "large": lambda: nn.Sequential(nn.Linear(5, 40000), nn.Tanh(), nn.Unflatten(1, (10, 50, 80)), nn.GELU()),
    "strided": lambda: nn.Sequential(
        nn.Linear(5, 64),
        nn.SiLU(),
        nn.Unflatten(1, (4, 4, 4)),
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2),
        nn.Softplus(),
        nn.ConvTranspose2d(6, 3, 3, stride=3, dilation=2, output_padding=2),
        nn.Conv2d(3, 4, (3, 2), stride=2, dilation=(1, 2), padding=1),
        nn.Sigmoid(),
    ),
    "normed": lambda: nn.Sequential(  # row by row
        nn.Linear(5, 96), nn.LayerNorm(96), nn.Unflatten(1, (6, 4, 4)), nn.GroupNorm(2, 6), nn.Softmax(1)
    ),
}


@slow_where(lambda name, backend: name == "deconvolutional map" and backend == "reference")  # as "strided", larger
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", MAPS)
@torch.no_grad()
def test_maps_are_the_same_bits(name: str, backend: str) -> None:
    require(backend)
    network, z = MAPS[name](), torch.randn(6, 5)
    network.takes_batches = True
    spread = Spread(network, backend)
    expected = spread(z)
    torch.testing.assert_close(expected, network(z), rtol=1e-5, atol=1e-5)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for rows in (slice(0, 6), slice(3, 4), slice(1, 6)):
            assert spread(z[rows]).equal(expected[rows])


@torch.no_grad()
def test_a_map_that_says_its_layers_runs_them_unless_another_forward_does() -> None:
    require("cpu")
    network, z = CodeMap(5, 4, (13, 10)), torch.randn(3, 5)
    spread, calls = Spread(network, "cpu"), []
    spread.network.by_layers = lambda *args: calls.append("by_layers") or network(args[0])
    spread(z)
    assert calls == ["by_layers"]

    class Own(CodeMap):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return super().forward(z) + 1

    own = Own(5, 4, (13, 10))
    torch.testing.assert_close(Spread(own, "cpu")(z), own(z))
    hooked = CodeMap(5, 4, (13, 10))
    hooked.hidden.register_forward_hook(lambda module, args, out: out * 0)
    got = Spread(hooked, "cpu")(z)
    assert got[0].equal(got[1])
    torch.testing.assert_close(got, hooked(z))


PRODUCTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "matrix": lambda a: a @ a.T,
    "matrix and vector": lambda a: a @ a[0],
    "vectors": lambda a: a[0] @ a[1],
    "batches": lambda a: torch.einsum("bij,bkj->bik", a[None].expand(3, -1, -1), a[None].expand(3, -1, -1)),
    "batches and more": lambda a: torch.baddbmm(a.new_ones(1), a[None], a.T[None].contiguous(), beta=2, alpha=3),
    "vector and more": lambda a: torch.addmv(a[:, 0], a, a[0], beta=0),
    "1-d": lambda a: F.conv1d(a[None], a[:, :5, None].expand(-1, -1, 3), padding=1),
    "none": lambda a: a[:0] @ a.T,
}


@pytest.mark.parametrize("products", [Products(), NativeProducts()], ids=["elementwise", "native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
@torch.no_grad()
def test_products_are_those_of_pytorch(name: str, dtype: torch.dtype, products: Products) -> None:
    require("cpu")
    a = torch.randn(5, 9, dtype=dtype)
    called = []

    class Counted(type(products)):  # type: ignore[misc]
        def matrix(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            called.append(a.shape)
            return super().matrix(a, b)

    with FixedOrder(Counted()):
        got = PRODUCTS[name](a)
    torch.testing.assert_close(got, PRODUCTS[name](a))
    assert called


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "elu": F.elu,
    "elu of another slope": lambda x: F.elu(x, 0.5),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "steeper softplus": lambda x: F.softplus(x, beta=2),
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "exp": torch.exp,
}


@pytest.mark.parametrize("isa", [None, *cpu.isas()], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 70, 3 << 15])
@torch.no_grad()
def test_an_element_is_the_same_wherever_it_stands(n: int, name: str, isa: str | None) -> None:
    """By kernels of ours, and by PyTorch on whole vectors where there are none."""
    function, x = FUNCTIONS[name], torch.linspace(-30, 30, n)
    with FixedOrder(NativeProducts(isa) if isa else Products()):
        whole, last, twice = function(x), function(x[-1:]), function(torch.cat([x, x]))
    assert whole[-1:].equal(last) and twice.equal(torch.cat([whole, whole]))
    torch.testing.assert_close(whole, function(x.double()).float(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("products", [Products(), NativeProducts()], ids=["elementwise", "native"])
@torch.no_grad()
def test_elementwise_operations_keep_place_and_layout(products: Products) -> None:
    require("cpu")
    x = torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
    with FixedOrder(products):
        out, in_place = F.elu(x), F.elu_(x.clone())
        scaled = torch.add(x[:, :1], x, alpha=0.3)
        empty, wide = torch.tanh(x[:0]), torch.tanh(x.double())
    assert in_place.equal(out) and empty.shape == (0, 3, 5, 7) and wide.dtype == torch.float64
    torch.testing.assert_close(out, F.elu(x))
    torch.testing.assert_close(scaled, x[:, :1] + 0.3 * x)


@pytest.mark.parametrize("isa", cpu.isas())
@pytest.mark.parametrize("size", [(9, 7), (1, 2), (12, 11)], ids=str)
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2), (5, 3), (7, 2), (7, 4)])
@torch.no_grad()
def test_convolutions_of_any_stride_are_those_of_pytorch(
    side: int, stride: int, size: tuple[int, int], isa: str
) -> None:
    """A stride is one over blocks of pixels; of the products no other way is asked."""
    x, weight, bias = torch.randn(3, 4, *size), torch.randn(6, 4, side, side), torch.randn(6)
    products, asked = NativeProducts(isa), []
    products.matrix = lambda *_: asked.append("matrix")  # type: ignore[assignment, func-returns-value, method-assign]
    options = {"stride": stride, "padding": side // 2}
    with FixedOrder(products):
        got = F.conv2d(x, weight, bias, **options)
        first = F.conv2d(x[:1], weight, bias, **options)
    assert not asked and got[:1].equal(first)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), **options)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=5e-5)
