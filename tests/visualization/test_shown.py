"""What a prompt and a notebook show of a report, of images, of a checkpoint: short, and what is in it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from cases.commands import small_images
from cases.runs import halves, new_model, run

import vlae_fast as vf
from vlae_fast import checkpoint, data
from vlae_fast.foreign.report import Report, Row


def test_a_report_is_a_table() -> None:
    report = Report([Row("net.0", "Masked<Conv>", "masked_conv"), Row("", "Linear", None, "a plain layer")], [])
    assert repr(report) == str(report) and len(repr(report).splitlines()) == 4
    html = report._repr_html_()
    assert html.count("<tr>") == 3 and "<td>Masked&lt;Conv&gt;</td><td>masked_conv</td>" in html
    assert "<td>(the model)</td><td>Linear</td><td>left alone: a plain layer</td>" in html
    assert html.endswith("<p>1 of 2 replaced</p>")


def test_images_are_three_lines_and_a_picture() -> None:
    images = small_images()
    assert repr(images).splitlines() == [
        "Images digits: 8x8, grey, 3 classes", "  60/12/12", "  binarization threshold: 2 levels",
    ]  # fmt: skip
    image = pytest.importorskip("PIL.Image")
    for found, white in ((images, 255), (data.from_dataset(torch.eye(8)[None].expand(30, 3, 8, 8)), 255)):
        shown = image.open(io.BytesIO(found._repr_png_()))
        rows = 2
        assert shown.size == (20 * 10, rows * 10) and shown.mode == ("L" if found.channels == 1 else "RGB")
        first = torch.from_numpy(np.array(shown.crop((1, 1, 9, 9)).convert("L"))).flatten()
        expected = found.train[0, 0].flatten() * (255 if found.binarization == "fixed" else 1)
        assert first.equal(expected) and int(first.max()) == white


def test_a_checkpoint_is_three_lines(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = new_model()
    history = run(model, tmp_path, epochs=1)
    count = sum(p.numel() for p in model.parameters())
    assert repr(checkpoint.load(tmp_path)).splitlines() == [
        f"Checkpoint {tmp_path / 'checkpoint'}: epoch 1 on {halves().name}",
        f"  VLAE, {count:,} parameters, images 1x8x8, decoder gated, bernoulli, 2 latent dimensions",
        f"  validation: -ELBO {history[0]['valid_loss']:.2f} nats/image "
        f"or {history[0]['valid_bits_per_dim']:.4f} bits/dim",
    ]
    assert repr(checkpoint.load(checkpoint.MNIST)).count("\n") == 2


def test_samples_are_a_figure_without_more_words() -> None:
    pytest.importorskip("matplotlib")
    figure = vf.visualization.plot_images(new_model().sample(4))
    assert figure.axes[0].images[0].get_array().shape == (2 * 10 + 2, 2 * 10 + 2)
