"""Runs that start from a checkpoint's weights, grown where the model is larger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import halves, interrupting, new_model, run, same

from vlae_fast import checkpoint, training
from vlae_fast.evaluation import evaluate
from vlae_fast.training import loop

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    run(new_model(residual=True), folder, epochs=3, polyak=0.5)
    return folder


def starting_loss(model: Any, first: Path, out: Path, **settings: Any) -> float:
    """-ELBO of the validation images before the first update that counts."""
    still = {"epochs": 1, "lr": 1e-12, "init": first} | settings
    return run(model, out, **still)[-1]["valid_loss"]


def test_the_weights_are_the_checkpoints_and_the_rest_is_new(first: Path, tmp_path: Path) -> None:
    found = checkpoint.load(first)
    before = -evaluate(found.model, halves(), "valid").elbo
    model = new_model(residual=True)
    history = run(model, tmp_path / "a", epochs=1, lr=1e-12, init=first)
    assert math.isclose(history[-1]["valid_loss"], before, rel_tol=1e-5)
    assert [row["epoch"] for row in history] == [1]
    new = checkpoint.load(tmp_path / "a")
    assert new.training["init"] == str(first) and "init" not in found.training
    optimizer = torch.optim.Adam(new.model.parameters())
    checkpoint.load_optimizer(new, optimizer)
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}


@pytest.mark.parametrize("larger", [{"hidden_dim": 12}, {"n_layers": 2}, {"hidden_dim": 10, "n_layers": 3}])
def test_a_larger_model_starts_at_the_loss_of_the_small_one(
    larger: dict[str, int], first: Path, tmp_path: Path
) -> None:
    before = -evaluate(checkpoint.load(first).model, halves(), "valid").elbo
    after = starting_loss(new_model(residual=True, **larger), first, tmp_path)
    assert math.isclose(after, before, rel_tol=1e-5)


def test_a_weight_normalised_model_is_not_initialised_again(tmp_path: Path) -> None:
    """Even where its layers look as if nothing had trained or initialised them."""
    plain = new_model(encoder_norm="weight")
    plain.save_pretrained(tmp_path / "first")
    before = -evaluate(plain, halves(), "valid").elbo
    after = starting_loss(new_model(encoder_norm="weight"), tmp_path / "first", tmp_path / "second")
    assert math.isclose(after, before, rel_tol=1e-5)


def test_a_fine_tuning_by_importance_weights_goes_on_bit_for_bit(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = {"init": first, "objective": "iwae", "samples": 3, "lr": 2e-4, "polyak": 0.9, "lr_schedule": "cosine"}
    whole, part, resumed = (new_model(residual=True, hidden_dim=12) for _ in range(3))
    run(whole, tmp_path / "whole", **tuning)
    with monkeypatch.context() as stopped:
        stopped.setattr(loop, "update", interrupting(before=4))
        with pytest.raises(training.Interrupted):
            run(part, tmp_path / "parts", **tuning)
    torch.nn.init.normal_(resumed.decoder.final_conv.weight)
    run(resumed, tmp_path / "parts", resume=True, **tuning)
    assert same(whole, resumed)
    with pytest.raises(ValueError, match=r"resume: init must be that of .*, '.*', got None"):
        run(new_model(residual=True, hidden_dim=12), tmp_path / "parts", resume=True, **(tuning | {"init": None}))


def test_another_model_is_refused_before_anything_is_written(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grow: latent_dim must be that of the model to start from, 2, .* got 3"):
        run(new_model(residual=True, latent_dim=3), tmp_path / "a", init=first)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: .* is not an existing folder"):
        run(new_model(), tmp_path / "a", init=tmp_path / "none")
    assert not (tmp_path / "a").exists()
