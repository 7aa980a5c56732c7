"""Which data set a command takes for a checkpoint, and what it says where that is not the one of its training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
from cases.commands import SIZE, call, small_images
from cases.datasets import FORMS

from vlae_fast import VLAE, checkpoint, data
from vlae_fast.commands import inputs
from vlae_fast.data import datasets

TRAINED = {"data": "mnist", "binarization": "dynamic"}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(name, data_dir, binarization) of every call of data.load, which gives images of that name; nothing is found."""
    calls: list[Any] = []

    def load(name: str | None = None, data_dir: Any = None, binarization: str | None = None) -> data.Images:
        calls.append((name, data_dir, binarization))
        if str(data_dir) == "sets" and name is None:
            raise FileNotFoundError("no IDX files")
        found = small_images(binarization=binarization)
        return dataclasses.replace(found, name=name or (Path(data_dir).name if data_dir else "digits"))

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(data, "find", lambda *_: None)
    return calls


def test_nothing_is_fetched_that_was_not_asked_for(loads: list[Any]) -> None:
    images = inputs.images_for(TRAINED, None, None, None)
    assert loads == [(None, None, None)] and images.name == "digits"
    note = inputs.other_data(TRAINED, images)
    assert note is not None and "\n" not in note
    assert note.startswith("note: this model was trained on mnist (dynamic); these are digits (threshold): ")
    assert "--data mnist, which is fetched once" in note


def test_the_models_own_data_with_its_own_binarization(loads: list[Any]) -> None:
    assert inputs.other_data(TRAINED, inputs.images_for(TRAINED, "mnist", None, None)) is None
    assert inputs.other_data(TRAINED, inputs.images_for(TRAINED, None, Path("sets"), None)) is None
    assert loads == [("mnist", None, "dynamic"), (None, Path("sets"), None), ("mnist", Path("sets"), "dynamic")]
    digits = {"data": "digits", "binarization": "dynamic"}
    assert inputs.other_data(digits, inputs.images_for(digits, None, None, None)) is None
    assert loads[-1] == (None, None, "dynamic")


def test_what_is_asked_for_is_taken_and_said(loads: list[Any]) -> None:
    for name, folder, how in (("omniglot", None, None), (None, Path("own"), None), ("mnist", None, "threshold")):
        images = inputs.images_for(TRAINED, name, folder, how)
        assert loads[-1] == (name, folder, how)
        note = inputs.other_data(TRAINED, images)
        assert note is not None and f"these are {name or 'own'} (threshold)" in note
        assert ("see --binarization" in note) == (name == "mnist")


def test_a_model_of_unknown_data_says_nothing(loads: list[Any]) -> None:
    assert inputs.other_data({}, inputs.images_for({}, None, None, None)) is None and loads == [(None, None, None)]
    own = {"data": "my-folder", "binarization": "dynamic"}
    note = inputs.other_data(own, inputs.images_for(own, None, None, None))
    assert note is not None and "trained on my-folder" in note and "--data my-folder" not in note


def test_files_that_lie_already_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In VLAE_FAST_DATA; in the cache, where they are the published ones; nothing is downloaded."""
    pooch = pytest.importorskip("pooch")
    name, write, _, _ = FORMS["caltech mat"]
    monkeypatch.delenv("VLAE_FAST_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    assert data.find(name) is None and data.find("no such name") is None
    assert data.find("digits").name == "digits"
    place = tmp_path / "cache" / "vlae_fast" / name
    place.mkdir(parents=True)
    write(place)
    assert data.find(name) is None  # another file than the published one
    (file,) = place.iterdir()
    checksum = f"sha256:{pooch.file_hash(str(file))}"
    downloads = (datasets.DATASETS[name].downloads[0]._replace(checksum=checksum),)
    monkeypatch.setitem(datasets.DATASETS, name, datasets.DATASETS[name]._replace(downloads=downloads))
    assert data.find(name).name == name
    file.rename(tmp_path / file.name)
    assert data.find(name) is None
    monkeypatch.setenv("VLAE_FAST_DATA", str(tmp_path))
    assert data.find(name).name == name
    monkeypatch.setenv("VLAE_FAST_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="VLAE_FAST_DATA: must be an existing folder, got"):
        data.find(name)


def test_commands_say_it_on_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", small_images)
    monkeypatch.setattr(data, "find", lambda *_: None)
    model = VLAE(1, 4, 4, 1, image_size=SIZE, flow_hidden=8)
    folder = tmp_path / "c"
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training=TRAINED, history=[])
    for command in ("evaluate", "heatmap", "denoise", "detect"):
        extra = ["--held-out", 2] if command == "detect" else []
        result = call(command, folder, *extra, "--out", tmp_path / "x.png")
        assert result.exit_code == 0, result.output
        notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
        assert notes[0].startswith("note: this model was trained on mnist (dynamic); these are digits (threshold): ")
        assert ("trained without noise" in result.stderr) == (command == "denoise")
    grey = torch.zeros(3, 1, 6, 6, dtype=torch.uint8)
    monkeypatch.setattr(data, "load", lambda *_: data.Images("small", grey, grey, grey, "none"))
    result = call("evaluate", folder)
    assert result.exit_code == 2 and result.stderr.endswith("got (6, 6); it was trained on mnist: see --data\n")
    with pytest.raises(ValueError, match=r"got \(6, 6\); it was trained on photos: see --data-dir$"):
        inputs.check_fits(model, data.load(), "photos")


def test_denoise_is_silent_of_a_model_that_saw_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", small_images)
    model = VLAE(1, 4, 4, 1, image_size=SIZE, flow_hidden=8)
    training = {"data": "digits", "binarization": "threshold", "denoise": 0.1}
    checkpoint.save(tmp_path / "c", model, torch.optim.Adam(model.parameters()), epoch=0, training=training, history=[])
    result = call("denoise", tmp_path / "c", "-n", 2, "--out", tmp_path / "x.png")
    assert result.exit_code == 0 and "note" not in result.output


def test_a_model_of_a_folder_called_digits_is_not_evaluated_on_the_digits_without_a_word(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "digits").mkdir()
    for i in range(4):
        image.fromarray(torch.full(SIZE, 40 * i, dtype=torch.uint8).numpy()).save(tmp_path / "digits" / f"{i}.png")
    own = data.load(None, tmp_path / "digits")
    trained = {"data": own.name, "binarization": own.binarization}
    assert inputs.other_data(trained, inputs.images_for(trained, None, tmp_path / "digits", None)) is None
    note = inputs.other_data(trained, inputs.images_for(trained, None, None, None))
    assert note is not None and "trained on digits (own) (dynamic); these are digits (threshold)" in note
    assert "name its own by --data-dir" in note


@pytest.mark.parametrize("command", ["train", "collapse"])
def test_image_size_is_refused_where_it_would_be_ignored(command: str, tmp_path: Path) -> None:
    result = call(command, "--data", "own:x", "--image-size", 16, "--out", tmp_path / "out")
    message = "error: --image-size: is for folders of pictures only, got (16, 16) for own:x\n"
    assert result.exit_code == 2 and result.stderr == message, result.output
