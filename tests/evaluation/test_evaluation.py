"""evaluation/ against the same figures computed by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from vlae_fast import VLAE, data, evaluation, loss_function
from vlae_fast.evaluation import bits_per_dim, evaluate


@pytest.fixture(scope="module")
def images() -> data.Images:
    grey = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return data.Images("noise", grey, grey[:5], grey[:7], "none")


@pytest.fixture(scope="module")
def model() -> VLAE:
    torch.manual_seed(0)
    return VLAE(1, 3, 4, 1, image_size=(8, 8), flow_hidden=8)


def test_bits_per_dim_of_a_fair_coin() -> None:
    assert bits_per_dim(784 * math.log(2), 784) == pytest.approx(1.0)


def test_evaluate_is_the_mean_of_the_loss(model: VLAE, images: data.Images) -> None:
    result = evaluate(model, images, "test", seed=5)
    torch.manual_seed(5)
    x = images.fixed("test", 5)
    out = model(x)
    loss = loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz) / len(x)
    assert result.elbo == pytest.approx(-loss.item(), rel=1e-5)
    assert result.elbo == pytest.approx(-(result.reconstruction + result.kl))
    assert result.bits_per_dim == pytest.approx(loss.item() / (64 * math.log(2)), rel=1e-5)
    assert result.images == 7
    assert "nats/image" in str(result) and "bits/dim" in str(result)


def test_evaluate_is_repeatable_and_leaves_the_random_state_and_mode_alone(model: VLAE, images: data.Images) -> None:
    model.train()
    state = torch.get_rng_state()
    first, second, other = (evaluate(model, images, "valid", seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert torch.get_rng_state().equal(state)
    assert model.training


def test_the_mode_is_kept_when_evaluation_fails(
    model: VLAE, images: data.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert not model.training
        raise MemoryError

    monkeypatch.setattr(model, "posterior_sample", fail)
    model.train()
    state = torch.get_rng_state()
    with pytest.raises(MemoryError):
        evaluate(model, images)
    assert model.training and torch.get_rng_state().equal(state)


def test_kl_of_the_prior_itself_is_zero(images: data.Images) -> None:
    """With mu = 0, logvar = 0 and an identity flow, q is p: the KL vanishes for every z, not only on average."""
    model = VLAE(1, 3, 4, 1, image_size=(8, 8), flow_hidden=8)
    head = next(m for m in reversed(list(model.encoder.modules())) if isinstance(m, torch.nn.Linear))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    assert evaluate(model, images).kl == pytest.approx(0.0, abs=1e-5)


def test_unknown_split(model: VLAE, images: data.Images) -> None:
    with pytest.raises(ValueError, match="split: must be one of"):
        evaluate(model, images, "validation")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def off() -> VLAE:
    """A model whose posterior is far from right, and whose prior is no N(0, I): every term counts."""
    torch.manual_seed(1)
    model = VLAE(1, 3, 4, 1, image_size=(8, 8), flow_hidden=8)
    with torch.no_grad():
        head = next(m for m in reversed(list(model.encoder.modules())) if isinstance(m, torch.nn.Linear))
        head.weight.mul_(8.0)
        head.bias.add_(1.0)
        for parameter in model.prior.parameters() if model.prior else ():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_log_mean_exp_against_brute_force() -> None:
    log_weights = torch.randn(4, 50, dtype=torch.float64) * 3
    expected = log_weights.exp().mean(1).log()
    assert torch.allclose(evaluation.log_mean_exp(log_weights), expected)
    assert torch.allclose(evaluation.log_mean_exp(log_weights - 1000), expected - 1000)
    assert torch.allclose(evaluation.log_mean_exp(log_weights.T, 0), expected)
    one_large = torch.cat([torch.zeros(1), torch.full((1 << 12,), -18.0)])  # float32 would drop the small ones
    expected_small = math.log((1 + 4096 * math.exp(-18)) / 4097)
    assert evaluation.log_mean_exp(one_large).item() == pytest.approx(expected_small, rel=1e-12)


def test_one_importance_sample_is_the_elbo(off: VLAE, images: data.Images) -> None:
    bound = evaluation.importance_bound(off, images, samples=1, seed=3)
    assert bound.nll == pytest.approx(-evaluate(off, images, seed=3).elbo, rel=1e-6)
    assert (bound.images, bound.total, bound.samples) == (7, 7, 1)


@pytest.mark.parametrize("likelihood", ["gaussian", "continuous_bernoulli"])
def test_bits_of_a_density(likelihood: str, images: data.Images) -> None:
    """Counted at 256 levels: log2(255) above those of the density on [0, 1], and no bound."""
    model = VLAE(1, 3, 8, 1, False, image_size=(8, 8), decoder="mlp", likelihood=likelihood)
    found = evaluate(model, images)
    assert found.bits_per_dim == pytest.approx(-found.elbo / (64 * math.log(2)) + math.log2(255))
    assert f"about {found.bits_per_dim:.4f} bits/dim at 256 levels, by a density (7 images)" in str(found)
    bound = evaluation.importance_bound(model, images, samples=4)
    assert bound.bits_per_dim == pytest.approx(bound.nll / (64 * math.log(2)) + math.log2(255))


def test_a_closed_form_kl_has_no_noise(images: data.Images) -> None:
    """Two seeds give two reconstructions and one KL, of the whole and of every dimension."""
    torch.manual_seed(0)
    model, images = VLAE(1, 3, 4, 1, False, image_size=(8, 8)), dataclasses.replace(images, binarization="threshold")
    one, two = (evaluation.per_image(model, images, seed=seed) for seed in (1, 2))
    assert one.kl.equal(two.kl) and not one.reconstruction.equal(two.reconstruction)
    codes = [evaluation.encode(model, images, seed=seed) for seed in (1, 2)]
    assert codes[0].kl.equal(codes[1].kl) and not codes[0].z.equal(codes[1].z) and (codes[0].kl >= 0).all()
    torch.testing.assert_close(codes[0].kl.sum(1), one.kl, rtol=1e-5, atol=1e-6)
    bound = evaluation.importance_bound(model, images, samples=1, seed=1)
    assert bound.nll != pytest.approx(-evaluate(model, images, seed=1).elbo, rel=1e-6)  # of the draw itself


def test_the_bound_rises_with_the_samples(off: VLAE, images: data.Images) -> None:
    one, ten, many = (
        evaluation.importance_bound(off, images, "train", samples=k, batch_size=500) for k in (1, 10, 300)
    )
    assert one.nll > ten.nll + 0.5 > many.nll + 0.6
    assert "by 300 importance samples (10 images)" in str(many) and "nats/image" in str(many)
    assert many.bits_per_dim == pytest.approx(many.nll / (64 * math.log(2)))


def test_all_images_together_have_probability_one() -> None:
    torch.manual_seed(0)
    model = VLAE(1, 2, 6, 1, image_size=(2, 2), flow_hidden=8, initial_kernel=3)
    every = torch.tensor(list(itertools.product((0, 255), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    nll = evaluation.importance_nll(
        model, data.Images("all", every, every, every, "", "threshold"), samples=500, batch_size=8000
    )
    assert nll.shape == (16,) and (-nll).exp().sum().item() == pytest.approx(1.0, abs=0.02)


def test_an_interrupted_bound_is_that_of_the_images_done(
    off: VLAE, images: data.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = off.posterior_sample, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(off, "posterior_sample", interrupted)
    bound = evaluation.importance_bound(off, images, samples=4, batch_size=4)
    assert (bound.images, bound.total) == (2, 7) and "(2 of 7 images)" in str(bound)
    calls[:] = [1, 1]
    with pytest.raises(KeyboardInterrupt):
        evaluation.importance_bound(off, images, samples=4, batch_size=4)


def test_bound_errors(off: VLAE, images: data.Images) -> None:
    with pytest.raises(ValueError, match="samples: must be at least 1, got 0"):
        evaluation.importance_bound(off, images, samples=0)
    with pytest.raises(ValueError, match="batch_size: must be at least 1, got 0"):
        evaluation.importance_bound(off, images, batch_size=0)


def test_kl_per_dimension_adds_up_to_the_kl(off: VLAE, images: data.Images) -> None:
    codes = evaluation.encode(off, images, "train", seed=4)
    terms = evaluation.per_image(off, images, "train", seed=4)
    assert codes.kl.shape == (10, 3) and torch.allclose(codes.kl.sum(1), terms.kl, atol=1e-4)
    assert codes.mu.dtype == torch.float64 and not codes.mu.equal(codes.z)


def test_active_units() -> None:
    mu = torch.tensor([[0.0, 1.0, 0.10], [0.0, -1.0, 0.19], [0.0, 1.0, 0.15]])
    assert evaluation.active_units(mu) == 1
    with pytest.raises(ValueError, match=r"mean: must be \[N, D\] with N >= 2, got \(1, 3\)"):
        evaluation.active_units(mu[:1])


def test_active_units_of_two_draws() -> None:
    """Draws around means of variance 0 and 1: their noise, of variance 1, counts nowhere."""
    mean = torch.randn(100_000, 2) * torch.tensor([0.0, 1.0])
    assert evaluation.active_units(mean + torch.randn_like(mean), mean + torch.randn_like(mean)) == 1
    assert evaluation.active_units(mean + torch.randn_like(mean)) == 2
    assert evaluation.active_units(mean) == 1


def test_by_class(off: VLAE, images: data.Images) -> None:
    terms = evaluation.per_image(off, images, "test")
    labels = torch.tensor([1, 1, 5, 5, 5, 1, 1])
    first, second = evaluation.by_class(terms, labels)
    assert (first.label, first.images, second.label, second.images) == (1, 4, 5, 3)
    assert second.reconstruction == pytest.approx(terms.reconstruction[2:5].mean().item())
    assert first.kl == pytest.approx(terms.kl[[0, 1, 5, 6]].mean().item())
    with pytest.raises(ValueError, match=r"labels: must be one per image, \(7,\), got \(3,\)"):
        evaluation.by_class(terms, labels[:3])


def test_subset_is_a_random_one_with_its_labels(images: data.Images) -> None:
    grey = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1)
    labels = {split: torch.arange(50) for split in data.SPLITS}
    all_of = data.Images("x", grey, grey, grey, "", labels=labels)
    some = evaluation.subset(all_of, "valid", 9, seed=1)
    assert some.valid.flatten().tolist() == some.labels["valid"].tolist() != list(range(9))  # type: ignore[index]
    assert len(some.valid) == 9 and len(some.train) == len(some.test) == 50
    assert evaluation.subset(all_of, "valid", 50) is evaluation.subset(all_of, "valid", None) is all_of
    with pytest.raises(ValueError, match="limit: must be at least 1, got 0"):
        evaluation.subset(all_of, "valid", 0)


def test_detection_of_separable_scores() -> None:
    valid, normal, strange = torch.arange(100.0), torch.arange(0.0, 100, 5), torch.arange(200.0, 210)
    found = evaluation.detect(valid, normal, strange, 0.9)
    assert (found.auc, found.found) == (1.0, 1.0)
    assert found.threshold == pytest.approx(0.9 * 99) and found.false_alarms == pytest.approx(2 / 20)
    assert "AUC 1.0000" in str(found) and "nats/image" in str(found)
    same = evaluation.detect(valid, valid, valid)
    assert same.auc == pytest.approx(0.5) and same.found == same.false_alarms == pytest.approx(0.05)
    assert evaluation.detect(valid, strange, normal).auc == 0.0


def test_scores_are_bounds(off: VLAE, images: data.Images) -> None:
    elbo = evaluation.anomaly_scores(off, images, seed=2)
    assert elbo.mean().item() == pytest.approx(-evaluate(off, images, seed=2).elbo)
    assert evaluation.anomaly_scores(off, images, samples=50, seed=2).mean() < elbo.mean()


def test_most_anomalous_are_the_highest_scores() -> None:
    scores, labels = torch.tensor([3.0, 9.0, 1.0, 5.0]), torch.tensor([7, 8, 7, 2])
    found = evaluation.most_anomalous(scores, 4.0, labels=labels, n=3)
    assert found == [(1, 8, 9.0, True), (3, 2, 5.0, True), (0, 7, 3.0, False)]
    assert [row.label for row in evaluation.most_anomalous(scores, 4.0)] == [None] * 4
    with pytest.raises(ValueError, match=r"scores: must be \[N\] with N > 0, got \(0,\)"):
        evaluation.most_anomalous(scores[:0], 1.0)
    with pytest.raises(ValueError, match=r"labels: must be one per score, \[4\], got \(3,\)"):
        evaluation.most_anomalous(scores, 1.0, labels=labels[:3])
    with pytest.raises(ValueError, match="n: must be at least 1, got 0"):
        evaluation.most_anomalous(scores, 1.0, n=0)


def test_detection_errors() -> None:
    scores = torch.arange(3.0)
    with pytest.raises(ValueError, match=r"anomalous: must be finite scores \[N\] with N > 0, got \(0,\)"):
        evaluation.detect(scores, scores, scores[:0])
    with pytest.raises(ValueError, match="normal: must be finite"):
        evaluation.detect(scores, scores / 0, scores)
    with pytest.raises(ValueError, match="quantile: must be between 0 and 1, got 1"):
        evaluation.detect(scores, scores, scores, 1.0)
