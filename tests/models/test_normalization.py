"""Batch and weight normalisation of encoders and of the decoders of plain VAEs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import vlae_fast as vf
from vlae_fast import checkpoint
from vlae_fast.layers import (
    WeightNorm,
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    initialize,
)
from vlae_fast.models.encoder import ENCODERS

SMALL: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 8, "n_layers": 2, "image_size": (6, 5), "use_flow": False}
DECODERS: list[dict[str, Any]] = [
    {"decoder": "mlp"},
    {"decoder": "deconv"},
    {"decoder": "deconv", "deconv_kernel": 3},
]


def layers(module: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def of_encoder(encoder: str, norm: str, **changes: Any) -> vf.VLAE:
    torch.manual_seed(0)
    return vf.VLAE(**{**SMALL, "encoder": encoder, "encoder_norm": norm, "decoder": "mlp", **changes})


@pytest.mark.parametrize("encoder", ENCODERS)
def test_batch_norm_stands_before_every_activation_of_an_encoder(encoder: str) -> None:
    """The input of an activation has mean 0 and variance 1 in every channel of a batch."""
    seen: list[torch.Tensor] = []
    model = of_encoder(encoder, "batch").train()
    for activation in layers(model.encoder, nn.ELU):
        activation.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.encoder(torch.rand(64, 1, 6, 5))
    assert len(seen) >= 2
    for x in seen:
        std, mean = torch.std_mean(x, dim=(0, *range(2, x.dim())), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
        assert ((std - 1).abs() < 0.02).logical_or(std < 0.05).all()  # a dead channel has no variance


@pytest.mark.parametrize("options", DECODERS, ids=str)
def test_batch_norm_stands_before_every_activation_of_a_decoder(options: dict[str, Any]) -> None:
    model = vf.VLAE(**SMALL, **options, decoder_norm="batch").train()
    seen: list[torch.Tensor] = []
    for activation in layers(model.decoder, nn.ReLU):
        activation.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.decoder.decode(torch.randn(256, 4))
    assert len(seen) == len(layers(model.decoder, nn.BatchNorm1d, nn.BatchNorm2d)) > 0
    for x in seen:
        mean = x.mean((0, *range(2, x.dim())))
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_in_evaluation_an_image_has_its_own_code(encoder: str) -> None:
    """By running statistics: not by those of the images beside it, as in training."""
    model, x = of_encoder(encoder, "batch"), torch.rand(8, 1, 6, 5)
    for _ in range(3):
        model.encoder(x)
    alone = torch.cat([model.eval().encoder(row)[0] for row in x.split(1)])
    torch.testing.assert_close(alone, model.encoder(x)[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.encoder(x)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert not model.train().encoder(x[:4])[0].allclose(alone[:4], atol=1e-3)


WEIGHT_NORMALIZED = [
    (lambda norm: WeightNormLinear(6, 5, weight_norm=norm), (16, 6)),
    (lambda norm: WeightNormConv2d(3, 5, 3, padding=1, weight_norm=norm), (16, 3, 4, 4)),
    (
        lambda norm: WeightNormConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1, weight_norm=norm),
        (16, 3, 4, 4),
    ),
]


@pytest.mark.parametrize(("make", "shape"), WEIGHT_NORMALIZED, ids=("linear", "conv", "transposed"))
def test_weight_normalised_layers(make: Any, shape: tuple[int, ...]) -> None:
    """The plain layer at first; then each output's weights have the norm of its gain, whatever their length."""
    torch.manual_seed(0)
    plain = make(False)
    torch.manual_seed(0)
    layer, x = make(True), torch.randn(shape)
    torch.testing.assert_close(layer(x), plain(x))
    assert layer.is_plain() and plain.is_plain() and plain.gain is None
    with torch.no_grad():
        layer.weight.mul_(7)
    torch.testing.assert_close(layer(x), plain(x))
    assert not layer.is_plain()
    by_output = layer.folded_weight().transpose(0, layer.axis).flatten(1)
    torch.testing.assert_close(by_output.norm(dim=1), layer.gain)
    initialize(layer, x)
    out = layer(x)
    std, mean = torch.std_mean(out, dim=(0, *range(2, out.dim())), correction=0)
    torch.testing.assert_close((mean, std), (torch.zeros(5), torch.ones(5)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("options", DECODERS, ids=str)
def test_weight_norm_changes_no_output_before_it_is_initialised(encoder: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = vf.VLAE(**SMALL, encoder=encoder, **options)
    torch.manual_seed(0)
    model = vf.VLAE(**SMALL, encoder=encoder, **options, encoder_norm="weight", decoder_norm="weight")
    x, z = torch.rand(32, 1, 6, 5), torch.randn(32, 4)
    torch.testing.assert_close(model.encoder(x), plain.encoder(x))
    torch.testing.assert_close(model.decoder.decode(z), plain.decoder.decode(z))
    normalized = [layer for layer in layers(model, WeightNorm) if layer.gain is not None]
    assert initialize(model, x) == len(normalized) >= 4
    assert not any(layer.is_plain() for layer in normalized)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_activation_of_an_encoder_is_the_one_asked_for(encoder: str) -> None:
    elu, relu = of_encoder(encoder, "none"), of_encoder(encoder, "none", encoder_activation="relu")
    assert elu.state_dict().keys() == relu.state_dict().keys()
    assert len(layers(elu.encoder, nn.ELU)) == len(layers(relu.encoder, nn.ReLU)) >= 2
    assert not layers(elu.encoder, nn.ReLU) and not layers(relu.encoder, nn.ELU)


@pytest.mark.parametrize(("encoder", "own"), [("conv", 0), ("strided", 32), ("resnet", 450)])
def test_the_units_of_an_encoder_are_as_many_as_asked_for(encoder: str, own: int) -> None:
    for given, expected in ((None, own), (0, 0), (7, 7)):
        model = of_encoder(encoder, "batch", encoder_units=given)
        units = [layer.out_features for layer in layers(model.encoder.features, nn.Linear)]
        assert units == ([expected] if expected else [])
        assert len(layers(model.encoder, nn.BatchNorm1d)) == len(units)
        assert model.encoder(torch.rand(3, 1, 6, 5))[0].shape == (3, 4)


def test_data_dependent_initialisation_leaves_running_statistics_alone() -> None:
    """Batch normalisation before weight-normalised layers: these see what they do in training."""
    model = vf.VLAE(**SMALL, decoder="deconv", encoder_norm="batch", decoder_norm="weight").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    initialize(model, torch.rand(32, 1, 6, 5))
    assert len(before) > 2 and all(before[name].equal(buffer) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("options", DECODERS, ids=str)
def test_a_sampler_is_a_snapshot_in_evaluation(options: dict[str, Any]) -> None:
    """By running statistics, though the model is in training; and it leaves them alone."""
    model = vf.VLAE(**SMALL, **options, decoder_norm="batch").train()
    for _ in range(5):
        model.decoder.decode(torch.randn(32, 4) + 1)
    z, noise = torch.randn(3, 4), torch.rand(3, 1, 6, 5)
    before = copy.deepcopy(model.state_dict())
    got = model.sampler().sample_with_logits(z, noise).logits
    assert model.training and all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert got.equal(model.eval().decoder.decode(z)) and not got.allclose(model.train().decoder.decode(z), atol=1e-3)


@pytest.mark.parametrize("norm", ["batch", "weight"])
@pytest.mark.parametrize("options", [*({"encoder": name} for name in ENCODERS), *DECODERS], ids=str)
def test_a_config_gives_the_normalised_model_back(norm: str, options: dict[str, Any]) -> None:
    which = {"decoder_norm" if "decoder" in options else "encoder_norm": norm}
    model = vf.VLAE(**SMALL, **options, **which)
    again = checkpoint.build(model.config, "meta")
    assert again.config == model.config
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


def test_weight_norm_is_the_older_name_of_one_kind() -> None:
    old, new = vf.VLAE(encoder="resnet", weight_norm=True), vf.VLAE(encoder="resnet", encoder_norm="weight")
    assert old.config == new.config and old.state_dict().keys() == new.state_dict().keys()
    assert old.config["weight_norm"] is True and vf.VLAE().config["weight_norm"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decoder": "gated", "decoder_norm": "batch"},
            "a 'gated' decoder has no option decoder_norm, got 'batch': the mean over a batch .* pixels after it",
        ),
        (
            {"decoder": "resnet", "decoder_norm": "weight"},
            "a 'resnet' decoder has no option decoder_norm, got 'weight': .*resnet and pixelcnn",
        ),
        (
            {"weight_norm": True, "encoder_norm": "batch"},
            "VLAE: weight_norm must be False with encoder_norm 'batch', got True",
        ),
        ({"encoder_norm": "layer"}, "VLAE: encoder_norm must be one of none, batch, weight, got 'layer'"),
        ({"encoder_activation": "tanh"}, "VLAE: encoder_activation must be one of elu, relu, got 'tanh'"),
        ({"encoder": "mlp", "encoder_units": 9}, "FullyConnectedEncoder: encoder_units must be None, got 9"),
        ({"latent_map": (2, 2), "encoder_units": 9}, "VLAE: encoder_units must be None or 0 where z is a map, got 9"),
        (
            {"decoder": "mlp", "tapered": True, "hidden_dim": 6, "n_layers": 3},
            r"MLPDecoder: hidden_dim must be a multiple of 2 \*\* \(n_layers - 1\) = 4, got 6",
        ),
        ({"tapered": True}, "a 'gated' decoder has no option tapered, got True"),
        ({"decoder": "deconv", "deconv_kernel": 5}, "DeconvDecoder: deconv_kernel must be 3 or 4, got 5"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vf.VLAE(**{**SMALL, **options})
