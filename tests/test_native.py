"""The C++ boundary: what gets around Python's checks is refused with a message and never read out of bounds."""

import random
import re
from collections.abc import Callable

import pytest
import torch
from conftest import require

import vlae_fast as vf
from vlae_fast import native

torch.manual_seed(1)
SAMPLER = vf.PixelCNNSampler(vf.PixelCNNDecoder(1, 2, 4, 1, initial_kernel=3, image_size=(5, 6)), "reference")
WEIGHTS, PLAN = [w.contiguous() for w in SAMPLER.program.weights], SAMPLER.plan
WORDS, NOISE, CONTEXT = PLAN.words, torch.rand(3, 1, 5, 6), torch.randn(3, 2)
MASK = torch.zeros(3, 1, 5, 6, dtype=torch.bool)
LEAD = 8  # where the words of the first stage hold its lead


def pack(words: list[int] = WORDS, weights: list[torch.Tensor] = WEIGHTS, isa: str = "") -> torch.Tensor:
    return torch.ops.vlae_fast_cpu.pixelcnn_pack(weights, words, isa)


def sample(**changed) -> tuple[torch.Tensor, torch.Tensor]:
    given = {
        "noise": NOISE,
        "words": WORDS,
        "context": CONTEXT,
        "mask": None,
        "known": None,
        "temperature": 1.0,
        **changed,
    }
    packed = given.get("packed")
    packed = pack() if packed is None else packed
    return torch.ops.vlae_fast_cpu.pixelcnn_sample(
        given["noise"], packed, given["words"], given["context"], given["mask"], given["known"], given["temperature"]
    )


def edited(index: int, value: int) -> list[int]:
    return [*WORDS[:index], value, *WORDS[index + 1 :]]


def refuse(call: Callable[[], object], message: str) -> None:
    require("cpu")
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "plan must go on with version, got its end after 0 numbers"),
        (WORDS[:-1], "plan.* must"),
        ([*WORDS, 0], r"plan must end after \d+ numbers"),
        (edited(0, 2), r"plan\[0\] \(version\) must be in 1..1, got 2"),
        (edited(1, 0), r"plan\[1\] \(image channels\) must be in 1..\d+, got 0"),
        (edited(2, -1), r"plan\[2\] \(slope\) must be in 0..\d+, got -1"),
        (edited(3, 1 << 40), r"plan\[3\] \(number of stages\) must"),
        (edited(4, 1 << 62), r"plan\[4\] \(out_channels\) must"),
        (edited(5, 4), r"plan\[5\] \(activation\) must be in 0..3, got 4"),
        (edited(6, 1), r"plan\[6\] \(residual\) must be in -1..0, got 1"),
        (edited(LEAD + 2, 1), r"plan\[10\] \(source buffer\) must be in 0..0, got 1"),
        (edited(LEAD + 3, 1 << 60), r"plan\[11\] \(number of taps\) must fit the plan's length"),
    ],
)
def test_plans_that_are_refused(words: list[int], message: str) -> None:
    refuse(lambda: pack(words), f"pixelcnn_pack: {message}")


@pytest.mark.parametrize("stage", range(3))
def test_a_read_of_the_future_is_refused(stage: int) -> None:
    require("cpu")
    late = PLAN._replace(leads=tuple(lead + (s == stage) for s, lead in enumerate(PLAN.leads)))
    message = r"plan: lead of stage \d must be at most -?\d+ to read buffer \d at \(-?\d, -?\d\), got -?\d+"
    refuse(lambda: sample(words=late.words, packed=pack(late.words)), message)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[:-1], r"weights must have \d+ tensors for this plan, got \d+"),
        ([WEIGHTS[0][:, :, :2].contiguous(), *WEIGHTS[1:]], r"weights\[0\] must be \(4, 1, 4\), got \(4, 1, 2\)"),
        ([WEIGHTS[0].double(), *WEIGHTS[1:]], r"weights\[0\] must be float32"),
        ([WEIGHTS[0].transpose(0, 2), *WEIGHTS[1:]], r"weights\[0\] must be contiguous"),
        ([WEIGHTS[0] + torch.inf, *WEIGHTS[1:]], r"weights\[0\] must be finite, got inf at index 0"),
    ],
)
def test_weights_that_are_refused(weights: list[torch.Tensor], message: str) -> None:
    refuse(lambda: pack(weights=weights), f"pixelcnn_pack: {message}")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise": NOISE.double()}, "noise must be float32"),
        ({"noise": NOISE.transpose(2, 3)}, "noise must be contiguous"),
        ({"noise": NOISE[0]}, r"noise must be \[B, 1, H, W\], got \(1, 5, 6\)"),
        ({"noise": NOISE + 1}, r"noise must be in \[0, 1\), got 1\.\d+ at index 0"),
        ({"context": None}, "context must be given for this plan, got None"),
        ({"context": CONTEXT[:2]}, r"context must be \(3, 2\) or \(3, 5, 6, 2\), got \(2, 2\)"),
        ({"mask": MASK}, "known_mask and known must be given together"),
        ({"mask": MASK.float(), "known": NOISE}, "known_mask must be bool"),
        ({"mask": MASK, "known": NOISE[:1]}, r"known must be \(3, 1, 5, 6\), got \(1, 1, 5, 6\)"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0"),
        ({"temperature": float("nan")}, "temperature must be positive and finite, got nan"),
        ({"packed": torch.zeros(100)}, "packed must come from pixelcnn_pack"),
        ({"packed": torch.zeros(4, 25)}, "packed must have one dimension"),
        ({"words": edited(2, PLAN.slope + 1)}, "packed must be packed for this plan, got the weights of another plan"),
    ],
)
def test_arguments_that_are_refused(changed: dict, message: str) -> None:
    refuse(lambda: sample(**changed), f"pixelcnn_sample: {message}")


def test_a_packed_tensor_that_was_cut_or_relabelled_is_refused() -> None:
    require("cpu")
    packed = pack()
    refuse(lambda: sample(packed=packed[:-1].contiguous()), "packed must have the size its header says")
    packed[2] = 77
    refuse(lambda: sample(packed=packed), "packed must be packed for one of .*, got instruction set number 77")
    refuse(lambda: pack(isa="mmx"), "isa must be empty or one of .*, got mmx")


def test_hostile_plans_run_or_are_refused() -> None:
    """Mutated plans, packed for where their weights still fit: an image or a message, never a crash."""
    require("cpu")
    rng = random.Random(0)
    values = [0, 1, 2, 3, -1, -2, 7, 64, 1 << 16, 1 << 20, 1 << 31, 1 << 42, 1 << 62, (1 << 63) - 1, -(1 << 63)]
    ran = 0
    for _ in range(2000):
        words = list(WORDS)
        for _ in range(rng.randint(1, 3)):
            words[rng.randrange(len(words))] = rng.choice(values)
        try:
            images, _ = sample(words=words, packed=pack(words, isa=rng.choice(native.isas())))
            assert images.shape == NOISE.shape and ((images == 0) | (images == 1)).all()
            ran += 1
        except RuntimeError as error:
            assert re.match(r"pixelcnn_(pack|sample): .* must .*, got ", str(error)), error
    assert ran > 10  # the mutations that keep a plan valid
