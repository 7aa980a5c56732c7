"""The use that a flow makes of the parameters of its network: which are shifts and scales, and of which kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ... import reference
from .structure import NotCoveredError

_STEP = 0.37  # of a probe; nothing special
_ALIKE = 1e-8  # in float64, relative


class Tail(NamedTuple):
    """u of x and of the outputs p of the network: an affine transform of each dimension.

    scale: of `made_inverse`. places: ``[D]``, the column of u that belongs to each dimension of x. columns: ``[D]`` or
    ``[2 D]``, those of p that are shifts, then scales. gains, offsets: like columns, what they are multiplied with, and
    what is added then, to be the parameters of `made_inverse`.
    """

    scale: str
    places: Tensor
    columns: Tensor
    gains: Tensor
    offsets: Tensor

    def log_slope(self, p: Tensor) -> Tensor:
        """``log(d u / d x)`` of each dimension, ``[B, D]``."""
        own = p[:, self.columns] * self.gains + self.offsets
        _, raw = reference.shift_and_log_scale(own, len(self.places))
        return reference.log_slope(raw, self.scale)[0]


def tail_of(u_of: Callable[[Tensor, Tensor], Tensor], dim: int, count: int, like: Tensor) -> Tail:
    """The tail by its values: ``u_of(x [B, D], p [B, count])`` is ``[B, D]``, float64. Raises NotCoveredError."""
    generator = torch.Generator().manual_seed(5)
    x0, p0 = (0.5 * torch.randn(1, n, generator=generator, dtype=like.dtype) for n in (dim, count))

    def u(x: Tensor, p: Tensor) -> Tensor:
        rows = max(len(x), len(p))
        return u_of(x.expand(rows, -1).clone(), p.expand(rows, -1).clone())

    base = u(x0, p0)
    by_x = _alone(u(x0 + _STEP * torch.eye(dim, dtype=x0.dtype), p0) - base, "a dimension of x")
    if sorted(by_x.tolist()) != list(range(dim)):
        raise NotCoveredError("it is no transform of each dimension on its own, given the network's outputs")
    by_p = _alone(u(x0, p0 + _STEP * torch.eye(count, dtype=x0.dtype)) - base, "an output of the network")
    of_dim = [(by_p == place).nonzero()[:, 0] for place in by_x.tolist()]
    if {len(columns) for columns in of_dim} not in ({1}, {2}):
        raise NotCoveredError("it must have one or two of the network's outputs for each dimension")
    columns = torch.stack(of_dim)  # [D, 1 or 2]
    if columns.shape[1] == 1:
        return _mean_only(u, by_x, columns[:, 0], p0)
    return _affine(u, by_x, columns, p0)


def _alone(change: Tensor, what: str) -> Tensor:
    """The one column that each row changes, -1 where none does."""
    changed = change.abs() > 1e-9
    if (changed.sum(1) > 1).any():
        raise NotCoveredError(f"{what} changes more than one dimension, its network apart")
    return torch.where(changed.any(1), change.abs().argmax(1), -1)


def _at(u: Callable[[Tensor, Tensor], Tensor], places: Tensor, x: float, p: Tensor) -> Tensor:
    """u ``[B, D]`` by the dimensions of x, where all of x is one number."""
    return u(torch.full((1, len(places)), x, dtype=p.dtype), p)[:, places]


def _mean_only(u: Callable[[Tensor, Tensor], Tensor], places: Tensor, columns: Tensor, p0: Tensor) -> Tail:
    zero, one = torch.zeros_like(p0), torch.ones_like(p0)
    offset = _at(u, places, 0.0, zero)[0]
    gain = _at(u, places, 0.0, one)[0] - offset
    for x in (-2.0, 0.5, 3.0):
        p = 1.7 * p0
        if not _alike(_at(u, places, x, p), x + p[:, columns] * gain + offset):
            raise NotCoveredError("it must be affine in x, with a slope of 1 where there is no scale")
    return Tail("exp", places, columns, -gain, -offset)  # u = x - shift


def _affine(u: Callable[[Tensor, Tensor], Tensor], places: Tensor, columns: Tensor, p0: Tensor) -> Tail:
    slopes = []
    for column in (0, 1):  # which of the two changes the slope
        p = p0.clone()
        p[:, columns[:, column]] += _STEP
        slopes.append((_at(u, places, 1.0, p) - _at(u, places, 0.0, p))[0])
    slope = (_at(u, places, 1.0, p0) - _at(u, places, 0.0, p0))[0]
    moved = [(s - slope).abs() > 1e-9 for s in slopes]
    if (moved[0] == moved[1]).any():
        raise NotCoveredError("it must have a shift and a scale for each dimension")
    scale_at = columns.gather(1, moved[1].long()[:, None])[:, 0]
    shift_at = columns.gather(1, moved[0].long()[:, None])[:, 0]
    grid = torch.linspace(-2.5, 2.5, 11, dtype=p0.dtype)

    def params(shift: float, raw: Tensor) -> Tensor:
        p = torch.zeros(len(raw), p0.shape[1], dtype=p0.dtype)
        p[:, shift_at], p[:, scale_at] = shift, raw[:, None]
        return p

    slopes_at = _at(u, places, 1.0, params(0.4, grid)) - _at(u, places, 0.0, params(0.4, grid))
    if not _alike(_at(u, places, -2.0, params(0.4, grid)), _at(u, places, 0.0, params(0.4, grid)) - 2 * slopes_at):
        raise NotCoveredError("it must be affine in x, given the network's outputs")
    at_0, at_1 = (_at(u, places, 0.0, params(shift, grid)) for shift in (0.0, 1.0))
    for scale, shift_by in (("exp", slopes_at), *((kind, torch.ones_like(slopes_at)) for kind in _OTHERS)):
        # u = slope (x - shift) for "exp", shift + slope x for the others: the shift is affine in the network's output
        sign = -1 if scale == "exp" else 1
        gain, offset = sign * (at_1 - at_0) / shift_by, sign * at_0 / shift_by
        if not (_alike(gain, gain[:1].expand_as(gain)) and _alike(offset, offset[:1].expand_as(offset))):
            continue
        fit = _fit(scale, grid, slopes_at)
        if fit is not None:
            gains, offsets = torch.cat([gain[0], fit[0]]), torch.cat([offset[0], fit[1]])
            return Tail(scale, places, torch.cat([shift_at, scale_at]), gains, offsets)
    raise NotCoveredError("its scale must be exp, or softplus, sigmoid or exp with a shift that is added")


_OTHERS = ("exp_slope", "softplus", "sigmoid", "clipped_exp")


def _fit(scale: str, grid: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor] | None:
    """gain and offset ``[D]`` of the raw scale under which the slopes ``[grid, D]`` are those of a kind."""
    if not (slopes > 0).all():
        return None
    logs = slopes.log()
    if scale in ("exp", "exp_slope"):
        sign = -1 if scale == "exp" else 1
        gain = sign * (logs[-1] - logs[0]) / (grid[-1] - grid[0])
        offset = sign * logs[len(grid) // 2]
    else:
        gain, offset = torch.ones_like(slopes[0]), torch.zeros_like(slopes[0])
    expected = reference.log_slope(grid[:, None] * gain + offset, scale)[0]
    return (gain, offset) if _alike(logs, expected) else None


def _alike(have: Tensor, want: Tensor) -> bool:
    return bool((have - want).abs().max() <= _ALIKE * (1 + want.abs().max()))
