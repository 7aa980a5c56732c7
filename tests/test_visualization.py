"""visualization.py: what the pictures hold, pixel by pixel where it can be said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlae_fast import VLAE
from vlae_fast import visualization as vis

pytest.importorskip("matplotlib")


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
    image = pytest.importorskip("matplotlib.image")
    images = (torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    vis.save_grid(images, tmp_path / "new" / "x.png", 2)
    read = torch.from_numpy(image.imread(tmp_path / "new" / "x.png"))[::2, ::2, 0]
    assert torch.allclose(read, vis.grid(images, 2)[0], atol=1 / 255)


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
    assert figure.axes[0].images[0].get_array().shape == (2 * 8 + 2, 3 * 8 + 2)
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="latent_dim: must be the model's, 3, got 4"):
        vis.plot_latent_sampling(model, "cpu", 4, 5)
    with pytest.raises(ValueError, match="n_samples: must be at least 1, got 0"):
        vis.plot_latent_sampling(model, "cpu", 3, 0)
