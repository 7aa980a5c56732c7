"""Models by name are the tutorials' own: layer for layer, and by name of the command's options."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import training
from vlae_fast.models import PRESETS, options, preset
from vlae_fast.models.decoders.factorized import FactorizedDecoder


def copy_into(model: vf.VLAE, encoder: nn.Module, decoder: nn.Module) -> None:
    """Gives the model the weights of plain layers, in the order of the layers."""
    for ours, theirs in ((model.encoder.features, encoder), (model.decoder, decoder)):
        given = [layer for layer in theirs.modules() if not list(layer.children()) and list(layer.parameters())]
        taken = [layer for layer in ours.modules() if not list(layer.children()) and list(layer.parameters())]
        assert [type(layer) for layer in taken] == [type(layer) for layer in given]
        for a, b in zip(taken, given, strict=True):
            a.load_state_dict(b.state_dict())


def same_outputs(model: vf.VLAE, encoder: nn.Module, decoder: nn.Module, x: Tensor) -> None:
    heads = [nn.Linear(model.encoder.head.in_features, model.latent_dim) for _ in range(2)]  # of mu and of logvar
    with torch.no_grad():
        model.encoder.head.weight.copy_(torch.cat([head.weight for head in heads]))
        model.encoder.head.bias.copy_(torch.cat([head.bias for head in heads]))
    copy_into(model, encoder, decoder)
    assert isinstance(model.decoder, FactorizedDecoder)
    z = torch.randn(len(x), model.latent_dim)
    torch.testing.assert_close(model.decoder.decode(z), decoder(z).view_as(x))
    for ours, head in zip(model.encoder(x), heads, strict=True):
        torch.testing.assert_close(ours, head(encoder(x)))
    theirs = [*encoder.parameters(), *decoder.parameters(), *(p for head in heads for p in head.parameters())]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs)


def test_the_convolutional_vae() -> None:
    down = [nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in ((1, 8), (8, 16), (16, 32))]
    up = [
        nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=more)
        for i, o, more in ((32, 16, 0), (16, 8, 1), (8, 1, 1))
    ]
    encoder = nn.Sequential(*(m for conv in down for m in (conv, nn.ReLU())), nn.Flatten())
    decoder = nn.Sequential(nn.Linear(32, 512), nn.Unflatten(1, (32, 4, 4)), up[0], nn.ReLU(), up[1], nn.ReLU(), up[2])
    model = preset("conv-vae-8-16-32")
    assert sum(p.numel() for p in model.parameters()) == 61_473
    same_outputs(model, encoder, decoder, torch.rand(3, 1, 28, 28))


def test_the_fully_connected_vae() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    decoder = nn.Sequential(
        nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 784), nn.Unflatten(1, (1, 28, 28))
    )
    model = preset("mlp-vae-256")
    assert sum(p.numel() for p in model.parameters()) == 558_928
    same_outputs(model, encoder, decoder, torch.rand(3, 1, 28, 28))


def narrowing(inputs: int, codes: int) -> tuple[nn.Module, nn.Module]:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(codes, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 784))
    return encoder, decoder


def test_the_narrowing_vae() -> None:
    model = preset("mlp-vae-256-128")
    assert sum(p.numel() for p in model.parameters()) == 476_216
    same_outputs(model, *narrowing(784, 20), torch.rand(3, 1, 28, 28))


def test_the_conditional_vae() -> None:
    """One-hot labels are joined to the pixels, and to z."""
    model = preset("conditional")
    assert sum(p.numel() for p in model.parameters()) == 480_056
    encoder, decoder = narrowing(784 + 10, 20 + 10)
    copy_into(model, encoder, decoder)
    x, z, labels = torch.rand(3, 1, 28, 28), torch.randn(3, 20), torch.tensor([7, 0, 9])
    classes = torch.eye(10)[labels]
    joined = model.condition(z, labels)
    torch.testing.assert_close(model.decoder(x, joined), decoder(torch.cat([z, classes], 1)).view_as(x))
    code = model.encoder.head(encoder(torch.cat([x.flatten(1), classes], 1)))
    torch.testing.assert_close(torch.cat(model.encoder(x, labels), 1), code)


@pytest.mark.parametrize("size", [(28, 28), (7, 5), (1, 2), (32, 30)])
def test_kernels_of_3_mirror_a_strided_encoder(size: tuple[int, int]) -> None:
    """Each layer has the size of an encoder's feature map, and nothing is cut off."""
    model = preset("conv-vae-8-16-32", image_size=size)
    maps = [tuple(m(torch.zeros(1, 1, *size)).shape[1:]) for m in (model.encoder.features[:n] for n in (2, 4, 6))]
    h = model.decoder.linear(torch.zeros(1, 32)).unflatten(1, model.decoder.coarse)
    for layer in model.decoder.net:
        if isinstance(layer, nn.ConvTranspose2d):
            assert tuple(h.shape[1:]) == maps.pop()
        h = layer(h)
    assert maps == [] and h.shape == (1, 1, *size)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_model_and_settings_of_a_run(name: str) -> None:
    found = PRESETS[name]
    small = {"image_size": (9, 8), "flow_hidden": 6}
    model = preset(name, **small)
    expected = options.Options(**{**found.model, **small}).config()
    assert model.config == expected
    out = model(torch.zeros(2, 1, 9, 8), torch.tensor([0, 1]) if model.n_classes else None)
    assert out.logits.shape == (2, model.likelihood.params, 9, 8)
    training.Settings(**found.settings)
    assert "\n" not in found.about and found.parameters.items() >= found.settings.items()


def test_what_a_preset_says_beside_is_an_option_of_train() -> None:
    pytest.importorskip("typer")
    from vlae_fast.commands.train import train

    known = {*inspect.signature(train).parameters, "n_classes"}
    assert [name for found in PRESETS.values() for name in found.parameters if name not in known] == []


def test_changes_win_and_an_unknown_name_is_said() -> None:
    assert preset("mlp-vae-256", latent_dim=2, hidden_dim=7).config["hidden_dim"] == 7
    with pytest.raises(ValueError, match=r"preset: name must be one of conv-vae-8-16-32, .*, got 'vae'"):
        preset("vae")
    with pytest.raises(TypeError, match="VLAE: got an unexpected keyword argument 'dropout'"):
        preset("mlp-vae-256", dropout=0.5)
