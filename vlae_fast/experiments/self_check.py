"""The self-test of an installation: every op on every able backend, the samplers, a flow, training, a checkpoint."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import backends, checkpoint, testing
from ..backends.table import Backend
from ..models.flow import AutoregressiveFlow
from ..models.vlae import VLAE
from ..sampling import PixelCNNSampler
from ..sampling.naive import naive_sample_with_logits
from .demo import GAP, first_gaps

SIZE, STEPS, FALLS = (8, 8), 60, 0.85  # of images; updates; what is left of the loss after them at the most


class Check(NamedTuple):
    """name: of the line. run: returns what was seen; raises where that is wrong. absent: why it cannot run here."""

    name: str
    run: Callable[[], str]
    absent: str | None = None


def run(say: Callable[[str], object] = print) -> int:
    """Runs every check and says its result in a line: ok, failed or absent, and why; returns how many failed."""
    start, results = time.perf_counter(), list[str]()
    for check in checks():
        result, what = ("absent", check.absent) if check.absent is not None else _outcome(check)
        results.append(result)
        say(f"{check.name:<28} {result:<7} {what}")
    counts = ", ".join(f"{results.count(result)} {result}" for result in ("ok", "failed", "absent"))
    say(f"{counts} in {time.perf_counter() - start:.1f} s")
    return results.count("failed")


def _outcome(check: Check) -> tuple[str, str]:
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return "ok", check.run()
    except Exception as error:  # of any kind: the next check runs all the same
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())[:500]


def checks() -> Iterator[Check]:
    """All checks of this machine, in order."""
    for row in backends.table.TABLE:
        yield from _of_backend(row)
    yield Check("a flow inverts", flow_inverts)
    yield Check("a VLAE learns", vlae_learns)
    yield Check("a checkpoint comes back", checkpoint_comes_back)


def _of_backend(row: Backend) -> Iterator[Check]:
    """One check for each op, against the reference; of the sampler by its images."""
    if (reason := row.absent()) is not None:
        yield Check(row.name, str, reason)
        return
    device = "cuda" if "cuda" in row.devices and torch.cuda.is_available() else "cpu"
    like, by_op = torch.zeros(1, device=device), dict[str, list[testing.Case]]()
    for case in cases():
        by_op.setdefault(case.op, []).append(case.to(device=device))
    for op, of_op in by_op.items():
        yield Check(f"{op} on {row.name}", partial(op_agrees, of_op, row.name), row.why_not(op, like))
    sampler = partial(sampler_agrees, row.name, device)
    yield Check(f"pixelcnn_sample on {row.name}", sampler, row.why_not("pixelcnn_sample", like))


def cases() -> list[testing.Case]:
    """Small calls of every op but the sampler."""
    return [
        testing.conv_case("A", (2, 1, 6, 5), 8, 5),
        testing.conv_case("B", (2, 4, 6, 5), 8, 3, activation="gate", cond="vector"),
        testing.linear_case(5, 6, 9, activation="relu"),
        testing.linear_case(5, 6, 9, adjacency=True),
        testing.made_layers_case(4, 6, (9, 9)),
        testing.made_case(4, 6, (9, 9)),
        testing.made_case(4, 6, (9,), steps=2, reverse=True),
        testing.made_sample_case(4, 6, (9, 9)),
        testing.made_sample_levels_case(4, ((3, 1), (2, 2), (5, 4)), (9, 9)),
    ]


def op_agrees(of_op: list[testing.Case], backend: str) -> str:
    """Output and gradients of each call are the reference's in float64, within the rounding that it has itself."""
    grad = not of_op[0].op.startswith("made_sample")  # what is drawn has none
    worst = max(ratio for case in of_op for ratio in testing.check_op(case, backend, grad=grad).values())
    _require(worst <= 1, f"an error of {worst:.3g} times its budget")
    what = f"{len(of_op)} calls{' and their gradients' if grad else ''}"
    return f"{what}: the reference's, errors at most {worst:.2f} of their budget"


@torch.no_grad()
def sampler_agrees(backend: str, device: str) -> str:
    """The images of the cached sampler are those of one full forward pass per pixel."""
    model = _model().to(device)
    z, noise = model.sample_prior(4), torch.rand(4, 1, *SIZE).to(device)
    sampler = PixelCNNSampler(model.decoder, backend=backend)
    naive, fast = naive_sample_with_logits(model.decoder, z, noise), sampler.sample(z, noise=noise)
    gaps = first_gaps(fast, naive.images, naive.logits, noise)
    wrong = sum(not gap < GAP for gap in gaps)
    _require(not wrong, f"{wrong} of {len(z)} images are not those of naive sampling")
    same = "equal" if not gaps else "equal up to rounding"
    return f"{len(z)} images are {same} to those of naive sampling, in {sampler.steps} steps for {noise[0].numel()}"


@torch.no_grad()
def flow_inverts() -> str:
    """The inverse takes a flow's output back, with the same log-determinant."""
    flow = AutoregressiveFlow(6, 16)
    for parameter in flow.parameters():  # a new flow is the identity
        parameter.add_(0.1 * torch.randn_like(parameter))
    z = torch.randn(32, 6)
    eps, log_det = flow(z)
    back, inverse_log_det = flow.inverse(eps)
    off = max((back - z).abs().max().item(), (log_det - inverse_log_det).abs().max().item())
    _require(off < 1e-4 < (eps - z).abs().max().item(), f"z comes back with an error of {off:.3g}")
    return f"z comes back with an error of {off:.1g}"


def vlae_learns() -> str:
    """The loss of a small model falls on images that are light on one side."""
    model, losses = _model(), list[float]()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(STEPS):
        losses.append(_update(model, optimizer, _images(32)))
    first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
    _require(last < FALLS * first, f"the loss was {first:.1f} and is {last:.1f} nats/image after {STEPS} updates")
    return f"loss {first:.1f} -> {last:.1f} nats/image in {STEPS} updates"


def checkpoint_comes_back() -> str:
    """A saved model is loaded with the same weights."""
    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    _update(model, optimizer, _images(8))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "checkpoint", model, optimizer, epoch=0, training={}, history=[])
        found = checkpoint.load(folder).model.state_dict()
    other = [name for name, tensor in model.state_dict().items() if not found[name].equal(tensor)]
    _require(not other, f"{len(other)} of {len(found)} tensors came back with other values")
    return f"{len(found)} tensors, equal to the last bit"


def _model() -> VLAE:
    return VLAE(1, 4, 8, 2, image_size=SIZE, initial_kernel=5, flow_hidden=16)


def _images(n: int) -> Tensor:
    """Black and white images ``[n, 1, 8, 8]``: noise, and the left or the right half mostly white."""
    right = torch.rand(n, 1, 1, 1) < 0.5
    light = (torch.arange(SIZE[1]) >= SIZE[1] // 2) == right
    return (torch.rand(n, 1, *SIZE) < torch.where(light, 0.95, 0.05)).float()


def _update(model: VLAE, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    """One update; returns the loss before it, in nats per image."""
    terms = model.loss_terms(x)
    loss = (terms.reconstruction + terms.kl).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _require(right: bool, wrong: str) -> None:
    if not right:
        raise RuntimeError(wrong)
