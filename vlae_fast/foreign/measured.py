"""Two versions of one function, timed once on the calls that they get: the slower one is not taken again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

MARGIN = 1.05  # what the fast version must gain: less than that may be noise
_ROUNDS = 5  # both versions take turns, so that a busy machine delays both; the least time of each counts
_SECONDS = 0.25  # after so many no further round begins
# Seconds: a fast forward takes more steps in Python. What it has warm in a loop of calls it has not between the other
# layers of a model. Seen of layers of 0.1 to 1 ms, with gradients: 0.2 to 0.4 ms.
BETWEEN_LAYERS = 3e-4
PATIENCE = 8  # calls in a row that took the own version, before it is asked whether the fast one is ever needed
_ROWS = 128  # the batch for which it is asked

Run = Callable[[], Any]


def seconds(device: torch.device) -> float:
    """A clock: with one thread that of its own work, which others on the machine do not stop."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.thread_time()
    return time.perf_counter()


def ratio_of(own: Run, fast: Run, device: torch.device, more: float = 0.0) -> float:
    """The time of ``own`` by that of ``fast``, each the least of several runs; more: seconds that are added to fast."""
    least, begun = [float("inf")] * 2, time.perf_counter()
    for _ in range(_ROUNDS):
        for i, run in enumerate((own, fast)):
            before = seconds(device)
            run()
            least[i] = min(least[i], seconds(device) - before)
        if time.perf_counter() - begun > _SECONDS:
            break
    return least[0] / max(least[1] + more, 1e-9)


class Measured:
    """Times by kind of call: whether a gradient is wanted, of what, and the size of the input to a power of two.

    off: nothing is timed, and the fast version is taken.
    """

    def __init__(self, off: bool = False) -> None:
        self.off, self.own_calls = off, 0
        self.ratios: dict[tuple[Any, ...], float] = {}  # of the own version's time to the fast one's
        self.sizes: dict[tuple[Any, ...], tuple[int, ...]] = {}  # of the input on which that was found

    def prefers_own(self, x: Tensor, time_both: Callable[[Tensor], float]) -> bool:
        """True where the own version is the faster one for such a call; the first of its kind is timed."""
        grad = torch.is_grad_enabled() and 1 + x.requires_grad
        # measured: to ask for the type of x's device takes longer than all of this
        key = (grad, x.numel().bit_length(), x.dtype, torch._C._is_any_autocast_enabled())
        ratio = self.ratios.get(key)
        if ratio is None:
            if not can_be_timed(x):
                return False
            ratio = self.ratios[key] = time_both(x)
            self.sizes[key] = tuple(x.shape)
        if ratio < MARGIN:
            self.own_calls += 1
            return True
        self.own_calls = 0
        return False

    def is_hopeless(self, x: Tensor, time_both: Callable[[Tensor], float]) -> bool:
        """True where many calls have taken the own version, and the fast one wins for no larger batch either."""
        if self.own_calls < PATIENCE or not self.always_slower or not can_be_timed(x):
            return False
        self.own_calls = 0
        more = x.detach()[:1].expand(max(_ROWS, len(x)), *x.shape[1:]).contiguous()
        with torch.enable_grad():
            return self.prefers_own(more.requires_grad_(x.is_floating_point()), time_both)

    @property
    def always_slower(self) -> bool:
        """True where something was timed, and the fast version was nowhere the faster one."""
        return bool(self.ratios) and max(self.ratios.values()) < MARGIN

    def __str__(self) -> str:
        """The ratio without and with gradients, of the largest input that was timed."""
        if not self.ratios:
            return ""
        largest = max(key[1] for key in self.ratios)
        found = {"forward": None, "with gradients": None} | {
            "with gradients" if key[0] else "forward": ratio for key, ratio in self.ratios.items() if key[1] == largest
        }
        size = next(self.sizes[key] for key in self.ratios if key[1] == largest)
        said = ", ".join(f"{what} x{ratio:.2f}" for what, ratio in found.items() if ratio is not None)
        return f"{said} on {'x'.join(map(str, size))}" + ("; its own is taken" if self.always_slower else "")


def can_be_timed(x: Tensor) -> bool:
    """False where a run would not compute, or be seen by somebody: fake tensors, tracers, modes, a graph's capture."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter) or x.is_meta or x.numel() == 0:
        return False
    if _get_current_dispatch_mode() is not None or torch._C._len_torch_function_stack() > 0:
        return False
    if torch.are_deterministic_algorithms_enabled():  # which of two versions runs must not depend on a clock
        return False
    return x.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def step_of(forward: Callable[..., Any], x: Tensor, weights: Sequence[Tensor]) -> Run:
    """One run of ``forward(x)`` for the clock: with the gradients that a training step would take, if any.

    Nothing is left behind: x is taken as a leaf, and no ``.grad`` is written.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or any(w.requires_grad for w in weights)):
        return lambda: forward(x)
    leaf = x.detach().requires_grad_(x.requires_grad)
    # a hook on a parameter would be called: then the forward alone is timed
    if any(w._backward_hooks for w in weights):
        return lambda: forward(leaf)
    wanted = [t for t in (leaf, *weights) if t.requires_grad and t.is_leaf]

    def step() -> None:
        out = forward(leaf)
        outs = [o for o in (out if isinstance(out, tuple | list) else [out]) if o.requires_grad]
        torch.autograd.grad(outs, wanted, [torch.ones_like(o) for o in outs], allow_unused=True)

    return step
