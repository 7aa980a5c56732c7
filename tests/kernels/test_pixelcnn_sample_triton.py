"""pixelcnn_sample in Triton: rings that forget nothing, tiles of every kind, the same bits in any batch and order."""

import random
from typing import NamedTuple

import pytest
import torch
from cases.decoders import chain, gated_stacks, random_decoder
from conftest import require
from torch import Tensor

from vlae_fast import reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Plan, Source, Stage
from vlae_fast.sampling.program import build_program
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import budget, uninitialised_is_nan

A3, B3 = live_taps("A", (3, 3)), live_taps("B", (3, 3))
HERE = ((0, 0),)


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


class Case(NamedTuple):
    size: tuple[int, int]
    batch: int
    image_channels: int
    stages: list[Stage]
    context: str = "none"  # none, vector, map

    def weights(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
        g = torch.Generator().manual_seed(1)
        counts, weights = [self.image_channels, *(s.out_channels for s in self.stages)], []
        for s in self.stages:
            p, fan_in = s.out_channels * (2 if s.activation == "gate" else 1), sum(len(x.taps) for x in s.sources)
            for x in s.sources:
                scale = 1.5 * (fan_in * counts[x.buffer]) ** -0.5
                weights.append(torch.randn(p, counts[x.buffer], len(x.taps), generator=g) * scale)
            weights.append(torch.randn(p, generator=g) * 0.2)
            weights += [torch.randn(p, s.context_dim, generator=g) * 0.3] if s.context_dim else []
        return [w.to(device, dtype) for w in weights]

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor | None]:
        g = torch.Generator().manual_seed(2)
        noise = torch.rand(self.batch, self.image_channels, *self.size, generator=g).to(device, dtype)
        dim = max(s.context_dim for s in self.stages)
        shape = (self.batch, dim, *(self.size if self.context == "map" else ()))
        return noise.clamp(max=0.99), torch.randn(shape, generator=g).to(device, dtype) if dim else None

    def plan(self, order: str = "wavefront") -> Plan:
        schedule = derive(self.stages, self.size, order=order)
        return Plan(self.image_channels, schedule.slope, tuple(self.stages), schedule.leads)


def stack(
    image_channels: int, hidden: int, activation: str, *, context_dim: int = 0, residual: int = -1
) -> list[Stage]:
    return [
        Stage(hidden, "none", -1, 0, (Source(0, A3),)),
        Stage(hidden, activation, residual, context_dim, (Source(1, B3),)),
        Stage(image_channels, "none", -1, 0, (Source(2, HERE),)),
    ]


CASES = {
    "gate, context, gathered channels": Case((4, 5), 3, 1, stack(1, 6, "gate", context_dim=3), "vector"),
    "rgb, residual, context map": Case((3, 4), 2, 3, stack(3, 12, "gate", context_dim=5, residual=1), "map"),
    "tiles of channels": Case((2, 3), 2, 1, stack(1, 70, "elu")),
    "tiles of the gate": Case((2, 2), 1, 1, stack(1, 40, "gate", context_dim=40, residual=1), "vector"),
    "an image read in whole tiles": Case((2, 3), 2, 9, stack(9, 8, "relu")),
    "one pixel": Case((1, 1), 5, 2, stack(2, 8, "relu")),
    "many sources": Case(
        (3, 3),
        1,
        1,
        [
            Stage(20, "relu", -1, 0, (Source(0, A3),)),
            Stage(5, "elu", -1, 0, (Source(0, A3), Source(1, B3))),
            Stage(1, "none", -1, 0, (Source(1, ((-2, 0), (0, -1), (0, 0))), Source(2, HERE), Source(0, ((0, -2),)))),
        ],
    ),
    "more rows than a block": Case((40, 3), 1, 1, [Stage(1, "none", -1, 0, (Source(0, ((0, -1),)),))]),
    "more tiles than programs": Case((6, 3), 23, 1, [Stage(1, "none", -1, 0, (Source(0, ((0, -1),)),))]),
}
HALF = ("gate, context, gathered channels", "tiles of the gate")


def sample(
    case: Case,
    plan: Plan,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    rows: slice = slice(None),
    **known: Tensor,
) -> tuple[Tensor, Tensor]:
    noise, context = case.inputs(dtype, device)
    packed = pixelcnn_pack(case.weights(dtype, device), plan, backend=require("triton", device))
    with uninitialised_is_nan():
        at = None if context is None else context[rows]
        return pixelcnn_sample(noise[rows], packed, plan, at, **known, backend="triton")


def check_images(case: Case, device: str = "cpu") -> None:
    noise, context = case.inputs()
    packed = pixelcnn_pack(case.weights(), case.plan(), backend="reference")
    images, logits = pixelcnn_sample(noise, packed, case.plan(), context, backend="reference")
    got_images, got_logits = sample(case, case.plan(), device=device)
    assert got_images.cpu().equal(images)
    torch.testing.assert_close(got_logits.cpu(), logits, rtol=1e-5, atol=1e-5)


def check_half_precision(case: Case, dtype: torch.dtype, device: str = "cpu") -> None:
    """Logits of a given image: off by no more than the reference in the same dtype."""
    noise, context = case.inputs(dtype, device)
    image = (noise < 0.5).to(dtype)
    mask = torch.ones_like(image, dtype=torch.bool)
    images, logits = sample(case, case.plan(), dtype, device, known_mask=mask, known=image)
    same = reference.run_program(case.stages, case.weights(dtype, device), context, image)
    weights = [w.double() for w in case.weights(dtype, device)]
    truth = reference.run_program(case.stages, weights, None if context is None else context.double(), image.double())
    assert images.equal(image) and logits.dtype == dtype
    assert (logits.double() - truth).abs().max().item() <= budget(truth, same)


def check_bits(dtype: torch.dtype, device: str = "cpu") -> None:
    """The same logits in any batch and in raster order."""
    case = Case((3, 4), 7, 1, stack(1, 10, "gate", context_dim=2), "vector")
    images, logits = sample(case, case.plan(), dtype, device)
    for plan in (case.plan(), case.plan("raster")):
        for rows in (slice(0, 7), slice(4, 5), slice(1, 4)):
            got_images, got = sample(case, plan, dtype, device, rows)
            assert got_images.equal(images[rows]) and got.equal(logits[rows])


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
    for t in range(-max(0, *plan.leads), plan.slope * (size[0] - 1) + size[1]):
        for s, (stage, lead) in enumerate(zip(plan.stages, plan.leads, strict=True)):
            reads = [(x.buffer, tap) for x in stage.sources for tap in x.taps]
            reads += [(stage.residual, (0, 0))] if stage.residual >= 0 else []
            for i, j in in_wave(t + lead):
                for m, (dy, dx) in reads:
                    if 0 <= i + dy < size[0] and 0 <= j + dx < size[1]:
                        w = t + lead + dx + plan.slope * dy
                        wrong += slots[m].get((w % waves[m], (i + dy) % pixels)) != (i + dy, j + dx)
            for i, j in in_wave(t + lead):
                slots[s + 1][(t + lead) % waves[s + 1], i % pixels] = (i, j)
        for i, j in in_wave(t):
            wrong += slots[len(plan.stages)][t % waves[len(plan.stages)], i % pixels] != (i, j)
            slots[0][t % waves[0], i % pixels] = (i, j)
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
    with pytest.raises(ValueError, match="plan must end with a stage of lead >= 0, got -1"):
        sample(case, plan._replace(leads=(*plan.leads[:-1], -1)))


def test_dtypes_without_a_path_are_refused() -> None:
    case = CASES["one pixel"]
    with pytest.raises(RuntimeError, match="triton: computes in float32, bfloat16, float16, the input is float64"):
        sample(case, case.plan(), torch.float64)
