"""Values that a traced decoder computes between its activations: affine in the buffers of a program and in z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...masks import Offset

Read = tuple[int, Offset]  # a buffer, and where in it


@dataclass(frozen=True, eq=False)
class Affine:
    """``value[p] = bias + context z + sum over reads (b, tap) of terms[b, tap] buffer_b[p + tap]`` for p in the size.

    terms: ``[P, C]`` each. bias: ``[P]``. context: ``[P, D]`` or None. size: (h, w); what depends on z alone may have
    (1, 1), or () for a ``[B, P]``. Buffers are zero outside of the image, whose size a value need not have.
    """

    terms: dict[Read, Tensor]
    bias: Tensor
    context: Tensor | None
    size: tuple[int, ...]

    @property
    def channels(self) -> int:
        return len(self.bias)

    @property
    def is_linear(self) -> bool:
        """True where the value is a function of buffers with no constant part."""
        return self.context is None and not self.bias.any()

    @property
    def buffer(self) -> int:
        """Index of the buffer that the value equals, else -1."""
        if len(self.terms) != 1 or not self.is_linear:
            return -1
        ((buffer, tap), weight), *_ = self.terms.items()
        return buffer if tap == (0, 0) and is_identity(weight) else -1

    def zero_outside(self, image: tuple[int, int], margins: Sequence[int]) -> bool:
        """True where the formula gives the zeros of padding, on the sides (left, right, top, bottom) that have some."""
        left, right, top, bottom = margins
        if not self.is_linear:
            return not any(margins)
        before, after = (top, left), (bottom, right)
        return all(
            (before[axis] <= 0 or tap[axis] <= 0) and (after[axis] <= 0 or self.size[axis] + tap[axis] >= image[axis])
            for _, tap in self.terms
            for axis in (0, 1)
        )

    def through(self, matrix: Tensor, bias: Tensor | None = None) -> Affine:
        """``matrix value + bias`` pixel by pixel, matrix ``[P', P]``."""
        return Affine(
            {read: matrix @ w for read, w in self.terms.items()},
            matrix @ self.bias if bias is None else matrix @ self.bias + bias,
            None if self.context is None else matrix @ self.context,
            self.size,
        )

    def scaled(self, by: Tensor) -> Affine:
        return Affine(
            {read: by[:, None] * w for read, w in self.terms.items()},
            by * self.bias,
            None if self.context is None else by[:, None] * self.context,
            self.size,
        )

    def rows(self, start: int, end: int) -> Affine:
        """Channels start to end."""
        return Affine(
            {read: w[start:end] for read, w in self.terms.items()},
            self.bias[start:end],
            None if self.context is None else self.context[start:end],
            self.size,
        )

    def moved(self, dy: int, dx: int, size: tuple[int, int]) -> Affine:
        """``out[p] = value[p + (dy, dx)]``, of another size: crops and pads."""
        terms = {(b, (y + dy, x + dx)): w for (b, (y, x)), w in self.terms.items()}
        return Affine(terms, self.bias, self.context, size)


def is_identity(weight: Tensor) -> bool:
    return weight.shape[0] == weight.shape[1] and weight.equal(torch.eye(len(weight)).to(weight))


def total(a: Affine, b: Affine) -> Affine:
    """The sum of two values of one size, or of one that is the same all over the image."""
    terms = dict(a.terms)
    for read, w in b.terms.items():
        terms[read] = terms[read] + w if read in terms else w
    contexts = [c for c in (a.context, b.context) if c is not None]
    context = sum(contexts[1:], contexts[0]) if contexts else None
    return Affine(terms, a.bias + b.bias, context, max(a.size, b.size))


def stacked(parts: Sequence[Affine]) -> Affine:
    """The values after each other, as channels."""
    reads = {read: w for part in parts for read, w in part.terms.items()}
    terms = {
        read: torch.cat([p.terms.get(read, w.new_zeros(p.channels, w.shape[1])) for p in parts])
        for read, w in reads.items()
    }
    given = next((p.context for p in parts if p.context is not None), None)
    context = None
    if given is not None:
        zeros = [given.new_zeros(p.channels, given.shape[1]) for p in parts]
        context = torch.cat([z if p.context is None else p.context for p, z in zip(parts, zeros, strict=True)])
    return Affine(terms, torch.cat([p.bias for p in parts]), context, max(p.size for p in parts))


def convolved(
    value: Affine, weight: Tensor, bias: Tensor | None, padding: Sequence[int], step: Sequence[int]
) -> Affine:
    """A convolution of a value, weight ``[P', P, kh, kw]`` with dilation ``step``; its zeros are not read."""
    terms: dict[Read, Tensor] = {}
    kh, kw = weight.shape[2:]
    for i, j in (weight != 0).any(0).any(0).nonzero().tolist():
        for (buffer, (y, x)), w in value.terms.items():
            read = (buffer, (y + i * step[0] - padding[0], x + j * step[1] - padding[1]))
            part = weight[:, :, i, j] @ w
            terms[read] = terms[read] + part if read in terms else part
    whole = weight.sum((2, 3))
    own = whole @ value.bias
    size = tuple(n + 2 * p - s * (k - 1) for n, p, s, k in zip(value.size, padding, step, (kh, kw), strict=True))
    context = None if value.context is None else whole @ value.context
    return Affine(terms, own if bias is None else own + bias, context, size)
