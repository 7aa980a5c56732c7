"""How pixels are drawn: the formulas of `pixelcnn_draw.draw`, and every backend's draws against them."""

import pytest
import torch
from conftest import backends_of, require

from vlae_fast import reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Emit, Plan, Source, Stage
from vlae_fast.reference import pixelcnn_draw
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import budget, uninitialised_is_nan

EMITS = {
    "bernoulli": Emit(),
    "categorical": Emit("categorical", 5),
    "100 levels": Emit("categorical", 100),
    "mixture": Emit("logistic_mixture", 256, 3),
    "one logistic of few levels": Emit("logistic_mixture", 4, 1),
    "affine": Emit("affine", 0),
}
SIZE = (3, 4)


def noise_of(emit: Emit, batch: int, channels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    draw = torch.randn if emit.kind == "affine" else torch.rand
    return draw(batch, emit.noises(channels), *SIZE, dtype=dtype)


def program(emit: Emit, channels: int) -> tuple[list[torch.Tensor], Plan]:
    """A masked layer that reads the image, and one that makes the parameters of it; affine pixels must not run away."""
    taps, width = live_taps("A", (3, 3)), 6
    stages = [
        Stage(width, "elu", -1, 0, (Source(0, taps),)),
        Stage(emit.params(channels), "none", -1, 0, (Source(1, ((0, 0),)),)),
    ]
    weights = [torch.randn(width, channels, len(taps)) * (0.1 if emit.kind == "affine" else 1), torch.randn(width)]
    weights += [
        torch.randn(emit.params(channels), width, 1) * (0.1 if emit.kind == "affine" else 0.5),
        torch.randn(emit.params(channels)) * 0.5,
    ]
    schedule = derive(stages, SIZE)
    return weights, Plan(channels, schedule.slope, tuple(stages), schedule.leads, emit)


def check_draws(
    emit: Emit, channels: int, backend: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> None:
    """The image is what the reference draws from the parameters, and they are the program's of the image.

    So no pixel is near a threshold that parameters of another rounding would put it on the other side of.
    """
    weights, plan = program(emit, channels)
    weights = [w.to(device, dtype) for w in weights]
    noise = noise_of(emit, 5, channels, dtype).to(device)
    mask = torch.rand(5, channels, *SIZE).to(device) < 0.3
    blank = torch.zeros(5, emit.params(channels), *SIZE, dtype=dtype)
    known = pixelcnn_draw.draw(blank, noise_of(emit, 5, channels, dtype), emit, 1.0).to(device)
    packed = pixelcnn_pack(weights, plan, backend=backend)
    for temperature, given in ((1.0, ()), (1.0, (mask, known)), (0.7, ())):
        with uninitialised_is_nan():
            images, params = pixelcnn_sample(
                noise, packed, plan, None, *given, temperature=temperature, backend=backend
            )
        expected = pixelcnn_draw.draw(params, noise, emit, temperature, *given)
        assert images.dtype == dtype and images.shape == (5, channels, *SIZE)
        if emit.levels:
            assert images.equal(expected)
        torch.testing.assert_close(images, expected)
        truth = reference.run_program(plan.stages, [w.double() for w in weights], None, images.double())
        same = reference.run_program(plan.stages, weights, None, images)
        assert (params - truth).abs().max().item() <= budget(truth, same)


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
    rtol = 1e-6 if emit.kind == "affine" else 0
    torch.testing.assert_close(images, wanted, rtol=rtol, atol=0, equal_nan=True)
