"""The main job in two minutes: train a small VLAE on the embedded digits and draw images by both samplers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import data, training
from ..evaluation import evaluate
from ..models.vlae import VLAE
from ..sampling import PixelCNNSampler
from ..sampling.naive import naive_sample_with_logits
from ..visualization import DECOMPRESSIONS, beside, decompress, save_grid

MODEL: dict[str, Any] = {
    "input_dim": 1, "latent_dim": 16, "hidden_dim": 24, "n_layers": 2, "use_flow": True,
    "flow_hidden": 64, "initial_kernel": 5, "z_channels": 16, "residual": True,
}  # fmt: skip
TRAINING: dict[str, Any] = {"epochs": 24, "batch_size": 25, "lr": 3e-3, "lr_decay": 0.92, "free_bits": 24.0}
SECONDS = 110.0  # training stops here on slower machines; the rest of the demo takes a few seconds
NAIVE_IMAGES = 4  # one full forward pass per pixel: more would take longer than the training is worth
GRID = 10
SLOW_GRID = 4  # where only the reference can sample, 100 images would take minutes
SEED = 0
GAP = 1e-5  # a pixel may fall either way where its logit is this close to its threshold, logit(noise): float32 rounds

Result = TypeVar("Result")


class Comparison(NamedTuple):
    """The same noise through both samplers, the same batch.

    gaps: of each differing image, |logit - logit(noise)| at its first differing pixel; what follows was drawn from
    another image, so that only the first pixel tells.
    """

    images: int
    naive_seconds: float
    fast_seconds: float
    differing_pixels: int
    pixels: int
    gaps: list[float]

    @property
    def wrong_images(self) -> int:
        """Differing images that rounding does not explain."""
        return sum(not gap < GAP for gap in self.gaps)

    @property
    def speedup(self) -> float:
        return self.naive_seconds / self.fast_seconds


def run(
    out_dir: str | Path, *, seconds: float = SECONDS, progress: bool = True, say: Callable[[str], object] = print
) -> Comparison:
    """Writes out_dir/{samples.png, reconstructions.png, checkpoint/} and reports on the way through `say`."""
    out = Path(out_dir)
    images = data.load("digits")
    torch.manual_seed(SEED)
    model = VLAE(**MODEL, image_size=images.image_size)
    n_parameters = sum(p.numel() for p in model.parameters())
    say(f"data     {images.name}, {'x'.join(map(str, images.image_size))}, binary: {images.split}")
    threads = f"{torch.get_num_threads()} threads"
    say(f"model    VLAE, {n_parameters:,} parameters; training for at most {seconds:.0f} s on {threads}")
    start = time.perf_counter()
    history = training.train(
        model, images, **TRAINING, seed=SEED, out_dir=out, overwrite=True, time_limit=seconds, progress=progress
    )
    say(f"training {len(history)} epochs in {time.perf_counter() - start:.0f} s; checkpoint: {out / 'checkpoint'}")
    say(f"test     {evaluate(model, images, 'test')}")
    found = compare(model, images.image_size, NAIVE_IMAGES)
    say(describe(found))
    draw(model, images, out, GRID if found.fast_seconds < 1.0 else min(GRID, SLOW_GRID), say)
    return found


@torch.no_grad()
def compare(model: VLAE, image_size: tuple[int, int], n: int) -> Comparison:
    """n images by one full forward pass per pixel and by the cached sampler, from the same z and the same noise."""
    generator = torch.Generator().manual_seed(SEED)
    z = model.sample_prior(n, generator=generator)
    noise = torch.rand(n, model.config["input_dim"], *image_size, generator=generator)
    sampler = PixelCNNSampler(model.decoder)
    sampler.sample(z[:1], noise=noise[:1])  # warms the caches and the allocator
    fast, fast_seconds = timed(lambda: sampler.sample(z, noise=noise))
    naive, naive_seconds = timed(lambda: naive_sample_with_logits(model.decoder, z, noise))
    differing = int((fast != naive.images).sum())
    gaps = first_gaps(fast, naive.images, naive.logits, noise)
    return Comparison(n, naive_seconds, fast_seconds, differing, fast.numel(), gaps)


def first_gaps(fast: Tensor, naive: Tensor, logits: Tensor, noise: Tensor) -> list[float]:
    """Per differing image, the largest |logit - logit(noise)| of the channels that differ at its first such pixel."""
    gap = (logits.double() - torch.logit(noise.double())).abs().flatten(2)
    differs = (fast != naive).flatten(2)  # [B, C, H * W], in raster order
    found = []
    for b in differs.any(2).any(1).nonzero().flatten().tolist():
        first = int(differs[b].any(0).nonzero()[0])
        found.append(gap[b, differs[b, :, first], first].max().item())
    return found


def describe(found: Comparison) -> str:
    counts = f"{found.differing_pixels} of {found.pixels:,} pixels differ"
    if found.gaps:
        near = len(found.gaps) - found.wrong_images
        counts += (
            f", images: {len(found.gaps)}, of them {near} first where the logit is within {GAP:g} of its threshold"
        )
    equal = "equal pixel for pixel" if not found.gaps else "NOT EQUAL" if found.wrong_images else "equal up to rounding"
    naive, fast = found.naive_seconds / found.images, found.fast_seconds / found.images
    return (
        f"samplers the same noise twice, {found.images} images a batch: {equal} ({counts})\n"
        f"         one full forward pass of model.decoder per pixel {1e3 * naive:,.0f} ms/image, "
        f"cached {1e3 * fast:,.2f} ms/image: {found.speedup:,.{0 if found.speedup >= 10 else 1}f} times as fast"
    )


@torch.no_grad()
def draw(model: VLAE, images: data.Images, out: Path, side: int, say: Callable[[str], object]) -> None:
    """samples.png: side x side images from the prior. reconstructions.png: 2 side test images beside their draws."""
    generator = torch.Generator().manual_seed(SEED)
    sampler = PixelCNNSampler(model.decoder)
    z = model.sample_prior(side * side, generator=generator)
    samples, seconds = timed(lambda: sampler.sample(z, generator=generator))
    save_grid(samples, out / "samples.png", side)
    say(
        f"samples  {len(samples)} digits in {seconds:.2f} s: {len(samples) / seconds:,.0f} images/s, "
        f"backend {sampler.backend}, {sampler.steps} steps; see {out / 'samples.png'}"
    )
    x = images.fixed("test", SEED)[: 2 * side]
    rows = beside(x, decompress(model, x, generator=generator))
    save_grid(rows, out / "reconstructions.png", 2 * (DECOMPRESSIONS + 1))
    say(f"         each test digit beside {DECOMPRESSIONS} draws given its code: {out / 'reconstructions.png'}")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
