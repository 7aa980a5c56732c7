"""Runs of normalised models: running statistics are saved, resumed bit for bit, averaged, and used in evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import halves, interrupting, new_model, run, same
from torch import Tensor, nn

from vlae_fast import VLAE, checkpoint, training
from vlae_fast.evaluation import evaluate, importance_bound
from vlae_fast.training import loop
from vlae_fast.training.average import Average

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

BATCH = {"encoder_norm": "batch", "decoder": "deconv", "decoder_norm": "batch", "use_flow": False}
WEIGHT = {"encoder_norm": "weight", "decoder": "mlp", "decoder_norm": "weight", "use_flow": False}
BOTH = {"encoder": "mlp", "encoder_norm": "batch", "decoder": "resnet", "n_pointwise": 1, "use_flow": False}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "batch": (BATCH, {}),
    "weight": (WEIGHT, {"polyak": 0.9}),
    "batch and polyak": (BATCH, {"polyak": 0.9}),
    "both and polyak": (BOTH, {"polyak": 0.9}),
}


@pytest.mark.parametrize(("options", "settings"), RUNS.values(), ids=RUNS.keys())
def test_a_normalised_run_resumes_bit_for_bit(
    options: dict[str, Any], settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = new_model(**options), new_model(**options)
    history = run(whole, tmp_path / "whole", epochs=3, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupting(before=4))  # of 3 steps an epoch
        with pytest.raises(training.Interrupted):
            run(new_model(**options), tmp_path / "parts", epochs=3, **settings)
    again = run(parts, tmp_path / "parts", epochs=3, resume=True, **settings)
    assert same(whole, parts)
    assert [row["valid_loss"] for row in again] == [row["valid_loss"] for row in history]
    for name in ("model", "optimizer"):
        ours, theirs = (
            (tmp_path / out / "checkpoint" / f"{name}.safetensors").read_bytes() for out in ("whole", "parts")
        )
        assert ours == theirs
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]


def test_running_statistics_come_back_and_are_used(tmp_path: Path) -> None:
    """The model is as it was trained: evaluation and the importance bound look at no batch, and change nothing."""
    model = new_model(**BATCH)
    history = run(model, tmp_path)
    found = checkpoint.load(tmp_path / "checkpoint").model
    counts = [b.item() for name, b in found.named_buffers() if name.endswith("num_batches_tracked")]
    assert len(counts) == 4 and set(counts) == {6}  # two epochs of three steps; none by the initialisation
    assert same(found, model)
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    bounds = set()
    for in_training in (False, True):
        found.train(in_training)
        assert -evaluate(found, halves(), "valid").elbo == history[-1]["valid_loss"]
        bounds.add(importance_bound(found, halves(), "valid", samples=64).nll)
        assert found.training == in_training
    (bound,) = bounds
    assert history[-1]["valid_loss"] - 5 < bound < history[-1]["valid_loss"] + 0.1
    assert all(before[name].equal(tensor) for name, tensor in found.state_dict().items())


def test_running_statistics_are_averaged_by_hand() -> None:
    model = nn.BatchNorm1d(1, momentum=1.0)
    average = Average(model, 0.5)
    for step, value in enumerate((1.0, 2.0, 4.0)):
        model(torch.full((2, 1), value))
        average.update(step)
    with average.in_place() as trained:
        assert model.running_mean is not None and model.running_mean.item() == pytest.approx(3.0)
        assert trained["running_mean"].item() == 4.0 and model.num_batches_tracked == 3
    assert model.running_mean.item() == 4.0


def test_a_run_from_before_statistics_were_averaged_goes_on(tmp_path: Path) -> None:
    """Its file has the weights in training alone; the statistics of its model are those in training as well."""
    safetensors = pytest.importorskip("safetensors.torch")
    run(new_model(**BATCH), tmp_path, epochs=1, polyak=0.9)
    path = tmp_path / "checkpoint" / "optimizer.safetensors"
    tensors = safetensors.load_file(path)
    old = {name: tensor for name, tensor in tensors.items() if "running_" not in name}
    assert len(old) == len(tensors) - 8
    safetensors.save_file(old, path)
    assert len(run(new_model(**BATCH), tmp_path, epochs=2, polyak=0.9, resume=True)) == 2


def test_a_last_batch_of_one_image_is_refused_before_training(tmp_path: Path) -> None:
    mlp = {"encoder": "mlp", "encoder_norm": "batch"}
    for size in (1, 13, 39):  # of 40 images
        with pytest.raises(
            ValueError, match=rf"batch_size: must leave no batch of one image of 40: .* of one, got {size}"
        ):
            run(new_model(**mlp), tmp_path, batch_size=size)
    assert not any(tmp_path.iterdir())
    run(new_model(), tmp_path / "plain", batch_size=39, epochs=1)
    run(new_model(**mlp), tmp_path / "two", batch_size=39, samples=2, epochs=1)
    run(new_model(**mlp), tmp_path / "all", batch_size=99, epochs=1)


class OwnEncoder(nn.Module):
    """Somebody's encoder with batch normalisation, whose class can be found again."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.net(x).chunk(2, 1)
        return mu, logvar


def with_encoder(encoder: nn.Module) -> VLAE:
    model = new_model()
    model.encoder = encoder  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("settings", [{}, {"polyak": 0.9}], ids=("plain", "polyak"))
def test_ones_own_encoder_with_batch_norm_trains_is_saved_and_resumed(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = OwnEncoder().state_dict()
    models = [with_encoder(OwnEncoder()) for _ in range(3)]
    for model in models:
        model.encoder.load_state_dict(state)
    run(models[0], tmp_path / "whole", epochs=2, **settings)
    found = checkpoint.load(tmp_path / "whole" / "checkpoint").model
    assert type(found.encoder) is OwnEncoder and same(found, models[0])
    run(models[1], tmp_path / "parts", epochs=1, **settings)
    run(models[2], tmp_path / "parts", epochs=2, resume=True, **settings)
    assert same(models[0], models[2])


def test_an_encoder_that_could_not_be_loaded_is_refused_before_training(tmp_path: Path) -> None:
    local = type("Local", (OwnEncoder,), {})
    wrong: list[tuple[nn.Module, str]] = [
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4)), r"extra encoder\.1\.bias"),
        (local(), "encoder must be of a class at the top of a module that is imported"),
    ]
    for encoder, message in wrong:
        with pytest.raises(ValueError, match=message):
            run(with_encoder(encoder), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_labels_and_noise_go_with_batch_norm(tmp_path: Path) -> None:
    images = halves()
    labels = {split: (images.pixels(split)[:, 0, 0, 0] > 99).long() for split in ("train", "valid", "test")}
    model = new_model(**{**BATCH, "encoder": "mlp", "decoder": "mlp", "n_classes": 2})
    labelled = dataclasses.replace(images, labels=labels)
    history = training.train(
        model, labelled, epochs=2, out_dir=tmp_path, batch_size=16, samples=2, denoise=0.1, progress=False
    )
    assert len(history) == 2
