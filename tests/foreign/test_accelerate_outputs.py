"""Outputs of accelerated layers: under `torch.func`, their memory format, whether they may be written to."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import DataMaskedConv, Gated, ProductMaskedConv, ProductMaskedLinear, is_fast, made_masks
from torch import Tensor, nn
from torch.autograd import forward_ad

import vlae_fast as vf


def triangular(size: int = 6) -> ProductMaskedLinear:
    return ProductMaskedLinear(torch.ones(size, size).tril())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": triangular,
    "linear, to be sorted": lambda: ProductMaskedLinear(made_masks(6, 12)[0]),
    "conv": lambda: ProductMaskedConv("B", 6, 4, 3, padding=1),
    "gate": lambda: Gated(ProductMaskedConv("B", 6, 4, 3, padding=1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives(name: str) -> None:
    """A gradient penalty, and a Hessian, are those of the layer's own forward."""
    layer = LAYERS[name]().double()
    x = (torch.randn(2, 6) if "linear" in name else torch.randn(2, 6, 4, 3)).double().requires_grad_()

    def penalties() -> list[Tensor]:
        (slope,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        by_weights = torch.autograd.grad(slope.square().sum(), list(layer.parameters()), materialize_grads=True)
        hessian = torch.autograd.functional.hessian(lambda y: layer(y).pow(3).sum(), x)
        return [*by_weights, hessian]

    own = penalties()
    vf.accelerate(layer)
    assert is_fast(layer) and all(grad.abs().max() > 0 for grad in (own[0], own[-1]))
    for got, wanted in zip(penalties(), own, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_transforms_of_torch_func(name: str) -> None:
    layer, x = LAYERS[name](), torch.randn(3, 6) if "linear" in name else torch.randn(3, 6, 4, 5)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (one[None],)).square().sum()

    def everything() -> list[Tensor]:
        per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        return [
            *per_sample.values(),
            torch.func.jacrev(layer)(x),
            torch.func.jacfwd(layer)(x),
            torch.func.hessian(loss, 1)(parameters, x[0]),
            torch.vmap(lambda one: layer(one[None])[0])(x),
            torch.autograd.functional.jacobian(layer, x, vectorize=True),
            *torch.autograd.grad(layer(x), [x.requires_grad_()], torch.ones(2, *layer(x).shape), is_grads_batched=True),
            tangent(),
        ]

    def tangent() -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(layer(forward_ad.make_dual(x.detach(), torch.ones_like(x)))).tangent

    x.requires_grad_()
    want = everything()
    assert vf.accelerate(layer).replaced
    torch.testing.assert_close(everything(), want)
    assert is_fast(layer)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["conv", "gate", "relu", "writes", "cropped"])
def test_outputs_have_the_memory_format_they_had(name: str, channels: int) -> None:
    conv: Any = (DataMaskedConv if name == "writes" else ProductMaskedConv)("B", channels, 2 * channels, 3, padding=1)
    layer = {"gate": Gated, "relu": lambda c: nn.Sequential(c, nn.ReLU())}.get(name, lambda c: c)(conv)
    plain = copy.deepcopy(layer)
    assert vf.accelerate(layer).replaced
    shapes = [(2, channels, 5, 6), (1, channels, 1, 1), (0, channels, 4, 4)]
    for shape in [*shapes, (channels, 5, 6)] if name in ("conv", "writes") else shapes:
        x = torch.randn(shape)
        assert layer(x).is_contiguous() == plain(x).is_contiguous()
        layer(x).view(shape[0], -1 if x.numel() else 1)
        if x.dim() == 4:
            last = x.contiguous(memory_format=torch.channels_last)
            assert layer(last).stride() == plain(last).stride() or 1 in shape or 0 in shape
    layer.to(memory_format=torch.channels_last), plain.to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 5, 6)
    assert layer(x).is_contiguous() == plain(x).is_contiguous()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("around", [Gated, lambda conv: nn.Sequential(conv, nn.ELU())], ids=["gate", "elu"])
def test_outputs_may_be_written_to(around: Any, memory_format: torch.memory_format) -> None:
    for channels in (2, 4):
        layer = around(ProductMaskedConv("B", 2, channels, 3, padding=1))
        x = torch.randn(2, 2, 5, 6).contiguous(memory_format=memory_format)
        plain = copy.deepcopy(layer)
        assert "in one pass" in str(vf.accelerate(layer))
        results = []
        for module in (layer, plain):
            x = x.detach().requires_grad_()
            h = module(x)
            h += 1
            h *= 2
            h.square().sum().backward()
            results.append([h.detach(), x.grad, *(p.grad for p in module.parameters())])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", LAYERS)
def test_symbolic_traces_of_torch_fx(name: str) -> None:
    layer, x = LAYERS[name](), torch.randn(3, 6) if "linear" in name else torch.randn(3, 6, 4, 5)
    vf.accelerate(layer)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))
