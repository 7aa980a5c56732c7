"""How pixels are drawn: the formulas of `pixelcnn_draw.draw`, and every backend's draws against them."""

import pytest
import torch
from cases.deadline import slow_where
from cases.pixelcnn_draw import EMITS, check_draws, noise_of, program
from cases.rows import backends_of, is_interpreted, require

from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Emit, Plan, Source, Stage
from vlae_fast.reference import pixelcnn_draw


@slow_where(lambda channels, backend, **_: channels == 1 and is_interpreted(backend))
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


EXTREMES = (0.0, -0.0, 1e-45, 1e-38, 1e-6, 1.0, 7.0, 8.0, 88.0, 104.0, 745.0, 1e4, 1e10, 3e38)


@pytest.mark.parametrize("temperature", [1e-100, 1e-6, 1.0, 1e6, 1e100])
@pytest.mark.parametrize("name", EMITS)
def test_extreme_parameters_are_drawn_as_the_specification_has_it(name: str, temperature: float) -> None:
    emit, channels = EMITS[name], 2
    columns = emit.params(channels)
    stage = Stage(columns, "none", -1, columns, (Source(0, ((0, -1),)),))
    plan = Plan(channels, 0, (stage,), (0,), emit)
    weights = [torch.zeros(columns, channels, 1), torch.zeros(columns), torch.eye(columns)]
    packed = pixelcnn_pack(weights, plan, backend=require("cpu"))
    batch = 300
    extreme = torch.tensor(EXTREMES)[torch.randint(len(EXTREMES), (batch, columns))]
    extreme = extreme * (2 * torch.randint(2, extreme.shape) - 1)
    context = torch.where(torch.rand(batch, columns) < 0.5, extreme, 3 * torch.randn(batch, columns))
    ends = torch.tensor([0.0, 1e-45, 1e-38, 2.0**-25, 0.5, 1 - 2.0**-24])
    noise = torch.rand(batch, emit.noises(channels), 1, 1)
    noise = torch.where(torch.rand(noise.shape) < 0.3, ends[torch.randint(6, noise.shape)], noise)
    images, params = pixelcnn_sample(noise, packed, plan, context, temperature=temperature, backend="cpu")
    assert params[:, :, 0, 0].equal(context + 0.0)
    wanted = pixelcnn_draw.draw(params, noise, emit, temperature)
    rtol = 0 if emit.levels else 1e-6
    torch.testing.assert_close(images, wanted, rtol=rtol, atol=0, equal_nan=True)
