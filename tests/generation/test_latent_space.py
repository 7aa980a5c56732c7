"""latent_space.py: walks start and end where they should, and differ by z alone."""

from __future__ import annotations

import pytest
import torch

from vlae_fast import VLAE
from vlae_fast.generation import decompress, latent_space, mean_images


@pytest.fixture(scope="module", params=[1, 3])
def model(request: pytest.FixtureRequest) -> VLAE:
    torch.manual_seed(0)
    found = VLAE(request.param, 3, 4, 1, image_size=(6, 5), flow_hidden=8, initial_kernel=3)
    with torch.no_grad():
        for layer in found.decoder_layers:  # z decides much
            layer.cond.weight.mul_(10)
    return found


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_traverse_changes_one_dimension_at_a_time(model: VLAE) -> None:
    z = torch.randn(1, 3)
    values = torch.stack([torch.linspace(-3, 3, 4), torch.full((4,), z[0, 0].item())])
    drawn = latent_space.traverse(model, z, torch.tensor([2, 0]), values, generator=seeded())
    assert drawn.shape == (2, 4, model.config["input_dim"], 6, 5)
    assert (drawn[1] == drawn[1, 0]).all()  # z_0 is set to what it is: the same z, the same noise
    assert not (drawn[0] == drawn[0, 0]).all()
    at = torch.cat([z[:, :2], torch.full((1, 1), -3.0)], 1)
    alone = latent_space.traverse(model, at, torch.tensor([2]), torch.tensor([[-3.0]]), generator=seeded())
    assert alone[0, 0].equal(drawn[0, 0])


def test_interpolate_ends_at_both_codes(model: VLAE) -> None:
    z = torch.randn(4, 3)
    drawn = latent_space.interpolate(model, z[:2], z[2:], 3, generator=seeded())
    assert drawn.shape == (2, 3, model.config["input_dim"], 6, 5)
    ends = latent_space.interpolate(model, z[:2], z[2:], 2, generator=seeded())
    assert ends[:, 0].equal(drawn[:, 0]) and ends[:, 1].equal(drawn[:, 2])


def test_plane_covers_the_codes() -> None:
    torch.manual_seed(0)
    model = VLAE(1, 2, 4, 1, image_size=(6, 5), flow_hidden=8, initial_kernel=3)
    codes = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 101), torch.linspace(0, 4, 101), indexing="ij"), -1)
    images, corners = latent_space.plane(model, codes.flatten(0, 1).double(), 3, generator=seeded())
    assert images.shape == (3, 3, 1, 6, 5)
    assert torch.allclose(corners, torch.tensor([[-0.96, 0.08], [0.96, 3.92]]).double())
    top_left = torch.tensor([[-0.96, 3.92]])
    expected = latent_space.traverse(model, top_left, torch.tensor([0]), top_left[:, :1], generator=seeded())
    assert images[0, 0].equal(expected[0, 0])


def test_code_is_the_mean(model: VLAE) -> None:
    x = torch.zeros(2, model.config["input_dim"], 6, 5)
    assert latent_space.code(model, x).equal(model.encoder(x)[0])


def test_embed_keeps_clusters_apart() -> None:
    pytest.importorskip("sklearn")
    mu = torch.cat([torch.randn(12, 5) * 0.1, torch.randn(12, 5) * 0.1 + 5])
    flat = latent_space.embed(mu, seed=1)
    assert flat.shape == (24, 2)
    assert torch.cdist(flat[:12], flat[12:]).min() > torch.pdist(flat[:12]).max() / 2
    assert latent_space.embed(mu[:4, :1]).shape == (4, 2)  # fewer dimensions than t-SNE's own start asks for


def test_errors(model: VLAE) -> None:
    z, dims, values = torch.zeros(1, 3), torch.tensor([0]), torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"traverse: z must be one code, \[1, D\], got \(2, 3\)"):
        latent_space.traverse(model, torch.zeros(2, 3), dims, values)
    with pytest.raises(ValueError, match=r"traverse: dims must be some of 0..2, got \[3\]"):
        latent_space.traverse(model, z, torch.tensor([3]), values)
    with pytest.raises(ValueError, match=r"traverse: values must be \[1, steps\], got \(2, 2\)"):
        latent_space.traverse(model, z, dims, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="interpolate: steps must be at least 2, got 1"):
        latent_space.interpolate(model, z, z, 1)
    with pytest.raises(ValueError, match=r"start and stop must be codes of one shape, got \(1, 3\) and \(2, 3\)"):
        latent_space.interpolate(model, z, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"plane: codes must be \[N, 2\] with N > 0, got \(1, 3\)"):
        latent_space.plane(model, z)
    with pytest.raises(ValueError, match=r"embed: mu must be \[N, D\] with N >= 4, got \(1, 3\)"):
        latent_space.embed(z)


PLAIN = {"decoder": "mlp", "encoder": "mlp"}


def plain(**options: object) -> VLAE:
    torch.manual_seed(0)
    found = VLAE(1, 2, 8, 1, image_size=(6, 5), use_flow=False, **PLAIN, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in found.decoder.parameters():
            parameter.mul_(3)
    return found


@torch.no_grad()
def test_plain_decoders_show_means_unless_told_otherwise() -> None:
    model, z = plain(), torch.randn(2, 2)
    expected = model.likelihood.mean(model.decoder.decode(z))
    assert latent_space.draw(model, z).equal(expected)
    assert ((expected > 0) & (expected < 1)).all()  # which no draw of black and white pixels is
    ends = latent_space.interpolate(model, z[:1], z[1:], 3)[0]
    torch.testing.assert_close(ends[[0, 2]], expected)
    values = z[:1, :1]
    torch.testing.assert_close(latent_space.traverse(model, z[:1], torch.tensor([0]), values)[0], expected[:1])
    corner = latent_space.plane(model, z, 2)[0][0, 0]
    assert ((corner > 0) & (corner < 1)).all()
    x = torch.zeros(2, 1, 6, 5)
    shown = decompress(model, x, 2, generator=seeded())
    z = model.posterior_sample(x.repeat_interleave(2, 0), None, seeded()).z
    assert shown.flatten(0, 1).equal(model.likelihood.mean(model.decoder.decode(z)))
    for drawn in (
        latent_space.draw(model, z, mean=False),
        latent_space.draw(model, z, temperature=0.5),
        latent_space.draw(model, z, noise=torch.rand(4, 1, 6, 5)),
        latent_space.interpolate(model, z[:1], z[1:2], 3, mean=False),
        latent_space.traverse(model, z[:1], torch.tensor([0]), values, mean=False),
        latent_space.plane(model, z, 2, mean=False)[0],
        decompress(model, x, 2, mean=False),
    ):
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_means_of_a_pixel_loop_are_those_of_draws(model: VLAE) -> None:
    z = torch.randn(2, 3)
    given, generator = model.condition(z), seeded()
    planes, sampler = model.likelihood.noises, model.sampler()
    noise = [torch.rand(1, planes, 6, 5, generator=generator).expand(2, -1, -1, -1) for _ in range(16)]
    expected = torch.stack([sampler.sample(given, one) for one in noise]).mean(0)
    torch.testing.assert_close(latent_space.draw(model, z, mean=True, generator=seeded()), expected)
    assert set(latent_space.draw(model, z).unique().tolist()) <= {0.0, 1.0}
    four = mean_images(model, given, draws=4, generator=seeded())
    torch.testing.assert_close(four, torch.stack([sampler.sample(given, one) for one in noise[:4]]).mean(0))


@torch.no_grad()
def test_interpolate_between_classes_ends_at_both() -> None:
    model, z, a, b = plain(n_classes=3), torch.randn(4, 2), torch.tensor([0, 1]), torch.tensor([2, 1])
    ends = [latent_space.draw(model, z[:2], a), latent_space.draw(model, z[2:], b)]
    walk = latent_space.interpolate(model, z[:2], z[2:], 5, a, stop_labels=b)
    torch.testing.assert_close(walk[:, 0], ends[0])
    torch.testing.assert_close(walk[:, -1], ends[1])
    of_start = latent_space.interpolate(model, z[:2], z[2:], 5, a)
    torch.testing.assert_close(of_start[:, -1], latent_space.draw(model, z[2:], a))
    assert (of_start[0, -1] - walk[0, -1]).abs().max() > 0.01  # the label matters


def test_errors_of_means(model: VLAE) -> None:
    z = torch.zeros(1, 3)
    for options in ({"noise": torch.zeros(1, 1, 6, 5)}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match="draw: noise and temperature are of draws, and must not be given with"):
            latent_space.draw(model, z, mean=True, **options)
    with pytest.raises(ValueError, match="mean_images: draws must be at least 1, got 0"):
        mean_images(model, z, draws=0)
    with pytest.raises(ValueError, match="times: must be at least 1, got 0"):
        decompress(model, torch.zeros(1, model.config["input_dim"], 6, 5), 0)
