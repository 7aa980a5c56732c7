"""Samplers and inverses that hold weights and activations in bfloat16: `docs/precision.md`."""

import pytest
import torch
from cases.decoders import inputs, random_decoder, randomize, small_decoder
from cases.pixelcnn_sample import CASES, Case, check_same_bits
from cases.rows import require
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import backends, reference
from vlae_fast.backends import cpu
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Plan, Source, Stage
from vlae_fast.reference.pixelcnn_draw import draw
from vlae_fast.testing import budget, uninitialised_is_nan

BF16 = torch.bfloat16
ISAS = cpu.isas(BF16) or ["absent"]


def params_of(case: Case, plan: Plan, weights: list[Tensor], dtype: torch.dtype, backend: str, **options) -> Tensor:
    """The parameters of a given image, held in bfloat16 where the dtype is float32, and not rounded in float64."""
    noise, context = case.inputs()
    image = (noise < 0.5).to(dtype)
    held = {"dtype": BF16} if dtype == torch.float32 else {}
    packed = pixelcnn_pack([w.to(dtype) for w in weights], plan, backend=backend, **held, **options)
    given = None if context is None else context.to(dtype)
    if backend == "reference":
        return reference.run_plan(plan, packed, given, image)
    with uninitialised_is_nan():
        known = {"known_mask": torch.ones_like(image, dtype=torch.bool), "known": image}
        return pixelcnn_sample(image * 0, packed, plan, given, **known, backend=backend)[1]


def odd_attention() -> Case:
    """Two heads of 3 and 5 channels, whose values end within a pair, behind a norm; read by a sum and as a factor."""
    stages = [
        Stage(7, "elu", -1, 0, (Source(0, ((-1, 0), (0, -1))),)),
        Stage(7, "silu", 1, 0, (Source(1, ((0, 0),)),), kind="norm"),
        *(Stage(n, "none", -1, 0, (Source(2, ((0, 0),)),)) for n in (6, 6, 10)),
        Stage(10, "none", 5, 0, (Source(3, ((0, 0),)), Source(4, ((0, 0),)), Source(5, ((0, 0),))), "attend", heads=2),
        Stage(10, "gate", -1, 0, (Source(6, ((0, 0),)), Source(2, ((0, 0),))), factor=6),
        Stage(1, "none", -1, 0, (Source(7, ((0, 0),)),)),
    ]
    return Case((4, 5), 3, 1, stages)


def weights_of(case: Case) -> list[Tensor]:
    if all(s.kind == "sum" for s in case.stages):
        return case.weights()
    g, counts, weights = torch.Generator().manual_seed(1), [case.image_channels], []
    for s in case.stages:
        p = s.out_channels * (2 if s.activation == "gate" else 1)
        if s.kind == "norm":
            weights += [torch.rand(p, generator=g) + 0.5, torch.randn(p, generator=g), torch.tensor([1e-3])]
        elif s.kind == "attend":
            weights.append(torch.tensor([0.6]))
        else:
            sizes = [(counts[x.buffer], len(x.taps)) for x in s.sources]
            weights += [torch.randn(p, c, t, generator=g) * (c * t) ** -0.5 for c, t in sizes]
            weights.append(torch.randn(p, generator=g) * 0.2)
        counts.append(s.out_channels)
    return weights


ALL_CASES = {**CASES, "norm and attention": odd_attention()}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ALL_CASES)
def test_parameters_are_off_by_no_more_than_the_specification_in_bfloat16(name: str, isa: str) -> None:
    """The budget is that of `check_op`: of the program in bfloat16, against the same one in float64."""
    require("cpu")
    case = ALL_CASES[name]
    weights = weights_of(case)
    plan = case.plan() if name in CASES else case.plan("raster")
    truth = params_of(case, plan, weights, torch.float64, "reference")
    same = params_of(case, plan, weights, torch.float32, "reference")
    got = params_of(case, plan, weights, torch.float32, "cpu", isa=isa)
    exact = params_of(
        case, plan, [w.to(BF16).float() if w.dim() > 1 else w for w in weights], torch.float64, "reference"
    )
    assert got.dtype == same.dtype == torch.float32
    assert (got.double() - truth).abs().max() <= budget(truth, same, eps=torch.finfo(BF16).eps)
    # and nearer to the specification than that is to float64, but where a rounding falls the other way
    assert (got - same).abs().max() <= 2 * (same.double() - exact).abs().max() + 1e-6


def test_the_specification_rounds_what_stages_read_and_nothing_else() -> None:
    """By hand: the image, the context, matrices and a buffer that is read; not biases, sums and parameters."""
    stages = [
        Stage(1, "none", -1, 1, (Source(0, ((0, -1),)),)),
        Stage(1, "none", -1, 0, (Source(1, ((0, 0),)),)),
    ]
    plan, fine = Plan(1, 0, tuple(stages), (0, 0)), 1 + 2.0**-12
    weights = [torch.full((1, 1, 1), fine), torch.full((1,), 2.0**-12), torch.full((1, 1), fine)]
    weights += [torch.full((1, 1, 1), fine), torch.full((1,), 2.0**-12)]
    packed = pixelcnn_pack(weights, plan, backend="reference", dtype=BF16)
    assert [w.dtype for w in packed] == [BF16, torch.float32, BF16, BF16, torch.float32]
    x = torch.full((1, 1, 1, 2), fine)
    params = reference.run_plan(plan, packed, torch.full((1, 1), fine), x)
    assert params.flatten().tolist() == [1 + 2.0**-12, 2 + 2.0**-12]  # 1 (+ 1) + 2^-12 is stored as 1 (or 2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", [2, 3, 7, 11, 13])
def test_logits_are_the_same_bits(seed: int, isa: str) -> None:
    """Across batch size, threads and order, on every instruction set."""
    require("cpu")
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, 9)
    samplers = [vf.PixelCNNSampler(decoder, "cpu", order=o, isa=isa, dtype=BF16) for o in ("wavefront", "raster")]
    assert all(s.isa == isa and s.dtype == BF16 for s in samplers)
    check_same_bits(samplers, z, noise)


@pytest.mark.parametrize("seed", [1, 2, 6, 8, 9, 12])
def test_an_image_differs_from_the_specification_only_where_noise_is_near_its_threshold(
    seed: int, record_property
) -> None:
    require("cpu")
    decoder = random_decoder(seed) if seed not in (1, 2) else small_decoder(2, 3, seed % 2 * 5)
    z, noise = inputs(decoder, 6)
    images, logits = vf.PixelCNNSampler(decoder, "cpu", dtype=BF16).sample_with_logits(z, noise)
    same = vf.PixelCNNSampler(decoder, "reference", dtype=BF16).params_of(images, z)
    wide = vf.PixelCNNSampler(decoder, "cpu").params_of(images, z)
    error = (logits - same).abs().max()
    assert error <= (same - wide).abs().max() + 1e-6  # of roundings that fall the other way, against all roundings
    differs = images != (noise < torch.sigmoid(same)).float()
    gap = (same - torch.logit(noise)).abs()
    assert (gap[differs] <= error).all()
    record_property("differing_pixels", int(differs.sum()))
    assert differs.float().mean() < 0.01


@pytest.mark.parametrize("isa", ISAS)
def test_steps_scores_and_refreshing(isa: str) -> None:
    require("cpu")
    decoder = small_decoder(3, 4, 5)
    z, noise = inputs(decoder, 5)
    sampler = vf.PixelCNNSampler(decoder, "cpu", isa=isa, dtype=BF16)
    images, logits = sampler.sample_with_logits(z, noise)
    with sampler.start(z) as run:
        for step in run:
            step.put(step.draw(noise))
    assert run.images.equal(images) and run.logits.equal(logits)
    assert sampler.params_of(images, z).equal(logits)
    again, score = sampler.sample(z, noise, return_log_prob=True)
    assert again.equal(images) and score.equal(sampler.log_prob(images, z))
    randomize(decoder)
    sampler.refresh()
    fresh = vf.PixelCNNSampler(decoder, "cpu", isa=isa, dtype=BF16)
    for got, want in zip(sampler.sample_with_logits(z, noise), fresh.sample_with_logits(z, noise), strict=True):
        assert got.equal(want)
    assert not sampler.sample_with_logits(z, noise)[1].equal(logits)


@pytest.mark.parametrize("likelihood", ["categorical", "logistic_mixture"])
def test_levels_are_drawn_and_returned_in_float32(likelihood: str) -> None:
    """k / 255 is no number of bfloat16: images hold it, and channels see it exactly."""
    require("cpu")
    torch.manual_seed(0)
    model = vf.VLAE(3, 4, 6, 1, likelihood=likelihood, levels=256, image_size=(4, 5)).eval()
    sampler = vf.PixelCNNSampler(model.decoder, "cpu", dtype=BF16)
    z, emit = torch.randn(3, 4), sampler.plan.emit
    noise = torch.rand(3, emit.noises(3), 4, 5)
    images, params = sampler.sample_with_logits(z, noise)
    assert emit.holds(images).all() and not emit.holds(images.to(BF16).float()).all()
    assert sampler.params_of(images, z).equal(params)
    assert (draw(params, noise, emit, 1.0) - images).abs().max() <= 1e-6


@pytest.mark.parametrize("isa", ISAS)
def test_small_and_large_numbers(isa: str) -> None:
    """Numbers too small to be normal count as themselves or as 0, and the largest stay finite."""
    require("cpu")
    decoder = small_decoder(1, 0)
    noise = inputs(decoder, 4)[1]
    sampler = vf.PixelCNNSampler(decoder, "cpu", isa=isa, dtype=BF16)
    logits = sampler.sample_with_logits(None, noise)[1]
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(1e-41)
            p[..., 0] = 1e-41
    sampler.refresh()
    small = sampler.sample_with_logits(None, noise)[1]
    with torch.no_grad():
        for p in decoder.parameters():
            p[..., 0] = 0
    sampler.refresh()
    assert (small - sampler.sample_with_logits(None, noise)[1]).abs().max() < 1e-30
    assert not small.equal(logits)
    nn.init.constant_(decoder.final_conv.bias, 3e38)
    sampler.refresh()
    assert sampler.sample_with_logits(None, noise)[1].isfinite().all()


def test_weights_beyond_bfloat16_are_refused() -> None:
    decoder = small_decoder(1, 0)
    with torch.no_grad():
        decoder.final_conv.weight.fill_(3.4e38)
    for backend in ("cpu", "reference"):
        with pytest.raises((ValueError, RuntimeError), match=r"weights must be finite in .*bfloat16"):
            vf.PixelCNNSampler(decoder, require(backend), dtype=BF16)
    good = vf.PixelCNNSampler(small_decoder(1, 0), require("cpu"), dtype=BF16)
    nn.init.constant_(good.decoder.final_conv.weight, 3.4e38)
    with pytest.raises((ValueError, RuntimeError), match="must be finite"):
        good.refresh()


def test_dtypes_and_instruction_sets_that_are_refused() -> None:
    decoder = small_decoder()
    with pytest.raises(
        ValueError, match=r"PixelCNNSampler: dtype must be None or one of torch.float32, torch.bfloat16"
    ):
        vf.PixelCNNSampler(decoder, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"dtype must be None or one of torch.bfloat16, got torch.float32"):
        vf.PixelCNNSampler(small_decoder().to(BF16), dtype=torch.float32)
    require("cpu")
    with pytest.raises(
        ValueError, match=r"isa must be one of avx2|avx512|baseline.* on this machine, got 'avx512_bf16'"
    ):
        vf.PixelCNNSampler(decoder, "cpu", isa="avx512_bf16")  # it computes in bfloat16 alone
    with pytest.raises(
        RuntimeError, match="cpu: holds a plan in the dtype of its noise, float32: give it a decoder in float16"
    ):
        vf.PixelCNNSampler(decoder, "cpu", dtype=torch.float16)
    x = torch.zeros(1)
    for row in backends.TABLE:
        if row.name in ("cuda", "triton"):
            assert row.stores == ()
    assert backends.pick("pixelcnn_sample", x, "auto", None, BF16).name == "cpu"
