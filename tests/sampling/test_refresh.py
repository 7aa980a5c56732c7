"""`refresh`: the sampler that a new one would be, bit for bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.rows import backends_of, require
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models import VLAE, make_likelihood
from vlae_fast.models.decoders.make import make_decoder
from vlae_fast.sampling import FactorizedSampler

SIZE = (4, 5)
NOISE = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))


def gated(**options: Any) -> Any:
    return vf.PixelCNNDecoder(1, 2, 6, 2, image_size=SIZE, initial_kernel=3, z_channels=2, **options)


def made(kind: str) -> Any:
    return make_decoder(kind, input_dim=1, latent_dim=2, hidden_dim=4, n_layers=1, image_size=SIZE)


def hooked() -> Any:
    decoder = gated()
    nn.utils.weight_norm(decoder.final_conv)
    return decoder


DECODERS: dict[str, Callable[[], Any]] = {
    "gated": gated,
    "two-stack": lambda: made("two-stack"),
    "pixelcnn++": lambda: made("pixelcnn++"),
    "resnet": lambda: made("resnet"),
    "gaussian": lambda: gated(likelihood=make_likelihood("gaussian", 1)),
    "weight norm of torch": hooked,
}


def trained(decoder: nn.Module) -> None:
    """A step of an optimizer on all parameters."""
    optimizer = torch.optim.SGD(decoder.parameters(), 0.1)
    for parameter in decoder.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def equal(sampler: vf.PixelCNNSampler, fresh: vf.PixelCNNSampler) -> bool:
    z, noise = torch.ones(2, 2), NOISE
    a, b = (s.sample_with_logits(z, noise) for s in (sampler, fresh))
    packed = all(map(torch.equal, sampler._packed, fresh._packed))
    return packed and sampler.plan == fresh.plan and a.images.equal(b.images) and a.logits.equal(b.logits)


@pytest.mark.parametrize("name", DECODERS)
def test_after_a_step_of_an_optimizer(name: str) -> None:
    torch.manual_seed(0)
    decoder = DECODERS[name]()
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    before = sampler.sample_with_logits(torch.ones(2, 2), NOISE).logits
    for _ in range(3):
        trained(decoder)
        kept = sampler.sample_with_logits(torch.ones(2, 2), NOISE).logits
        assert kept.equal(before)  # a sampler stays what it is until it is refreshed
        sampler.refresh()
        before = sampler.sample_with_logits(torch.ones(2, 2), NOISE).logits
        assert not kept.equal(before) and equal(sampler, vf.PixelCNNSampler(decoder, "cpu"))


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[pytest.mark.slow] * (row == "triton")) for row in backends_of("pixelcnn_sample")]
)
def test_on_every_row(row: str, request: pytest.FixtureRequest) -> None:
    if row == "cuda":
        request.getfixturevalue("cuda")
    else:
        require(row)
    torch.manual_seed(0)
    decoder = vf.PixelCNNDecoder(1, 0, 4, 1, image_size=(3, 3), initial_kernel=3)
    sampler, noise = vf.PixelCNNSampler(decoder, row), torch.rand(1, 1, 3, 3)
    trained(decoder)
    sampler.refresh()
    fresh = vf.PixelCNNSampler(decoder, row)
    assert sampler.sample_with_logits(None, noise).logits.equal(fresh.sample_with_logits(None, noise).logits)


def test_no_program_is_written_where_weights_lie_in_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the default decoder; weights that are dead, but for the mask, may be anything."""
    decoder = gated()
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    trained(decoder)
    with torch.no_grad():
        decoder.initial_conv.weight[:, :, 2, 2] = float("nan")  # masks hide it
    fresh = vf.PixelCNNSampler(decoder, "cpu")
    monkeypatch.setattr("vlae_fast.sampling.packed.write_program", None)
    sampler.refresh()
    assert equal(sampler, fresh)


def replaced_layer(decoder: Any) -> None:
    decoder.final_conv = nn.Conv2d(6, 1, 1)


def replaced_data(decoder: Any) -> None:
    decoder.final_conv.weight.data = torch.randn_like(decoder.final_conv.weight)


def written_data(decoder: Any) -> None:
    decoder.final_conv.weight.data.mul_(2)


def transposed_data(decoder: Any) -> None:
    """The memory stays, and the order in which it is read does not."""
    decoder.decoder_layers[0].weight.data = decoder.decoder_layers[0].weight.data.transpose(2, 3)


def replaced_parameter(decoder: Any) -> None:
    decoder.final_conv.bias = nn.Parameter(torch.ones(1))


def replaced_code_map(decoder: Any) -> None:
    decoder.code_map = copy.deepcopy(decoder.code_map)
    trained(decoder.code_map)


def other_activation(decoder: Any) -> None:
    decoder.initial_conv.activation = "elu"


def one_layer_less(decoder: Any) -> None:
    del decoder.decoder_layers[1]


CHANGES = [
    replaced_layer, replaced_data, written_data, transposed_data, replaced_parameter, replaced_code_map,
    other_activation, one_layer_less,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_is_changed(change: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    decoder = gated()
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    change(decoder)
    sampler.refresh()
    assert equal(sampler, vf.PixelCNNSampler(decoder, "cpu"))


class OfItsOwn(nn.Module):
    """Attention, and a head whose parameters come in an order of the decoder's own, all zero at first."""

    input_dim, image_size = 1, SIZE

    def __init__(self, order: list[int] | None = None) -> None:
        super().__init__()
        self.first, self.order = vf.MaskedConv2d("A", 1, 12, 3), order
        self.parts = nn.ModuleList(nn.Conv2d(12, 4, 1) for _ in range(3))
        self.last = nn.Conv2d(4, 1 if order is None else len(order), 1)
        self.likelihood = None if order is None else make_likelihood("categorical", 1, levels=len(order))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def write_program(self, program: Any) -> None:
        h = program.conv(self.first, 0)
        q, k, v = (program.add([(h, part.weight, ((0, 0),))], part.bias) for part in self.parts)
        program.add([(program.attend(q, k, v, 2), self.last.weight, ((0, 0),))], self.last.bias)
        if self.order is not None:
            program.reorder(self.order)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = self.first(x)
        q, k, v = (part(h).flatten(2).unflatten(1, (2, 2)).transpose(2, 3) for part in self.parts)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out = self.last(seen.transpose(2, 3).flatten(1, 2).unflatten(2, SIZE))
        return out if self.order is None else out[:, self.order]


@pytest.mark.parametrize("order", [None, [2, 0, 1]], ids=["attention", "in an order of its own"])
def test_weights_that_a_program_moves(order: list[int] | None) -> None:
    """Zeros look alike wherever they lie: the place of weights that were moved is not where the module has them."""
    torch.manual_seed(0)
    decoder = OfItsOwn(order)
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    trained(decoder)
    sampler.refresh()
    logits, fresh = (s.sample_with_logits(None, NOISE).logits for s in (sampler, vf.PixelCNNSampler(decoder, "cpu")))
    assert logits.equal(fresh) and logits.abs().amax() > 0


class Scaled(nn.Module):
    """A setting in a list, which may be changed in place."""

    input_dim, image_size, likelihood = 1, SIZE, None

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scales = vf.MaskedConv2d("A", 1, 1, 3), [1.0]

    def write_program(self, program: Any) -> None:
        self.forward(torch.zeros(1, 1, *SIZE))
        program.conv(self.layer, 0)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            self.layer.bias.fill_(self.scales[0])
        return self.layer(x)


def test_what_a_list_holds_is_seen() -> None:
    decoder = Scaled()
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    decoder.scales[0] = 3.0
    sampler.refresh()
    logits, fresh = (s.sample_with_logits(None, NOISE).logits for s in (sampler, vf.PixelCNNSampler(decoder, "cpu")))
    assert logits.equal(fresh)


class Colours(nn.Module):
    """G sees R by a weight, which may be zero: then both are drawn at once."""

    input_dim, image_size = 2, SIZE

    def __init__(self) -> None:
        super().__init__()
        self.layer = vf.MaskedConv2d("A", 2, 2, 3, image_channels=2)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.layer(x)

    def write_program(self, program: Any) -> None:
        program.conv(self.layer, 0)


def test_a_zero_between_channels_changes_the_plan() -> None:
    torch.manual_seed(0)
    decoder, noise = Colours(), torch.rand(2, 2, *SIZE)
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    weight = decoder.layer.weight
    plans = []
    for value in (1.0, 0.0, 2.0):
        with torch.no_grad():
            weight[1, 0, 1, 1] = value
        sampler.refresh()
        fresh = vf.PixelCNNSampler(decoder, "cpu")
        assert sampler.plan == fresh.plan and sampler._packed[0].equal(fresh._packed[0])
        assert sampler.sample(None, noise).equal(vf.naive_sample(decoder, None, noise))
        plans.append(sampler.plan)
    assert plans[0] == plans[2] != plans[1]


def test_a_weight_that_is_not_finite_is_refused_and_the_sampler_stays() -> None:
    decoder = gated()
    sampler = vf.PixelCNNSampler(decoder, require("cpu"))
    sampler.refresh()
    before = sampler.sample_with_logits(torch.ones(2, 2), NOISE).logits
    with torch.no_grad():
        decoder.final_conv.weight[0, 3] = float("nan")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"weights\[\d+\] must be finite, got nan at index 3"):
            sampler.refresh()
    assert sampler.sample_with_logits(torch.ones(2, 2), NOISE).logits.equal(before)


def test_a_decoder_that_was_traced() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(vf.MaskedConv2d("A", 1, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 1))
    sampler = vf.fast_sampler(decoder, (1, *SIZE), backend=require("cpu"))
    trained(decoder)
    sampler.refresh()
    fresh = vf.fast_sampler(decoder, (1, *SIZE), backend="cpu")
    assert sampler._packed[0].equal(fresh._packed[0])
    assert sampler.sample(None, NOISE).equal(fresh.sample(None, NOISE))


def test_factorized_samplers_have_it_too() -> None:
    torch.manual_seed(0)
    decoder = vf.models.decoders.MLPDecoder(1, 2, 8, 1, image_size=SIZE)
    sampler = FactorizedSampler(decoder)
    trained(decoder)
    z = torch.ones(1, 2)
    expected = decoder(NOISE[:1], z)
    assert not sampler.sample_with_logits(z, NOISE[:1]).logits.equal(expected)
    sampler.refresh()
    assert sampler.sample_with_logits(z, NOISE[:1]).logits.equal(expected)


SMALL: dict[str, Any] = {"latent_dim": 2, "hidden_dim": 6, "n_layers": 1, "image_size": (8, 8), "use_flow": False}


def images_of(model: VLAE) -> Tensor:
    return model.sample(4, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("change", [trained, *CHANGES[:-1]], ids=lambda change: change.__name__)
def test_a_model_samples_from_its_weights_as_they_are(change: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    model = VLAE(**SMALL)
    with torch.no_grad():
        model.decoder.final_conv.weight.mul_(10)
    images_of(model)
    kept = model._kept_sampler
    images_of(model)
    assert kept is model._kept_sampler
    change(model.decoder)
    got = images_of(model)
    z = model.sample_prior(4, generator := torch.Generator().manual_seed(0))
    assert got.equal(model.sampler().sample(z, generator=generator))


def test_a_forward_of_its_own_is_still_refused() -> None:
    model = VLAE(**SMALL)
    images_of(model)
    forward = model.decoder.forward
    model.decoder.forward = lambda x, z: 2 * forward(x, z) + 1  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"decoder\.forward must be"):
        images_of(model)


def test_copies_of_a_model_have_samplers_of_their_own() -> None:
    model = VLAE(**SMALL)
    images = images_of(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._kept_sampler is None and images_of(other).equal(images)
        assert list(other.state_dict()) == list(model.state_dict())


def test_inference_mode_and_outside_of_it() -> None:
    model = VLAE(**SMALL)
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            trained(model.decoder) if not mode else None
            got = images_of(model)
        assert got.equal(images_of(copy.deepcopy(model)))
