"""Arguments of a native op with one thing about them wrong, by chance."""

import random
from collections.abc import Callable

import torch


def hostile(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The tensor with one thing about it changed: type, device, shape, strides or values."""
    sizes, dim = list(tensor.shape), rng.randrange(max(tensor.dim(), 1))
    resized = {size: [*sizes[:dim], size, *sizes[dim + 1 :]] for size in (0, 1, 2, 7, 1 << 40, (1 << 62) + 1)}
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: tensor.to(rng.choice([torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])),
        lambda: tensor.to("meta"),
        lambda: tensor[None],
        lambda: tensor[0],
        lambda: tensor.mT,
        lambda: tensor.repeat_interleave(2, -1)[..., ::2],
        lambda: tensor.as_strided(sizes, [0] * len(sizes)),
        lambda: tensor.new_zeros(resized[rng.choice([0, 1, 2, 7])]),
        lambda: tensor.new_zeros(()).expand(resized[rng.choice([1 << 40, (1 << 62) + 1])]),
        lambda: tensor.new_zeros([0 if i == dim else 1 << 20 for i in range(len(sizes))]),
        lambda: torch.full_like(tensor, rng.choice([float("nan"), float("inf")]) if tensor.is_floating_point() else 1),
        lambda: tensor * (1 if tensor.dtype == torch.bool else -(1 << 62)),
        lambda: tensor.to_sparse(),
    ]
    return rng.choice(changes)()


def mutated(argument: object, rng: random.Random) -> object:
    if isinstance(argument, torch.Tensor):
        return hostile(argument, rng) if rng.random() < 0.95 else None
    if isinstance(argument, list) and argument and rng.random() < 0.8:
        i = rng.randrange(len(argument))
        return [*argument[:i], mutated(argument[i], rng), *argument[i + 1 :]]
    if isinstance(argument, list):
        return argument[:-1] if rng.random() < 0.5 else argument + argument[-1:]
    if isinstance(argument, bool):
        return not argument
    if isinstance(argument, int):
        return rng.choice([-1, 0, 1, 2, 1 << 31, (1 << 63) - 1, -(1 << 63)])
    if isinstance(argument, float):
        return rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e-300])
    return rng.choice(["", "none", "gate", "avx9", "x" * 1000]) if isinstance(argument, str) else torch.zeros(3)
