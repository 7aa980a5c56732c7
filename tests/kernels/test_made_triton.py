"""made in Triton: which MADEs go through one launch, in blocks of any size, and that dead tiles are not read."""

from itertools import pairwise

import pytest
import torch
from cases.deadline import slow_where
from cases.extents import Memory
from cases.made import CASES, any_order
from cases.rows import is_interpreted, require

from vlae_fast.testing import Case, check_op, made_layers_case, run


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


def launched(ran: list[Memory]) -> list[str]:
    return [memory.kernel for memory in ran]


@pytest.mark.parametrize("name", ["plain", "five layers", "condition", "any order", "some dead", "batch of 1"])
def test_a_forward_pass_is_one_launch(name: str, ran: list[Memory]) -> None:
    require("triton", "cuda" if torch.cuda.is_available() else "cpu")
    run(CASES[name], "triton")
    assert launched(ran) == ["made_forward_kernel"]


@pytest.mark.parametrize(
    ("needs", "kernels"),
    [
        ("x", ["made_grad_x_kernel", "parts_add_kernel"]),
        ("cond", ["made_grad_x_kernel", "parts_add_kernel"]),
        ("weights", ["made_grad_x_kernel", "parts_add_kernel", "made_grad_weight_kernel"]),
    ],
)
def test_gradients_are_three_launches(needs: str, kernels: list[str], ran: list[Memory]) -> None:
    """And those that are asked for are those of all."""
    from vlae_fast.backends import triton
    from vlae_fast.reference.arguments import Layers
    from vlae_fast.reference.made import made_backward, made_with_hidden

    require("triton", "cuda" if torch.cuda.is_available() else "cpu")
    t = CASES["condition"].tensors
    layers = Layers(t["weights"], t["biases"], t["degrees"], t["cond"])
    y, *hidden = made_with_hidden(t["x"], layers, "elu")
    n, grad = len(t["weights"]), torch.linspace(-1, 1, y.numel()).view_as(y)
    wanted = [needs == "x", needs == "cond", *[needs == "weights"] * (2 * n)]
    found = triton.made_backward(grad, t["x"], hidden, layers, "elu", wanted)
    assert launched(ran) == kernels
    for got, expected in zip(found, made_backward(grad, t["x"], hidden, layers, "elu", wanted), strict=True):
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_parts_of_a_large_batch(ran: list[Memory]) -> None:
    """The weights' gradients are sums of two parts of the rows, the biases' of many."""
    case = made_layers_case(1030, 5, (9,), activation="tanh")
    check_op(case, "triton")
    assert "made_grad_weight_kernel" in launched(ran) and launched(ran).count("parts_add_kernel") >= 3


QUICK = {(16, torch.float32), (32, torch.bfloat16), (64, torch.float16)}  # every dtype and every block once


@slow_where(lambda blocks, dtype, **_: is_interpreted("triton") and (blocks["BM"], dtype) not in QUICK)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "blocks",
    [{"BM": 16, "BN": 16, "BK": 16}, {"BM": 32, "BN": 32, "BK": 64}, {"BM": 64, "BN": 128, "BK": 32}],
    ids=str,
)
def test_any_blocks(blocks: dict[str, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import launch

    own = launch.config
    of_made = {**blocks, "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(launch, "config", lambda *args: of_made.copy() if args[0] == "made" else own(*args))
    for case in (
        made_layers_case(35, 11, (140, 97), activation="elu", cond=True),
        any_order(made_layers_case(18, 9, (33,), activation="tanh")),
    ):
        check_op(case.to(dtype), "triton")


def wider(case: Case, layer: int) -> list[torch.Tensor]:
    weights = list(case.tensors["weights"])
    weights[layer] = torch.empty(1100, weights[layer].shape[1], device="meta")
    return weights


def test_what_is_not_taken_through_one_launch() -> None:
    from vlae_fast.kernels.made import why_not

    case = made_layers_case(1, 4, (6, 5))
    assert why_not(case.tensors["weights"]) is None
    assert why_not(wider(case, 2)) is None  # outputs may be more
    assert why_not(wider(case, 1)) == "at most 1024 units of a hidden layer are taken, got 1100"
    assert why_not(case.tensors["weights"][:1]) == "one layer is one launch anyway"
    assert why_not([torch.empty(4, 4)] * 9) == "at most 8 layers are taken, got 9"
    assert why_not([torch.empty(0, 4), torch.empty(3, 0)]) == "a layer has no weights"


@pytest.mark.parametrize(
    ("sizes", "dtype", "batch", "cycles"),
    [
        ((64, 640, 640, 128), torch.float32, 2048, None),
        ((64, 640, 640, 128), torch.float32, 2049, 66560),
        ((64, 640, 640, 128), torch.bfloat16, 8192, None),
        ((64, 640, 640, 128), torch.bfloat16, 8193, 41600),  # in 5 turns
        ((784, 1024, 1024, 1568), torch.bfloat16, 1, 54016),  # 1.7 M live weights of 2 bytes, 64 bytes a cycle
        ((784, 1024, 1024, 1568), torch.float32, 1, 216064),  # of 16 rows, 128 products a cycle
    ],
)
def test_a_network_with_more_work_than_its_launches_goes_by_layers(
    sizes: tuple[int, ...], dtype: torch.dtype, batch: int, cycles: int | None
) -> None:
    from vlae_fast.kernels.made import why_not

    weights = [torch.empty(o, i, dtype=dtype, device="meta") for i, o in pairwise(sizes)]
    reason = why_not(weights, batch)
    told = f"weights would take {cycles} cycles, more than the 40000 of the launches that are saved"
    assert reason == (None if cycles is None else told)


def test_more_units_go_by_layers(ran: list[Memory]) -> None:
    check_op(made_layers_case(3, 5, (1100, 8)), "triton")
    assert "made_forward_kernel" not in launched(ran) and launched(ran).count("masked_linear_forward_kernel") >= 3


@pytest.fixture
def by_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import made

    monkeypatch.setattr(made, "why_not", lambda weights, batch=1: "layer by layer is asked for")


@slow_where(lambda activation, dtype: is_interpreted("triton") and (activation, dtype) == ("elu", torch.float32))
@pytest.mark.parametrize(
    ("activation", "dtype"),
    [("relu", torch.float32), ("elu", torch.bfloat16), ("tanh", torch.float16), ("elu", torch.float32)],
    ids=str,
)
@pytest.mark.usefixtures("by_layers")
def test_layers_take_the_slope_of_those_before(activation: str, dtype: torch.dtype, ran: list[Memory]) -> None:
    """No pass of its own over the hidden layers: `activation_backward` only adds up the outputs' gradient."""
    for case in (
        made_layers_case(35, 11, (20, 40), activation=activation, cond=True),
        any_order(made_layers_case(70, 9, (33, 20, 17), activation=activation)),
    ):
        ran.clear()
        check_op(case.to(dtype), "triton")
        assert "made_grad_x_kernel" not in launched(ran)
        passes = [memory["p_grad"].span for memory in ran if memory.kernel == "activation_backward_kernel"]
        x = case.tensors["x"]
        assert passes and set(passes) == {2 * x.numel()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("by_layers")
def test_slopes_of_relu_in_16_bits(dtype: torch.dtype) -> None:
    """Given the hidden outputs: the layers' own differ in the sign of units near the kink."""
    from vlae_fast.backends import triton
    from vlae_fast.reference.arguments import Layers
    from vlae_fast.reference.made import made_backward, made_with_hidden

    require("triton", "cuda" if torch.cuda.is_available() else "cpu")
    t = made_layers_case(35, 11, (20, 40)).to(dtype).tensors
    layers = Layers(t["weights"], t["biases"], t["degrees"])
    y, *hidden = made_with_hidden(t["x"], layers, "relu")
    grad, needs = torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype), [True, False, *[True] * 6]
    found = triton.made_backward(grad, t["x"], hidden, layers, "relu", needs)
    exact = Layers([w.double() for w in t["weights"]], [b.double() for b in t["biases"]], t["degrees"])
    truth = made_backward(grad.double(), t["x"].double(), [h.double() for h in hidden], exact, "relu", needs)
    for got, expected in zip(found, truth, strict=True):
        if got is not None and expected is not None:
            assert (got - expected).abs().max() <= 3 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("needs", ["x", "cond", "weights", "biases", "last"])
@pytest.mark.usefixtures("by_layers")
def test_layers_give_the_gradients_that_are_asked_for(needs: str, ran: list[Memory]) -> None:
    from vlae_fast.backends import triton
    from vlae_fast.reference.arguments import Layers
    from vlae_fast.reference.made import made_backward, made_with_hidden

    require("triton", "cuda" if torch.cuda.is_available() else "cpu")
    t = CASES["condition"].tensors
    layers = Layers(t["weights"], t["biases"], t["degrees"], t["cond"])
    y, *hidden = made_with_hidden(t["x"], layers, "elu")
    n, grad = len(t["weights"]), torch.linspace(-1, 1, y.numel()).view_as(y)
    wanted = [needs == "x", needs == "cond", *[needs == "weights"] * n, *[needs == "biases"] * n]
    wanted[1 + n] |= needs == "last"  # the last layer's weight alone
    found = triton.made_backward(grad, t["x"], hidden, layers, "elu", wanted)
    products = {"x": n, "weights": n, "last": 1}.get(needs, n - 1)
    assert launched(ran).count("masked_linear_backward_kernel") == products
    for got, expected in zip(found, made_backward(grad, t["x"], hidden, layers, "elu", wanted), strict=True):
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_dead_tiles_are_not_read(ran: list[Memory], monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import launch

    from vlae_fast.masks import linear_mask

    blocks = {"BM": 16, "BN": 16, "BK": 16, "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(launch, "config", lambda *_: blocks.copy())
    case = made_layers_case(5, 48, (96, 80))
    run(case, "triton")
    (memory,) = ran
    degrees = case.tensors["degrees"]
    for i, weight in enumerate(case.tensors["weights"]):
        read = torch.from_numpy(memory[f"p_weights[{i}]"].touched).view(weight.shape)
        live = linear_mask(degrees[i], degrees[i + 1])
        tiles = torch.nn.functional.max_pool2d(live.float()[None], 16, ceil_mode=True)[0].bool()
        near = tiles.repeat_interleave(16, 0).repeat_interleave(16, 1)[: len(live), : live.shape[1]]
        assert (read | ~live).all() and not (read & ~near).any()
        assert read.float().mean() < 0.75
