"""Choices between two values by a constant mask, and pixels that are assigned constants: ``p[:, :, 0, 0] = 0.5``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .affine import Value, aligned, total
from .operations import Operations
from .writer import MOVES, Bounded, Later, Part, name_of

_FILLS = ("fill_", "zero_", "copy_")


class Choices(Operations):
    """A method for each operation; afterwards as `Writer`."""

    def _op_where(self, mask: Any, one: Any, other: Any) -> Any:
        """``mask one + (1 - mask) other`` of a mask that does not depend on x."""
        if not isinstance(mask, Tensor):
            self._fail("choices by masks that are constant", "where of a mask that depends on the input")
        terms: list[Any] = []
        for value, chosen in ((one, mask), (other, ~mask)):
            if isinstance(value, Value | Bounded | Later):
                terms.append(self._op_mul(value, chosen.to(self.like.dtype)))
                continue
            constant = torch.where(chosen, torch.as_tensor(value).to(self.like), 0)
            if not constant.isfinite().all():
                self._fail("choices of finite constants", f"{name_of(self.node)} of {float(constant.sum())}")
            terms.append(constant)
        return self._sum(*terms)

    def _sum(self, a: Any, b: Any) -> Value | Bounded:
        """As `_op_add`, of what are no arguments of the node."""
        for half, constant in ((a, b), (b, a)):
            if isinstance(half, Bounded) and isinstance(constant, Tensor):
                return self._after(half, None, constant)
        a, b = (self._open(v) if isinstance(v, Bounded) else v for v in (a, b))
        own, other, axes = aligned(*self._both(a, b))
        return Value(total(own, other).without_zeros(), axes)

    def _op_masked_fill(self, x: Any, mask: Any, value: Any) -> Any:
        return self._op_where(mask, value, x)

    def _op_index_put(self, x: Any, indices: Sequence[Any], value: Any, accumulate: bool = False) -> Any:
        places = [index for index in indices if index is not None]
        if accumulate or not isinstance(value, Tensor) or not all(isinstance(p, Tensor) for p in places):
            self._fail("assignments of constants to constant places", "another one")
        zeros = torch.zeros(self.node.meta["val"].shape, device=value.device)
        mask = torch.ops.aten.index_put(zeros, indices, zeros.new_ones(())) > 0
        return self._op_where(mask, torch.ops.aten.index_put(zeros.to(value.dtype), indices, value), x)

    # Parts that are assigned constants

    def _run(self, name: str, args: Any, kwargs: Any) -> Any:
        first = args[0] if args else None
        if isinstance(first, Part):
            if name in MOVES:
                return Part(first.base, getattr(torch.ops.aten, name)(first.index, *args[1:], **kwargs))
            return self._assigned(first, *([0.0] if name == "zero" else args[1:2]))
        if name in ("select", "slice") and isinstance(first, Value | Bounded) and self._is_assigned(self.node):
            base = self.node.all_input_nodes[0]
            index = torch.arange(base.meta["val"].numel(), device="cpu").view(base.meta["val"].shape)
            return self._run(name, (Part(base, index), *args[1:]), kwargs)
        return super()._run(name, args, kwargs)

    def _is_assigned(self, node: fx.Node) -> bool:
        """True of a part that is read by nothing but views of it, and each of these is assigned constants."""
        for user in node.users:
            if name_of(user) in MOVES and user.args[0] is node:
                if not self._is_assigned(user):
                    return False
            elif name_of(user) not in _FILLS or user.args[0] is not node or user.users or self._is_of_x(user.args[1:]):
                return False
        return bool(node.users)

    def _readers(self) -> list[fx.Node]:
        """The users of a node but for parts of it that are assigned constants."""
        return [n for n in super()._readers() if name_of(n) not in ("select", "slice") or not self._is_assigned(n)]

    def _is_of_x(self, args: Sequence[Any]) -> bool:
        """True where an argument follows from a placeholder."""
        left = [arg for arg in args if isinstance(arg, fx.Node)]
        while left:
            node = left.pop()
            if node.op == "placeholder":
                return True
            left += node.all_input_nodes
        return False

    def _assigned(self, part: Part, value: Any) -> Any:
        """The tensor that a part is of, once the part is a constant."""
        shape = part.base.meta["val"].shape
        mask, constant = torch.zeros(shape.numel(), dtype=torch.bool), torch.zeros(shape.numel(), dtype=self.like.dtype)
        mask[part.index] = True
        constant[part.index] = torch.as_tensor(value, device="cpu").to(constant).expand(part.index.shape)
        device = self.like.device
        return self._op_where(mask.view(shape).to(device), constant.view(shape).to(device), self.env[part.base])

    def _overwrite(self, value: Any) -> None:
        target = self.node.args[0]
        part = self.env.get(target) if isinstance(target, fx.Node) else None
        if isinstance(part, Part):
            self._write(part.base, value)
        else:
            super()._overwrite(value)
