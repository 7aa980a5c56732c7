"""training.py: loss falls, resumed runs are uninterrupted runs, failures lose nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vlae_fast import VLAE, checkpoint, data, training
from vlae_fast.evaluation import evaluate
from vlae_fast.models.vlae import loss_function, loss_terms
from vlae_fast.training import loop
from vlae_fast.training.average import Average
from vlae_fast.training.settings import Schedule

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def images() -> data.Images:
    """Grey 8x8 pictures of two kinds, left half or right half light, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(60, 1, 1, 1, generator=generator) < 0.5
    light = (torch.arange(8) >= 4) == right
    grey = torch.where(light, 230, 25).to(torch.uint8).expand(60, 1, 8, 8).contiguous()
    return data.Images("halves", grey[:40], grey[40:50], grey[50:], "40/10/10")


def new_model(**changes: Any) -> VLAE:
    torch.manual_seed(0)
    sizes = {"input_dim": 1, "latent_dim": 2, "hidden_dim": 8, "n_layers": 1, "image_size": (8, 8), "flow_hidden": 8}
    return VLAE(**(sizes | changes))  # type: ignore[arg-type]


def run(model: VLAE, images: data.Images, out: Path, **options: Any) -> training.History:
    settings = {"epochs": 2, "batch_size": 16, "lr": 5e-3, "progress": False} | options
    return training.train(model, images, out_dir=out, **settings)


def same(a: VLAE, b: VLAE) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def interrupting(before: int) -> Any:
    """An update that is interrupted where it would be the one of this number, from 0."""
    step, left = loop.update, [before]

    def update(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*args)

    return update


def test_loss_falls_and_figures_add_up(images: data.Images, tmp_path: Path) -> None:
    model = new_model()
    history = run(model, images, tmp_path, epochs=12)
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["valid_loss"] < 0.8 * history[0]["valid_loss"]
    for row in history:
        for prefix in ("", "valid_"):
            assert row[prefix + "loss"] == pytest.approx(row[prefix + "reconstruction"] + row[prefix + "kl"])
            assert row[prefix + "bits_per_dim"] == pytest.approx(row[prefix + "loss"] / (64 * math.log(2)))
    found = checkpoint.load(tmp_path / "checkpoint")
    assert same(found.model, model) and found.history == history and found.epoch == 12
    assert found.training["data"] == "halves" and not model.training


@pytest.mark.parametrize(
    "changes",
    [{"lr_decay": 0.5}, {"optimizer": "adamax", "lr_schedule": "cosine", "polyak": 0.9, "warmup_epochs": 2.5}],
)
def test_resumed_is_uninterrupted_bit_for_bit(
    images: data.Images, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first, second = new_model(), new_model(), new_model()
    options = {"warmup_epochs": 2, "free_bits": 1.0} | changes
    expected = run(whole, images, tmp_path / "whole", epochs=4, **options)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupting(before=7))  # of 3 steps an epoch
        with pytest.raises(training.Interrupted):
            run(first, images, tmp_path / "parts", epochs=4, **options)
    torch.manual_seed(99)
    torch.nn.init.normal_(second.decoder.final_conv.weight)  # what a resumed model starts from must not matter
    got = run(second, images, tmp_path / "parts", epochs=4, resume=True, **options)
    assert same(whole, second)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in got] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in expected
    ]
    ours, theirs = (
        (tmp_path / name / "checkpoint" / "optimizer.safetensors").read_bytes() for name in ("whole", "parts")
    )
    assert ours == theirs


def test_same_seed_same_model_and_the_random_state_is_left_alone(images: data.Images, tmp_path: Path) -> None:
    models = [new_model() for _ in range(3)]
    for i, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        torch.manual_seed(i)
        state = torch.get_rng_state()
        run(model, images, tmp_path / str(i), epochs=1, seed=seed)
        assert torch.get_rng_state().equal(state)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_interrupt_keeps_the_last_epoch_and_says_how_to_go_on(
    images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    step = loop.update

    def interrupting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second step of epoch 2
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "update", interrupting)
    with pytest.raises(training.Interrupted, match=r"last good checkpoint is .*checkpoint, epoch 1; .*--resume"):
        run(new_model(), images, tmp_path)
    resumed, whole = new_model(), new_model()
    run(resumed, images, tmp_path, resume=True)
    run(whole, images, tmp_path / "whole")
    assert same(resumed, whole)


def test_interrupt_in_the_first_epoch(images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "update", interrupt)
    with pytest.raises(training.Interrupted, match=r"nothing is saved yet .*; the same command starts again$"):
        run(new_model(), images, tmp_path)
    assert not checkpoint.exists(tmp_path / "checkpoint")


@pytest.mark.parametrize("damaged", [False, True])
def test_interrupt_while_overwriting(
    images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """Until the first save the checkpoint is that of the run to be replaced: neither ours nor one to resume."""
    run(new_model(), images, tmp_path, epochs=2)
    weights, step = tmp_path / "checkpoint" / "model.safetensors", loop.update
    if damaged:
        weights.write_bytes(b"")
    before, left = weights.read_bytes(), [0]

    def interrupting(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "update", interrupting)
    with pytest.raises(training.Interrupted) as interrupt:
        run(new_model(), images, tmp_path, overwrite=True, seed=1)
    assert f"the earlier run in {tmp_path / 'checkpoint'} is still there, untouched" in str(interrupt.value)
    assert "last good" not in str(interrupt.value) and "resume" not in str(interrupt.value)
    assert weights.read_bytes() == before
    left[0] = 4  # the second step of epoch 2
    with pytest.raises(training.Interrupted, match=r"last good .*, epoch 1; .* with --resume instead of --overwrite"):
        run(new_model(), images, tmp_path, overwrite=True, seed=1)
    assert checkpoint.load(tmp_path / "checkpoint").training["seed"] == 1


def test_a_non_finite_loss_while_overwriting(images: data.Images, tmp_path: Path) -> None:
    run(new_model(), images, tmp_path, epochs=2)
    model = new_model()
    torch.nn.init.constant_(model.decoder.final_conv.bias, float("nan"))
    with pytest.raises(ValueError, match=r"epoch 1, step 1: the loss is nan.*the earlier run in .* untouched"):
        run(model, images, tmp_path, overwrite=True)


def test_non_finite_loss_names_step_checkpoint_and_remedy(
    images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    run(model, images, tmp_path, epochs=1)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def exploding(schedule: Schedule, step: int) -> float:
        torch.nn.init.constant_(model.decoder.final_conv.bias, float("nan"))
        return 1.0

    monkeypatch.setattr(Schedule, "kl_weight", exploding)
    message = r"epoch 2, step 1: the loss is nan, which must be finite; .*epoch 1; try a lower lr"
    with pytest.raises(ValueError, match=message):
        run(model, images, tmp_path, resume=True)
    found = checkpoint.load(tmp_path / "checkpoint").model.state_dict()
    assert all(found[name].equal(tensor) for name, tensor in good.items())


def test_free_bits_cost_nothing(images: data.Images, tmp_path: Path) -> None:
    """With more free bits than the KL has, the prior is never asked: its parameters stay as they were."""
    model, start = new_model(), new_model()
    run(model, images, tmp_path, free_bits=1e6)
    for (name, ours), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert ours.equal(before) == name.startswith("prior."), name


def far_from_its_prior() -> VLAE:
    model = new_model()
    torch.nn.init.constant_(model.encoder.head.bias, 1.0)
    torch.nn.init.normal_(model.prior.steps[0].masked_layers()[-1].bias)
    torch.manual_seed(1)  # of z
    return model


def one_step(images: data.Images, *, free_bits: float = 0.0, beta: float = 1.0) -> tuple[VLAE, float]:
    """The model after one step of plain gradient descent, and its KL before that in bits per image."""
    model, x = far_from_its_prior(), images.fixed("valid", 0)
    settings = training.Settings(free_bits=free_bits)
    _, kl = loop.update(model, torch.optim.SGD(model.parameters(), lr=1.0), x, settings, beta)
    return model, kl / math.log(2)


def test_free_bits_are_bits(images: data.Images) -> None:
    """Just below the KL they change nothing, just above it the KL costs nothing."""
    plain, bits = one_step(images)
    assert bits > 1
    below, above, free = (
        one_step(images, **o)[0] for o in ({"free_bits": 0.99 * bits}, {"free_bits": 1.01 * bits}, {"beta": 0.0})
    )
    assert same(below, plain) and not same(plain, above)
    assert same(above, free)


def test_the_weight_of_the_kl(images: data.Images) -> None:
    """The parameters' step is -(gradient of the reconstruction + beta * gradient of the KL)."""
    none, quarter, whole = (list(one_step(images, beta=beta)[0].parameters()) for beta in (0.0, 0.25, 1.0))
    assert any(not a.allclose(b, atol=1e-3) for a, b in zip(none, whole, strict=True))
    for a, b, c in zip(none, quarter, whole, strict=True):
        torch.testing.assert_close(b, a + 0.25 * (c - a), rtol=1e-4, atol=1e-4)
    model, x = far_from_its_prior(), images.fixed("valid", 0)
    out = model(x)
    loss = loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz) / len(x)
    for start, gradient, c in zip(
        model.parameters(), torch.autograd.grad(loss, list(model.parameters())), whole, strict=True
    ):
        torch.testing.assert_close(c, start - gradient, rtol=1e-4, atol=1e-4)


def test_what_is_shown_is_unweighted(images: data.Images) -> None:
    model, x = new_model(), images.fixed("valid", 0)
    torch.manual_seed(1)
    out = model(x)
    terms = loss_terms(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
    torch.manual_seed(1)
    shown = loop.update(model, torch.optim.Adam(model.parameters()), x, training.Settings(free_bits=99.0), 0.5)
    assert shown == pytest.approx((terms.reconstruction.mean().item(), terms.kl.mean().item()))


def test_every_step_has_its_weight(images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, weights = loop.update, []

    def noting(*args: Any) -> Any:
        weights.append(args[-1])
        return step(*args)

    monkeypatch.setattr(loop, "update", noting)
    run(new_model(), images, tmp_path, epochs=3, batch_size=20, warmup_epochs=2)
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_warm_up_rises_to_one() -> None:
    schedule = Schedule(training.Settings(warmup_epochs=1.5), epochs=3, steps=2)
    assert [schedule.kl_weight(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert Schedule(training.Settings(), epochs=3, steps=2).kl_weight(0) == 1


def test_cosine_falls_to_zero_over_all_steps() -> None:
    schedule = Schedule(training.Settings(lr=0.4, lr_schedule="cosine"), epochs=2, steps=2)
    half = math.sqrt(0.5)
    expected = [0.4, 0.2 * (1 + half), 0.2, 0.2 * (1 - half), 0]
    assert [schedule.lr(step) for step in range(5)] == pytest.approx(expected, abs=1e-15)
    decayed = Schedule(training.Settings(lr=0.4, lr_schedule="cosine", lr_decay=0.5), epochs=2, steps=2)
    assert decayed.lr(3) == pytest.approx(expected[3] / 2)


def test_every_step_has_its_step_size(images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, sizes = loop.update, []

    def noting(model: VLAE, optimizer: torch.optim.Optimizer, *args: Any) -> Any:
        sizes.append(optimizer.param_groups[0]["lr"])
        return step(model, optimizer, *args)

    monkeypatch.setattr(loop, "update", noting)
    run(new_model(), images, tmp_path, epochs=2, batch_size=20, lr=1e-3, lr_schedule="cosine")
    half = math.sqrt(0.5)
    assert sizes == pytest.approx([1e-3, 5e-4 * (1 + half), 5e-4, 5e-4 * (1 - half)])


def test_polyak_average_by_hand() -> None:
    """Weights 1, 2, 4 after three steps with D = 1/2: (1/4 + 2/2 + 4) / (1/4 + 1/2 + 1)."""
    model = torch.nn.Linear(1, 1)
    average = Average(model, 0.5)
    for step, value in enumerate((1.0, 2.0, 4.0)):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, value)
        average.update(step)
    with average.in_place() as trained:
        assert [p.item() for p in model.parameters()] == pytest.approx([3.0, 3.0])
        assert [t.item() for t in trained.values()] == [4.0, 4.0]
    assert [p.item() for p in model.parameters()] == [4.0, 4.0]


def test_polyak_average_is_validated_saved_and_left_in_the_model(
    images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, averaged, step, weights = new_model(), new_model(), loop.update, []
    run(plain, images, tmp_path / "plain")

    def noting(model: VLAE, *args: Any) -> Any:
        weights.append(model.decoder.final_conv.weight.detach().clone())
        return step(model, *args)

    monkeypatch.setattr(loop, "update", noting)
    history = run(averaged, images, tmp_path / "averaged", polyak=0.5)
    weights = [*weights[1:], plain.decoder.final_conv.weight.detach()]  # after each step; training is that of `plain`
    expected = sum(0.5 ** (5 - i) * w for i, w in enumerate(weights)) / sum(0.5**i for i in range(6))
    found = checkpoint.load(tmp_path / "averaged" / "checkpoint")
    torch.testing.assert_close(found.model.decoder.final_conv.weight.detach(), expected)
    assert same(found.model, averaged) and not same(averaged, plain)
    assert history[-1]["valid_kl"] == evaluate(averaged, images, "valid").kl


def test_step_size_decays_per_epoch(images: data.Images, tmp_path: Path) -> None:
    schedule = Schedule(training.Settings(lr=0.4, lr_decay=0.5), epochs=3, steps=2)
    assert [schedule.lr(step) for step in range(6)] == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    stopped, going = new_model(), new_model()
    run(stopped, images, tmp_path / "a", epochs=3, lr_decay=1e-9)  # the second and third epoch barely move
    run(going, images, tmp_path / "b", epochs=1)
    for ours, theirs in zip(stopped.parameters(), going.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_time_limit_stops_after_an_epoch(images: data.Images, tmp_path: Path) -> None:
    history = run(new_model(), images, tmp_path, epochs=50, time_limit=0.0)
    assert len(history) == 1 and checkpoint.load(tmp_path / "checkpoint").epoch == 1


def test_existing_run_is_not_overwritten_unasked(images: data.Images, tmp_path: Path) -> None:
    run(new_model(), images, tmp_path, epochs=2)
    with pytest.raises(ValueError, match="checkpoint exists: resume or overwrite it"):
        run(new_model(), images, tmp_path)
    assert len(run(new_model(), images, tmp_path, epochs=1, overwrite=True)) == 1


def test_resume_and_overwrite_contradict_each_other(images: data.Images, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume, overwrite: at most one must be given .*, got both"):
        run(new_model(), images, tmp_path, resume=True, overwrite=True)
    assert not any(tmp_path.iterdir())


def test_resume_needs_every_figure(images: data.Images, tmp_path: Path) -> None:
    run(new_model(), images, tmp_path, epochs=1)
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"history": [{"epoch": 1, "kl": 2.0, "loss": 3.0}]}))
    with pytest.raises(
        ValueError, match=r"resume: history must have every figure .*, got no bits_per_dim, .* of epoch 1"
    ):
        run(new_model(), images, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-4}, "resume: lr must be that of .*, 0.005, got 0.0001"),
        ({"seed": 3}, "resume: seed must be that of .*, 0, got 3"),
    ],
)
def test_resume_needs_the_same_settings(
    images: data.Images, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run(new_model(), images, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=message):
        run(new_model(), images, tmp_path, resume=True, **change)
    with pytest.raises(ValueError, match="resume: model must be that of"):
        run(new_model(hidden_dim=4), images, tmp_path, resume=True)


def test_resume_of_a_cosine_needs_the_same_epochs(images: data.Images, tmp_path: Path) -> None:
    run(new_model(), images, tmp_path, epochs=1, lr_schedule="cosine")
    with pytest.raises(ValueError, match=r"resume: epochs must be that of .*, 1, got 2"):
        run(new_model(), images, tmp_path, epochs=2, lr_schedule="cosine", resume=True)
    with pytest.raises(ValueError, match=r"resume: lr_schedule must be that of .*, 'cosine', got 'constant'"):
        run(new_model(), images, tmp_path, epochs=1, resume=True)


def test_resume_of_a_run_from_before_a_setting_came(images: data.Images, tmp_path: Path) -> None:
    run(new_model(), images, tmp_path, epochs=1)
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    for name in ("optimizer", "lr_schedule", "polyak"):
        del config["training"][name]
    path.write_text(json.dumps(config))
    assert len(run(new_model(), images, tmp_path, epochs=2, resume=True)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"lr": 0.0}, "lr: must be finite and > 0, got 0.0"),
        ({"lr": float("nan")}, "lr: must be finite and > 0, got nan"),
        ({"lr_decay": 0.0}, "lr_decay: must be > 0 and <= 1, got 0.0"),
        ({"free_bits": -1.0}, "free_bits: must be finite and >= 0, got -1.0"),
        ({"polyak": 1.0}, "polyak: must be >= 0 and < 1, got 1.0"),
        ({"optimizer": "sgd"}, "optimizer: must be one of adam, adamax, got 'sgd'"),
        ({"lr_schedule": "step"}, "lr_schedule: must be one of constant, cosine, got 'step'"),
        ({"warmup_epochs": -1}, "warmup_epochs: must be finite and >= 0, got -1"),
    ],
)
def test_bad_arguments(images: data.Images, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(new_model(), images, tmp_path, **change)
    assert not any(tmp_path.iterdir())


def test_progress_shows_units(images: data.Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(new_model(), images, tmp_path, epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "nats/image" in shown and "bits/dim" in shown and "epoch 1/1" in shown
