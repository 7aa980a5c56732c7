"""checkpoint.py: what is saved comes back, interruptions lose nothing, damaged and hostile files are named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.checkpoints import edit, save, trained, update
from cases.deadline import slow_where

from vlae_fast import VLAE, checkpoint

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "c")
    return tmp_path / "c"


def test_round_trip(tmp_path: Path) -> None:
    model = save(tmp_path / "runs" / "c", epoch=2)
    found = checkpoint.load(tmp_path / "runs" / "c")
    assert found.epoch == 2 and found.training == {"seed": 3} and found.history == [{"epoch": 1.0}, {"epoch": 2.0}]
    assert found.model.config == model.config and not found.model.training
    for name, tensor in model.state_dict().items():
        assert found.model.state_dict()[name].equal(tensor), name
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["c"]
    assert sorted(p.name for p in (tmp_path / "runs" / "c").iterdir()) == sorted(checkpoint.folder.FILES)


def test_the_next_update_after_loading_is_the_same(tmp_path: Path) -> None:
    model, optimizer = trained()
    checkpoint.save(tmp_path / "c", model, optimizer, epoch=0, training={}, history=[])
    found = checkpoint.load(tmp_path / "c")
    theirs = torch.optim.Adam(found.model.parameters(), lr=1e-2)
    checkpoint.load_optimizer(found, theirs)
    for _ in range(2):
        update(model, optimizer)
        update(found.model, theirs)
    for (name, ours), other in zip(model.named_parameters(), found.model.parameters(), strict=True):
        assert ours.equal(other), name


class StopError(BaseException):
    """Stands for the power going away: not an Exception, so that no handler mends anything."""


DISK = ((safetensors, "save_file"), (Path, "write_text"), *((os, n) for n in ("fsync", "replace", "unlink", "rmdir")))


def disk_operations(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], stop_before: int = -1) -> list[str]:
    """Names of the changes on disk that `work` made; before the one of number `stop_before` the power goes away."""
    done: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if len(done) == stop_before:
                raise StopError
            done.append(name)
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        for module, name in DISK:
            patch.setattr(module, name, counted(name, getattr(module, name)))
        if stop_before < 0:
            work()
        else:
            with pytest.raises(StopError):
                work()
    return done


def only_previous(folder: Path) -> None:
    """A save was stopped between its two renames."""
    folder.rename(folder.with_name("c.previous"))


def with_leftovers(folder: Path) -> None:
    """One save was stopped while it wrote, another while it removed the old checkpoint."""
    for name in ("c.previous", "c.incomplete"):
        shutil.copytree(folder, folder.with_name(name))
        (folder.with_name(name) / "model.safetensors").unlink()


@slow_where(lambda before, **_: before is not only_previous)
@pytest.mark.parametrize(
    ("before", "renames"), [(lambda _: None, 2), (only_previous, 1), (with_leftovers, 2)],
    ids=["whole", "only previous", "leftovers"],
)  # fmt: skip
def test_a_save_interrupted_anywhere_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Callable[[Path], None], renames: int
) -> None:
    """The old or the new checkpoint is found, whole, whichever operation is the first that does not happen."""

    def start(name: str) -> Path:
        folder = tmp_path / name / "c"
        save(folder, epoch=1)
        before(folder)
        return folder

    folder = start("uninterrupted")
    operations = disk_operations(monkeypatch, lambda: save(folder, epoch=2))
    assert operations.count("replace") == renames and operations.count("fsync") == len(checkpoint.folder.FILES)
    found = []
    for number in range(len(operations)):
        folder = start(str(number))
        assert disk_operations(monkeypatch, lambda at=folder: save(at, epoch=2), number) == operations[:number]
        assert checkpoint.exists(folder)
        found.append(checkpoint.load(folder).epoch)
        save(folder, epoch=3)
        assert checkpoint.load(folder).epoch == 3
        assert [p.name for p in folder.parent.iterdir()] == ["c"]
    new = len(operations) - 1 - operations[::-1].index("replace")  # the rename that puts the new one into its place
    assert found == [1] * (new + 1) + [2] * (len(operations) - new - 1)


def test_stopped_between_the_two_renames(folder: Path) -> None:
    folder.rename(folder.with_name("c.previous"))
    assert checkpoint.exists(folder) and checkpoint.load(folder).epoch == 1


def test_missing_file(folder: Path) -> None:
    """Without the optimizer's state a model can be used, and not trained on."""
    (folder / "optimizer.safetensors").unlink()
    assert checkpoint.load(folder).epoch == 1
    with pytest.raises(FileNotFoundError, match=r"has no optimizer\.safetensors, which training on needs"):
        load_optimizer(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        checkpoint.load(folder)


def test_missing_folder(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not an existing folder"):
        checkpoint.load(folder / "nowhere")
    (folder.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no config.json"):
        checkpoint.load(folder.parent / "empty")


def test_a_run_is_loaded_by_its_folder(folder: Path) -> None:
    save(folder.parent / "run" / "checkpoint")
    by_run, by_checkpoint = (checkpoint.load(folder.parent / "run" / name) for name in ("", "checkpoint"))
    assert by_run.epoch == by_checkpoint.epoch
    assert all(a.equal(b) for a, b in zip(by_run.model.parameters(), by_checkpoint.model.parameters(), strict=True))


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_tensors(folder: Path, keep: int) -> None:
    for name, load in (("model", checkpoint.load), ("optimizer", load_optimizer)):
        path = folder / f"{name}.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=rf"{name}.safetensors: damaged or truncated safetensors file"):
            load(folder)
        path.write_bytes(whole)


def load_optimizer(folder: Path) -> None:
    found = checkpoint.load(folder)
    checkpoint.load_optimizer(found, torch.optim.Adam(found.model.parameters()))


BAD_JSON = {
    "broken": ('{"format": ', "not valid JSON"),
    "deep": ("[" * 100_000, "not valid JSON"),
    "binary": ("\x00\x01", "not valid JSON"),
    "list": ("[1]", "format must be 'vlae_fast.checkpoint', got 'list'"),
    "format": ('{"format": "zip"}', "format must be 'vlae_fast.checkpoint', got 'zip'"),
    "version": ('{"format": "vlae_fast.checkpoint", "version": 2}', "version must be 1, got 2"),
    "no model": ('{"format": "vlae_fast.checkpoint", "version": 1}', "model must be a JSON dict, got None"),
}


@pytest.mark.parametrize(("text", "message"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder)


def test_history_has_one_entry_per_epoch(folder: Path) -> None:
    edit(folder, {"epoch": 5})
    with pytest.raises(ValueError, match=r"history must have one entry per epoch \(5\), got 1"):
        checkpoint.load(folder)
    edit(folder, {"epoch": True})
    with pytest.raises(ValueError, match="epoch must be a JSON int, got True"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (1, "entry 1 must be a dict of finite numbers, got 1"),
        ({"epoch": 1, "loss": "low"}, "entry 1 must be a dict of finite numbers, got .*low"),
        ({"epoch": 1, "loss": True}, "entry 1 must be a dict of finite numbers, got .*True"),
        ({"epoch": 1, "loss": float("nan")}, "entry 1 must be a dict of finite numbers, got .*nan"),
        ({"epoch": 1, "loss": 10**400}, "entry 1 must be a dict of finite numbers"),
        ({}, "entry 1 must have epoch 1, got None"),
        ({"epoch": 2}, "entry 1 must have epoch 1, got 2"),
    ],
)
def test_bad_history(folder: Path, row: object, message: str) -> None:
    edit(folder, {"history": [row]})
    with pytest.raises(ValueError, match=f"config.json: history: {message}"):
        checkpoint.load(folder)


def test_what_could_not_be_loaded_is_not_saved(folder: Path) -> None:
    model, optimizer = trained()
    model.config["residual"] = 1
    with pytest.raises(ValueError, match="model: residual must be true or false, got 1"):
        checkpoint.save(folder, model, optimizer, epoch=0, training={}, history=[])
    assert checkpoint.load(folder).epoch == 1 and [p.name for p in folder.parent.iterdir()] == ["c"]


@pytest.mark.parametrize("value", [Path("data"), float("nan"), {1, 2}], ids=str)
def test_settings_that_json_has_not_are_refused_before_anything_is_written(value: object, folder: Path) -> None:
    model, optimizer = trained()
    with pytest.raises(ValueError, match="training: data must be a string, a finite number, true, false or null, got"):
        checkpoint.save(folder, model, optimizer, epoch=0, training={"data": value}, history=[])
    assert checkpoint.load(folder).epoch == 1 and [p.name for p in folder.parent.iterdir()] == ["c"]


def test_an_average_that_is_not_finite_is_not_saved(folder: Path) -> None:
    """Though the weights in training, of the same names, are."""
    model, optimizer = trained()
    in_training = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        model.decoder.final_conv.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"decoder\.final_conv\.bias must be finite"):
        checkpoint.save(folder, model, optimizer, epoch=0, training={}, history=[], trained=in_training)
    assert checkpoint.load(folder).epoch == 1


def test_dead_weights_in_training_may_be_nan(folder: Path) -> None:
    model, optimizer = trained()
    in_training = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    name = "decoder.initial_conv.weight"
    alive = model.decoder.initial_conv.mask
    in_training[name][~alive] = float("nan")
    checkpoint.save(folder, model, optimizer, epoch=0, training={}, history=[], trained=in_training)
    found = checkpoint.load(folder)
    loaded = checkpoint.load_optimizer(found, torch.optim.Adam(found.model.parameters()), averaged=True)
    assert torch.equal(loaded[name], torch.where(alive, in_training[name], 0))


def groups(model: torch.nn.Module) -> torch.optim.Adam:
    """Weights and biases apart, as weight decay has them: another order than that of the parameters."""
    parameters = list(model.parameters())
    weights, biases = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]
    return torch.optim.Adam([{"params": weights}, {"params": biases}])


def test_an_optimizer_of_several_groups_gets_each_state_for_its_own_parameter(folder: Path) -> None:
    model, _ = trained()
    optimizer = groups(model)
    update(model, optimizer)
    checkpoint.save(folder, model, optimizer, epoch=0, training={}, history=[])
    found = checkpoint.load(folder)
    loaded = groups(found.model)
    checkpoint.load_optimizer(found, loaded)
    pairs = list(zip(model.parameters(), found.model.parameters(), strict=True))
    assert all(torch.equal(optimizer.state[p]["exp_avg"], loaded.state[q]["exp_avg"]) for p, q in pairs)
    with pytest.raises(
        ValueError, match="must be of the loaded model's parameters, or of all those of a model like it"
    ):
        checkpoint.load_optimizer(found, groups(model))


def test_the_optimizer_of_another_model_is_not_saved(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizer must be of the model's parameters, got one of another's"):
        checkpoint.save(folder, trained()[0], trained()[1], epoch=0, training={}, history=[])


BAD_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"dropout": 0.5}, "does not build a VLAE: .*dropout"),
    "wrong type": ({"hidden_dim": "four"}, "model: hidden_dim must be an integer from 1 to 65,536, got 'four'"),
    "fraction": ({"n_layers": 1.0}, "model: n_layers must be an integer from 0 to 1,024, got 1.0"),
    "bool": ({"latent_dim": True}, "model: latent_dim must be an integer from 0 to 65,536, got True"),
    "even": ({"kernel_size": 4}, "model: does not build a VLAE: .*4"),
    "no steps": ({"flow_steps": 0}, "model: flow_steps must be an integer from 1 to 256, got 0"),
    "negative": ({"z_channels": -1}, "model: z_channels must be an integer from 0 to 65,536, got -1"),
    "flag as text": ({"use_flow": "no"}, "model: use_flow must be true or false, got 'no'"),
    "flag as number": ({"residual": 0}, "model: residual must be true or false, got 0"),
    "backend": ({"backend": None}, "model: backend must be a string, got None"),
    "no sides": ({"image_size": []}, r"model: image_size must be two integers from 1 to 4,096, got \[\]"),
    "three sides": ({"image_size": [9, 7, 3]}, r"model: image_size must be two integers .*, got \[9, 7, 3\]"),
    "side of zero": ({"image_size": [6, 0]}, r"model: image_size must be two integers .*, got \[6, 0\]"),
    "side as text": ({"image_size": [6, "6"]}, r"model: image_size must be two integers .*, got \[6, '6'\]"),
    "one side": ({"image_size": 6}, "model: image_size must be two integers .*, got 6"),
    "wider": ({"hidden_dim": 6}, r"must be \(.*\) according to config.json, found \("),
    "deeper": ({"n_layers": 2}, r"missing decoder.decoder_layers.1.*, extra none"),
    "no flow": ({"use_flow": False}, r"missing none, extra .*and \d+ more"),
    "too wide": ({"hidden_dim": 10**9}, "model: hidden_dim must be an integer from 1 to 65,536, got 1000000000"),
    "too deep": ({"n_layers": 10**6}, "model: n_layers must be an integer from 0 to 1,024, got 1000000"),
    "too large": ({"image_size": [28, 10**5]}, r"image_size must be two integers from 1 to 4,096, got \[28, 100000\]"),
    "terabytes": ({"hidden_dim": 60_000, "latent_dim": 60_000, "flow_hidden": 60_000}, "according to config.json"),
    "window": ({"kernel_size": 10_001}, "kernel_size must be an integer from 1 to 63, got 10001"),
    "not a number": ({"hidden_dim": float("nan")}, "hidden_dim must be an integer from 1 to 65,536, got nan"),
    "long list": ({"image_size": [1] * 10**4}, r"image_size must be two integers .*, got \[1, 1, [1, ]{,60}$"),
}


@pytest.mark.parametrize(("change", "message"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_bad_model_config(folder: Path, change: dict[str, Any], message: str) -> None:
    edit(folder, change, model=True)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder)


def test_tensors_that_do_not_fit(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.load_file(path)
    name = "decoder.final_conv.bias"
    safetensors.save_file(tensors | {name: torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=rf"{name} must be \(1,\) according to config.json, found \(3,\)"):
        checkpoint.load(folder)
    safetensors.save_file(tensors | {name: torch.full((1,), float("nan"))}, path)
    with pytest.raises(ValueError, match=rf"{name} must be finite"):
        checkpoint.load(folder)
    safetensors.save_file(tensors | {"evil": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="missing none, extra evil"):
        checkpoint.load(folder)


def test_optimizer_that_does_not_fit(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    tensors = safetensors.load_file(path)
    name = "decoder.final_conv.bias/exp_avg"
    safetensors.save_file(tensors | {name: torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=rf"{name} must be \(1,\)"):
        load_optimizer(folder)
    safetensors.save_file({k: v for k, v in tensors.items() if k != name}, path)
    with pytest.raises(ValueError, match=f"missing {name}, extra none"):
        load_optimizer(folder)


@pytest.mark.parametrize("name", ["c", "c.previous", "c.incomplete"])
def test_what_is_no_checkpoint_is_not_replaced(name: str, tmp_path: Path) -> None:
    """Nor removed, where it only has the name that a checkpoint has while it is replaced."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "best.pt").write_text("of somebody else")
    with pytest.raises(ValueError, match=r"must hold a checkpoint alone, for it is replaced, got 'best\.pt' in it"):
        save(tmp_path / "c")
    assert (folder / "best.pt").read_text() == "of somebody else"
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(ValueError, match=rf"{name} must be a folder or not be there, for it is replaced, got a file"):
        save(tmp_path / "c")
    assert folder.read_text() == "a file"


def test_a_save_that_was_killed_does_not_stop_the_next_one(folder: Path) -> None:
    left = folder.with_name(folder.name + ".incomplete")
    left.mkdir()
    (left / ".tmpBcD3Pi").write_bytes(b"half a file")
    checkpoint.prepare(folder)
    model = checkpoint.load(folder).model
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    assert not left.exists()


def test_a_link_goes_on_to_lead_to_the_checkpoint(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    link = folder.parent / "elsewhere" / "link"
    link.symlink_to(folder, target_is_directory=True)
    save(link, epoch=2)
    assert link.is_symlink() and checkpoint.load(folder).epoch == checkpoint.load(link).epoch == 2
    assert [p.name for p in link.parent.iterdir()] == ["link"]


def test_settings_of_a_run_are_plain_values(folder: Path) -> None:
    edit(folder, {"training": {"lr": [1]}})
    with pytest.raises(
        ValueError, match=r"training: lr must be a string, a finite number, true, false or null, got \[1\]"
    ):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("options", "older"),
    [
        ({"decoder": "resnet"}, 0),  # what 0 was: left to the decoder, which had 4 maps
        ({"z_channels": 0}, None),  # from before the option
        ({"z_channels": 0}, 0),
        ({"decoder": "mlp"}, 0),
        ({"decoder": "mlp"}, None),
        ({"decoder": "resnet", "z_channels": 0}, 0),  # as it is written now
        ({"decoder": "two-stack", "z_channels": 3}, 3),
    ],
)
def test_z_channels_of_an_older_release(options: dict[str, Any], older: int | None, tmp_path: Path) -> None:
    """A config that left the map to the model, by 0 or by silence, gives the model that was saved."""
    torch.manual_seed(0)
    model = VLAE(
        **{"latent_dim": 4, "hidden_dim": 8, "n_layers": 1, "image_size": (6, 5), "use_flow": False, **options}
    )
    adam = torch.optim.Adam(model.parameters())
    checkpoint.save(tmp_path / "c", model, adam, epoch=0, training={}, history=[])
    path = tmp_path / "c" / "config.json"
    config = json.loads(path.read_text())
    assert config["model"].pop("z_channels") == model.config["z_channels"]
    config["model"] |= {} if older is None else {"z_channels": older}
    path.write_text(json.dumps(config))
    loaded, (x, z) = checkpoint.load(tmp_path / "c").model, (torch.rand(2, 1, 6, 5), torch.randn(2, 4))
    assert loaded.decoder(x, z).equal(model.decoder(x, z)) and loaded.config == model.config
