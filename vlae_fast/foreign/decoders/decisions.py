"""What a forward asks of the values that it computes, to branch by or to calculate with: a trace has one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode

from ...sampling.emit import random_images

_ASKS = (Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.item)
_LISTS = (Tensor.tolist, Tensor.numpy, Tensor.__array__)
_RANDOM = 4  # images of levels at random that answers are compared on


class Decisions(TorchFunctionMode):
    """Answers a forward that asks for a value, in a trace too: asserts do, and branches on masks.

    taken: the answers. of_input: one was about what depends on an input of the trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Any] = []
        self.of_input = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ASKS and func not in _LISTS:
            return func(*args, **(kwargs or {}))
        self.of_input |= _is_of_input(args[0])
        with disable_proxy_modes_tracing():
            answer = func(*args, **(kwargs or {}))
            self.taken.append(args[0].tolist() if func in _LISTS else answer)
        return answer


def _is_of_input(x: Tensor) -> bool:
    """True of a tensor of a trace that depends on one of its inputs."""
    mode = get_proxy_mode()
    traced = None if mode is None else get_proxy_slot(x, mode.tracer, None)
    if traced is None:
        return False
    found, left = set[fx.Node](), [traced.proxy.node]
    while left:
        node = left.pop()
        if node.op == "placeholder":
            return True
        left += [n for n in node.all_input_nodes if n not in found]
        found.update(left)
    return False


@torch.no_grad()
def check_decisions(run: Callable[[Tensor, int], Any], like: Tensor, levels: int, what: str = "images") -> list[Any]:
    """The answers of a forward; raises ValueError unless they are the same for every image, as far as a few show.

    run: ``run(x, n)`` calls it on images ``[B, C, H, W]`` of pixels in [0, 1], and on the n-th condition. like: images
    of zeros, which the trace is of. Then come ones, those with the first and the last pixel of 1, and some at random,
    of so many levels; 0: of any number. what: their name in errors.
    """
    generator = torch.Generator().manual_seed(2)
    images = [torch.zeros_like(like), torch.ones_like(like), torch.zeros_like(like), torch.zeros_like(like)]
    images[2][..., 0, 0], images[3][..., -1, -1] = 1, 1
    images += [random_images(like.shape, levels, generator).to(like) for _ in range(_RANDOM)]
    first: list[Any] | None = None
    rule = f"fast_sampler: decoder must take the same branches for all {what}, and compute with the same numbers"
    for n, x in enumerate(images):
        with Decisions() as decisions:
            try:
                run(x, n)
            except Exception as error:
                text, *_ = f"{type(error).__name__}: {error}".splitlines()
                raise ValueError(f"{rule}, got one that ends in {text}") from error
        if first is not None and not _same(first, decisions.taken):
            pair = _differing(first, decisions.taken)
            raise ValueError(f"{rule}, got {' and '.join(pair) if pair else 'more of them'} for two")
        first = decisions.taken
    return first or []


def check_answers(run: Callable[[], Any], expected: list[Any], calls: int) -> None:
    """Raises ValueError unless a condition has the answers that the program was made by, in each of so many calls."""
    with Decisions() as decisions:
        run()
    if not _same(decisions.taken, expected * calls):
        rule = "condition must be one for which decoder takes the branches and numbers that it took for its example"
        pair = _differing(expected * calls, decisions.taken)
        raise ValueError(f"fast_sampler: {rule}, got {pair[1] if pair else 'more of them'}")


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


def _differing(a: list[Any], b: list[Any]) -> tuple[str, str] | None:
    """The first two answers that differ, as text; None where one list has more."""
    return next(((_cut(p), _cut(q)) for p, q in zip(a, b, strict=False) if not _same([p], [q])), None)


def _cut(answer: Any) -> str:
    """As text, of a length that fits a sentence."""
    text = str(answer)
    return text if len(text) <= 40 else f"{text[:40]}..."
