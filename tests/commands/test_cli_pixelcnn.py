"""A PixelCNN by itself and likelihoods that are densities, by the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")
from cases.commands import SIZE, call, small_images
from matplotlib import image

from vlae_fast import PixelCNN, checkpoint, training

pytestmark = pytest.mark.usefixtures("small_data")

RUN = ["--epochs", 1, "--hidden-dim", 4, "--n-layers", 1, "--batch-size", 20]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a PixelCNN by itself."""
    folder = tmp_path_factory.mktemp("plain")
    model = PixelCNN(1, 4, 1, image_size=SIZE)
    training.train(model, small_images(), epochs=1, batch_size=20, out_dir=folder, progress=False)
    return folder


@pytest.mark.parametrize("options", [[], ["--labels"], ["--decoder", "pixelcnn++", "--likelihood", "gaussian"]])
def test_train_evaluate_and_sample_without_z(options: list[str], tmp_path: Path) -> None:
    grey = ["--binarization", "none"] if "gaussian" in options else []
    result = call("train", *RUN, "--latent-dim", 0, *options, *grey, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    model = checkpoint.load(tmp_path).model
    assert model.encoder is None and model.n_classes == (3 if "--labels" in options else 0)
    result = call("evaluate", tmp_path, *grey)
    unit = r"about \d\.\d+ bits/dim at 256 levels, by a density" if grey else r"\d\.\d+ bits/dim"
    assert result.exit_code == 0 and re.search(rf"log p\(x\) -\d+\.\d+ nats/image, {unit} \(12", result.output)
    assert "class 2: reconstruction" in result.output and "latent" not in result.output
    for wrong in (["--samples", 4], ["--out", tmp_path / "kl.png"]):
        result = call("evaluate", tmp_path, *grey, *wrong)
        assert result.exit_code == 2 and "is about z, and the model has none (latent_dim 0)" in result.stderr
    path = tmp_path / "samples.png"
    result = call("sample", tmp_path, "-n", 9, "--out", path)
    assert result.exit_code == 0, result.output
    assert image.imread(path).std() > 0.05


@pytest.mark.parametrize("command", ["traverse", "interpolate", "embed", "heatmap", "reconstruct", "denoise"])
def test_commands_of_the_latent_space_refuse_a_model_without_one(command: str, plain: Path, tmp_path: Path) -> None:
    result = call(command, plain, "--out", tmp_path / "a.png")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert re.match(r"error: \w+: model must have a z, got one with latent_dim 0, a PixelCNN by itself", result.stderr)


def test_complete_and_detect_do_without_z(plain: Path, tmp_path: Path) -> None:
    for command, options in (("complete", ["-n", 2]), ("detect", ["--held-out", 2])):
        result = call(command, plain, *options, "--out", tmp_path / f"{command}.png")
        assert result.exit_code == 0, result.output


def test_a_bernoulli_on_grey_levels_is_told_what_to_choose(tmp_path: Path) -> None:
    result = call("train", *RUN, "--binarization", "none", "--likelihood", "bernoulli", "--out", tmp_path)
    assert result.exit_code == 2
    assert "got 256 (binarization 'none'): choose binarization \"dynamic\", or a likelihood of grey" in result.stderr


def test_train_on_grey_levels_by_a_density(tmp_path: Path) -> None:
    plain = ["--decoder", "mlp", "--no-flow", "--binarization", "none", "--latent-dim", 2]
    options = ["--likelihood", "gaussian", "--likelihood-sigma", 0.3]
    assert call("train", *RUN, *plain, *options, "--out", tmp_path / "gaussian").exit_code == 0
    assert checkpoint.load(tmp_path / "gaussian").model.likelihood.sigma == 0.3
    options = ["--likelihood", "continuous_bernoulli"]
    assert call("train", *RUN, *plain, *options, "--out", tmp_path / "cb").exit_code == 0
    for folder in ("gaussian", "cb"):
        result = call("sample", tmp_path / folder, "-n", 4, "--out", tmp_path / "samples.png")
        assert result.exit_code == 0, result.output
        result = call("evaluate", tmp_path / folder, "--binarization", "none")
        assert result.exit_code == 0 and "bits/dim at 256 levels, by a density" in result.output
    result = call("train", *RUN, "--binarization", "none", *options, "--out", tmp_path / "gated")
    assert result.exit_code == 2 and "decoder must be mlp or deconv for likelihood" in result.stderr
