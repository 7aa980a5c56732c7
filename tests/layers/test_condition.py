"""The condition of a masked convolution: multiplied in the kernel, unless somebody listens to who multiplies it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import vlae_fast as vf
from vlae_fast.models.decoders.make import make_decoder


def layer_and_inputs() -> tuple[vf.GatedMaskedConv2d, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return vf.GatedMaskedConv2d("B", 4, 4, 3, cond_channels=3), torch.randn(2, 4, 5, 6), torch.randn(2, 3, 5, 6)


def by_hand(layer: vf.GatedMaskedConv2d, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    a, b = (layer.pre_activation(x) + condition).chunk(2, 1)
    return a.tanh() * b.sigmoid()


def test_a_map_is_multiplied_by_the_weight_of_cond() -> None:
    layer, x, z = layer_and_inputs()
    x.requires_grad_(), z.requires_grad_()
    inputs = (x, z, *layer.parameters())
    out, expected = layer(x, z), by_hand(layer, x, layer.cond(z))
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    grads, wanted = (torch.autograd.grad((y * weight).sum(), inputs) for y in (out, expected))
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


class Doubled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def hooked(layer: vf.GatedMaskedConv2d) -> None:
    layer.cond.register_forward_hook(lambda module, args, out: 2 * out)


def replaced(layer: vf.GatedMaskedConv2d) -> None:
    own = Doubled(3, 8, 1, bias=False)
    own.load_state_dict(layer.cond.state_dict())
    layer.cond = own


def patched(layer: vf.GatedMaskedConv2d) -> None:
    plain = layer.cond.forward
    layer.cond.forward = lambda x: 2 * plain(x)


@pytest.mark.parametrize("change", [hooked, replaced, patched])
def test_a_cond_of_somebody_else_is_called(change: Callable[[vf.GatedMaskedConv2d], None]) -> None:
    layer, x, z = layer_and_inputs()
    condition = 2 * layer.cond(z)
    change(layer)
    torch.testing.assert_close(layer(x, z), by_hand(layer, x, condition))


@pytest.mark.parametrize("options", [{"kernel_size": 1}, {"kernel_size": 3, "padding": 1, "bias": False}])
def test_a_cond_of_another_form_is_called(options: dict[str, Any]) -> None:
    layer, x, z = layer_and_inputs()
    layer.cond = nn.Conv2d(3, 8, **options)
    torch.testing.assert_close(layer(x, z), by_hand(layer, x, layer.cond(z)))


def test_a_condition_of_ones_own_is_called() -> None:
    class Own(vf.GatedMaskedConv2d):
        def condition(self, cond: torch.Tensor) -> torch.Tensor:
            return -super().condition(cond)

    plain, x, z = layer_and_inputs()
    layer = Own("B", 4, 4, 3, cond_channels=3)
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer(x, z), by_hand(plain, x, -plain.cond(z)))


@pytest.mark.parametrize("kind", ["gated", "two-stack"])
def test_the_map_of_z_is_made_as_the_layers_read_it(kind: str) -> None:
    options = {"hidden_dim": 8, "n_layers": 1, "image_size": (9, 10), "z_channels": 3}
    code_map = make_decoder(kind, input_dim=1, latent_dim=5, **options).code_map
    assert code_map(torch.randn(2, 5)).is_contiguous(memory_format=torch.channels_last)
