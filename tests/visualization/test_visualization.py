"""visualization/: what the pictures hold, pixel by pixel where it can be said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases.pictures import assert_shows, decoded

from vlae_fast import VLAE
from vlae_fast import visualization as vis
from vlae_fast.evaluation import ClassRow, detect
from vlae_fast.visualization.grids import replace_file

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model() -> VLAE:
    torch.manual_seed(0)
    return VLAE(1, 3, 4, 1, image_size=(6, 6), flow_hidden=8)


def test_grid_puts_images_row_by_row() -> None:
    images = torch.stack([torch.full((1, 3, 4), i / 4) for i in range(5)])
    picture = vis.grid(images, 3)
    assert picture.shape == (1, 2 * 5 + 2, 3 * 6 + 2)
    assert picture[0, 3, [3, 9, 15]].tolist() == [0, 0.25, 0.5]
    assert picture[0, 8, [3, 9, 15]].tolist() == [0.75, 1.0, 0.5]
    assert (picture[0, :2] == 0.5).all() and (picture[0, :, -2:] == 0.5).all()


def test_save_grid_writes_the_same_pixels(tmp_path: Path) -> None:
    images = (torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    vis.save_grid(images, tmp_path / "new" / "x.png", 2)
    assert_shows(tmp_path / "new" / "x.png", images, 2)


def test_bytes_are_shown_as_the_greys_they_mean(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    grey = torch.arange(0, 250, 10, dtype=torch.uint8).view(1, 1, 5, 5)
    vis.save_grid(grey, tmp_path / "bytes.png")
    vis.save_grid(grey.float() / 255, tmp_path / "floats.png")
    read = torch.from_numpy(image.imread(tmp_path / "bytes.png"))
    assert read[4:-4:2, 4:-4:2, 0].mul(255).round().byte().equal(grey[0, 0])
    assert read.equal(torch.from_numpy(image.imread(tmp_path / "floats.png")))
    table = vis.plot_table(grey[None], "title").axes[0].images[0].get_array()
    assert torch.allclose(torch.from_numpy(table.data)[2:-2, 2:-2], grey[0, 0] / 255)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (torch.full((1, 1, 2, 2), 255.0), "got 255 to 255"),
        (torch.linspace(-1, 1, 4).view(1, 1, 2, 2), "got -1 to 1"),
        (torch.full((1, 1, 2, 2), float("nan")), "got nan to nan"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "bytes 0..255, got torch.int64"),
    ],
)
def test_other_scales_are_refused(images: torch.Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=f"images: must be .*{got}"):
        vis.save_grid(images, "never-written.png")
    with pytest.raises(ValueError, match=f"images: must be .*{got}"):
        vis.plot_table(images[None], "title")


def test_grid_errors() -> None:
    with pytest.raises(ValueError, match=r"images: must be \[N, C, H, W\] with N > 0, got \(0, 1, 2, 2\)"):
        vis.grid(torch.zeros(0, 1, 2, 2), 2)
    with pytest.raises(ValueError, match="columns: must be at least 1, got 0"):
        vis.grid(torch.zeros(1, 1, 2, 2), 0)
    with pytest.raises(ValueError, match="must have 1 or 3 channels, got 2"):
        vis.save_grid(torch.zeros(1, 2, 2, 2), "never-written.png")


def test_code_bits_of_one_bit() -> None:
    """Two codes at +-1 with width s: KL(N(+-1, s^2) || N(0, 1 + s^2)) = log2(1 + s^-2) / 2 bits; unused: 0."""
    mu = torch.tensor([[1.0, 0.3], [-1.0, 0.3]])
    s2 = 1 / 3  # 1 + 1 / s^2 = 4: exactly one bit
    logvar = torch.tensor([[s2, 1.0], [s2, 1.0]]).log()
    assert torch.allclose(vis.code_bits(mu, logvar), torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double(), atol=1e-6)


def test_code_bits_agree_with_torch() -> None:
    mu, logvar = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)).double()
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    fitted = torch.distributions.Normal(mu.mean(0), (logvar.exp() + (mu - mu.mean(0)) ** 2).mean(0).sqrt())
    nats = torch.distributions.kl_divergence(q, fitted)
    assert torch.allclose(vis.code_bits(mu, logvar), nats / torch.tensor(2.0).double().log())


def test_heatmap_is_labelled_in_bits_and_sorted() -> None:
    figure = vis.plot_bits_heatmap(torch.tensor([[0.1, 1.0], [-0.1, -1.0]]), torch.full((2, 2), -2.0))
    axes, colorbar = figure.axes
    assert "bits" in colorbar.get_ylabel() and "bits per image" in axes.get_title()
    shown = axes.images[0].get_array()
    assert shown[0, 0] > shown[0, 1] > 0


@pytest.mark.parametrize("order", ["use", "index"])
def test_columns_and_bars_have_the_dimensions_number(order: str) -> None:
    """Dimension d of 40 carries more than d - 1 but for the last, which is unused."""
    spread = torch.arange(40.0) + 1
    spread[-1] = 0
    mu, kl = torch.tensor([[1.0], [-1.0]]) * spread, spread
    figure = vis.plot_bits_heatmap(mu, torch.zeros(2, 40), order=order)
    shown, names = figure.axes[0].images[0].get_array(), [t.get_text() for t in figure.axes[0].get_xticklabels()]
    expected = [*range(38, -1, -1), 39] if order == "use" else list(range(40))
    assert names == [str(d) for d in expected]
    assert torch.as_tensor(shown[0].data).equal(vis.code_bits(mu, torch.zeros(2, 40))[0, expected])
    bars = vis.plot_evaluation(kl).axes[0]
    assert [t.get_text() for t in bars.get_xticklabels()] == [str(d) for d in (*range(38, -1, -1), 39)]
    assert bars.get_xticks().tolist() == list(range(40))
    with pytest.raises(ValueError, match="order: must be one of use, index, got 'size'"):
        vis.plot_bits_heatmap(mu, torch.zeros(2, 40), order="size")


def test_the_most_used_of_very_many_dimensions_are_numbered() -> None:
    kl = torch.arange(600.0)
    axes = vis.plot_evaluation(kl).axes[0]
    at, names = axes.get_xticks().tolist(), [int(t.get_text()) for t in axes.get_xticklabels()]
    assert 50 < len(at) < 300 and at[0] == 0 and names == [599 - place for place in at]


def test_anomalies_are_the_highest_scores_with_class_and_score() -> None:
    images, scores, labels = torch.rand(5, 1, 4, 4), torch.tensor([3.0, 9.25, 1.0, 5.0, 2.0]), torch.arange(5)
    figure = vis.plot_anomalies(images, scores, labels, n=3)
    assert [axes.get_title() for axes in figure.axes] == ["class 1\n9.2 nats", "class 3\n5.0 nats", "class 0\n3.0 nats"]
    for axes, row in zip(figure.axes, (1, 3, 0), strict=True):
        assert torch.as_tensor(axes.images[0].get_array().data).equal(images[row, 0])
    assert "3 highest scores of 5 images" in figure.get_suptitle()
    named = vis.plot_anomalies(images, scores, list("abcde"), title="mine")
    assert len(named.axes) == 5 and named.axes[0].get_title() == "b\n9.2 nats" and named.get_suptitle() == "mine"
    assert vis.plot_anomalies(images, scores).axes[0].get_title() == "9.2 nats"
    with pytest.raises(ValueError, match=r"scores: must be one per image, \[5\], got \(3,\)"):
        vis.plot_anomalies(images, scores[:3])
    with pytest.raises(ValueError, match="labels: must be one per image, 5, got 2"):
        vis.plot_anomalies(images, scores, ["a", "b"])
    with pytest.raises(ValueError, match="n: must be at least 1, got 0"):
        vis.plot_anomalies(images, scores, n=0)
    with pytest.raises(ValueError, match=r"images: must be \[N, C, H, W\] with N > 0, got \(0, 1, 4, 4\)"):
        vis.plot_anomalies(images[:0], scores[:0])


def test_nothing_is_cut_or_overlaps() -> None:
    """Titles, names and ticks lie in the figure; neighbours on an axis do not touch."""
    for figure in (
        vis.plot_images(torch.rand(4, 1, 8, 8), "64 samples, z ~ flow prior (32 dimensions)"),
        vis.plot_table(
            torch.rand(2, 3, 1, 8, 8), "digits test: x, draws of the rest of it", rows=["z127: 1.23 nats"] * 2
        ),
        vis.plot_table(torch.rand(1, 4, 1, 28, 28), "t", columns=["a name too long to stand"] * 4, sideways=True),
        *(vis.plot_evaluation(torch.rand(d)) for d in (3, 32, 128, 400)),
        *(vis.plot_bits_heatmap(torch.randn(9, d), torch.zeros(9, d)) for d in (2, 32, 128)),
        vis.plot_anomalies(torch.rand(12, 1, 8, 8), 1000 + torch.rand(12), torch.arange(12), n=12),
    ):
        figure.canvas.draw()
        whole = figure.bbox
        for axes in figure.axes:
            texts = [axes.title]
            if axes.axison:
                ticks = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
                assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(ticks)), axes.get_title()
                low, high = sorted(axes.get_ylim())  # a tick outside of the limits is not drawn
                heights = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
                texts += [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()]
                texts += [label for at, label in heights if low <= at <= high]
            for text in texts:
                box = text.get_window_extent()
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
                assert inside or not text.get_text(), text


def test_heatmap_needs_a_batch() -> None:
    with pytest.raises(ValueError, match=r"must both be \[B, D\] with B >= 2, got \(1, 3\) and \(1, 3\)"):
        vis.plot_bits_heatmap(torch.zeros(1, 3), torch.zeros(1, 3))


def test_reconstructions_show_originals_beside_draws(model: VLAE) -> None:
    x = (torch.rand(2, 1, 6, 6) < 0.5).float()
    figure = vis.plot_reconstructions(model, x, "cpu")
    shown = torch.as_tensor(figure.axes[0].images[0].get_array().data)
    assert shown.shape == (2 * 8 + 2, 4 * 8 + 2)
    assert shown[2:8, 2:8].equal(x[0, 0]) and shown[10:16, 2:8].equal(x[1, 0])
    assert set(shown[2:8, 10:16].unique().tolist()) <= {0.0, 1.0}


def test_decompress_is_a_function_of_the_generator(model: VLAE) -> None:
    x = torch.zeros(2, 1, 6, 6)
    draws = [vis.decompress(model, x, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (2, 3, 1, 6, 6)
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])


def test_latent_sampling(model: VLAE, tmp_path: Path) -> None:
    figure = vis.plot_latent_sampling(model, "cpu", 3, 5)
    (axes,) = figure.axes
    shown = torch.as_tensor(axes.images[0].get_array().data)
    assert shown.shape == (2 * 8 + 2, 3 * 8 + 2) and {0.0, 1.0} < set(shown.unique().tolist())
    figure.savefig(tmp_path / "x.png", dpi=figure.dpi)
    picture = decoded(tmp_path / "x.png")
    centres = axes.transData.transform([(column, row) for row in range(18) for column in range(26)]).astype(int)
    found = picture[len(picture) - 1 - centres[:, 1], centres[:, 0], 0].unflatten(0, (18, 26))
    torch.testing.assert_close(found, shown.float(), rtol=0, atol=1 / 255)
    with pytest.raises(ValueError, match="latent_dim: must be the model's, 3, got 4"):
        vis.plot_latent_sampling(model, "cpu", 4, 5)
    with pytest.raises(ValueError, match="n_samples: must be at least 1, got 0"):
        vis.plot_latent_sampling(model, "cpu", 3, 0)


def test_table_names_its_rows_and_columns() -> None:
    images = torch.rand(2, 3, 3, 4, 5)
    figure = vis.plot_table(images, "a title", rows=["p", "q"], columns=["a", "b", "c"])
    (axes,) = figure.axes
    shown = torch.as_tensor(axes.images[0].get_array().data)
    assert shown.shape == (2 * 6 + 2, 3 * 7 + 2, 3) and shown[8:12, 9:14].permute(2, 0, 1).equal(images[1, 1])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["p", "q"]
    with pytest.raises(ValueError, match="columns: must be 3 names, got 1"):
        vis.plot_table(images, "", columns=["a"])
    with pytest.raises(ValueError, match=r"images: must be \[rows, columns, C, H, W\], not empty"):
        vis.plot_table(images[0], "")
    with pytest.raises(ValueError, match="must have 1 or 3 channels, got 2"):
        vis.plot_table(images[:, :, :2], "")


def test_heatmap_by_class() -> None:
    mu, labels = torch.tensor([[3.0], [0.0], [-3.0], [0.1]]), torch.tensor([1, 0, 1, 0])
    figure = vis.plot_bits_heatmap(mu, torch.zeros(4, 1), labels=labels)
    shown = figure.axes[0].images[0].get_array()[:, 0]
    assert min(shown[2:]) > max(shown[:2])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["0", "1"]
    assert figure.axes[0].get_yticks().tolist() == [0.5, 2.5]


def test_charts_say_nats() -> None:
    rows = [ClassRow(0, 3, 50.0, 10.0), ClassRow(1, 4, 60.0, 5.0)]
    history = [{"epoch": e, "loss": 9.0 - e, "reconstruction": 5.0, "kl": 4.0 - e, "valid_loss": 9.0} for e in (1, 2)]
    points = [{"pixels": 4, "kl": 7.0, "reconstruction": 50.0}, {"pixels": 12, "kl": 5.0, "reconstruction": 51.0}]
    scores = torch.linspace(50, 70, 30)
    for figure, n in (
        (vis.plot_evaluation(torch.tensor([0.5, 2.0]), rows, active=2), 2),
        (vis.plot_evaluation(torch.tensor([0.5, 2.0])), 1),
        (vis.plot_curves(history, title="x"), 3),
        (vis.plot_collapse(points), 2),
    ):
        assert len(figure.axes) == n and all("nats" in axes.get_ylabel() for axes in figure.axes)
    scores_axes, roc = vis.plot_detection(detect(scores, scores, scores + 5), "ours", "theirs").axes
    assert "nats per image" in scores_axes.get_xlabel() and "theirs" in roc.get_ylabel()
    first = vis.plot_evaluation(torch.tensor([0.5, 2.0]), rows, active=2).axes[0]
    assert [bar.get_height() for bar in first.patches] == [2.0, 0.5] and "2.50 nats" in first.get_title()


def test_collapse_of_several_seeds() -> None:
    points = [{"pixels": n, "kl": kl, "reconstruction": 50.0} for n, kl in ((12, 5.0), (4, 7.0), (12, 6.0), (4, 9.0))]
    kls, losses = vis.plot_collapse(points).axes
    bars = kls.containers[0]
    means, _, (spread,) = bars.lines
    assert means.get_xdata().tolist() == [4, 12] and means.get_ydata().tolist() == [8.0, 5.5]
    heights = [segment[1][1] - segment[0][1] for segment in spread.get_segments()]
    assert heights == pytest.approx([2 * 2**0.5, 2 * 0.5**0.5])
    assert sorted(kls.lines[-1].get_ydata().tolist()) == [5.0, 6.0, 7.0, 9.0]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["negative ELBO", "reconstruction"]
    assert "nats" in kls.get_ylabel() and [tick.get_text() for tick in kls.get_xticklabels()] == ["4", "12"]


def test_embedding_of_classes_and_planes() -> None:
    points, labels = torch.randn(20, 2), torch.arange(20) % 3
    legend = vis.plot_embedding(points, labels, title="t").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
    plane = torch.rand(4, 4, 1, 5, 5), torch.tensor([[-1.0, -2.0], [1.0, 2.0]])
    _, right = vis.plot_embedding(points, title="t", plane=plane).axes
    assert right.images[0].get_extent() == [-1, 1, -2, 2]
    with pytest.raises(ValueError, match=r"points: must be \[N, 2\] with N > 0, got \(20, 3\)"):
        vis.plot_embedding(torch.zeros(20, 3), title="t")
    with pytest.raises(ValueError, match=r"labels: must be one per point, \[20\], got \(3,\)"):
        vis.plot_embedding(points, labels[:3], title="t")


def test_chart_errors() -> None:
    with pytest.raises(ValueError, match="history: must have at least one epoch"):
        vis.plot_curves([])
    with pytest.raises(ValueError, match="points: must have at least one model"):
        vis.plot_collapse([])
    with pytest.raises(ValueError, match=r"kl_per_dim: must be \[D\] with D > 0, got \(0,\)"):
        vis.plot_evaluation(torch.zeros(0))


def test_a_file_is_kept_when_its_replacement_fails(tmp_path: Path) -> None:
    path = tmp_path / "kept.png"
    path.write_bytes(b"old")

    def fail(fresh: Path) -> None:
        fresh.write_bytes(b"half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["kept.png"]
    with pytest.raises(ValueError, match=r"path: must end in one of .*png.*, got '.*x\.never'"):
        vis.save_figure(vis.plot_evaluation(torch.ones(2)), tmp_path / "x.never")


@pytest.mark.parametrize(("decoder", "word"), [("gated", "draws"), ("mlp", "means")])
def test_plain_vaes_are_shown_by_their_means(decoder: str, word: str) -> None:
    torch.manual_seed(0)
    model = VLAE(1, 3, 4, 1, image_size=(6, 6), use_flow=False, decoder=decoder)
    pictures = (
        vis.plot_reconstructions(model, torch.zeros(2, 1, 6, 6), "cpu"),
        vis.plot_latent_sampling(model, "cpu", 3, 4),
    )
    for figure in pictures:
        assert word in figure.axes[0].get_title()
        grey = set(torch.as_tensor(figure.axes[0].images[0].get_array().data).unique().tolist()) - {0.0, 0.5, 1.0}
        assert bool(grey) == (word == "means")
