"""Writes to masks that leave no trace but the values, changes in flows, and `verify_every`."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import ProductMaskedConv, ProductMaskedLinear, is_fast
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.foreign.swap import own_method


def masked_pair() -> tuple[ProductMaskedLinear, Tensor]:
    return ProductMaskedLinear(torch.ones(300, 300).tril()), torch.randn(2, 300)


WRITES: dict[str, Callable[[Any], Any]] = {
    "data.copy_": lambda m: m.mask.data.copy_(m.mask.flip(0)),
    "data.fill_": lambda m: m.mask.data.fill_(0),
    "NumPy": lambda m: m.mask.numpy().fill(0),
    "detach": lambda m: m.mask.detach().zero_(),
    "no_grad": lambda m: m.mask.zero_(),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_to_the_data_of_a_mask_are_seen_in_the_next_call(write: str) -> None:
    layer, x = masked_pair()  # a mask of more than a block
    vf.accelerate(layer)
    layer(x)
    WRITES[write](layer)
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        got = layer(x)
    assert got.equal(own_method(layer, "forward")(x))


@pytest.mark.parametrize("strides", ["transposed", "expanded", "sliced"])
def test_masks_of_any_strides(strides: str) -> None:
    layer, x = ProductMaskedLinear(torch.ones(6, 6).tril()), torch.randn(2, 6)
    mask = torch.ones(6, 6).triu() if strides == "transposed" else torch.ones(6, 12).tril()
    layer.mask = {"transposed": mask.T, "expanded": (torch.arange(6) < 4).float().expand(6, 6), "sliced": mask[:, ::2]}[
        strides
    ]
    assert vf.accelerate(layer).replaced == [""]
    layer(x)
    assert is_fast(layer)
    layer.mask.data[0, 0] = 0
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        got = layer(x)
    assert got.equal(own_method(layer, "forward")(x))


@pytest.mark.parametrize("at", [0, 45_000, 89_999])
def test_one_entry_of_a_large_mask_is_seen_within_its_blocks(at: int) -> None:
    layer, x = masked_pair()
    vf.accelerate(layer, measure=False)  # the first call would be compared
    layer.mask.data.view(-1)[at] += 1
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        for _ in range(-(-layer.mask.nbytes // (1 << 16))):
            got = layer(x)
    assert got.equal(own_method(layer, "forward")(x))


def test_verify_every_sees_what_is_not_watched() -> None:
    layer, x = ProductMaskedConv("B", 2, 3, 3, padding=1), torch.randn(2, 2, 6, 5)
    vf.accelerate(layer, verify_every=3)
    twice = lambda x, *args: 2 * torch.nn.functional.conv2d(x, *args)  # noqa: E731
    state = torch.get_rng_state()
    for _ in range(3):
        layer(x)
    assert is_fast(layer) and torch.get_rng_state().equal(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, w, b: twice(x, w, b, 1, 1))  # torch's code: trusted
        layer(x)
        layer(x)
        with pytest.warns(UserWarning, match=r"the output of a ProductMaskedConv is off by \S+ of its largest number"):
            got = layer(x)
        assert got.equal(own_method(layer, "forward")(x)) and not is_fast(layer)


def test_verify_every_is_no_negative_number() -> None:
    with pytest.raises(ValueError, match="accelerate: verify_every must be 0 or more, got -1"):
        vf.accelerate(nn.Linear(2, 2), verify_every=-1)


def test_flows_read_what_their_library_reads() -> None:
    transforms = pytest.importorskip("nflows.transforms")
    y = torch.randn(5, 6)

    def make() -> Any:
        torch.manual_seed(2)
        return transforms.MaskedAffineAutoregressiveTransform(6, 16, num_blocks=1, use_residual_blocks=False)

    for change in (
        lambda f: setattr(f.autoregressive_net.blocks[0], "activation", torch.tanh),
        lambda f: setattr(f, "_epsilon", 0.1),
        lambda f: setattr(f.autoregressive_net, "activation", torch.sigmoid),
        lambda f: [setattr(part, "activation", torch.tanh) for part in f.modules() if hasattr(part, "activation")],
        lambda f: f.autoregressive_net.final_layer.mask.data.zero_(),
    ):
        flow, plain = make(), make()  # the same weights
        assert all(row.replaced for row in vf.accelerate_flows(flow))
        flow.inverse(y)
        change(flow), change(plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got, want = flow.inverse(y), plain.inverse(y)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
