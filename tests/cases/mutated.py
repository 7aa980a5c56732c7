"""Arguments of a native op with one thing about them wrong, by chance."""

import random
from collections.abc import Callable

import torch


def hostile(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The tensor with one thing about it changed: type, device, shape, strides or values."""
    if tensor.numel() > 1 << 30:  # changed a second time, it would be gone through number by number
        return tensor
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


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four things about them changed: bits, numbers, lengths, the order of parts."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        _change(out, rng)
    return bytes(out)


def _change(out: bytearray, rng: random.Random) -> None:
    at, end = sorted(rng.randrange(len(out) + 1) for _ in range(2))
    here = slice(at, at + 1)
    replacements: list[Callable[[], tuple[slice, bytes]]] = [
        lambda: (here, bytes([rng.randrange(256)])),
        lambda: (here, bytes([(out[here] or b"\0")[0] ^ 1 << rng.randrange(8)])),
        lambda: (slice(at, end), b""),
        lambda: (slice(at, at), bytes(out[at:end][:4096])),
        lambda: (slice(at, at), rng.randbytes(rng.randint(1, 16))),
        lambda: (slice(end, None), b""),
        lambda: _number(out, at, rng),
    ]
    where, what = rng.choice(replacements)()
    out[where] = what


def _number(out: bytearray, at: int, rng: random.Random) -> tuple[slice, bytes]:
    """A number at a bound, as bytes of either order, or as the digits of a text."""
    number = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1])
    if rng.random() < 0.3:
        digits = len(out) - at - len(out[at:].lstrip(b"0123456789"))
        return slice(at, at + digits), str(number).encode()
    size = rng.choice([1, 2, 4, 8])
    value = number & (1 << 8 * size) - 1
    return slice(at, at + size), value.to_bytes(size, rng.choice(["little", "big"]))
