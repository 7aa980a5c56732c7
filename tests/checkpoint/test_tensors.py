"""checkpoint/tensors.py: an optimizer's state and the weights in training come back, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vlae_fast.checkpoint import tensors

pytest.importorskip("safetensors")
ADAM, ADAMAX = torch.optim.Adam, torch.optim.Adamax


def stepped(kind: type[torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of which one layer never got a gradient."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 1))
    optimizer = kind(model.parameters())
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("kind", [ADAM, torch.optim.AdamW, ADAMAX])
def test_round_trip(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = stepped(kind)
    trained = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    tensors.write(tmp_path / "o", tensors.optimizer_state(model, optimizer, trained), "g")
    fresh = kind(model.parameters())
    found = tensors.read_optimizer(tmp_path / "o", model, fresh, averaged=True, generation="g")
    assert all(found[name].equal(tensor) for name, tensor in trained.items()) and found.keys() == trained.keys()
    assert optimizer.state.keys() == fresh.state.keys()
    for parameter, state in optimizer.state.items():
        assert all(fresh.state[parameter][what].equal(tensor) for what, tensor in state.items())


@pytest.mark.parametrize(
    ("written", "averaged", "message"),
    [
        (ADAMAX, False, "missing 0.bias/exp_avg_sq, 0.weight/exp_avg_sq, extra 0.bias/exp_inf, 0.weight/exp_inf"),
        (ADAM, True, r"missing 0.bias/trained, .* extra none"),
    ],
)
def test_state_of_another_run(
    written: type[torch.optim.Optimizer], averaged: bool, message: str, tmp_path: Path
) -> None:
    model, optimizer = stepped(written)
    tensors.write(tmp_path / "o", tensors.optimizer_state(model, optimizer, {}), "g")
    with pytest.raises(ValueError, match=message):
        tensors.read_optimizer(tmp_path / "o", model, ADAM(model.parameters()), averaged, generation="g")


def test_trained_weights_of_a_run_without_an_average(tmp_path: Path) -> None:
    model, optimizer = stepped(ADAM)
    tensors.write(tmp_path / "o", tensors.optimizer_state(model, optimizer, dict(model.named_parameters())), "g")
    with pytest.raises(ValueError, match=r"missing none, extra 0.bias/trained, .*1.weight/trained"):
        tensors.read_optimizer(tmp_path / "o", model, ADAM(model.parameters()), averaged=False, generation="g")
