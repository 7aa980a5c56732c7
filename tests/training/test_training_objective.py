"""The objectives: each one trains, and by the gradient that it should."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.deadline import slow_where
from cases.runs import halves, interrupting, new_model, run, same

from vlae_fast import VLAE, checkpoint, data, training, visualization
from vlae_fast.data import corrupt
from vlae_fast.evaluation import evaluate
from vlae_fast.models.vlae import LossTerms, loss_function
from vlae_fast.training import loop
from vlae_fast.training.objective import Batch, Objective, update

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


def test_free_bits_cost_nothing(tmp_path: Path) -> None:
    """With more free bits than the KL has, the prior is never asked: its parameters stay as they were."""
    model, start = new_model(), new_model()
    run(model, tmp_path, free_bits=1e6)
    for (name, ours), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert ours.equal(before) == name.startswith("prior."), name


def far_from_its_prior() -> VLAE:
    model = new_model()
    torch.nn.init.constant_(model.encoder.head.bias, 1.0)
    torch.nn.init.normal_(model.prior.steps[0].masked_layers()[-1].bias)
    torch.manual_seed(1)  # of z
    return model


def one_step(kl_weight: float = 1.0, **settings: Any) -> tuple[VLAE, float]:
    """The model after one step of plain gradient descent, and its KL before that in bits per image."""
    model, batch = far_from_its_prior(), Batch(halves().fixed("valid", 0))
    objective = Objective(training.Settings(**settings), levels=2)
    _, kl = update(model, torch.optim.SGD(model.parameters(), lr=1.0), batch, objective, kl_weight)
    return model, kl / math.log(2)


def test_free_bits_are_bits() -> None:
    """Just below the KL they change nothing, just above it the KL costs nothing."""
    plain, bits = one_step()
    assert bits > 1
    below, above, free = (
        one_step(**o)[0] for o in ({"free_bits": 0.99 * bits}, {"free_bits": 1.01 * bits}, {"kl_weight": 0.0})
    )
    assert same(below, plain) and not same(plain, above)
    assert same(above, free)


def test_the_weight_of_the_kl() -> None:
    """The parameters' step is -(gradient of the reconstruction + weight * gradient of the KL)."""
    steps = [one_step(weight, path_derivative=False)[0] for weight in (0.0, 0.25, 1.0)]
    none, quarter, whole = (list(model.parameters()) for model in steps)
    assert any(not a.allclose(b, atol=1e-3) for a, b in zip(none, whole, strict=True))
    for a, b, c in zip(none, quarter, whole, strict=True):
        torch.testing.assert_close(b, a + 0.25 * (c - a), rtol=1e-4, atol=1e-4)
    model, x = far_from_its_prior(), halves().fixed("valid", 0)
    out = model(x)
    loss = loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz) / len(x)
    for start, gradient, c in zip(
        model.parameters(), torch.autograd.grad(loss, list(model.parameters())), whole, strict=True
    ):
        torch.testing.assert_close(c, start - gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"free_bits": 99.0}, {"soft_free_bits": 99.0}, {"objective": "iwae", "samples": 2}]
)
def test_what_is_shown_is_the_elbo(settings: dict[str, Any]) -> None:
    model, x = new_model(), halves().fixed("valid", 0)
    torch.manual_seed(1)
    terms = model.loss_terms(x.repeat(settings.get("samples", 1), 1, 1, 1))
    torch.manual_seed(1)
    objective = Objective(training.Settings(**settings), levels=2)
    shown = update(model, torch.optim.Adam(model.parameters()), Batch(x), objective, 0.5)
    assert shown == pytest.approx((terms.reconstruction.mean().item(), terms.kl.mean().item()))


def test_importance_weighted_bound_by_hand() -> None:
    """-log mean exp(-(reconstruction + weight * KL)) over the draws of each image, averaged over images."""
    objective = Objective(training.Settings(objective="iwae", samples=2), levels=2)
    terms = LossTerms(torch.tensor([1.0, 5.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 6.0, 0.0]))  # draws of images 0, 1
    expected = (-math.log((math.exp(-2) + math.exp(-5)) / 2) + 5) / 2
    assert objective(terms, 0.5).item() == pytest.approx(expected)


def test_soft_free_bits_steer_the_weight_towards_their_target(tmp_path: Path) -> None:
    history = run(new_model(), tmp_path, epochs=8, soft_free_bits=50.0)
    weights = [row["kl_weight"] for row in history]
    assert weights == sorted(weights, reverse=True) and weights[-1] < 0.2  # this model's KL stays below 50 bits
    assert run(new_model(), tmp_path / "none", epochs=1, soft_free_bits=1e-6)[0]["kl_weight"] == 1


def test_encoder_sees_noise_and_decoder_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = new_model(), halves().fixed("valid", 0)
    draw, seen = model.posterior_sample, []
    monkeypatch.setattr(model, "posterior_sample", lambda x, labels: [seen.append(x), draw(x, labels)][1])
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    Objective(training.Settings(denoise=0.25, samples=2), levels=2).terms(model, Batch(x))
    noisy, clean = seen
    first, second = noisy.chunk(2)
    assert first.equal(second) and clean.equal(x.repeat(2, 1, 1, 1))  # one noisy image, two draws of its code
    assert (first != x).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert set(first.unique().tolist()) == {0, 1}


def test_noise_on_images() -> None:
    x = torch.rand(50, 1, 16, 16).round()
    assert corrupt(x, 0.0).equal(x)
    assert (corrupt(x, 0.1) != x).float().mean().item() == pytest.approx(0.1, abs=0.01)
    grey = torch.full((50, 1, 16, 16), 0.5)
    noisy = corrupt(grey, 0.1, levels=256)
    assert noisy.std().item() == pytest.approx(0.1, abs=0.01) and noisy.mean().item() == pytest.approx(0.5, abs=0.01)
    assert corrupt(grey, 1.0, levels=256).aminmax() == (0.0, 1.0)
    again = (corrupt(x, 0.1, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert next(again).equal(next(again))


def test_autocast_rounds_products_alone() -> None:
    """The figures are those of float32 to bfloat16's rounding; weights and gradients stay float32."""
    shown, models = [], []
    for autocast in (False, True):
        models.append(far_from_its_prior())
        objective = Objective(training.Settings(autocast=autocast), levels=2)
        batch = Batch(halves().fixed("valid", 0))
        shown.append(update(models[-1], torch.optim.SGD(models[-1].parameters(), lr=0.1), batch, objective, 1.0))
    assert shown[1] == pytest.approx(shown[0], rel=0.01) and shown[1] != shown[0]
    assert not same(*models)
    for parameter in models[1].parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_images_are_mirrored_in_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the updates' images by the epoch's draws, none of those that validate."""
    seen: list[torch.Tensor] = []

    def noted(model: VLAE, optimizer: Any, batch: Batch, *others: Any) -> tuple[float, float]:
        seen.append(batch.x)
        return update(model, optimizer, batch, *others)

    monkeypatch.setattr(loop, "update", noted)
    unlike = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = data.Images("unlike", unlike[:40], unlike[40:50], unlike[50:], "40/10/10", binarization="none")
    known = {pixels(image) for image in images.fixed("train")}
    valid = {}
    for flip in (False, True):
        seen.clear()
        options = {"epochs": 1, "lr": 1e-9, "batch_size": 16, "progress": False, "flip": flip}
        history = training.train(new_model(likelihood="gaussian"), images, out_dir=tmp_path / f"flip-{flip}", **options)
        valid[flip] = history[0]["valid_loss"]
        turned = [image for image in torch.cat(seen) if pixels(image) not in known]
        assert all(pixels(image.flip(-1)) in known for image in turned)
        assert 0.3 < len(turned) / len(known) < 0.7 if flip else not turned
    assert valid[True] == pytest.approx(valid[False], rel=1e-6)


def pixels(image: torch.Tensor) -> tuple[float, ...]:
    return tuple(image.flatten().tolist())


def grey() -> data.Images:
    return dataclasses.replace(halves(), binarization="none")


def test_grey_images_train_by_their_likelihood(tmp_path: Path) -> None:
    """Noise on what the encoder sees is normal where there are more levels than two."""
    model = new_model(likelihood="logistic_mixture", components=2)
    kept = {"epochs": 8, "lr": 5e-3, "batch_size": 16, "progress": False}
    history = training.train(model, grey(), out_dir=tmp_path / "grey", denoise=0.2, **kept)
    assert history[-1]["valid_loss"] < 0.95 * history[0]["valid_loss"]
    assert history[-1]["valid_bits_per_dim"] == pytest.approx(history[-1]["valid_loss"] / (64 * math.log(2)))
    for few in (new_model(), new_model(likelihood="categorical", levels=16)):
        with pytest.raises(ValueError, match=r"images: must have levels that a \w+ likelihood of \d+ has, got 256"):
            training.train(few, grey(), out_dir=tmp_path / "few", **kept)
    for few in (new_model(), new_model(decoder="mlp")):
        choose = (
            'choose binarization "dynamic", or .*: categorical, logistic_mixture, gaussian, or continuous_bernoulli'
        )
        with pytest.raises(ValueError, match=rf"got 256 \(binarization 'none'\): {choose}"):
            training.train(few, grey(), out_dir=tmp_path / "few", **kept)


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "gaussian"},
        {"likelihood": "gaussian", "likelihood_sigma": 0.5, "decoder": "mlp", "use_flow": False},
        {"likelihood": "continuous_bernoulli", "decoder": "mlp", "use_flow": False},
        {"likelihood": "gaussian", "latent_dim": 0},
    ],
)
def test_grey_images_train_by_a_density(options: dict[str, Any], tmp_path: Path) -> None:
    """Noise on the images is that of grey ones; bits are counted at 256 levels; a checkpoint gives the model back."""
    kept: dict[str, Any] = {"epochs": 4, "lr": 5e-3, "batch_size": 16, "progress": False}
    noise = {} if options.get("latent_dim") == 0 else {"denoise": 0.2}
    history = training.train(new_model(**options), grey(), out_dir=tmp_path, **kept, **noise)
    last = history[-1]
    assert last["valid_loss"] < history[0]["valid_loss"]
    assert last["valid_bits_per_dim"] == pytest.approx(last["valid_loss"] / (64 * math.log(2)) + math.log2(255))
    found = checkpoint.load(tmp_path).model
    assert evaluate(found, grey(), "valid", seed=0).elbo == pytest.approx(-last["valid_loss"], rel=1e-6)
    drawn = found.sample(4)
    assert (drawn.min() < 0 or drawn.max() > 1) == (options["likelihood"] == "gaussian")
    assert visualization.grids.unit(found.likelihood.clip(drawn)).equal(drawn.clamp(0, 1))


def test_a_fixed_sigma_trains_by_the_squared_error(tmp_path: Path) -> None:
    model, x = (
        new_model(likelihood="gaussian", likelihood_sigma=0.5, decoder="mlp", use_flow=False),
        grey().fixed("valid"),
    )
    torch.manual_seed(1)
    terms = model.loss_terms(x)
    torch.manual_seed(1)
    error = (model.likelihood.mean(model(x).logits) - x).square().sum((1, 2, 3))
    torch.testing.assert_close(terms.reconstruction, 2 * error + 64 * math.log(0.5 * math.sqrt(2 * math.pi)))


def test_a_model_without_z_is_resumed_bit_for_bit_and_has_no_setting_of_z(tmp_path: Path) -> None:
    whole, parts = new_model(latent_dim=0), new_model(latent_dim=0)
    history = run(whole, tmp_path / "whole", epochs=2)
    assert all(row["kl"] == row["valid_kl"] == 0 for row in history)
    run(parts, tmp_path / "parts", epochs=1)
    run(parts, tmp_path / "parts", epochs=2, resume=True)
    assert same(whole, parts) and not same(whole, new_model(latent_dim=0))
    for name, value in {"free_bits": 1.0, "soft_free_bits": 1.0, "samples": 2, "denoise": 0.1}.items():
        with pytest.raises(ValueError, match=f"{name}: must be .* for a model without z .latent_dim 0., got {value}"):
            run(whole, tmp_path / name, **{name: value})


def test_a_closed_form_kl_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = new_model(use_flow=False), new_model(use_flow=False)
    run(whole, tmp_path / "whole", epochs=2)
    run(parts, tmp_path / "parts", epochs=1)
    run(parts, tmp_path / "parts", epochs=2, resume=True)
    assert same(whole, parts)


OBJECTIVES: list[dict[str, Any]] = [
    {"beta": 0.5, "warmup_epochs": 0.5},
    {"free_bits": 2.0},
    {"soft_free_bits": 2.0},
    {"objective": "iwae", "samples": 3},
    {"denoise": 0.1, "flip": True},
    {"autocast": True},
]


@slow_where(lambda settings: "soft_free_bits" in settings)  # as free_bits, of another bound
@pytest.mark.parametrize("settings", OBJECTIVES, ids=lambda settings: "-".join(settings))
def test_every_objective_trains_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    whole, parts = new_model(), new_model()
    history = run(whole, tmp_path / "whole", epochs=12, **settings)
    assert history[-1]["valid_loss"] < 0.85 * history[0]["valid_loss"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupting(before=13))  # of 3 steps an epoch
        with pytest.raises(training.Interrupted):
            run(new_model(), tmp_path / "parts", epochs=12, **settings)
    run(parts, tmp_path / "parts", epochs=12, resume=True, **settings)
    assert same(whole, parts)


def test_class_conditional_training(tmp_path: Path) -> None:
    """The class says which half is light: told it, a model without a use for z is better."""
    images = labelled()
    told, untold = new_model(n_classes=2), new_model()
    kept = {"epochs": 8, "batch_size": 16, "lr": 5e-3, "beta": 100.0, "progress": False}
    ours = training.train(told, images, out_dir=tmp_path / "told", samples=2, **kept)
    theirs = training.train(untold, images, out_dir=tmp_path / "untold", samples=2, **kept)
    assert ours[-1]["reconstruction"] < theirs[-1]["reconstruction"]
    with pytest.raises(ValueError, match="labels: halves has none"):
        run(new_model(n_classes=2), tmp_path / "none")
    with pytest.raises(ValueError, match="labels must be from 0 to 0, got 1"):
        training.train(new_model(n_classes=1), images, out_dir=tmp_path / "few", **kept)


def labelled() -> data.Images:
    images = halves()
    labels = {split: (images.pixels(split)[:, 0, 0, 0] > 99).long() for split in data.SPLITS}
    return dataclasses.replace(images, labels=labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "mmd"}, "objective: must be one of elbo, iwae, got 'mmd'"),
        ({"objective": "iwae"}, r"samples: must be at least 2 where objective is 'iwae' \(1 is the ELBO\), got 1"),
        ({"objective": "iwae", "samples": 2, "free_bits": 1.0}, "objective: must be 'elbo' where there are free bits"),
        ({"samples": 0}, "samples: must be at least 1, got 0"),
        ({"beta": -1.0}, "beta: must be finite and >= 0, got -1.0"),
        ({"soft_free_bits": 1.0, "free_bits": 2.0}, "free_bits: must be 0 where soft_free_bits steers .*, got 2.0"),
        ({"soft_free_bits": 1.0, "beta": 2.0}, "beta: must be 1 where soft_free_bits steers .*, got 2.0"),
        ({"denoise": 0.6}, "denoise: must be a flip's probability, from 0 to 0.5, for images of 2 levels, got 0.6"),
    ],
)
def test_bad_objectives(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(new_model(), tmp_path, **change)
    assert not any(tmp_path.iterdir())
