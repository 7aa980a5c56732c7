"""Every op of the CPU library, with work for four threads; `cases.races` runs it, and names the library."""

import sys

import torch

torch.ops.load_library(sys.argv[1])  # before vlae_fast, which loads none where one is

import vlae_fast as vf  # noqa: E402
from vlae_fast import testing  # noqa: E402
from vlae_fast.backends import cpu  # noqa: E402

CASES = [
    testing.conv_case("B", (10, 8, 29, 27), 16, 3, activation="gate", cond="map"),
    testing.conv_case("A", (9, 1, 28, 28), 24, 7, activation="elu", cond="vector"),
    testing.conv_case("B", (6, 12, 16, 16), 12, 3, activation="relu", image_channels=3),
    testing.conv_case("B", (10, 8, 29, 27), 16, 3, activation="gate", cond="vector", context=3, dtype=torch.bfloat16),
    testing.conv_case("A", (9, 1, 28, 28), 24, 7, activation="elu", dtype=torch.bfloat16),
    testing.linear_case(150, 96, 130, activation="elu"),
    testing.linear_case(96, 130, 90, adjacency=True, activation="relu"),
    testing.made_layers_case(150, 20, (96, 130, 90), activation="elu", cond=True),
    testing.made_case(70, 20, (48, 48)),
    testing.made_case(33, 24, (40,), affine=False, cond=True, steps=3),
]


def differentiate(case: testing.Case) -> None:
    """Forward, and backward where the library has it."""
    outs, _ = testing.run(case, "cpu")
    g = torch.Generator().manual_seed(0)
    _, grads = testing.run(case, "cpu", [torch.randn(out.shape, generator=g).to(out.dtype) for out in outs])
    assert grads and all(t.isfinite().all() for t in (*outs, *grads)), f"{case}: not finite"


def draw(batch: int, z_channels: int) -> None:
    """Threads share the waves of a batch of one, and take images of a larger one."""
    torch.manual_seed(batch)
    decoder = vf.PixelCNNDecoder(1, 5, 48, 3, initial_kernel=5, z_channels=z_channels, image_size=(24, 20))
    z, noise = torch.randn(batch, 5), torch.rand(batch, 1, 24, 20)
    sampler = vf.PixelCNNSampler(decoder, backend="cpu")
    images, raster = sampler.sample(z, noise), vf.PixelCNNSampler(decoder, backend="cpu", order="raster")
    assert images.equal(raster.sample(z, noise)), f"a batch of {batch}: the order changes the image"
    with sampler.start(z) as run:  # threads take images of a step
        for step in run:
            step.put(step.draw(noise))
    assert images.equal(run.images), f"a batch of {batch}: steps change the image"


assert cpu.why_not() is None
for case in CASES:
    differentiate(case)
for batch in (1, 3, 9, 40):
    draw(batch, 0 if batch != 3 else 4)
print(f"races: {len(CASES)} ops and 4 batches of images on 4 threads")
