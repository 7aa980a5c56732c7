"""A notebook shows the plot functions' figures: each once, wherever in the cell it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cases.notebooks import executed, pictures

for needed in ("matplotlib", "nbclient", "ipykernel"):
    pytest.importorskip(needed)

SET_UP = """
import torch
from vlae_fast import visualization as vis

def plot(shade):
    return vis.plot_images(torch.full((1, 1, 8, 8), float(shade)), "")
"""
BLACK, GREY, WHITE = 0.0, 0.4, 0.8

# code of a cell, and the shades that it must show; the sixth imports pyplot
CELLS: dict[str, list[float]] = {
    f"plot({GREY})": [GREY],
    f"kept = plot({BLACK})": [BLACK],
    f"plot({WHITE});": [WHITE],
    "kept": [BLACK],
    f"plot({BLACK}); plot({GREY}); plot({WHITE})": [BLACK, GREY, WHITE],
    f"import matplotlib.pyplot as plt\na, b = plot({GREY}), plot({BLACK})": [GREY, BLACK],
    f"plot({GREY})\nplt.show()": [GREY],
    f"plot({GREY}).show()": [GREY],
    f"for shade in ({BLACK}, {GREY}):\n    display(plot(shade))": [BLACK, GREY],
    f"ax = plt.subplots()[1]\nvis.plot_images(torch.full((1, 1, 8, 8), {WHITE}), '', ax=ax); None": [WHITE],
    "assert plt.get_fignums() == []": [],
    f"for _ in range(30):\n    vis.save_figure(plot({GREY}), 'x.png')\nassert len(plt.get_fignums()) <= 20\n"
    "plt.close('all')": [],
}


TUTORIAL = [
    """
import matplotlib.pyplot as plt
import torch
from vlae_fast import VLAE, loss_function
from vlae_fast.visualization import plot_bits_heatmap, plot_latent_sampling, plot_reconstructions

torch.manual_seed(0)
device = torch.device("cpu")
model = VLAE(input_dim=1, latent_dim=8, n_layers=2, use_flow=True, hidden_dim=8, image_size=(12, 12))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
images = (torch.rand(16, 1, 12, 12) > 0.5).float()
""",
    """
for _ in range(2):
    optimizer.zero_grad()
    logits, mu, logvar, z, log_det = model(images)
    loss_function(logits, images, mu, logvar, z, log_det).backward()
    optimizer.step()
""",
    """
with torch.no_grad():
    _, mu, logvar, _, _ = model(images)
    plot_bits_heatmap(mu, logvar)
""",
    "plot_reconstructions(model, images[:4], device)",
    """
with torch.no_grad():
    mu, logvar = model.encoder(images[:1])
    z = model.reparameterize(mu, logvar)
    fig = plt.figure(figsize=(8, 2))
    for i, shift in enumerate((-3.0, -1.0, 1.0, 3.0)):
        moved = z.clone()
        moved[0, 0] += shift
        z_map = moved.view(1, -1, 1, 1).expand(-1, -1, 12, 12)
        h = model.initial_conv(torch.zeros_like(images[:1]))
        for layer in model.decoder_layers:
            h = layer(h, z_map)
        plt.subplot(1, 4, i + 1)
        plt.imshow(torch.sigmoid(model.final_conv(h)).squeeze(), cmap="gray")
        plt.axis("off")
    plt.show()
""",
    "plot_latent_sampling(model, device, latent_dim=8, n_samples=9)",
]


def check(cells: list[Any], shades: list[list[float]]) -> None:
    for cell, expected in zip(cells, shades, strict=True):
        shown = [picture[len(picture) // 2, picture.shape[1] // 2, 0].item() for picture in pictures(cell)]
        assert shown == pytest.approx(expected, abs=1 / 200), cell.source
        assert not [output.text for output in cell.outputs if output.output_type == "stream"], cell.source


def test_a_figure_is_shown_once(tmp_path: Path) -> None:
    check(executed([SET_UP, *CELLS], tmp_path)[1:], list(CELLS.values()))


@pytest.mark.slow
def test_the_tutorials_notebook_has_its_pictures(tmp_path: Path) -> None:
    """Each once, also where the notebook asks for the inline backend."""
    cells = executed(["%matplotlib inline", *TUTORIAL, SET_UP, *CELLS], tmp_path)
    tutorial = cells[1 : 1 + len(TUTORIAL)]
    assert [len(pictures(cell)) for cell in tutorial] == [0, 0, 1, 1, 1, 1]
    for cell in tutorial[2:]:
        (picture,) = pictures(cell)
        assert picture.std() > 0.05 and len(picture.flatten(0, 1).unique(dim=0)) > 10
    check(cells[2 + len(TUTORIAL) :], list(CELLS.values()))
