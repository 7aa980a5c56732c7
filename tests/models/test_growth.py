"""Grown models are the function of the small one, and all that is new in them can be trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlae_fast import VLAE
from vlae_fast.models import grow
from vlae_fast.models.growth import copy_weights

SMALL: dict[str, Any] = {
    "latent_dim": 4, "hidden_dim": 6, "n_layers": 2, "image_size": (8, 8), "flow_hidden": 12, "flow_steps": 1,
    "initial_kernel": 3, "residual": True,
}  # fmt: skip


def trained(**changes: Any) -> VLAE:
    """A model whose every weight is in use, as after training: nothing is at the 0 that it starts at."""
    torch.manual_seed(0)
    model = VLAE(**(SMALL | changes))
    model(images())  # in training mode: batch normalisation has seen something
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def images() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()


def terms(model: VLAE) -> torch.Tensor:
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return torch.stack(list(model.loss_terms(images(), noise=noise)))


GROWN: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "wider": ({}, {"hidden_dim": 10}),
    "wider by one": ({}, {"hidden_dim": 7}),
    "deeper": ({}, {"n_layers": 4}),
    "both, and the prior": ({}, {"hidden_dim": 9, "n_layers": 3, "flow_steps": 3}),
    "from no layer": ({"n_layers": 0}, {"n_layers": 2}),
    "wider without residual": ({"residual": False, "kernel_size": 1}, {"hidden_dim": 10}),
    "the encoder alone": ({"decoder": "resnet", "residual": False, "initial_kernel": 7}, {"encoder_hidden": 10}),
    "the decoder alone": ({"encoder_hidden": 6}, {"hidden_dim": 10}),
    "strided": ({"encoder": "strided", "encoder_norm": "batch"}, {"hidden_dim": 10}),
    "mlp": ({"encoder": "mlp", "encoder_norm": "batch"}, {"hidden_dim": 10}),
    "resnet": ({"encoder": "resnet", "encoder_norm": "weight", "encoder_units": 5}, {"hidden_dim": 10}),
    "a map": ({"encoder": "resnet", "latent_map": (2, 2)}, {"hidden_dim": 10, "flow_steps": 2}),
    "iaf": ({"posterior": "iaf"}, {"hidden_dim": 10, "n_layers": 3}),
    "colours": ({"likelihood": "logistic_mixture", "components": 2}, {"hidden_dim": 10, "n_layers": 3}),
}


@pytest.mark.parametrize("name", GROWN)
def test_a_grown_model_computes_the_same(name: str) -> None:
    changes, larger = GROWN[name]
    small = trained(**changes)
    grown = grow(small, **larger)
    before, after = terms(small), terms(grown)
    assert {key: grown.config[key] for key in larger} == larger
    assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in small.parameters())
    torch.testing.assert_close(after, before, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("name", GROWN)
def test_everything_new_has_a_gradient_after_some_steps(name: str) -> None:
    changes, larger = GROWN[name]
    small = trained(**changes)
    grown = grow(small, **larger).train()
    sizes = {key: tensor.shape for key, tensor in small.named_parameters()}
    new = [key for key, tensor in grown.named_parameters() if tensor.shape != sizes.get(key)]
    optimizer = torch.optim.SGD(grown.parameters(), lr=1e-3)
    for _ in range(4):  # a step for each layer of the encoder that the gradient must come through
        optimizer.zero_grad()
        torch.stack(list(grown.loss_terms(images()))).sum(0).mean().backward()
        optimizer.step()
    assert new
    for key in new:
        gradient = grown.get_parameter(key).grad
        assert gradient is not None
        alive = gradient.flatten(1).abs().sum(1) > 0 if gradient.dim() > 1 else gradient != 0
        if key.startswith("prior."):  # a ReLU may be off for all of a few images
            assert alive.any(), key
        else:
            assert alive.all(), f"{key}: no gradient in channels {(~alive).nonzero().flatten().tolist()}"


def test_new_channels_differ_from_each_other_and_from_the_old_ones() -> None:
    """Copies would stay copies."""
    grown = grow(trained(), hidden_dim=12)
    rows = grown.get_parameter("decoder.initial_conv.weight").flatten(1)
    distances = torch.cdist(rows, rows) + 9 * torch.eye(len(rows))
    assert distances.min() > 1e-3


def test_a_grown_model_is_of_its_device_and_mode() -> None:
    small = trained().double()
    assert next(grow(small, hidden_dim=8).parameters()).dtype == torch.float64
    assert not grow(small, hidden_dim=8).training and grow(small.train(), hidden_dim=8).training


def test_samples_of_a_grown_model_are_those_of_the_small_one() -> None:
    """In float64 no probability is within rounding of a noise."""
    small = trained().double()
    grown = grow(small, hidden_dim=9, n_layers=3)
    before, after = (model.sample(4, torch.Generator().manual_seed(3)) for model in (small, grown))
    assert after.equal(before)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "narrower": ({}, {"hidden_dim": 5}, r"grow: hidden_dim must be at least that of the model to start from, 6, got 5"),
    "another z": ({}, {"latent_dim": 8}, r"grow: latent_dim must be that .*, 4, since only hidden_dim, .* got 8"),
    "another decoder": ({"decoder": "two-stack", "residual": False}, {"hidden_dim": 8},
                        r"grow: hidden_dim must be that .*, 6, since of the decoders only gated .* 'two-stack', got 8"),
    "no residual": ({"residual": False}, {"n_layers": 3}, r"n_layers must .*, 2, where the decoder has no residual"),
    "a window": ({"receptive_field": 7}, {"n_layers": 3}, r"n_layers must .* where receptive_field 7 decides"),
    "iaf": ({"posterior": "iaf"}, {"flow_steps": 2}, r"flow_steps must .* where posterior is 'iaf'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_grow_is_said(name: str) -> None:
    changes, larger, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        grow(VLAE(**(SMALL | changes)), **larger)


def test_parts_of_ones_own_are_refused_and_nothing_is_written() -> None:
    small, into = trained(), trained(hidden_dim=8)
    small.encoder = torch.nn.Linear(2, 2)  # type: ignore[assignment]
    before = {name: tensor.clone() for name, tensor in into.state_dict().items()}
    with pytest.raises(ValueError, match=r"grow: encoder\.weight must be \(2, 2\) or larger, .*, got None"):
        copy_weights(small, into)
    assert all(tensor.equal(before[name]) for name, tensor in into.state_dict().items())
