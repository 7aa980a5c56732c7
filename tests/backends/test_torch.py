"""The row `torch`: chunks, dtypes, threads and modes. What every row must do is tested with its op."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from cases.decoders import inputs, random_decoder, small_decoder
from cases.made_inverse import any_degrees
from cases.pixelcnn_sample import CASES, Case, compare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vlae_fast as vf
from vlae_fast import backends, reference
from vlae_fast.backends.float64 import device_of_float64
from vlae_fast.backends.torch.pixelcnn_places import Places
from vlae_fast.masks import linear_mask
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.reference.arguments import Layers, Transform
from vlae_fast.sampling.naive import naive_sample_with_logits
from vlae_fast.testing import budget, check_op, made_case, made_sample_levels_case, uninitialised_is_nan

made_walk, sampler_module, stage_module, sample_module, step_module = (
    importlib.import_module(f"vlae_fast.backends.torch.{name}")
    for name in ("made_walk", "pixelcnn_sample", "pixelcnn_stage", "made_sample", "pixelcnn_step")
)


def sample(case: Case, order: str = "wavefront", dtype: torch.dtype = torch.float32, **known: Tensor):
    (noise, context), plan = case.inputs(dtype), case.plan(order)
    with uninitialised_is_nan():
        packed = pixelcnn_pack(case.weights(dtype), plan, backend="torch")
        return pixelcnn_sample(noise, packed, plan, context, **known, backend="torch")


@pytest.mark.parametrize("order", ["wavefront", "raster"])
@pytest.mark.parametrize("name", CASES)
def test_programs(name: str, order: str) -> None:
    case = CASES[name]
    noise, context = case.inputs()
    packed = pixelcnn_pack(case.weights(), case.plan(), backend="reference")
    images, logits = pixelcnn_sample(noise, packed, case.plan(), context, backend="reference")
    got_images, got_logits = sample(case, order)
    assert got_images.equal(images)
    torch.testing.assert_close(got_logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_programs_by_convolutions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "LARGE", 0)
    test_programs(name, "wavefront")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_logits_of_a_given_image_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    noise, context = case.inputs(dtype)
    image = (noise < 0.5).to(dtype)
    images, logits = sample(case, dtype=dtype, known_mask=torch.ones_like(image, dtype=torch.bool), known=image)
    same = reference.run_program(case.stages, case.weights(dtype), context, image)
    weights = [w.double() for w in case.weights(dtype)]
    wide = None if context is None else context.double()
    truth = reference.run_program(case.stages, weights, wide, image.double())
    moved = image.double() * (1 + 4 * torch.finfo(dtype).eps * (2 * torch.rand_like(image, dtype=torch.float64) - 1))
    near = reference.run_program(case.stages, weights, wide, moved)
    assert images.equal(image) and logits.dtype == dtype
    assert (logits.double() - truth).abs().max().item() <= budget(truth, same, near)


@pytest.mark.parametrize("seed", range(12))
def test_images_are_those_of_one_pass_per_pixel(seed: int, record_property) -> None:
    decoder = random_decoder(seed)
    batch = 1 + seed % 9 if decoder.image_size != (33, 29) else 1
    z, noise = inputs(decoder, batch, z_map=seed % 4 == 3)
    naive, naive_logits = naive_sample_with_logits(decoder, z, noise)
    images, logits = vf.PixelCNNSampler(decoder, "torch").sample_with_logits(z, noise)
    record_property("samples", batch)
    record_property("differing_samples", compare(images, naive, naive_logits, noise))
    same = (images == naive).flatten(1).all(1)
    torch.testing.assert_close(logits[same], naive_logits[same], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("z_map", [False, True])
def test_a_batch_in_chunks(z_map: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images; and a run in steps has the chunks of `sample`, so its bits."""
    decoder = small_decoder(2, 3, z_channels=5)
    sampler = vf.PixelCNNSampler(decoder, "torch")
    z, noise = inputs(decoder, 7, z_map=z_map)
    whole = sampler.sample_with_logits(z, noise)
    known = (torch.rand(7, 2, *decoder.image_size) < 0.5, whole.images)
    monkeypatch.setitem(sampler_module._BYTES, "cpu", 3000)
    chunks = sampler_module.chunks_of(sampler.plan, decoder.image_size, 7, noise)
    assert 1 < len(chunks) < 7 and [i for c in chunks for i in range(c.start, c.stop)] == list(range(7))
    parts = sampler.sample_with_logits(z, noise)
    assert parts.images.equal(whole.images)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-5, atol=1e-5)
    assert sampler.propose(z, noise, known=known).images.equal(whole.images)
    with sampler.start(z, 7) as run:
        for step in run:
            step.put(step.draw(noise))
    assert run.images.equal(parts.images) and run.logits.equal(parts.logits)


class Products(TorchDispatchMode):
    """Counts the multiply-adds of products of matrices."""

    multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.multiply_adds += left.numel() * right.shape[1]
        return func(*args, **(kwargs or {}))


def test_every_activation_is_computed_once() -> None:
    """An image takes the products of one pass over it, a flow's inverse those of its live weights."""
    decoder = small_decoder()
    sampler = vf.PixelCNNSampler(decoder, "torch")
    (z, noise), plan = inputs(decoder, 3), sampler.plan
    context = sampler._context(z, 3)
    with Products() as products:
        backends.torch.pixelcnn_sample(noise, sampler._packed, plan, context, None, None, 1.0)
    weights = iter(sampler._packed)
    own = [[next(weights) for _ in range(stage.n_weights)] for stage in plan.stages]
    depths = [sum(w.numel() for w in of_stage[: len(s.sources)]) for s, of_stage in zip(plan.stages, own, strict=True)]
    once = noise[:, 0].numel() * sum(depths)
    of_context = 3 * sum(of_stage[-1].numel() for s, of_stage in zip(plan.stages, own, strict=True) if s.context_dim)
    assert of_context > 0 and products.multiply_adds == once + of_context
    case = made_case(5, 40, (70, 90))
    t = case.tensors
    live = [linear_mask(*degrees).sum().item() for degrees in pairwise(t["degrees"])]
    with Products() as products:
        backends.torch.made_inverse(t["eps"], Layers(t["weights"], t["biases"], t["degrees"]), Transform())
    assert products.multiply_adds == 5 * sum(live)


def test_threads_do_not_share_memory() -> None:
    decoder = random_decoder(7)
    sampler = vf.PixelCNNSampler(decoder, "torch")
    given = [inputs(decoder, 3) for _ in range(8)]
    expected = [sampler.sample(z, noise) for z, noise in given]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda pair: sampler.sample(*pair), given * 3))
    assert all(image.equal(want) for image, want in zip(got, expected * 3, strict=True))


def test_inference_mode_leaves_nothing_behind() -> None:
    decoder = random_decoder(9)
    z, noise = inputs(decoder, 2)
    with torch.inference_mode():
        sampler = vf.PixelCNNSampler(decoder, "torch")
        first = sampler.sample(z, noise)
    second = sampler.sample(z, noise)
    assert second.equal(first) and first.is_inference() and not second.is_inference()
    assert not second.requires_grad


def test_training_goes_on_and_a_sampler_stays_what_it_was() -> None:
    decoder = small_decoder()
    sampler, (z, noise) = vf.PixelCNNSampler(decoder, "torch"), inputs(decoder, 2)
    logits = sampler.sample_with_logits(z, noise).logits
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(1)
    assert sampler.sample_with_logits(z, noise).logits.equal(logits)
    sampler.refresh()
    assert not sampler.sample_with_logits(z, noise).logits.equal(logits)
    assert sampler.sample(z, noise).equal(vf.naive_sample(decoder, z, noise))


def test_what_is_kept_is_of_indices_alone() -> None:
    """Places lie by waves, and what is read outside of the image is the place of zeros."""
    case = CASES["down and up"]
    plan, (height, width) = case.plan(), case.size
    places = Places(plan, case.size)
    pixels = places.pixels.tolist()
    waves = [pixel % width + plan.slope * (pixel // width) for pixel in pixels]
    assert sorted(pixels) == list(range(height * width)) and waves == sorted(waves)
    assert sum(places.drawn.counts) == height * width and len(places.drawn.counts) == len(set(waves))
    coarse = places.stages[1]
    assert [divmod(pixels[p], width) for p in coarse.places.tolist()] == sorted(
        ((i, j) for i in (0, 2, 4) for j in (0, 2, 4)), key=lambda pixel: (pixel[1] + plan.slope * pixel[0], pixel[0])
    )
    read = places.read(coarse, ((-1, 1), (0, 0)))
    for place, (above, own) in zip(coarse.places.tolist(), read.tolist(), strict=True):
        i, j = divmod(pixels[place], width)
        assert own == place
        assert above == (height * width if i == 0 or j + 1 == width else pixels.index((i - 1) * width + j + 1))


def test_draws_are_decided_where_float64_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU without it: parameters go to the CPU, pixels come back."""

    def refuse(*args: object, **options: object) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    assert device_of_float64(torch.device("cpu")).type == "cpu"
    monkeypatch.setattr(torch, "ones", refuse)
    assert device_of_float64.__wrapped__(torch.device("meta")) == torch.device("cpu")
    asked = []
    for module in (sampler_module, sample_module, step_module):
        monkeypatch.setattr(module, "device_of_float64", lambda device: asked.append(device) or torch.device("cpu"))
    decoder = small_decoder()
    z, noise = inputs(decoder, 2)
    sampler = vf.PixelCNNSampler(decoder, "torch")
    images = sampler.sample(z, noise)
    with sampler.start(z) as run:
        for step in run:
            step.put(step.draw(noise))
    assert run.images.equal(images) and len(asked) > 2


@pytest.mark.parametrize("block", [1, 3, 64])
def test_blocks_of_degrees(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_walk, "BLOCK", block)
    for case in (made_case(5, 13, (40, 17), activation="elu", cond=True), made_case(3, 7, (), scale="softplus")):
        check_op(any_degrees(case) if len(case.tensors["weights"]) > 1 else case, "torch", grad=False, nudges=3)
    check_op(made_sample_levels_case(5, ((3, 1), (7, 4), (1, 1), (2, 2)), (16, 16)), "torch", grad=False, nudges=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_flows_of_other_dtypes_take_the_row(dtype: torch.dtype) -> None:
    """The x that an inverse gives is mapped to eps; auto takes no D passes."""
    torch.manual_seed(0)
    flow = vf.AutoregressiveFlow(20, 32, n_steps=2).to(dtype)
    with torch.no_grad():
        for p in flow.parameters():  # a new flow is the identity
            p.add_(0.05 * torch.randn_like(p))
    assert vf.backends.pick("made_inverse", torch.zeros(1, dtype=dtype)).name == "torch"
    eps = torch.randn(6, 20, dtype=dtype)
    z, log_det = flow.inverse(eps)
    back, back_log_det = flow(z)
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(back, eps, rtol=tolerance, atol=tolerance)
    assert (back - z).abs().max() > 0.1
    torch.testing.assert_close(log_det.to(back_log_det), back_log_det, rtol=tolerance, atol=tolerance)
