"""Many draws of z for one image: what depends on the image alone is computed once, and the result is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vlae_fast import VLAE
from vlae_fast.evaluation import importance
from vlae_fast.models.decoders import handed
from vlae_fast.models.decoders.gated import PixelCNNDecoder
from vlae_fast.models.objectives import LossTerms
from vlae_fast.ops.masked_conv import masked_conv

SIZE = {"latent_dim": 3, "hidden_dim": 8, "n_layers": 2, "image_size": (8, 8), "flow_hidden": 8}
MODELS: dict[str, dict[str, Any]] = {
    "gated": {},
    "residual": {"residual": True},
    "z at every pixel": {"z_channels": 0, "use_flow": False},
    "no gated layer": {"n_layers": 0},
    "labels": {"n_classes": 4},
    "iaf": {"posterior": "iaf", "residual": True},
    "two-stack": {"decoder": "two-stack"},
    "resnet": {"decoder": "resnet"},
    "mlp": {"decoder": "mlp", "encoder": "mlp"},
}


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_repeated_image(name: str, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 to its rounding; blocks of pairs cut neither the draws nor their order."""
    torch.manual_seed(0)
    model = VLAE(**SIZE | MODELS[name]).double().eval()
    x = torch.rand(images, 1, 8, 8, dtype=torch.float64).round()
    labels = torch.arange(images) if model.n_classes else None
    monkeypatch.setattr(importance, "_PAIRS", 2 * images)
    with torch.no_grad():
        torch.manual_seed(1)
        found = importance._log_weights(model, x, labels, 5)
        torch.manual_seed(1)
        repeated = None if labels is None else labels.repeat_interleave(5)
        terms = model.loss_terms(x.repeat_interleave(5, 0), repeated, closed_form=False)
    wanted = -(terms.reconstruction + terms.kl).unflatten(0, (images, 5))
    assert found.std(1).min() > 1e-4  # draws differ
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_float32_agrees_to_its_rounding(shipped: VLAE) -> None:
    """The shipped model's weights: about 1000 nats, of sums of 784 pixels."""
    x = (torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    with torch.no_grad():
        torch.manual_seed(1)
        found = importance._log_weights(shipped, x, None, 6)[0]
        torch.manual_seed(1)
        terms = shipped.loss_terms(x.repeat(6, 1, 1, 1), closed_form=False)
    wanted = -(terms.reconstruction + terms.kl).double()
    budget = 8 * torch.finfo(torch.float32).eps * wanted.abs().max().item()
    assert (found - wanted).abs().max().item() < budget


@pytest.fixture
def shipped() -> VLAE:
    from vlae_fast import checkpoint

    return checkpoint.load(checkpoint.MNIST).model.eval()


def test_the_first_layer_is_computed_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """One convolution of two images for their ten draws; a layer with a hook is called as ever, for all draws."""
    torch.manual_seed(0)
    model = VLAE(**SIZE).eval()
    x, z = torch.rand(2, 1, 8, 8).round(), torch.randn(10, 3)
    batches: list[int] = []

    def counted(given: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        batches.append(len(given))
        return masked_conv(given, *args, **options)

    monkeypatch.setattr("vlae_fast.layers.conv.masked_conv", counted)
    monkeypatch.setattr(handed, "masked_conv", counted)
    with torch.no_grad():
        shared = model.decoder.of_draws(x, z, 5)
        assert batches == [2, 2, 10, 10]  # type A, W h of the first, V c of the first, the second
        batches.clear()
        seen: list[int] = []
        model.decoder_layers[0].register_forward_hook(lambda layer, given, out: seen.append(len(out)))
        hooked = model.decoder.of_draws(x, z, 5)
    assert batches == [2, 10, 10] and seen == [10]
    torch.testing.assert_close(shared, hooked)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_condition_expanded_over_the_batch(backend: str) -> None:
    """Read once for all images, and the output is that of a copy for each, bit for bit."""
    torch.manual_seed(0)
    x, weight, cond = torch.randn(3, 4, 5, 6), torch.randn(8, 4, 3, 3), torch.randn(1, 8, 5, 6)
    how: Any = {"mask_type": "B", "activation": "gate", "backend": backend}
    expanded = cond.expand(3, -1, -1, -1).requires_grad_()
    out = masked_conv(x, weight, None, expanded, **how)
    assert out.equal(masked_conv(x, weight, None, expanded.detach().clone(), **how))
    (grad,) = torch.autograd.grad(out.square().sum(), expanded)
    copy = expanded.detach().clone().requires_grad_()
    torch.testing.assert_close(
        grad, torch.autograd.grad(masked_conv(x, weight, None, copy, **how).square().sum(), copy)[0]
    )


class Doubled(PixelCNNDecoder):
    """Logits twice as large."""

    def parameters_of(self, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        return 2 * super().parameters_of(x, context)


class WithOwnTerms(VLAE):
    def loss_terms(self, *args: Any, **options: Any) -> LossTerms:
        reconstruction, kl = super().loss_terms(*args, **options)
        return LossTerms(reconstruction + 7, kl)


def with_hook(model: VLAE) -> VLAE:
    model.decoder.register_forward_hook(lambda layer, given, out: 2 * out)
    return model


def with_own_decoder(model: VLAE) -> VLAE:
    model.decoder.__class__ = Doubled
    return model


def with_own_terms(model: VLAE) -> VLAE:
    model.__class__ = WithOwnTerms
    return model


@pytest.mark.parametrize("change", [with_hook, with_own_decoder, with_own_terms])
def test_what_a_user_changed_is_evaluated_as_it_is(change: Callable[[VLAE], VLAE]) -> None:
    torch.manual_seed(0)
    model, x = VLAE(**SIZE).double().eval(), torch.rand(2, 1, 8, 8, dtype=torch.float64).round()
    found = []
    for changed in (False, True):
        of = change(model) if changed else model
        with torch.no_grad():
            torch.manual_seed(1)
            found.append(importance._log_weights(of, x, None, 5))
            torch.manual_seed(1)
            terms = of.loss_terms(x.repeat_interleave(5, 0), closed_form=False)
        torch.testing.assert_close(found[-1], -(terms.reconstruction + terms.kl).unflatten(0, (2, 5)))
    assert (found[0] - found[1]).abs().min() > 1e-3
