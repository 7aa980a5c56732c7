"""Figures and pyplot: known to it, drawn on axes that are given, never too many open."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.pictures import decoded

from vlae_fast import VLAE
from vlae_fast import visualization as vis
from vlae_fast.evaluation import ClassRow, detect

plt = pytest.importorskip("matplotlib.pyplot")
ROWS = [ClassRow(0, 3, 50.0, 10.0), ClassRow(1, 4, 60.0, 5.0)]
HISTORY = [{"epoch": e, "loss": 9.0 - e, "reconstruction": 5.0, "kl": 4.0 - e} for e in (1, 2)]
POINTS = [{"pixels": 4, "kl": 7.0, "reconstruction": 50.0}, {"pixels": 12, "kl": 5.0, "reconstruction": 51.0}]
SCORES = torch.linspace(50, 70, 30)


def model() -> VLAE:
    return VLAE(1, 3, 4, 1, image_size=(6, 6), flow_hidden=8)


ONE_AXES: dict[str, Callable[..., Any]] = {
    "images": lambda **o: vis.plot_images(torch.rand(3, 1, 4, 4), "t", **o),
    "table": lambda **o: vis.plot_table(torch.rand(2, 3, 1, 4, 4), "t", rows=["a", "b"], **o),
    "reconstructions": lambda **o: vis.plot_reconstructions(model(), torch.zeros(2, 1, 6, 6), "cpu", **o),
    "samples": lambda **o: vis.plot_latent_sampling(model(), "cpu", 3, 2, **o),
    "heatmap": lambda **o: vis.plot_bits_heatmap(torch.randn(5, 3), torch.zeros(5, 3), **o),
}
SEVERAL: dict[str, Callable[..., Any]] = {
    "evaluation": lambda **o: vis.plot_evaluation(torch.rand(5), ROWS, **o),
    "detection": lambda **o: vis.plot_detection(detect(SCORES, SCORES, SCORES + 5), **o),
    "embedding": lambda **o: vis.plot_embedding(torch.randn(9, 2), title="t", **o),
    "curves": lambda **o: vis.plot_curves(HISTORY, **o),
    "collapse": lambda **o: vis.plot_collapse(POINTS, **o),
    "anomalies": lambda **o: vis.plot_anomalies(torch.rand(9, 1, 4, 4), torch.rand(9), n=4, **o),
}


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


@pytest.mark.parametrize("name", [*ONE_AXES, *SEVERAL])
def test_pyplot_knows_the_figure(name: str, tmp_path: Path) -> None:
    figure = (ONE_AXES | SEVERAL)[name]()
    assert plt.get_fignums() == [figure.number] and plt.gcf() is figure and plt.gca() is figure.axes[0]
    plt.title("of the user's own")
    assert figure.axes[0].get_title() == "of the user's own"
    plt.savefig(tmp_path / "a.png", dpi=40)
    width, height = figure.get_size_inches()
    shown = decoded(tmp_path / "a.png")
    assert shown.shape == (int(height * 40), int(width * 40), 3) and shown.std() > 0.01


@pytest.mark.parametrize("name", ONE_AXES)
def test_axes_that_are_given_are_drawn_on(name: str) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert ONE_AXES[name](ax=right) is figure and plt.get_fignums() == [figure.number]
    assert right.images and not left.images and right.get_title()
    nested = figure.subfigures(1, 2)[0]
    assert ONE_AXES[name](ax=nested.subplots()) is figure


@pytest.mark.parametrize("name", SEVERAL)
def test_a_figure_that_is_given_is_drawn_in(name: str) -> None:
    figure = plt.figure(figsize=(11, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    assert SEVERAL[name](fig=lower) is figure and plt.get_fignums() == [figure.number]
    assert lower.axes and not upper.axes
    mine = plt.figure()
    assert SEVERAL[name](fig=mine) is mine and mine.axes


def test_a_loop_that_saves_leaves_few_figures_open_and_no_warning(tmp_path: Path) -> None:
    mine, unsaved = plt.figure(), vis.plot_images(torch.rand(1, 1, 4, 4), "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(40):
            vis.save_figure(vis.plot_images(torch.rand(1, 1, 4, 4), ""), tmp_path / "x.png")
    assert len(plt.get_fignums()) <= plt.rcParams["figure.max_open_warning"]
    assert {mine.number, unsaved.number} < set(plt.get_fignums())


def test_a_saved_figure_stays_open(tmp_path: Path) -> None:
    figure = vis.plot_evaluation(torch.rand(5))
    vis.save_figure(figure, tmp_path / "x.png")
    assert plt.get_fignums() == [figure.number]


def test_outside_of_the_main_thread_pyplot_is_left_alone(tmp_path: Path) -> None:
    made: list[Any] = []
    mine = plt.figure()
    thread = threading.Thread(target=lambda: made.append(vis.plot_curves(HISTORY)))
    thread.start()
    thread.join()
    assert plt.get_fignums() == [mine.number] and plt.gcf() is mine
    vis.save_figure(made[0], tmp_path / "x.png")
    assert decoded(tmp_path / "x.png").std() > 0.01


def test_the_grid_of_a_style_is_not_drawn_over_images() -> None:
    with plt.rc_context({"axes.grid": True}):
        for name in ("images", "table", "heatmap"):
            axes = ONE_AXES[name]().axes[0]
            assert not any(line.get_visible() for line in (*axes.get_xgridlines(), *axes.get_ygridlines())), name


def test_importing_the_package_leaves_matplotlib_alone() -> None:
    code = "import sys, vlae_fast, vlae_fast.visualization; print([m for m in sys.modules if 'matplotlib' in m])"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"


def test_a_script_without_a_display_shows_nothing_and_saves(tmp_path: Path) -> None:
    code = """if True:
        import torch, vlae_fast.visualization as vis, matplotlib.pyplot as plt
        figure = vis.plot_images(torch.rand(4, 1, 8, 8), "")
        plt.show()
        figure.show()
        plt.savefig("x.png")"""
    bare = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=bare, check=True)
    assert decoded(tmp_path / "x.png").std() > 0.01
