"""How pixels are drawn: every kind of draw, and what a backend's draws must be."""

import torch

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
    "mixture of no levels": Emit("logistic_mixture", 0, 3),
    "affine": Emit("affine", 0),
}


SIZE = (2, 3)


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
