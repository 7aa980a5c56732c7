"""How pixels are drawn: the formulas of `pixelcnn_draw.draw`, and every backend's draws against them."""

import pytest
import torch
from cases.pixelcnn_draw import EMITS, check_draws, noise_of, program
from cases.rows import backends_of, require

from vlae_fast.ops import pixelcnn_sample
from vlae_fast.plan import Emit, Plan
from vlae_fast.reference import pixelcnn_draw


@pytest.mark.parametrize("backend", [b for b in backends_of("pixelcnn_sample") if b != "reference"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("emit", EMITS.values(), ids=EMITS)
def test_draws_are_the_reference_s(emit: Emit, channels: int, backend: str) -> None:
    check_draws(emit, channels, require(backend))


def test_channels_fit_the_rounded_ones_before() -> None:
    """In float16 alone: Triton's interpreter cuts bfloat16 off instead of rounding it."""
    check_draws(EMITS["mixture"], 3, require("triton"), dtype=torch.float16)


def test_plan_round_trip() -> None:
    for emit in EMITS.values():
        _, plan = program(emit, 2)
        assert Plan.from_words(plan.words) == plan


@pytest.mark.parametrize(
    ("noise", "index"), [(0.0, 0), (0.249, 0), (0.25, 1), (0.2501, 1), (0.749, 1), (0.75, 2), (0.999999, 2)]
)
def test_index_inverts_the_distribution(noise: float, index: int) -> None:
    logits = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()[:, None]
    assert pixelcnn_draw.draw_index(logits, torch.tensor([noise], dtype=torch.float64)).item() == index


@pytest.mark.parametrize("kind", ["nan", "negative", "one"])
def test_noise_out_of_range(kind: str) -> None:
    weights, plan = program(EMITS["mixture"], 3)
    noise = noise_of(plan.emit, 1, 3)
    noise[0, 3, 1, 1] = {"nan": float("nan"), "negative": -0.1, "one": 1.0}[kind]
    with pytest.raises(ValueError, match=r"pixelcnn_sample: noise must be in \[0, 1\), got"):
        pixelcnn_sample(noise, weights, plan, backend="reference")
    with pytest.raises(ValueError, match=r"noise must be floating point \[B, 4, H, W\]"):
        pixelcnn_sample(noise[:, :3], weights, plan, backend="reference")
