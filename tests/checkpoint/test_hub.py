"""Checkpoints as the Hub has them: folders saved and loaded again, cards, and what is asked of huggingface_hub."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import new_model, run, same

pytest.importorskip("safetensors")

import vlae_fast as vf
from vlae_fast import _extras, checkpoint
from vlae_fast.checkpoint import hub


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_comes_back_from_its_folder(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path / "new" / "folder")
    assert names(tmp_path / "new" / "folder") == ["README.md", "config.json", "model.safetensors"]
    found = vf.VLAE.from_pretrained(tmp_path / "new" / "folder")
    assert same(found, model) and found.config == model.config and not found.training
    cnn = vf.PixelCNN(hidden_dim=4, n_layers=1, image_size=(8, 8))
    cnn.save_pretrained(tmp_path / "cnn")
    x = torch.rand(2, 1, 8, 8).round()
    assert (
        vf.PixelCNN.from_pretrained(tmp_path / "cnn")
        .loss_terms(x)
        .reconstruction.equal(cnn.eval().loss_terms(x).reconstruction)
    )


def test_other_files_of_the_folder_stay_and_another_models_optimizer_goes(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=1)
    folder = tmp_path / "checkpoint"
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / "README.md").write_text("by hand")
    model = new_model(hidden_dim=4)
    model.save_pretrained(folder)
    assert names(folder) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == "by hand"
    model.save_pretrained(folder, card="anew")
    assert (folder / "README.md").read_text() == "anew"
    assert same(vf.VLAE.from_pretrained(folder), model)


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        model.decoder.final_conv.get_parameter(next(iter(dict(model.decoder.final_conv.named_parameters())))).fill_(
            torch.nan
        )
    with pytest.raises(ValueError, match="must be finite, found NaN or infinity"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"checkpoint: .*file was not saved"):
        new_model().save_pretrained(tmp_path / "file")


def test_a_run_is_a_repository_and_goes_on_with_its_card(tmp_path: Path) -> None:
    """The card stays where training replaces the folder."""
    model = new_model()
    run(model, tmp_path, epochs=1)
    folder = tmp_path / "checkpoint"
    assert same(vf.VLAE.from_pretrained(folder), model)
    (folder / "README.md").write_text("my card")
    run(new_model(), tmp_path, epochs=2, resume=True)
    assert (folder / "README.md").read_text() == "my card" and checkpoint.load(folder).epoch == 2
    shutil.rmtree(tmp_path)
    run(model, tmp_path, epochs=1)
    assert names(folder) == ["config.json", "model.safetensors", "optimizer.safetensors"]


def test_the_shipped_model_and_one_of_float16_load(tmp_path: Path) -> None:
    assert vf.VLAE.from_pretrained(checkpoint.MNIST).latent_dim == 32


def test_the_card_says_what_the_checkpoint_is(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=2)
    found = checkpoint.load(tmp_path)
    text = checkpoint.card_of(found, name="ann/halves", license="mit")
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert head is not None and 'license: "mit"' in head[1]
    assert 'library_name: "vlae_fast"' in head[1]
    count = sum(p.numel() for p in found.model.parameters())
    assert f"{count:,} parameters, images of 1x8x8" in text and 'from_pretrained("ann/halves")' in text
    assert "| hidden_dim | 8 |" in text and "| initial_kernel |" not in text  # the default
    assert "| z_channels |" not in text and found.model.config["z_channels"] == 16  # the decoder's own
    assert "| lr | 0.005 |" in text and f"| -ELBO | {found.history[-1]['loss']:.4g} |" in text
    assert "license" not in checkpoint.card_of(found)
    found.training["x\n# hostile"] = 1
    assert "\n# hostile" not in checkpoint.card_of(found)
    found.training["data"] = "a | b\n---\nlicense: gpl"
    assert "\nlicense: gpl" not in checkpoint.card_of(found)


def test_the_card_is_one_that_the_hub_reads(tmp_path: Path) -> None:
    library = pytest.importorskip("huggingface_hub")
    run(new_model(), tmp_path, epochs=1)
    card = library.ModelCard(checkpoint.card_of(checkpoint.load(tmp_path), license="mit"))
    assert (card.data.license, card.data.library_name) == ("mit", "vlae_fast")


def test_the_code_of_the_card_runs(tmp_path: Path) -> None:
    model = new_model(n_classes=2)
    model.save_pretrained(tmp_path)
    code = re.search(
        r"```python\n(.*?)```", checkpoint.card_of(checkpoint.load(tmp_path), name=str(tmp_path)), re.DOTALL
    )
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["images"].shape == (16, 1, 8, 8)


class FakeHub(types.ModuleType):
    """Stands in for huggingface_hub: a folder is its repositories."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.calls = root, list[Any]()

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], **how: Any) -> str:
        self.calls.append((repo_id, allow_patterns, how))
        if not (self.root / repo_id).is_dir():
            raise OSError("404: no such repository")
        return str(self.root / repo_id)

    def HfApi(self, token: str | None = None) -> FakeHub:  # noqa: N802 - huggingface_hub's name
        self.calls.append(token)
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        self.calls.append((repo_id, private, exist_ok))
        return types.SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: str, **how: Any) -> Any:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        self.calls.append(how)
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    found = FakeHub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    monkeypatch.chdir(tmp_path)
    return found


def test_to_the_hub_and_back(fake: FakeHub, tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=1)
    found = checkpoint.load(tmp_path)
    url = checkpoint.push_to_hub(found, "ann/halves", private=True, token="t", revision="main")
    assert url == "https://hub/ann/halves/commit/1"
    assert fake.calls == [
        "t",
        ("ann/halves", True, True),
        {"commit_message": "A model of vlae_fast", "revision": "main"},
    ]
    assert names(fake.root / "ann" / "halves") == ["README.md", "config.json", "model.safetensors"]
    assert 'from_pretrained("ann/halves")' in (fake.root / "ann" / "halves" / "README.md").read_text()
    back = vf.VLAE.from_pretrained("ann/halves", revision="main", local_files_only=True)
    assert same(back, found.model)
    assert fake.calls[-1] == (
        "ann/halves",
        ["model.safetensors", "config.json", "README.md"],
        {"revision": "main", "local_files_only": True},
    )
    assert checkpoint.from_pretrained("ann/halves").history == found.history
    assert new_model().push_to_hub("ann/new").endswith("ann/new/commit/1")
    with pytest.raises(FileNotFoundError, match="'ann/other' is no folder here, and was not fetched from the Hub: 404"):
        vf.VLAE.from_pretrained("ann/other")


def test_what_is_no_name_of_a_repository_is_a_folder(fake: FakeHub) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint: a/b/c is not an existing folder"):
        vf.VLAE.from_pretrained("a/b/c")
    assert fake.calls == []


def test_the_arguments_are_those_of_huggingface_hub() -> None:
    import inspect

    library = pytest.importorskip("huggingface_hub")
    assert {"allow_patterns", "revision", "local_files_only"} <= set(
        inspect.signature(library.snapshot_download).parameters
    )
    assert {"repo_id", "folder_path", "commit_message"} <= set(
        inspect.signature(library.HfApi.upload_folder).parameters
    )
    assert {"private", "exist_ok"} <= set(inspect.signature(library.HfApi.create_repo).parameters)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(_extras.MissingExtraError, match=r'huggingface_hub is needed here .* extra "hub"'):
        vf.VLAE.from_pretrained("ann/nothing-here")
    assert isinstance(vf.VLAE.store, hub.HubStore)


def test_the_card_command(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    from cases.commands import call

    run(new_model(), tmp_path, epochs=1)
    result = call("card", tmp_path, "--name", "ann/x", "--license", "mit")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "checkpoint" / "README.md").read_text()
    assert text == checkpoint.card_of(checkpoint.load(tmp_path), name="ann/x", license="mit")
    result = call("card", tmp_path)
    assert result.exit_code == 2 and result.stderr.startswith("error: --overwrite: must be given where ")
    assert call("card", tmp_path, "--overwrite").exit_code == 0
    assert "license" not in (tmp_path / "checkpoint" / "README.md").read_text()


def test_a_card_goes_where_the_model_is_of_another_form(tmp_path: Path) -> None:
    """A card stays with more training of a model; of another model it would be untrue."""
    folder = tmp_path / "checkpoint"
    for hidden in (4, 8):
        model = vf.VLAE(1, 2, hidden, 1, image_size=(6, 6))
        options = {"epoch": 0, "training": {}, "history": []}
        checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), **options)
        assert not (folder / "README.md").exists()
        (folder / "README.md").write_text("# Mine")
        checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), **options)
        assert (folder / "README.md").read_text() == "# Mine"
