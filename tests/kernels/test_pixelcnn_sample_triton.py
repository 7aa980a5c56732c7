"""pixelcnn_sample in Triton: rings that forget nothing, tiles of every kind, the same bits in any batch and order."""

import random

import pytest
import torch
from cases.decoders import chain, gated_stacks, random_decoder
from cases.pixelcnn_sample import CASES, HALF, check_bits, check_half_precision, check_images, sample
from cases.rows import require

from vlae_fast import reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Plan
from vlae_fast.sampling.program import Program, build_program
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import budget


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


@pytest.mark.parametrize("name", CASES)
def test_images_are_the_naive_ones(name: str) -> None:
    check_images(CASES[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", HALF)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    check_half_precision(CASES[name], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    require("triton")
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def dot_in_order(self: object, a: TensorHandle, b: TensorHandle, d: TensorHandle, *options: object) -> TensorHandle:
        out = d.data.copy()
        for k in range(a.data.shape[1]):
            out += a.data[:, k : k + 1] * b.data[k]
        return TensorHandle(out, d.dtype.scalar)

    # a GPU adds a row's products in one order; numpy's order depends on the number of rows, and on which one it is
    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot_in_order)
    check_bits(dtype)


def forgotten(plan: Plan, size: tuple[int, int], waves: list[int], pixels: int) -> int:
    """Walks a schedule and counts the reads that find another pixel in the ring than the one they want."""
    slots: list[dict[tuple[int, int], tuple[int, int]]] = [{} for _ in waves]
    wrong, in_wave = 0, lambda w: ((i, w - plan.slope * i) for i in range(size[0]) if 0 <= w - plan.slope * i < size[1])

    def draw(t: int, stage: int) -> None:
        nonlocal wrong
        for m in (draw.buffer for draw in plan.all_draws if draw.after == stage):
            for i, j in in_wave(t):
                wrong += slots[m].get((t % waves[m], i % pixels)) != (i, j)
                slots[0][t % waves[0], i % pixels] = (i, j)

    for t in range(-max(0, *plan.leads), plan.slope * (size[0] - 1) + size[1]):
        for s, (stage, lead) in enumerate(zip(plan.stages, plan.leads, strict=True)):
            draw(t, s)
            for i, j in in_wave(t + lead):
                for m, (dy, dx) in stage.reads:
                    if 0 <= i + dy < size[0] and 0 <= j + dx < size[1]:
                        w = t + lead + dx + plan.slope * dy
                        wrong += slots[m].get((w % waves[m], (i + dy) % pixels)) != (i + dy, j + dx)
            for i, j in in_wave(t + lead):
                slots[s + 1][(t + lead) % waves[s + 1], i % pixels] = (i, j)
        draw(t, len(plan.stages))
    return wrong


@pytest.mark.parametrize("seed", range(24))
def test_rings_forget_nothing_and_hold_no_more_than_they_must(seed: int) -> None:
    from vlae_fast.kernels.pixelcnn_packing import rings

    rng = random.Random(seed)
    size = (rng.randint(1, 9), rng.randint(1, 9))
    if seed % 3 == 0:
        stages = build_program(random_decoder(5 + seed)).stages
    else:
        stages = (
            gated_stacks(rng.randint(1, 4)) if seed % 3 == 1 else chain(rng.choices([3, 5, 7], k=rng.randint(1, 4)))
        )
    stages = [s._replace(context_dim=0) for s in stages]
    schedule = derive(stages, size, order=rng.choice(["wavefront", "raster"]))
    plan = Plan(1, schedule.slope, tuple(stages), schedule.leads)
    waves, pixels = rings(plan, size)
    assert forgotten(plan, size, waves, pixels) == 0
    if pixels > 1:
        assert forgotten(plan, size, waves, pixels - 1) > 0
    if min(size) > 6:  # else a read that goes back furthest may never land
        for m in (m for m, n in enumerate(waves) if n > 1):
            assert forgotten(plan, size, [n - (i == m) for i, n in enumerate(waves)], pixels) > 0


def test_a_plan_that_reads_the_future_is_refused() -> None:
    case = CASES["one pixel"]._replace(size=(2, 2))
    plan = case.plan()
    late = plan._replace(leads=tuple(lead + (s == 1) for s, lead in enumerate(plan.leads)))
    with pytest.raises(ValueError, match=r"lead of stage 1 must be at most 0 to read buffer 1 at \(0, 0\), got 1"):
        sample(case, late)
    with pytest.raises(ValueError, match="plan: stage 2, which is drawn from, must have a lead >= 0, got -1"):
        sample(case, plan._replace(leads=(*plan.leads[:-1], -1)))


def test_dtypes_without_a_path_are_refused() -> None:
    case = CASES["one pixel"]
    with pytest.raises(RuntimeError, match="triton: computes in float32, bfloat16, float16, the input is float64"):
        sample(case, case.plan(), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [3, 40, pytest.param(130, marks=pytest.mark.slow)])
def test_a_norm_of_any_number_of_channels(channels: int, dtype: torch.dtype) -> None:
    """Given the image, parameters are those of the reference: channels in one tile, in several, none of them whole."""
    program, size = Program(1), (3, 4)
    h = program.add([(0, torch.randn(channels, 1, 3, 3), live_taps("A", (3, 3)))], torch.randn(channels), "relu")
    gain, bias = torch.rand(channels), torch.randn(channels)
    h = program.norm(h, gain, bias, 1e-2, activation="silu", factor=h, residual=h)
    program.add([(h, torch.randn(1, channels, 1, 1) * channels**-0.5, ((0, 0),))])
    schedule = derive(program.stages, size)
    plan = Plan(1, schedule.slope, tuple(program.stages), schedule.leads)
    weights = [w.to(dtype) for w in program.weights]
    noise, x = torch.rand(2, 1, *size, dtype=dtype), (torch.rand(2, 1, *size) < 0.5).to(dtype)
    packed = pixelcnn_pack(weights, plan, backend=require("triton"))
    known = torch.ones(2, 1, *size, dtype=torch.bool), x
    _, params = pixelcnn_sample(noise, packed, plan, None, *known, backend="triton")
    truth = reference.run_program(plan.stages, [w.double() for w in weights], None, x.double())
    same = reference.run_program(plan.stages, weights, None, x)
    assert (params - truth).abs().max().item() <= budget(truth, same)
