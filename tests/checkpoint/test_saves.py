"""Saves can be loaded, a load gives files of one save, and a part of one's own comes back."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.checkpoints import edit, save, trained
from torch import Tensor

from vlae_fast import VLAE, checkpoint, training
from vlae_fast import data as vf_data
from vlae_fast.checkpoint import reading
from vlae_fast.checkpoint.folder import alone
from vlae_fast.layers import MaskedConv2d, MaskedLinear

pytest.importorskip("safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "c")
    return tmp_path / "c"


class OwnEncoder(torch.nn.Module):
    """An encoder that somebody puts in the place of the model's; its BatchNorm counts batches in an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(36), torch.nn.Linear(36, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.net(x).chunk(2, 1)
        return mu, logvar


def plain_save(folder: Path, model: VLAE, kind: type[torch.optim.Optimizer] = torch.optim.Adam) -> None:
    checkpoint.save(folder, model, kind(model.parameters()), epoch=0, training={}, history=[])


def test_an_encoder_of_ones_own_comes_back_by_its_class(folder: Path) -> None:
    model = checkpoint.load(folder).model
    model.encoder = OwnEncoder()
    plain_save(folder, model)
    found = checkpoint.load(folder).model
    assert type(found.encoder) is OwnEncoder
    x = torch.rand(3, 1, 6, 6)
    assert all(a.equal(b) for a, b in zip(model.eval().encoder(x), found.encoder(x), strict=True))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("os:system", r"encoder must be of a class of modules, got 'os:system'"),
        ("not.imported:Encoder", r"encoder must be of a class at the top of a module that is imported"),
        ("torch.nn:Linear", r"encoder must be of a class that is made without arguments"),
        ("torch.nn:Identity", r"tensors must be those of config\.json: missing none, extra encoder"),
        (7, r"parts must name classes of encoder, got 'encoder': 7"),
    ],
)
def test_hostile_parts(folder: Path, kind: object, message: str) -> None:
    edit(folder, {"parts": {"encoder": kind}})
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder)


def half_width(model: VLAE) -> None:
    model.decoder.final_conv = torch.nn.Conv2d(4, 1, 1, bias=False)  # type: ignore[assignment]


def with_weight_norm(model: VLAE) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.decoder.final_conv)


def with_nan(model: VLAE) -> None:
    torch.nn.init.constant_(model.decoder.final_conv.bias, float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half_width, r"tensors must be those of config\.json: missing decoder\.final_conv\.bias"),
        (with_weight_norm, r"extra decoder\.final_conv\.parametrizations"),
        (with_nan, r"decoder\.final_conv\.bias must be finite"),
    ],
)
def test_a_model_that_its_options_do_not_describe_is_not_saved(
    folder: Path, change: Callable[[VLAE], None], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, _ = trained()
    change(model)
    with pytest.raises(ValueError, match=message):
        plain_save(folder, model)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_that_could_not_be_saved_does_not_begin(tmp_path: Path) -> None:
    model, _ = trained()
    half_width(model)
    images = torch.zeros(4, 1, 6, 6, dtype=torch.uint8)
    data = vf_data.Images("none", images, images, images, "4/4/4")
    with pytest.raises(ValueError, match=r"missing decoder\.final_conv\.bias"):
        training.train(model, data, epochs=1, out_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_dead_weights_that_are_not_finite_are_written_as_zero(folder: Path) -> None:
    model, _ = trained()
    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, MaskedConv2d | MaskedLinear)]
    live = {path: torch.where(layer.mask, layer.weight.detach(), 0) for path, layer in layers}
    assert {type(layer) for _, layer in layers} >= {MaskedConv2d, MaskedLinear}
    with torch.no_grad():
        for _, layer in layers:
            layer.weight[~layer.mask] = float("nan")
    plain_save(folder, model)
    found = checkpoint.load(folder).model
    for path, weight in live.items():
        assert found.get_submodule(path).weight.equal(weight), path


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop])
def test_an_optimizer_that_could_not_go_on_is_refused(folder: Path, kind: type[torch.optim.Optimizer]) -> None:
    model, _ = trained()
    with pytest.raises(ValueError, match=rf"optimizer must be one of Adam, AdamW, Adamax.*got {kind.__name__}"):
        plain_save(folder, model, kind)
    with pytest.raises(ValueError, match=rf"got {kind.__name__}"):
        checkpoint.load_optimizer(checkpoint.load(folder), kind(model.parameters()))


def test_what_is_loaded_is_of_one_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another save replaces the folder between config.json and the tensors: it is read again."""
    read, later = reading.read, trained(steps=3)
    saves = [lambda: checkpoint.save(folder, *later, epoch=2, training={}, history=[{"epoch": 1}, {"epoch": 2}])]

    def interleaved(path: Path) -> dict[str, Any]:
        config = read(path)
        if saves:
            saves.pop()()
        return config

    monkeypatch.setattr(reading, "read", interleaved)
    found = checkpoint.load(folder)
    assert found.epoch == 2
    for name, tensor in later[0].state_dict().items():
        assert found.model.state_dict()[name].equal(tensor), name


def test_an_optimizer_of_another_save_is_refused(folder: Path) -> None:
    found = checkpoint.load(folder)
    model, optimizer = trained(steps=3)
    checkpoint.save(folder, model, optimizer, epoch=0, training={}, history=[])
    with pytest.raises(ValueError, match=r"optimizer\.safetensors: must be of the same save as its config\.json"):
        checkpoint.load_optimizer(found, torch.optim.Adam(found.model.parameters()))


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of folders")
def test_saves_into_one_place_take_turns(folder: Path) -> None:
    model, _ = trained()
    saved = threading.Event()
    other = threading.Thread(target=lambda: (plain_save(folder, model), saved.set()))
    with alone(folder.parent):
        other.start()
        assert not saved.wait(0.3)
        assert checkpoint.load(folder).epoch == 1  # readers wait for nobody
    other.join()
    assert saved.is_set() and checkpoint.load(folder).epoch == 0
