"""The CUDA kernels against the reference without a GPU: the same sources, compiled for the host and run by fibers."""

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases.deadline import slow_where
from cases.decoders import gated_stacks, inputs, random_decoder
from cases.mutated import mutated
from cases.pixelcnn_sample import compare

import vlae_fast as vf
from vlae_fast import activations, backends, reference
from vlae_fast.backends import cuda, table
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Emit, Plan, Source, Stage
from vlae_fast.sampling.naive import naive_sample_with_logits
from vlae_fast.sampling.program import Program
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import budget

pytestmark = pytest.mark.usefixtures("cuda")


SLOW = pytest.mark.slow  # fibers take seconds for it


@pytest.mark.parametrize("seed", [0, 2, pytest.param(3, marks=SLOW), 4, 5, 6, 7, 8, 9, 10, 12, 14])
def test_images_are_those_of_the_naive_sampler(seed: int, record_property: Callable[[str, int], None]) -> None:
    decoder = random_decoder(seed)
    batch = 1 if seed == 2 else 1 + seed % 4
    z, noise = inputs(decoder, batch, z_map=seed % 4 == 3)
    naive, naive_logits = naive_sample_with_logits(decoder, z, noise)
    wave, wave_logits = vf.PixelCNNSampler(decoder, "cuda").sample_with_logits(z, noise)
    record_property("samples", batch)
    record_property("differing_samples", compare(wave, naive, naive_logits, noise))
    same = (wave == naive).flatten(1).all(1)
    torch.testing.assert_close(wave_logits[same], naive_logits[same], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [6, 7, pytest.param(13, marks=SLOW)])
def test_logits_are_the_same_bits(seed: int, gpu: Callable[..., None]) -> None:
    """Whatever the batch, the tile, the rows at a time, the threads' order; activations in shared memory or not."""
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, 5)
    sampler = vf.PixelCNNSampler(decoder, "cuda")
    images, logits = sampler.sample_with_logits(z, noise)
    for settings in ({"processors": 1}, {"processors": 3, "order": "backward"}, {"shared": 48}, {"shared": 24}):
        gpu(**settings)
        for rows in (slice(0, 5), slice(3, 4)):
            got_images, got = sampler.sample_with_logits(None if z is None else z[rows], noise[rows])
            assert got.equal(logits[rows]) and got_images.equal(images[rows]), settings


def program(stages: list[Stage], channels: int, size: tuple[int, int], order: str) -> tuple[list[torch.Tensor], Plan]:
    """Random weights of a program of `channels` image channels, and its plan."""
    widths = [channels, *(s.out_channels for s in stages)]
    weights = []
    for s in stages:
        columns = s.out_channels * activations.columns(s.activation)
        for x in s.sources:
            scale = (widths[x.buffer] * len(x.taps)) ** -0.5
            weights.append(torch.randn(columns, widths[x.buffer], len(x.taps)) * scale)
        weights.append(torch.randn(columns) * 0.1)
        if s.context_dim:
            weights.append(torch.randn(columns, s.context_dim) * s.context_dim**-0.5)
    schedule = derive(stages, size, order=order)
    return weights, Plan(channels, schedule.slope, tuple(stages), schedule.leads)


def check_program(
    stages: list[Stage], channels: int, size: tuple[int, int], context: torch.Tensor | None = None
) -> None:
    noise = torch.rand(2, channels, *size)
    for order in ("wavefront", "raster"):
        weights, plan = program(stages, channels, size, order)
        expected = reference.pixelcnn_sample(noise, weights, plan, context, None, None, 1.0)
        packed = pixelcnn_pack(weights, plan, backend="cuda")
        images, logits = pixelcnn_sample(noise, packed, plan, context, backend="cuda")
        assert images.equal(expected[0])
        torch.testing.assert_close(logits, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(6, 5), (5, 3), (1, 7), (4, 1)])
def test_stages_that_run_ahead(size: tuple[int, int]) -> None:
    """Two stacks: several sources a stage, leads of more than 0, columns that do not exist."""
    stages = [s._replace(out_channels=4, activation="elu") for s in gated_stacks(3)]
    check_program([*stages[:-1], stages[-1]._replace(out_channels=2, activation="none")], 2, size)


@slow_where(lambda width, activation: width >= 64 and activation in ("relu", "glu", "softplus"))  # as elu and gate do
@pytest.mark.parametrize("width", [1, 30, 64, 65, pytest.param(130, marks=SLOW)])
@pytest.mark.parametrize("activation", ["relu", "gate", "glu", "elu", "softplus"])
def test_widths(width: int, activation: str) -> None:
    """One tile of columns and more than there are warps, few tiles of products and many; a residual and a context."""
    a, b = (Source(i, live_taps(t, (3, 3))) for i, t in enumerate("AB"))
    stages = [
        Stage(width, activation, -1, 5, (a,)),
        Stage(width, activation, 1, 5, (b,)),
        Stage(1, "none", -1, 0, (Source(2, ((0, 0),)), Source(1, ((0, -1),)))),
    ]
    check_program(stages, 1, (4, 5), torch.randn(2, 5))


def is_slow_precision(width: int, activation: str, dtype: torch.dtype) -> bool:
    """Whole tiles of columns are in `test_widths`; in 16 bits gate and elu stand for what is fused as they are."""
    if width == 64:
        return True
    return (activation in ("glu", "softplus") and dtype != torch.float32) or (
        activation == "elu" and dtype == torch.float16
    )


@slow_where(is_slow_precision)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("width", "activation"),
    [
        (1, "relu"),
        (30, "gate"),
        (64, "gate"),
        (30, "glu"),
        (17, "elu"),
        (17, "softplus"),
        pytest.param(130, "relu", marks=SLOW),
        pytest.param(280, "relu", marks=SLOW),
    ],
)
def test_precision(width: int, activation: str, dtype: torch.dtype, gpu: Callable[..., None]) -> None:
    """Logits within the budget of the reference in this type, the same bits in every batch and tile."""
    a, b = (Source(i, live_taps(t, (3, 3))) for i, t in enumerate("AB"))
    stages = [
        Stage(width, activation, -1, 5, (a,)),
        Stage(width, activation, 1, 0, (b,)),
        Stage(1, "none", -1, 0, (Source(2, ((0, 0),)), Source(1, ((0, -1),)))),
    ]
    size = (4, 5)  # waves of up to 3 pixels: 7 samples in a tile take 32 rows at a time, one takes 16
    weights, plan = program(stages, 1, size, "wavefront")
    weights, noise = [w.to(dtype) for w in weights], torch.rand(7, 1, *size, dtype=dtype)
    context = torch.randn(7, 5).to(dtype)
    image = (torch.rand(7, 1, *size) < 0.5).to(dtype)  # given: all see the same pixels
    known = torch.ones(7, 1, *size, dtype=torch.bool)
    packed = pixelcnn_pack(weights, plan, backend="cuda")
    _, logits = pixelcnn_sample(noise, packed, plan, context, known, image, backend="cuda")
    same = reference.run_program(stages, weights, context, image)
    truth = reference.run_program(stages, [w.double() for w in weights], context.double(), image.double())
    assert (logits.double() - truth).abs().max() <= budget(truth, same)
    images, logits = pixelcnn_sample(noise, packed, plan, context, backend="cuda")
    for settings in ({"processors": 1, "order": "backward"}, {"shared": 24}):
        gpu(**settings)
        for rows in (slice(0, 7), slice(6, 7)):
            got = pixelcnn_sample(noise[rows], packed, plan, context[rows], backend="cuda")
            assert got[0].equal(images[rows]) and got[1].equal(logits[rows]), settings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_norms_residuals_and_factors_of_half_precision(dtype: torch.dtype) -> None:
    """Of 70 channels, which are more groups than a batch holds, behind one group of the image."""
    program, size, taps = Program(1), (4, 5), live_taps("A", (3, 3))
    h = program.add([(0, torch.randn(70, 1, 3, 3), taps)], torch.randn(70) * 0.1)
    n = program.norm(h, torch.rand(70) + 0.5, torch.randn(70) * 0.1, activation="silu", residual=h)
    sources = [(0, torch.randn(140, 1, 3, 3), taps), (n, torch.randn(140, 70, 1, 1) * 0.1, ((0, 0),))]
    g = program.add(sources, torch.randn(140) * 0.1, "gate", residual=h, factor=n)
    program.add([(g, torch.randn(1, 70, 1, 1) * 0.1, ((0, 0),))], torch.zeros(1))
    stages = tuple(program.stages)
    schedule = derive(stages, size)
    plan = Plan(1, schedule.slope, stages, schedule.leads)
    weights, noise = [w.to(dtype).contiguous() for w in program.weights], torch.rand(7, 1, *size, dtype=dtype)
    image, known = (torch.rand(7, 1, *size) < 0.5).to(dtype), torch.ones(7, 1, *size, dtype=torch.bool)
    packed = pixelcnn_pack(weights, plan, backend="cuda")
    _, logits = pixelcnn_sample(noise, packed, plan, None, known, image, backend="cuda")
    same = reference.run_program(stages, weights, None, image)
    truth = reference.run_program(stages, [w.double() for w in weights], None, image.double())
    assert (logits.double() - truth).abs().max() <= budget(truth, same)


def test_known_pixels_and_temperature() -> None:
    decoder = random_decoder(8)
    z, noise = inputs(decoder, 3)
    mask = torch.zeros(decoder.image_size, dtype=torch.bool)
    mask[: decoder.image_size[0] // 2] = True
    known = (mask, (torch.rand(3, decoder.input_dim, *decoder.image_size) < 0.5).float())
    sampler = vf.PixelCNNSampler(decoder, "cuda")
    for temperature in (0.3, 2.5):
        images = sampler.sample(z, noise, known=known, temperature=temperature)
        assert images.equal(vf.naive_sample(decoder, z, noise, known=known, temperature=temperature))


def test_batch_zero() -> None:
    decoder = random_decoder(9)
    z, _ = inputs(decoder, 0)
    images = vf.PixelCNNSampler(decoder, "cuda").sample(z, torch.rand(0, decoder.input_dim, *decoder.image_size))
    assert images.shape[0] == 0


torch.manual_seed(1)
SAMPLER = vf.PixelCNNSampler(
    vf.PixelCNNDecoder(1, 2, 4, 1, initial_kernel=3, z_channels=0, image_size=(5, 6)), "reference"
)
WEIGHTS, PLAN = [w.contiguous() for w in SAMPLER.program.weights], SAMPLER.plan
NOISE, CONTEXT = torch.rand(3, 1, 5, 6), torch.randn(3, 2)
MASK = torch.zeros(3, 1, 5, 6, dtype=torch.bool)


def pack(plan: Plan = PLAN) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ops.vlae_fast_cuda_host.pixelcnn_pack(WEIGHTS, plan.words, "float32")


def arguments(**changed: object) -> dict[str, object]:
    packed, header = pack()
    given = {"noise": NOISE, "packed": packed, "header": header, "plan": PLAN.words, "context": CONTEXT}
    return given | {"known_mask": None, "known": None, "temperature": 1.0} | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise": NOISE.double()}, "noise must be float32, bfloat16 or float16"),
        ({"noise": NOISE.bfloat16()}, "packed must be packed for this plan and noise"),
        ({"noise": NOISE.transpose(2, 3)}, "noise must be contiguous"),
        ({"noise": NOISE[0]}, r"noise must be \[B, 1, H, W\], got \(1, 5, 6\)"),
        ({"context": None}, "context must be given for this plan, got None"),
        ({"context": CONTEXT[:2]}, r"context must be \(3, 2\) or \(3, 5, 6, 2\), got \(2, 2\)"),
        ({"known_mask": MASK}, "known_mask and known must be given together"),
        ({"known_mask": MASK.float(), "known": NOISE}, "known_mask must be bool"),
        ({"known_mask": MASK, "known": NOISE[:1]}, r"known must be \(3, 1, 5, 6\), got \(1, 1, 5, 6\)"),
        ({"temperature": 0.0}, r"temperature must be in \[1e-100, 1e\+100\], got 0"),
        ({"header": torch.zeros(5, dtype=torch.int64)}, "packed must come from pixelcnn_pack"),
        ({"packed": torch.zeros(100)}, r"packed must be \(\d+,\), got \(100,\)"),
        ({"plan": PLAN._replace(slope=PLAN.slope + 1).words}, "packed must be packed for this plan and noise"),
    ],
)
def test_arguments_that_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"pixelcnn_sample: {message}"):
        torch.ops.vlae_fast_cuda_host.pixelcnn_sample(**arguments(**changed))


@pytest.mark.parametrize(
    ("levels", "batch", "message"),
    [
        (2, 1 << 21, r"have at most 2147483647 values, got \(2097152, 1, 32, 32\)"),
        (256, 1 << 13, r"have at most 8388607 pixels of 256 parameters, got \(8192, 1, 32, 32\)"),
    ],
)
def test_a_batch_beyond_32_bits_is_refused(levels: int, batch: int, message: str, tmp_path: Path) -> None:
    """Before anything is allocated: the noise is a file without blocks."""
    (tmp_path / "noise").touch()
    os.truncate(tmp_path / "noise", 4 * batch * 1024)
    noise = torch.from_file(str(tmp_path / "noise"), shared=True, size=batch * 1024).view(batch, 1, 32, 32)
    emit = Emit() if levels == 2 else Emit("categorical", levels)
    plan = PLAN._replace(emit=emit, stages=(*PLAN.stages[:-1], PLAN.stages[-1]._replace(out_channels=emit.params(1))))
    with pytest.raises(RuntimeError, match=f"pixelcnn_sample: noise must {message}"):
        torch.ops.vlae_fast_cuda_host.pixelcnn_sample(**arguments(noise=noise, plan=plan.words))


def chain_of(n: int, taps: int = 1, lead: int = 0) -> Plan:
    """A program of n stages that read the image at this many taps."""
    stage = Stage(1, "none", -1, 0, (Source(0, ((-1, 0),) * taps),))
    return Plan(1, 6, (stage,) * n, (lead,) * n)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (chain_of(97), "plan must have at most 96 stages, got 97"),
        (chain_of(2, taps=600), "plan must have at most 1024 taps, got 1200"),
        (chain_of(1)._replace(slope=1 << 21), r"plan must take at most 4194304 steps, got 8388614"),
        (
            Plan(1, 6, (*chain_of(1).stages, Stage(1, "none", -1, 0, (Source(0, ((-1, 0),)),))), (-37, 0)),
            "plan must have leads of at most 36, all waves of the image, got -37",
        ),
    ],
)
def test_plans_that_the_kernel_cannot_run(plan: Plan, message: str) -> None:
    weights = [w for s in plan.stages for w in (torch.zeros(1, 1, len(s.sources[0].taps)), torch.zeros(1))]
    packed = cuda.pixelcnn_pack(weights, plan)
    with pytest.raises(RuntimeError, match=f"pixelcnn_sample: {message}"):
        cuda.pixelcnn_sample(NOISE, packed, plan, None, None, None, 1.0)


def channels_of(n: int, taps: int) -> Plan:
    """A program of a stage of n channels that reads as many."""
    first, wide = (Stage(n, "none", -1, 0, (Source(i, ((-1, 0),) * taps),)) for i in range(2))
    return Plan(1, 6, (first, wide, Stage(1, "none", -1, 0, (Source(2, ((0, 0),)),))), (0, 0, 0))


def reason(plan: Plan, dtype: torch.dtype = torch.float32) -> str | None:
    row = next(row for row in table.TABLE if row.name == "cuda")
    return row.why_not("pixelcnn_sample", torch.zeros(1, dtype=dtype), plan)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (chain_of(96), None),
        (chain_of(97), "plan must have at most 96 stages, got 97"),
        (chain_of(1, taps=1024), None),
        (chain_of(2, taps=600), "plan must have at most 1024 taps, got 1200"),
        (channels_of(1 << 16, 9), "plan must need at most 2147483648 weights, got a stage of 589824 x 65536"),
    ],
)
def test_limits_of_a_plan_are_reasons_before_any_launch(plan: Plan, message: str | None) -> None:
    assert reason(plan) == (None if message is None else f"cannot hold it: {message}")


def test_auto_goes_on_where_the_row_cannot_hold_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in table.TABLE if row.name != "cpu"]
    monkeypatch.setattr(table, "TABLE", tuple(rows))
    for plan, row in ((chain_of(96), "cuda"), (chain_of(97), "torch")):
        assert backends.pick("pixelcnn_sample", torch.zeros(1), "auto", plan).name == row
    with pytest.raises(RuntimeError, match="cuda: cannot hold it: plan must have at most 96 stages, got 97"):
        pixelcnn_pack([torch.zeros(1)], chain_of(97), backend="cuda")


def test_a_stage_of_more_products_than_a_thread_block_can_locate(gpu: Callable[..., None]) -> None:
    taps = live_taps("B", (3, 3))
    stages = [
        Stage(300, "relu", -1, 0, (Source(0, live_taps("A", (3, 3))),)),
        Stage(1, "none", -1, 0, (Source(1, taps),)),
    ]
    weights, plan = program(stages, 1, (4, 5), "wavefront")
    packed = pixelcnn_pack([w.bfloat16() for w in weights], plan, backend="cuda")
    noise = torch.rand(2, 1, 4, 5, dtype=torch.bfloat16)
    expected = pixelcnn_sample(noise, packed, plan, backend="cuda")
    gpu(shared=5)  # of which 3,200 bytes for where four rows read 96 groups of products
    assert reason(plan, torch.bfloat16) is None
    assert all(map(torch.equal, pixelcnn_sample(noise, packed, plan, backend="cuda"), expected))
    gpu(shared=4)
    message = r"plan must need at most 4096 bytes of shared memory, got \d+"
    assert re.fullmatch(f"cannot hold it: {message}", reason(plan, torch.bfloat16) or "")
    with pytest.raises(RuntimeError, match=f"cuda: cannot hold it: {message}"):
        pixelcnn_sample(noise, packed, plan, backend="cuda")
    with pytest.raises(RuntimeError, match=f"pixelcnn_sample: {message}"):
        cuda.pixelcnn_sample(noise, packed, plan, None, None, None, 1.0)


def test_attention_is_refused() -> None:
    """The table of backends does not choose this row for it; the library does not rely on that."""
    program = Program(1)
    h = program.add([(0, torch.randn(4, 1, 3, 3), live_taps("A", (3, 3)))])
    program.add([(program.attend(h, h, h, 1, 0.5), torch.randn(1, 4, 1, 1), ((0, 0),))])
    schedule = derive(tuple(program.stages), (5, 6))
    plan = Plan(1, schedule.slope, tuple(program.stages), schedule.leads)
    with pytest.raises(RuntimeError, match="plan must have stages of kinds 0 and 1 alone, got one of kind 2"):
        torch.ops.vlae_fast_cuda_host.pixelcnn_pack([w.contiguous() for w in program.weights], plan.words, "float32")


def test_hostile_arguments_run_or_are_refused() -> None:
    """One or two arguments changed at random: a result or a RuntimeError, never a read or write out of bounds."""
    rng, refused = random.Random(0), 0
    given = arguments(known_mask=MASK, known=NOISE)
    for _ in range(400):
        changed = dict(given)
        for name in rng.choices(sorted(given), k=rng.randint(1, 2)):
            try:
                changed[name] = mutated(changed[name], rng)
            except (RuntimeError, IndexError):  # there is no such tensor
                continue
        try:
            torch.ops.vlae_fast_cuda_host.pixelcnn_sample(**changed)
        except RuntimeError:
            refused += 1
    assert refused > 100
