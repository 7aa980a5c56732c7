"""The C++ boundary: what gets around Python's checks is refused with a message and never read out of bounds."""

import random
import re
from collections.abc import Callable

import pytest
import torch
from cases.mutated import mutated
from cases.rows import require

import vlae_fast as vf
from vlae_fast.backends import cpu
from vlae_fast.reference.arguments import ConvOptions

torch.manual_seed(1)
SAMPLER = vf.PixelCNNSampler(
    vf.PixelCNNDecoder(1, 2, 4, 1, initial_kernel=3, z_channels=0, image_size=(5, 6)), "reference"
)
WEIGHTS, PLAN = [w.contiguous() for w in SAMPLER.program.weights], SAMPLER.plan
WORDS, NOISE, CONTEXT = PLAN.words, torch.rand(3, 1, 5, 6), torch.randn(3, 2)
MASK = torch.zeros(3, 1, 5, 6, dtype=torch.bool)
LEAD = 11  # where the words of the first stage hold its lead


def pack(words: list[int] = WORDS, weights: list[torch.Tensor] = WEIGHTS, isa: str = "") -> torch.Tensor:
    return torch.ops.vlae_fast_cpu.pixelcnn_pack(weights, words, isa)


def sample(**changed) -> tuple[torch.Tensor, torch.Tensor]:
    given = {"noise": NOISE, "packed": pack(), "plan": WORDS, "context": CONTEXT, "known_mask": None, "known": None}
    return torch.ops.vlae_fast_cpu.pixelcnn_sample(**given | {"temperature": 1.0} | changed)


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
        (edited(0, 3), r"plan must be of version 4: make it anew, got 3"),
        (edited(1, 0), r"plan\[1\] \(image channels\) must be in 1..\d+, got 0"),
        (edited(2, 4), r"plan\[2\] \(emit\) must be in 0..3, got 4"),
        (edited(2, 2), r"plan\[4\] \(components\) must be in 1..\d+, got 0"),
        (edited(3, 256), r"plan\[3\] \(levels\) must be in 2..2, got 256"),
        ([*WORDS[:2], 2, 1, 3, *WORDS[5:]], r"plan\[3\] \(levels\) must be 0 or at least 2, got 1"),
        (edited(2, 1), r"plan: stage \d+, which is drawn from, must have \d+ channels, the parameters, got"),
        (edited(5, -1), r"plan\[5\] \(slope\) must be in 0..\d+, got -1"),
        (edited(6, 1 << 40), r"plan\[6\] \(number of stages\) must"),
        (edited(7, 1 << 62), r"plan\[7\] \(out_channels\) must"),
        (edited(8, 99), r"plan\[8\] \(activation\) must be in 0..\d+, got 99"),
        (edited(9, 99), r"plan\[9\] \(residual\) must be in -1..\d, got 99"),
        (edited(9, 1), r"plan must have no circle of stages, got one"),
        (edited(LEAD + 1, 3), r"plan\[12\] \(kind\) must be in 0..2, got 3"),
        (edited(LEAD + 1, 1), r"plan: stage 0 of kind 1 must read one buffer of 4 channels at \(0, 0\), got 1 sources"),
        (edited(LEAD + 2, 99), r"plan\[13\] \(factor\) must be in -1..\d, got 99"),
        (edited(LEAD + 2, 0), r"plan: factor of stage 0 must have its 4 channels, got 1"),
        (edited(LEAD + 3, 17), r"plan\[14\] \(stride of the sites\) must be in 1..16, got 17"),
        (edited(LEAD + 3, 2), r"plan: stage \d must read pixels that stages compute, got buffer 1 at \(.*\)"),
        (edited(LEAD + 4, 1), r"plan\[15\] \(row of the sites\) must be in 0..0, got 1"),
        (edited(LEAD + 5, -1), r"plan\[16\] \(column of the sites\) must be in 0..0, got -1"),
        (edited(LEAD + 6, 1), r"plan: joins of stage 0 must be the own buffer of a stage before it, got 1"),
        (edited(LEAD + 1, 2), r"plan\[18\] \(heads\) must be in 1..\d+, got 0"),
        (edited(LEAD + 7, 1), r"plan\[18\] \(heads\) must be in 0..0, got 1"),
        (edited(LEAD + 9, 99), r"plan\[20\] \(source buffer\) must be in 0..\d, got 99"),
        (edited(LEAD + 10, 1 << 60), r"plan\[21\] \(number of taps\) must fit the plan's length"),
    ],
)
def test_plans_that_are_refused(words: list[int], message: str) -> None:
    refuse(lambda: pack(words), f"pixelcnn_pack: {message}")


@pytest.mark.parametrize("stage", range(3))
def test_a_read_of_the_future_is_refused(stage: int) -> None:
    require("cpu")
    late = PLAN._replace(leads=tuple(lead + (s == stage) for s, lead in enumerate(PLAN.leads)))
    message = r"plan: lead of stage \d must be at most -?\d+ to read buffer \d at \(-?\d, -?\d\), got -?\d+"
    refuse(lambda: sample(plan=late.words, packed=pack(late.words)), message)


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
        ({"known_mask": MASK}, "known_mask and known must be given together"),
        ({"known_mask": MASK.float(), "known": NOISE}, "known_mask must be bool"),
        ({"known_mask": MASK, "known": NOISE[:1]}, r"known must be \(3, 1, 5, 6\), got \(1, 1, 5, 6\)"),
        ({"temperature": 0.0}, r"temperature must be in \[1e-100, 1e\+100\], got 0"),
        ({"temperature": 9e-101}, r"temperature must be in \[1e-100, 1e\+100\], got 9e-101"),
        ({"temperature": 1.1e100}, r"temperature must be in \[1e-100, 1e\+100\], got 1.1e\+100"),
        ({"temperature": float("nan")}, r"temperature must be in \[1e-100, 1e\+100\], got nan"),
        ({"packed": torch.zeros(100)}, "packed must come from pixelcnn_pack"),
        ({"packed": torch.zeros(4, 25)}, "packed must have one dimension"),
        ({"plan": edited(5, PLAN.slope + 1)}, "packed must be packed for this plan, got the weights of another plan"),
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


X, W, G = torch.zeros(2, 5, 6, 4), torch.zeros(6, 4, 3, 3), torch.zeros(2, 5, 6, 6)
V, L, Y, I, O = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, 4), torch.arange(3), torch.arange(4)  # noqa: E741
PACKED, STEP_WORDS = "packed", torch.tensor(WORDS)  # there is none where the library is absent
CELLS = [n for stage in PLAN.stages for source in stage.sources for n in (len(source.taps), *range(len(source.taps)))]
MAP, OF_MAP = torch.zeros(2, 5, 6, 3), torch.zeros(6, 3)
HALF = torch.full((2, 5, 6, 3), 0.5)  # of the gate
TAPS = [0, -1, -1, 3, 0, -1, 4, 0, 0]
CALLS = [
    ("masked_conv", [X, W, torch.zeros(6), torch.zeros(2, 6), TAPS, None, "relu", False, ""]),
    ("masked_conv", [X, W, None, G, TAPS, W.bool(), "gate", True, ""]),
    ("masked_conv_backward", [G, G, None, X, W, TAPS, None, "elu", [1, 1, 1, 1, 0, 0], True, ""]),
    ("masked_conv_backward", [HALF, HALF, HALF, X, W, TAPS, W.bool(), "gate", [1, 1, 1, 1, 0, 0], False, ""]),
    ("masked_conv", [X, W, None, None, TAPS, None, "gate", True, "", MAP, OF_MAP, False]),
    (
        "masked_conv_backward",
        [HALF, HALF, HALF, X, W, TAPS, None, "gate", [1, 1, 1, 0, 1, 1], False, "", MAP, OF_MAP, False],
    ),
    ("masked_linear", [V, L, torch.zeros(4), I, O, None, "tanh", ""]),
    ("masked_linear", [V, L, None, None, None, L.bool(), "elu", ""]),
    ("masked_linear_backward", [Y, Y, V, L, I, O, None, "relu", True, True, True, ""]),
    ("masked_linear_backward", [Y, None, V, L, None, None, L.bool(), "none", True, True, True, ""]),
    ("made", [V, [L, torch.zeros(5, 4)], [Y[0], G[0, 0, 0, :5]], [I, O, torch.arange(5)], Y, "elu", True, ""]),
    (
        "made_backward",
        [torch.zeros(2, 5), V, [Y], [L, torch.zeros(5, 4)], [I, O, torch.arange(5)], "tanh", [1] * 6, ""],
    ),
    (
        "made_inverse",
        [V, [L, W[:, :, 0, 0] + 0], [Y[0], G[0, 0, 0]], [I + 1, O - 1, I.repeat(2)], Y, "elu", "softplus", ""],
    ),
    ("pixelcnn_pack", [WEIGHTS, WORDS, ""]),
    ("pixelcnn_sample", [NOISE, PACKED, WORDS, CONTEXT, MASK, NOISE, 1.0]),
    ("pixelcnn_repack", [PACKED, WEIGHTS, WORDS, CELLS]),
    ("pixelcnn_step", [torch.zeros(20_000), NOISE + 0, NOISE + 0, PACKED, STEP_WORDS, CONTEXT, -1, 0, None]),
    (
        "pixelcnn_step",
        [torch.zeros(20_000), NOISE + 0, NOISE + 0, PACKED, STEP_WORDS, CONTEXT, 1, 0, NOISE[:, :, 0, :1] * 0],
    ),
    ("pixelcnn_draw", [NOISE[:, :, :2, 0] + 0, NOISE, [0, 2, 0], 1, 0, [PLAN.slope, PLAN.slope, 0], 1.0]),
]


@pytest.mark.parametrize("i", range(len(CALLS)), ids=lambda i: f"{CALLS[i][0]}{i}")
def test_hostile_arguments_run_or_are_refused(i: int) -> None:
    """One or two arguments changed at random: a result or a RuntimeError, never a read or write out of bounds."""
    require("cpu")
    name, given = CALLS[i]
    given = [pack() if argument is PACKED else argument for argument in given]
    op, rng = getattr(torch.ops.vlae_fast_cpu, name), random.Random(i)
    op(*given)
    refused = 0
    for _ in range(400):
        arguments = list(given)
        for _ in range(rng.randint(1, 2)):
            j = rng.randrange(len(arguments))
            try:
                arguments[j] = mutated(arguments[j], rng)
            except (RuntimeError, IndexError):  # there is no such tensor
                continue
        try:
            op(*arguments)
        except RuntimeError:  # NotImplementedError, where no kernel is registered for a device, is one
            refused += 1
    assert refused > 100


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
            images, _ = sample(plan=words, packed=pack(words, isa=rng.choice(cpu.isas())))
            assert images.shape == NOISE.shape and ((images == 0) | (images == 1)).all()
            ran += 1
        except RuntimeError as error:
            assert re.match(r"pixelcnn_(pack|sample): .* must .*, got ", str(error)), error
    assert ran > 10  # the mutations that keep a plan valid


def test_only_bfloat16_is_widened() -> None:
    require("cpu")
    x, weight = torch.randn(1, 2, 3, 3).double(), torch.randn(2, 2, 3, 3).double()
    with pytest.raises(RuntimeError, match=r"masked_conv: .* must be .*float32"):
        cpu.masked_conv(x, weight, None, None, ConvOptions("B"))
