"""Digits from the VLAE that ships with the package: drawn from nothing, and completed from their upper halves."""

import sys
import time
from pathlib import Path

import torch

from vlae_fast import checkpoint
from vlae_fast.visualization import save_grid

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
model = checkpoint.load(checkpoint.MNIST).model
sampler = model.sampler()
generator = torch.Generator().manual_seed(0)

start = time.perf_counter()
z = model.sample_prior(64, generator)
digits = sampler.sample(z, generator=generator)
print(f"64 digits in {time.perf_counter() - start:.2f} s, {sampler.steps} steps: {sampler}")
save_grid(digits, out / "digits.png", columns=8)

# The lower half is drawn given z and the upper half, then z given all of it, in turn (arXiv 1401.4082, appendix F).
upper = torch.zeros(1, 1, 28, 28, dtype=torch.bool)
upper[:, :, :14] = True
originals = digits[:8].repeat_interleave(7, 0)
z = model.sample_prior(len(originals), generator)
with torch.no_grad():
    for _ in range(8):
        completed = sampler.sample(z, generator=generator, known=(upper, originals))
        z = model.posterior_sample(completed, generator=generator).z
kept = completed.masked_select(upper).equal(originals.masked_select(upper))
print(f"{len(completed)} completions; upper halves kept: {kept}")
save_grid(torch.cat([digits[:8, None], completed.unflatten(0, (8, 7))], 1).flatten(0, 1), out / "completed.png", 8)
print(f"pictures: {out / 'digits.png'}, {out / 'completed.png'}")
