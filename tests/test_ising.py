"""The example of the Ising model: the exact free energy, the network, and what it learns."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

PATH = Path(__file__).resolve().parent.parent / "examples" / "ising.py"
CRITICAL = math.log(1 + math.sqrt(2)) / 2


@pytest.fixture(scope="module")
def ising() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ising_example", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_spins(rows: int, columns: int) -> torch.Tensor:
    count = rows * columns
    bits = torch.arange(2**count)[:, None] >> torch.arange(count) & 1
    return (2.0 * bits - 1).view(-1, 1, rows, columns)


def own_energy(spins: list[list[float]]) -> float:
    """Of a lattice, bond by bond: each site with the one below and the one to the right, around the torus."""
    rows, columns = len(spins), len(spins[0])
    sites = itertools.product(range(rows), range(columns))
    return -sum(spins[i][j] * (spins[(i + 1) % rows][j] + spins[i][(j + 1) % columns]) for i, j in sites)


def test_energy_is_that_of_each_bond(ising: ModuleType) -> None:
    spins = all_spins(3, 4)[::37]
    assert ising.energy(spins).tolist() == [own_energy(lattice.tolist()) for lattice in spins[:, 0]]


@pytest.mark.parametrize("rows, columns", [(2, 2), (2, 3), (3, 3), (3, 4), (4, 3), (4, 4)])
@pytest.mark.parametrize("beta", [0.05, 0.3, CRITICAL, 0.6, 2.0])
def test_partition_function_is_the_sum_over_all_states(ising: ModuleType, rows: int, columns: int, beta: float) -> None:
    expected = torch.logsumexp(-beta * ising.energy(all_spins(rows, columns)).double(), 0)
    assert ising.log_partition(rows, columns, beta) == pytest.approx(float(expected), rel=1e-12)


def test_partition_function_of_a_large_lattice_is_onsagers(ising: ModuleType) -> None:
    """Per site, of an infinite one, log 2 / 2 + 1 / (2 pi) times an integral over angles (Onsager 1944)."""
    beta, n = 0.3, 200_000
    angles = math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    square = math.sinh(2 * beta) ** 2
    root = (square**2 + 1 - 2 * square * torch.cos(2 * angles)).sqrt()
    expected = math.log(2) / 2 + float(torch.log(math.cosh(2 * beta) ** 2 + root).mean()) / 2
    assert ising.log_partition(200, 200, beta) / 200**2 == pytest.approx(expected, rel=1e-9)


def test_network_is_a_distribution_that_is_the_same_turned_over(ising: ModuleType) -> None:
    torch.manual_seed(0)
    net, spins = ising.SpinNet(3, width=4), all_spins(3, 3)
    with torch.no_grad():
        log_prob = net.log_prob(spins)
    assert torch.logsumexp(log_prob.double(), 0).abs() < 1e-6
    assert log_prob.equal(log_prob.flip(0)) and spins.equal(-spins.flip(0))
    assert log_prob.std() > 0.01


def test_fast_spins_are_the_naive_ones(ising: ModuleType) -> None:
    torch.manual_seed(0)
    net, noise = ising.SpinNet(6, width=4), torch.rand(50, 1, 6, 6)
    spins = ising.fast_spins(net, noise)
    assert spins.equal(ising.naive_spins(net, noise))
    assert spins[:, :, 0, 0].eq(1).all() and spins.unique().tolist() == [-1, 1]


def excess(ising: ModuleType, size: int, beta: float, steps: int) -> tuple[float, float]:
    """How far the free energy that is learnt lies above the exact one, of which it is a share; and its error."""
    torch.manual_seed(0)
    net = ising.SpinNet(size)
    ising.train(net, beta, steps, 64, 0.01)
    exact = -ising.log_partition(size, size, beta) / size**2
    mean, error = ising.free_energy(net, beta, 2000)
    return (mean - exact) / abs(exact), error / abs(exact)


def test_small_lattice_is_learnt(ising: ModuleType) -> None:
    """Spins that know nothing of each other are 29 % above, spins that are all equal 5 %."""
    above, error = excess(ising, 4, CRITICAL, 60)
    assert -4 * error < above < 0.01 and error < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("beta, steps", [(0.3, 250), (0.4407, 400), (0.6, 250)])
def test_free_energy_is_within_half_a_percent(ising: ModuleType, beta: float, steps: int) -> None:
    above, error = excess(ising, 16, beta, steps)
    assert -4 * error < above < 0.005 and error < 0.0005
