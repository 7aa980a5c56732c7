"""The loop that tutorials write over a decoder's layers gives the decoder's own logits, or one error: never others."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import checkpoint
from vlae_fast.models.decoders.handed import GatedLayer
from vlae_fast.models.decoders.kinds import KINDS
from vlae_fast.sampling.program import build_program

SIZE = (6, 5)
SMALL: dict[str, Any] = {"latent_dim": 4, "hidden_dim": 8, "n_layers": 2, "image_size": SIZE, "flow_hidden": 12}
# z_channels = 4 is that of latent_dim; with two classes it is 6
GATED = [
    {"z_channels": z_channels, "residual": residual, "n_classes": n_classes, "kernel_size": kernel}
    for (z_channels, kernel), residual, n_classes in itertools.product(
        ((None, 3), (0, 3), (4, 3), (6, 1), (5, 5)), (False, True), (0, 2)
    )
]
WITHOUT_LOOP = ("two-stack", "resnet", "pixelcnn++")


def name(options: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in options.items())


def model_of(**options: Any) -> vf.VLAE:
    torch.manual_seed(0)
    model = vf.VLAE(**{**SMALL, **options}).eval()
    for p in model.decoder.parameters():  # z decides much
        nn.init.normal_(p, std=0.4)
    return model


def given(model: vf.VLAE, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Images, and what the decoder is given as z."""
    x = (torch.rand(batch, 1, *model.decoder.image_size) < 0.5).float()
    labels = torch.arange(batch) % model.n_classes if model.n_classes else None
    return x, model.condition(torch.randn(batch, model.latent_dim), labels)


def traversed(model: vf.VLAE, x: Tensor, z_map: Tensor) -> Tensor:
    """The tutorials' loop."""
    h = model.initial_conv(x)
    for i in range(len(model.decoder_layers)):
        h = model.decoder_layers[i](h, z_map)
    return model.final_conv(h)


def forms(model: vf.VLAE, z: Tensor) -> dict[str, Tensor]:
    """z as the layers may be handed it."""
    size = model.decoder.image_size
    expanded = z[:, :, None, None].expand(-1, -1, *size)
    return {"code": z, "expanded": expanded, "repeated": expanded.contiguous(), "map": model.decoder.spread(z)}


@pytest.mark.parametrize("options", GATED, ids=name)
def test_the_loop_is_the_decoder(options: dict) -> None:
    model = model_of(**options)
    x, z = given(model)
    z_map = z.view(1, -1, 1, 1).expand(-1, -1, *SIZE)
    expected = model.decoder(x, z)
    torch.testing.assert_close(traversed(model, x, z_map), expected)
    assert not model.decoder(x, torch.zeros_like(z)).isclose(expected).all()
    assert model.decoder(x, z_map).equal(expected)
    x, z = given(model, 3)
    for form, handed in forms(model, z).items():
        torch.testing.assert_close(traversed(model, x, handed), model.decoder(x, z), msg=lambda m, f=form: f"{f}: {m}")


def test_the_shipped_model() -> None:
    """A residual decoder with a map, from a checkpoint of before its layers carried either."""
    model = checkpoint.load(checkpoint.MNIST).model
    x, z = (torch.rand(1, 1, 28, 28) < 0.2).float(), torch.randn(1, 32)
    layers = list(model.decoder_layers)
    h, context = model.initial_conv(x), model.decoder.spread(z)
    for layer in layers:  # as the model was when it was trained
        plain = vf.GatedMaskedConv2d("B", 32, 32, 3, cond_channels=16)
        plain.load_state_dict(layer.state_dict())
        h = plain(h, context) + h
    torch.testing.assert_close(model.decoder(x, z), model.final_conv(h), rtol=0, atol=0)
    torch.testing.assert_close(traversed(model, x, z.view(1, -1, 1, 1).expand(-1, -1, 28, 28)), model.decoder(x, z))


def test_without_z() -> None:
    model = model_of(latent_dim=0, residual=True, use_flow=False)
    x, z = (torch.rand(2, 1, *SIZE) < 0.5).float(), torch.zeros(2, 0)
    for handed in (z, z.view(2, -1, 1, 1).expand(-1, -1, *SIZE)):
        torch.testing.assert_close(traversed(model, x, handed), model.decoder(x, z))
    decoder = vf.PixelCNNDecoder(latent_dim=0, hidden_dim=8, residual=True, image_size=SIZE)
    x = torch.rand(2, 1, *SIZE)
    h = decoder.initial_conv(x)
    for layer in decoder.decoder_layers:
        h = layer(h)
    torch.testing.assert_close(decoder.final_conv(h), decoder(x))
    with pytest.raises(ValueError, match="cond must be None where cond_channels is 0"):
        decoder.decoder_layers[0](h, torch.zeros(2, 4))


@pytest.mark.parametrize("kind", WITHOUT_LOOP)
@pytest.mark.parametrize("z_channels", [0, 4, None])
def test_other_decoders_say_what_to_call(kind: str, z_channels: int | None) -> None:
    model = model_of(decoder=kind, z_channels=z_channels, n_layers=5)
    x, z = given(model)
    z_map = z.view(1, -1, 1, 1).expand(-1, -1, *SIZE)
    with pytest.raises(ValueError, match=rf"{KINDS[kind].__name__}: .*decoder\(x, z\) runs all of them"):
        traversed(model, x, z_map)
    if kind == "two-stack":
        with pytest.raises(ValueError, match=r"called as layer\(v, h, z\)"):
            model.decoder_layers[0](x.expand(-1, 8, -1, -1), z_map)
    else:
        h = model.initial_conv(x, z_map)
        torch.testing.assert_close(h, model.initial_conv(x, model.decoder.spread(z)))
    if kind == "resnet":
        with pytest.raises(ValueError, match=r"after initial_conv\(x, z\) must be called as layer\(h\), got z; "):
            model.decoder_layers[0](h, z_map)
    if kind == "pixelcnn++":
        with pytest.raises(ValueError, match=r"called as layer\(h, z\), with z or its map, got no z"):
            model.decoder_layers[0](h)


@pytest.mark.parametrize("z_channels", [0, 4, 7])
def test_the_layers_of_other_decoders_take_the_same_forms(z_channels: int) -> None:
    for kind in ("two-stack", "pixelcnn++"):
        model = model_of(decoder=kind, z_channels=z_channels)
        x, z = given(model, 3)
        decoder = model.decoder
        for handed in forms(model, z).values():
            if kind == "two-stack":
                v = h = x
                for layer in decoder.layers:
                    v, h = layer(v, h, handed)
                logits = decoder.final_conv(decoder.hidden_conv(h))
            else:
                h = decoder.initial_conv(x, handed)
                for layer in decoder.decoder_layers:
                    h = layer(h, handed)
                logits = decoder.final_conv(nn.functional.elu(torch.cat([h, -h], 1)))
            torch.testing.assert_close(logits, decoder(x, z))


@pytest.mark.parametrize("residual", [False, True])
def test_copies_keep_their_own_map(residual: bool) -> None:
    """A copy, a pickle and a checkpoint spread z by the map that they have, and a new map is used at once."""
    model = model_of(residual=residual)
    x, z = given(model)
    z_map = z.view(1, -1, 1, 1).expand(-1, -1, *SIZE)
    expected = model.decoder(x, z)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
    ):
        with torch.no_grad():
            for p in other.decoder.code_map.parameters():
                p.add_(0.3)
        assert not other.decoder(x, z).isclose(expected).all()
        torch.testing.assert_close(traversed(other, x, z_map), other.decoder(x, z))
    torch.testing.assert_close(traversed(model, x, z_map), expected)
    layer = pickle.loads(pickle.dumps(model.decoder_layers[0]))
    h = model.initial_conv(x)
    assert layer(h, z_map).equal(model.decoder_layers[0](h, z_map))
    model.decoder.code_map = copy.deepcopy(model_of(z_channels=16).decoder.code_map).apply(_negate)
    assert not model.decoder(x, z).isclose(expected).all()
    torch.testing.assert_close(traversed(model, x, z_map), model.decoder(x, z))
    model.double()
    torch.testing.assert_close(traversed(model, x.double(), z_map.double()), model.decoder(x.double(), z.double()))


def _negate(module: nn.Module) -> None:
    for p in module.parameters(recurse=False):
        p.data.neg_()


class Wrapper(nn.Module):
    """A layer in a module of a user's, that knows nothing of ours."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layer(*inputs)


@pytest.mark.parametrize("options", [{}, {"z_channels": 4}, {"z_channels": 0}], ids=name)
def test_layers_that_were_wrapped_or_replaced(options: dict) -> None:
    """The residual is added once, whoever adds it, and the map is made once."""
    model = model_of(residual=True, **options)
    decoder, (x, z) = model.decoder, given(model, 2)
    expected = decoder(x, z)
    layers = list(decoder.decoder_layers)
    plain = vf.GatedMaskedConv2d("B", 8, 8, 3, cond_channels=decoder.z_channels)
    plain.load_state_dict(layers[0].state_dict())
    for other in (Wrapper(layers[0]), torch.compile(layers[0], backend="eager"), plain):
        decoder.decoder_layers[0] = other
        torch.testing.assert_close(decoder(x, z), expected)
    noise = torch.rand(2, 1, *SIZE)  # the plain layer stands there
    assert vf.PixelCNNSampler(decoder).sample(z, noise).equal(vf.naive_sample(decoder, z, noise))


def test_a_residual_layer_in_a_decoder_of_ones_own() -> None:
    """A sampler's program adds what the layer adds."""
    decoder = vf.PixelCNNDecoder(1, 0, 6, 1, image_size=SIZE)
    decoder.decoder_layers[0] = GatedLayer("B", 6, 6, 3, residual=True)
    assert [stage.residual for stage in build_program(decoder).stages] == [-1, 1, -1]
    noise = torch.rand(3, 1, *SIZE)
    assert vf.PixelCNNSampler(decoder).sample(None, noise).equal(vf.naive_sample(decoder, None, noise))


@pytest.mark.parametrize("z_channels", [4, 7])
def test_a_sampler_takes_an_expanded_code(z_channels: int) -> None:
    model = model_of(z_channels=z_channels)
    (_, z), noise = given(model, 3), torch.rand(3, 1, *SIZE)
    sampler = vf.PixelCNNSampler(model.decoder)
    drawn = sampler.sample_with_logits(z[:, :, None, None].expand(-1, -1, *SIZE), noise)
    expected = sampler.sample_with_logits(z, noise)
    assert drawn.logits.equal(expected.logits)
    for batch in (0, 1):
        assert sampler.sample(z[:batch, :, None, None].expand(-1, -1, *SIZE), noise[:batch]).shape[0] == batch


def test_the_loop_compiles_whole() -> None:
    model = model_of(z_channels=4, residual=True)
    x, z = given(model, 2)
    loop = torch.compile(lambda x, z: traversed(model, x, z), fullgraph=True, backend="eager")
    torch.testing.assert_close(loop(x, z[:, :, None, None].expand(-1, -1, *SIZE)), model.decoder(x, z))


@pytest.mark.parametrize(
    ("options", "handed", "match"),
    [
        ({}, torch.zeros(1, 5), r"handed z as \[B, 4\], that at every pixel, or its map \[B, 16, H, W\], got \(1, 5\)"),
        ({}, torch.zeros(1, 16), r"got \(1, 16\)"),
        ({}, torch.zeros(1, 5, *SIZE), r"got \(1, 5, 6, 5\)"),
        ({}, torch.zeros(1, 4, 6), r"got \(1, 4, 6\)"),
        ({}, torch.randn(1, 4, *SIZE), "handed a z that is the same at every pixel, got one that varies"),
        ({}, None, r"called as layer\(h, z\), with z or its map, got no z"),
        ({"z_channels": 0}, None, r"called as layer\(h, z\), with z or its map, got no z"),
        ({"n_classes": 2}, torch.zeros(1, 4), r"handed z as \[B, 6\], .*got \(1, 4\)"),
    ],
)
def test_errors(options: dict, handed: Tensor | None, match: str) -> None:
    model = model_of(**options)
    h = torch.zeros(1, 8, *SIZE)
    with pytest.raises(ValueError, match="PixelCNNDecoder: its layers must be .*" + match):
        model.decoder_layers[0](h, handed)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 4), (1, 9)])
def test_an_image_whose_maps_are_the_same_at_every_pixel(size: tuple[int, int]) -> None:
    """There a map cannot be told from a code of as many channels: it is refused, unless strides or shapes tell."""
    model = model_of(z_channels=4, image_size=size, initial_kernel=3)
    x, z = given(model)
    found = forms(model, z)
    told = {"code"} if size == (1, 1) else {"code", "expanded"}
    if size == (1, 9):
        told = set(found)  # its maps vary
    elif size == (4, 4):
        told.add("map")  # by rounding
    for form in set(found) - told:
        with pytest.raises(ValueError, match=r"handed z as \[B, D\] where a map is the same at every pixel as well"):
            traversed(model, x, found[form])
    for form in told:
        torch.testing.assert_close(traversed(model, x, found[form]), model.decoder(x, z))
    other = model_of(z_channels=5, image_size=size, initial_kernel=3)
    for handed in forms(other, z).values():
        torch.testing.assert_close(traversed(other, x, handed), other.decoder(x, z))
