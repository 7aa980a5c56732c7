"""The examples run as they are, from a folder that is not theirs."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cases.pictures import assert_shows, tiles

from vlae_fast import checkpoint

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def output(name: str, *args: str, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *args]
    done = subprocess.run(command, cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # what it does on an image of 28 x 28, tests/foreign do on smaller ones
def test_accelerate_pixelcnn(tmp_path: Path) -> None:
    text = output("accelerate_pixelcnn", cwd=tmp_path)
    assert "4 of 5 replaced" in text
    assert re.search(r"an image: \d+ ms by 784 passes before, [\d.]+ ms by 136 steps after; same: True", text)
    assert re.search(r"training step: [\d.]+ ms before, [\d.]+ ms after", text)


@pytest.mark.slow  # tests/foreign has flows of zuko
def test_speed_up_zuko_flow(tmp_path: Path) -> None:
    pytest.importorskip("zuko")
    text = output("speed_up_zuko_flow", cwd=tmp_path)
    assert text.count("fast: the inverse is that of made_inverse") == 2 and "same numbers: True" in text
    assert re.search(r"inverse: [\d.]+ ms before, [\d.]+ ms after: \d+x", text)


def test_speed_up_zuko_flow_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "zuko.py").write_text("raise ImportError")
    command = [sys.executable, str(EXAMPLES / "speed_up_zuko_flow.py")]
    without = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=without, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr == "this example needs zuko: pip install zuko\n"


@pytest.mark.slow
def test_ising(tmp_path: Path) -> None:
    text = output("ising", "--size", "5", "--steps", "3", "--batch", "8", cwd=tmp_path)
    assert re.search(r"8 samples: \d+ ms by 25 passes, [\d.]+ ms by fast_sampler; same spins: True", text)
    assert re.search(r"a step: \d+ ms before, [\d.]+ ms after", text)
    assert re.search(r"beta F per site: -[\d.]+ \+- [\d.]+, exact -[\d.]+: [\d.]+ % above", text)


def test_sample_mnist(tmp_path: Path) -> None:
    for needed in ("matplotlib", "safetensors"):
        pytest.importorskip(needed)
    text = output("sample_mnist", "pictures", cwd=tmp_path)
    assert "64 digits in" in text and "56 completions; upper halves kept: True" in text
    model, generator = checkpoint.load(checkpoint.MNIST).model, torch.Generator().manual_seed(0)
    digits = model.sample(64, generator)
    assert_shows(tmp_path / "pictures" / "digits.png", digits, columns=8)
    rows = tiles(tmp_path / "pictures" / "completed.png", (28, 28)).unflatten(0, (8, 8))
    assert rows[:, 0].equal(digits[:8, 0])
    assert rows[:, :, :14].equal(rows[:, :1, :14].expand(-1, 8, -1, -1))  # the halves that were given
    assert not rows[:, 1:, 14:].equal(rows[:, :1, 14:].expand(-1, 7, -1, -1))


def test_lightning(tmp_path: Path) -> None:
    """Where Lightning is: it asks for more packages than the tests do."""
    if find_spec("lightning") is None and find_spec("pytorch_lightning") is None:
        pytest.skip("lightning is not installed")
    for needed in ("matplotlib", "sklearn", "safetensors"):
        pytest.importorskip(needed)
    text = output("lightning_vlae", "made", cwd=tmp_path)
    before, after = (float(elbo) for elbo in re.findall(r"^(?:before|after): +ELBO (-[\d.]+)", text, re.MULTILINE))
    assert after > before + 100 and "same: True" in text
    assert checkpoint.load(tmp_path / "made" / "lightning").model.latent_dim == 8


def test_lightning_says_what_it_needs(tmp_path: Path) -> None:
    for name in ("lightning", "pytorch_lightning"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    command = [sys.executable, str(EXAMPLES / "lightning_vlae.py")]
    without = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=without, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr == "this example needs lightning: pip install lightning\n"
