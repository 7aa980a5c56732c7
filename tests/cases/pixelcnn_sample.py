"""Programs of pixelcnn_sample that every backend must get right, and what its images and logits must be."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cases.rows import require
from vlae_fast import activations, reference
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Plan, Sites, Source, Stage
from vlae_fast.sampling import PixelCNNSampler
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import budget, uninitialised_is_nan

GAP = 1e-5  # a pixel may differ only where its logit is this close to the threshold


def compare(images: torch.Tensor, naive: torch.Tensor, logits: torch.Tensor, noise: torch.Tensor) -> int:
    """Samples that differ at all; each must first differ where its logit is within GAP of the threshold."""
    differing = 0
    gap = (logits.double() - torch.logit(noise.double())).abs()
    for b in (images != naive).flatten(1).any(1).nonzero().flatten().tolist():
        first = (images[b] != naive[b]).any(0).flatten().nonzero()[0].item()
        at = gap[b].flatten(1)[:, first][(images[b] != naive[b]).flatten(1)[:, first]]
        assert (at < GAP).all(), f"sample {b} differs at pixel {first} where the gap is {at.tolist()}"
        differing += 1
    return differing


def check_same_bits(samplers: Sequence[PixelCNNSampler], z: Tensor | None, noise: Tensor) -> None:
    """Every sampler gives images and logits of 9 samples the same bits, in any batch and on any number of threads."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        images, logits = samplers[0].sample_with_logits(z, noise)
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            for s in samplers:
                for rows in (slice(0, 9), slice(4, 5), slice(2, 4), slice(1, 8)):
                    got_images, got = s.sample_with_logits(None if z is None else z[rows], noise[rows])
                    assert got.equal(logits[rows]) and got_images.equal(images[rows])
    finally:
        torch.set_num_threads(threads)


A3, B3 = live_taps("A", (3, 3)), live_taps("B", (3, 3))


HERE = ((0, 0),)


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
            p, fan_in = s.out_channels * activations.columns(s.activation), sum(len(x.taps) for x in s.sources)
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


def down_and_up(hidden: int) -> list[Stage]:
    """A strided convolution, one on its grid, a transposed one as four phases, and a skip connection."""
    coarse = Source(2, tuple((2 * dy, 2 * dx) for dy, dx in B3))
    phases = [
        Stage(
            hidden,
            ("elu", "gate", "elu", "relu")[2 * row + column],
            -1 if row else 1,
            0,
            (Source(3, ((-row, -column - 2), (-row, -column))), Source(1, ((0, -1),))),
            sites=Sites(2, row, column),
            joins=4 if row or column else -1,
        )
        for row in (0, 1)
        for column in (0, 1)
    ]
    return [
        Stage(hidden, "elu", -1, 0, (Source(0, A3),)),
        Stage(hidden, "elu", -1, 3, (Source(1, B3),), sites=Sites(2, 0, 0)),
        Stage(hidden, "gate", 2, 3, (coarse,), sites=Sites(2, 0, 0)),
        *phases,
        Stage(hidden, "relu", -1, 0, (Source(4, B3),), factor=4),
        Stage(1, "none", -1, 0, (Source(8, HERE), Source(4, ((-1, 1),)))),
    ]


CASES = {
    "down and up": Case((5, 6), 3, 1, down_and_up(6), "map"),
    "down and up, tiles of channels": Case((4, 3), 2, 1, down_and_up(20), "vector"),
    "down and up, one column": Case((5, 1), 1, 1, down_and_up(5), "vector"),
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
    "as many sources as there may be, and a context map": Case(
        (3, 2),
        2,
        1,
        [
            Stage(4, "gate", -1, 3, tuple(Source(0, ((0, -1 - i % 2),)) for i in range(64))),
            Stage(1, "none", -1, 0, (Source(1, HERE),)),
        ],
        "map",
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
