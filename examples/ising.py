"""The 2-D Ising model by a variational autoregressive network (Wu, Wang, Zhang 2019, arXiv 1809.10606).

A PixelCNN of spins learns the Boltzmann distribution from its own samples, a batch for each step. Its free energy is
above the exact one of the finite lattice (Kaufman 1949); the difference is printed, and what a step takes with naive
sampling.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vlae_fast as vf


def log_partition(rows: int, columns: int, beta: float) -> float:
    """``log Z`` of the ferromagnet with J = 1 on a torus: ``Z = sum over spins of exp(-beta energy)``.

    Half of ``(2 sinh 2 beta)^(rows columns / 2)`` times the sum of four products: of ``2 cosh(columns g_r / 2)`` and of
    ``2 sinh(columns g_r / 2)``, each over the odd and over the even r below 2 rows, where
    ``cosh g_r = cosh(2 beta)^2 / sinh(2 beta) - cos(pi r / rows)``. All g_r are positive but ``g_0 = 2 beta +
    log tanh(beta)``, which has the sign of ``beta - beta_c``.

    Source: Kaufman 1949, Physical Review 76, 1232.
    """
    r = torch.arange(2 * rows, dtype=torch.float64)
    cosh = math.cosh(2 * beta) ** 2 / math.sinh(2 * beta) - torch.cos(math.pi * r / rows)
    g = torch.acosh(cosh.clamp(min=1))
    g[0] = 2 * beta + math.log(math.tanh(beta))
    half = columns * g / 2
    log_cosh = torch.logaddexp(half, -half)
    log_sinh = half.abs() + torch.log1p(-torch.exp(-2 * half.abs()))
    logs = torch.stack([part[first::2].sum() for part in (log_cosh, log_sinh) for first in (1, 0)])
    top = logs.max()
    products = torch.exp(logs - top)
    products[3] *= g[0].sign()
    total = top + torch.log(products.sum())
    return float(rows * columns / 2 * math.log(2 * math.sinh(2 * beta)) - math.log(2) + total)


def energy(spins: Tensor) -> Tensor:
    """``-sum of s_i s_j`` over the bonds of a torus, ``[B]``, of spins ``[B, 1, H, W]``."""
    return -(spins * (spins.roll(1, 2) + spins.roll(1, 3))).sum((1, 2, 3))


class MaskedConv2d(nn.Conv2d):
    """The usual masked convolution. ``ahead``: how many columns to the right it reaches in the rows above."""

    mask: Tensor

    def __init__(self, kind: str, channels_in: int, channels_out: int, reach: int, ahead: int) -> None:
        super().__init__(channels_in, channels_out, 2 * reach + 1, padding=reach)
        mask = torch.ones_like(self.weight)
        mask[:, :, reach, reach + (kind == "B") :] = 0
        mask[:, :, reach + 1 :] = 0
        mask[:, :, :, reach + ahead + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class SpinNet(nn.Module):
    """``p(s_i = 1 | spins before i)``, ``[B, 1, L, L]``, of spins -1 and 1; the first spin is 1.

    The first kernel reaches over the whole lattice. Its farthest taps are inside of the lattice at the last column or
    row alone: they are the bonds that close the torus.
    """

    free: Tensor

    def __init__(self, size: int, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [MaskedConv2d("A", 1, width, size - 1, ahead=3)]
        for channels in (*[width] * (depth - 2), 1):
            layers += [nn.PReLU(width, init=0.5), MaskedConv2d("B", width, channels, 1, ahead=1)]
        self.net = nn.Sequential(*layers, nn.Sigmoid())
        self.size = size
        free = torch.ones(size, size)
        free[0, 0] = 0
        self.register_buffer("free", free)

    def forward(self, spins: Tensor) -> Tensor:
        return self.net(spins) * self.free + (1 - self.free)

    def log_prob(self, spins: Tensor) -> Tensor:
        """``log q``, ``[B]``: half of the probability is that of the same spins turned over, as in the Ising model."""
        spins = spins * spins[:, :, :1, :1]
        return -F.binary_cross_entropy(self(spins), (spins + 1) / 2, reduction="none").sum((1, 2, 3)) - math.log(2)


def naive_spins(net: SpinNet, noise: Tensor) -> Tensor:
    """A forward pass for each site."""
    spins = torch.zeros_like(noise)
    with torch.no_grad():
        for i in range(net.size):
            for j in range(net.size):
                spins[:, :, i, j] = 2.0 * (noise[:, :, i, j] < net(spins)[:, :, i, j]) - 1
    return spins


def fast_spins(net: SpinNet, noise: Tensor) -> Tensor:
    """The same spins, each activation computed once."""
    sampler = vf.fast_sampler(net, (1, net.size, net.size), pixels=(-1, 1))
    return 2 * sampler.sample(None, noise) - 1


def step(net: SpinNet, optimizer: torch.optim.Optimizer, spins: Tensor, beta: float) -> None:
    """A gradient of ``E[log q + beta energy]`` by REINFORCE; the baseline is the mean of the batch."""
    log_prob = net.log_prob(spins)
    cost = log_prob.detach() + beta * energy(spins)
    optimizer.zero_grad()
    ((cost - cost.mean()) * log_prob).mean().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def train(net: SpinNet, beta: float, steps: int, batch: int, lr: float) -> None:
    """beta rises from 0 in the first 60 % of the steps; the learning rate falls to 0 in the second half."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for n in range(steps):
        done = n / steps
        optimizer.param_groups[0]["lr"] = lr * math.cos(math.pi / 2 * max(0.0, 2 * done - 1)) ** 2
        spins = fast_spins(net, torch.rand(batch, 1, net.size, net.size))
        step(net, optimizer, spins, beta * min(1.0, done / 0.6))


@torch.no_grad()
def free_energy(net: SpinNet, beta: float, batch: int) -> tuple[float, float]:
    """``beta F`` per site of the network, and its standard error."""
    spins = fast_spins(net, torch.rand(batch, 1, net.size, net.size))
    per_site = (net.log_prob(spins) + beta * energy(spins)) / net.size**2
    return float(per_site.mean()), float(per_site.std()) / math.sqrt(batch)


def milliseconds(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return sorted(taken)[times // 2]


def compare(net: SpinNet, batch: int) -> None:
    """Prints what sampling and the gradient of a step take, as they are written and by this package."""
    noise, optimizer = torch.rand(batch, 1, net.size, net.size), torch.optim.Adam(net.parameters(), 0.0)
    spins = naive_spins(net, noise)
    by_passes = milliseconds(lambda: naive_spins(net, noise), 3)
    plain = milliseconds(lambda: step(net, optimizer, spins, 0.4), 5)
    vf.accelerate(net)
    by_sampler = milliseconds(lambda: fast_spins(net, noise), 5)
    fast = milliseconds(lambda: step(net, optimizer, spins, 0.4), 5)
    print(f"{batch} samples: {by_passes:.0f} ms by {net.size**2} passes, {by_sampler:.1f} ms by fast_sampler; ", end="")
    print(f"same spins: {spins.equal(fast_spins(net, noise))}")
    print(f"gradient: {plain:.1f} ms as written, {fast:.1f} ms accelerated")
    print(f"a step: {by_passes + plain:.0f} ms before, {by_sampler + fast:.1f} ms after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16, help="sites of a row and of a column")
    parser.add_argument("--beta", type=float, default=0.4407, help="inverse temperature; the critical one is 0.4407")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64, help="samples of a step")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    net = SpinNet(options.size)
    compare(net, options.batch)
    start = time.perf_counter()
    train(net, options.beta, options.steps, options.batch, options.lr)
    print(f"{options.steps} steps: {time.perf_counter() - start:.0f} s")
    exact = -log_partition(options.size, options.size, options.beta) / options.size**2
    mean, error = free_energy(net, options.beta, 2000)
    above = 100 * (mean - exact) / abs(exact)
    print(f"beta F per site: {mean:.5f} +- {error:.5f}, exact {exact:.5f}: {above:.3f} % above")


if __name__ == "__main__":
    main()
