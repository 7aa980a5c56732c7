"""On a GPU: the checks of every family again, and what only a GPU has: streams, graphs, TF32, the sanitizer."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import flows, made, made_inverse, masked_conv, masked_linear, modules, pixelcnn_draw
from cases import pixelcnn_sample as sampling
from cases.decoders import inputs, random_decoder
from cases.rows import require

import vlae_fast as vf
from benchmarks import on_gpu
from benchmarks.gpu import captured
from benchmarks.small_calls import SMALL
from vlae_fast import backends
from vlae_fast.backends import triton
from vlae_fast.plan import Emit
from vlae_fast.testing import Case, check_op, made_case, run

pytestmark = pytest.mark.gpu

CASES = [case for family in (masked_conv, masked_linear, made, made_inverse) for case in family.CASES.values()]
CASES += masked_linear.LARGE_CASES
GPU_ROWS = [row.name for row in backends.TABLE if "cuda" in row.devices]


@pytest.fixture(params=[False, True], ids=["float32", "tf32"])
def tf32(request: pytest.FixtureRequest) -> bool:
    """Both settings of what PyTorch may round the inputs of a product to."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def able(row: str, op: str) -> str:
    """The row; skips where it lacks the op. An absent row is left to `require`."""
    if not hasattr(next(r for r in backends.TABLE if r.name == require(row, "cuda")).namespace, op):
        pytest.skip(f"{row} has no {op}")
    return row


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_reference(case: Case, row: str, tf32: bool) -> None:
    check_op(case.to(device="cuda"), able(row, case.op))


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision(case: Case, dtype: torch.dtype, row: str) -> None:
    check_op(case.to(dtype, "cuda"), able(row, case.op))


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("batch", [200, 500, 1500])
def test_inverse_of_large_batches(batch: int, row: str) -> None:
    """More samples than processors: tiles of every size."""
    case = made_case(batch, 63, (129, 200), activation="elu", cond=True)
    check_op(case.to(device="cuda"), able(row, case.op), grad=False)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_tensors_on_another_gpu_than_the_current_one(case: Case, row: str) -> None:
    check_op(case.to(device="cuda:1"), able(row, case.op))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_auto_is_not_the_reference(case: Case) -> None:
    first = next(t for t in case.to(device="cuda").tensors.values() if isinstance(t, torch.Tensor))
    assert backends.pick(case.op, first).name in GPU_ROWS


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_same_bits_every_time(case: Case, row: str) -> None:
    case = case.to(device="cuda")
    outs, _ = run(case, able(row, case.op))
    cotangents = [torch.randn_like(o) for o in outs]
    first = run(case, row, cotangents)
    for _ in range(100):
        for a, b in zip(first, run(case, row, cotangents), strict=True):
            assert all(x.equal(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_runs_on_the_current_stream(case: Case, row: str) -> None:
    """A side stream that waits for its inputs: a kernel on another stream would read them before they are there."""
    case = case.to(device="cuda")
    expected, _ = run(case, able(row, case.op))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = case.to(torch.float64).to(torch.float32)  # copies that are made behind the sleep
        got, _ = run(late, row)
    stream.synchronize()
    assert all(a.equal(b) for a, b in zip(got, expected, strict=True))


def replayed(function: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
    """The result of a CUDA graph of a function; its outputs were NaN before."""
    replay = captured(function, torch.device("cuda"))
    for out in replay():
        out.fill_(torch.nan)
    return replay()


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_cuda_graph(case: Case, row: str) -> None:
    case = case.to(device="cuda")
    function = getattr(vf.ops, case.op)
    able(row, case.op)

    def call() -> list[torch.Tensor]:
        out = function(**case.tensors, **case.options, backend=row)
        return list(out) if isinstance(out, tuple) else [out]

    expected = call()
    assert all(a.equal(b) for a, b in zip(replayed(call), expected, strict=True))


def test_cuda_graph_of_the_gradients_of_a_decoder() -> None:
    decoder = vf.VLAE(latent_dim=8, hidden_dim=16, n_layers=2).decoder.cuda()
    x, z = torch.rand(4, 1, 28, 28, device="cuda").round(), torch.randn(4, 8, device="cuda")
    parameters = list(decoder.parameters())

    def step() -> list[torch.Tensor]:
        return list(torch.autograd.grad(decoder(x, z).square().sum(), parameters))

    expected = step()
    for a, b in zip(replayed(step), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("seed", range(5, 15))
def test_images_are_those_of_the_naive_sampler(seed: int, record_property: Callable[[str, int], None]) -> None:
    """Given the noise the image is a function, on a CPU and on a GPU."""
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, 5)
    expected = vf.naive_sample(decoder, z, noise)
    sampler = vf.PixelCNNSampler(decoder.cuda())
    assert sampler.backend in GPU_ROWS
    got = sampler.sample_with_logits(None if z is None else z.cuda(), noise.cuda())
    differing = sampling.compare(got.images.cpu(), expected, got.logits.cpu(), noise)
    record_property("samples", len(noise))
    record_property("differing_samples", differing)


@pytest.mark.parametrize("name", sampling.CASES)
def test_images_of_programs(name: str) -> None:
    sampling.check_images(sampling.CASES[name], "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", sampling.CASES)
def test_images_of_programs_in_half_precision(name: str, dtype: torch.dtype) -> None:
    sampling.check_half_precision(sampling.CASES[name], dtype, "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_images_of_programs_are_the_same_bits(dtype: torch.dtype, tf32: bool) -> None:
    sampling.check_bits(dtype, "cuda")


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("emit", pixelcnn_draw.EMITS.values(), ids=pixelcnn_draw.EMITS)
def test_draws_are_the_reference_s(emit: Emit, channels: int, dtype: torch.dtype, row: str) -> None:
    pixelcnn_draw.check_draws(emit, channels, able(row, "pixelcnn_sample"), "cuda", dtype)


def test_logits_do_not_depend_on_the_batch() -> None:
    decoder = random_decoder(6).cuda()
    z, noise = inputs(decoder, 17)
    z, noise = None if z is None else z.cuda(), noise.cuda()
    sampler = vf.PixelCNNSampler(decoder)
    together = sampler.sample_with_logits(z, noise)
    for b in (0, 16):
        alone = sampler.sample_with_logits(None if z is None else z[b : b + 1], noise[b : b + 1])
        assert alone.images.equal(together.images[b : b + 1]) and alone.logits.equal(together.logits[b : b + 1])


def sampler_on(row: str, seed: int, batch: int) -> tuple[vf.PixelCNNSampler, torch.Tensor | None, torch.Tensor]:
    """A sampler by a named row, and inputs for it."""
    decoder = random_decoder(seed)
    z, noise = inputs(decoder, batch)
    return (
        vf.PixelCNNSampler(decoder.cuda(), able(row, "pixelcnn_sample")),
        None if z is None else z.cuda(),
        noise.cuda(),
    )


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("seed", [6, 13])
def test_same_image_every_time(seed: int, row: str) -> None:
    sampler, z, noise = sampler_on(row, seed, 300)  # more than there are processors: tiles of several samples
    images, logits = sampler.sample_with_logits(z, noise)
    for _ in range(100):
        again = sampler.sample_with_logits(z, noise)
        assert again.images.equal(images) and again.logits.equal(logits)


@pytest.mark.parametrize("row", GPU_ROWS)
def test_cuda_graph_of_a_sampler(row: str) -> None:
    """Below the contract, whose checks of the noise wait for the GPU."""
    sampler, z, noise = sampler_on(row, 13, 3)
    namespace = next(r for r in backends.TABLE if r.name == row).namespace

    def draw() -> list[torch.Tensor]:
        context = sampler._context(z, len(z))
        return list(namespace.pixelcnn_sample(noise, sampler._packed, sampler.plan, context, None, None, 1.0))

    expected = draw()
    assert all(a.equal(b) for a, b in zip(replayed(draw), expected, strict=True))


COMPILED = {  # of shapes that no other test has: what is kept between calls is made while torch warms its graph up
    "gated": lambda row: vf.GatedMaskedConv2d("B", 20, 20, 3, backend=row),
    "made": lambda row: vf.MADE(21, 53, 42, backend=row),
    "inverse": lambda row: modules.Inverse(vf.AutoregressiveFlow(22, 51, backend=row)),
}
COMPILED_INPUTS = {"gated": (2, 20, 11, 13), "made": (3, 21), "inverse": (3, 22)}


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_with_cuda_graphs_from_the_first_call_on(name: str, row: str) -> None:
    able(row, {"gated": "masked_conv", "made": "made", "inverse": "made_inverse"}[name])
    module = COMPILED[name](row).cuda()
    x = torch.randn(COMPILED_INPUTS[name], device="cuda")
    compiled = torch.compile(module, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(3):
            torch.compiler.cudagraph_mark_step_begin()
            got = [t.clone() for t in modules.leaves(compiled(x))]
            modules.assert_same(got, modules.leaves(module(x)), rtol=1e-4, atol=1e-5)


def test_training_compiled_under_autocast() -> None:
    torch.manual_seed(0)
    model = vf.VLAE(latent_dim=8, hidden_dim=32, n_layers=2).cuda()
    x = torch.rand(8, 1, 28, 28, device="cuda").round()

    def loss(compute: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(1)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = compute(x)
            return vf.loss_function(out.logits, x, *out[1:])

    eager = loss(model)
    compiled = loss(torch.compile(model, fullgraph=True))
    torch.testing.assert_close(compiled, eager, rtol=2e-2, atol=0)
    compiled.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_report_names_the_compiler() -> None:
    assert triton.why_not() is None
    assert "triton" in backends.report()


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", on_gpu.TOOLS)
def test_sanitizer(tool: str, tmp_path: Path) -> None:
    (command,) = (command for command in on_gpu.STEPS["sanitizer"] if command.name == tool)
    words, environment = on_gpu.words_of(command, tmp_path), os.environ | dict(command.environment)
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("row", GPU_ROWS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_every_row_agrees_on_small_cases(case: Case, row: str) -> None:
    check_op(case.to(device="cuda"), able(row, case.op))


@pytest.mark.parametrize("row", GPU_ROWS)
def test_every_row_samples(row: str) -> None:
    sampler, z, noise = sampler_on(row, 13, 2)
    images = sampler.sample(z, noise)
    assert ((images == 0) | (images == 1)).all()


@pytest.mark.parametrize("name", modules.MAKERS)
def test_modules_move_to_the_gpu_and_back(name: str) -> None:
    subject = modules.MAKERS[name]()
    want = subject.run()
    got = modules.leaves(subject.module.cuda()(*(x.cuda() for x in subject.inputs)))
    modules.assert_same([out.cpu() for out in got], want, rtol=1e-3, atol=1e-3)
    subject.module.cpu()
    modules.assert_same(subject.run(), want, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["zuko-context", "nflows", "normflows"])
def test_flows_of_other_libraries_move_to_the_gpu(name: str) -> None:
    flow, y, context = flows.random_flow(name), torch.randn(5, flows.D), flows.context_of(name)
    want = flows.inverse(flow, y, context)
    accelerated = vf.accelerate_flows(flow)
    assert all(row.replaced for row in accelerated)
    got = flows.inverse(flow.cuda(), y.cuda(), None if context is None else context.cuda())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
