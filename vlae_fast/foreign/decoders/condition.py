"""The condition that a decoder is given beside the image: a vector z, or whatever an example shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

Call = Callable[..., Any]


def usual_call(decoder: nn.Module, x: Tensor, condition: Any) -> Any:
    """``decoder(x)``, or with a condition beside x: the parts of a tuple by place, of a dict by name."""
    if condition is None:
        return decoder(x)
    if isinstance(condition, tuple):
        return decoder(x, *condition)
    return decoder(x, **condition) if isinstance(condition, dict) else decoder(x, condition)


class Condition:
    """The structure of a decoder's condition, from an example of it; its tensors have the batch first.

    example: None, a tensor, or a tuple, list or dict of tensors and other values, which are the same for all images.
    name: of the argument that errors are about.
    """

    def __init__(self, example: Any, like: Tensor, name: str = "condition") -> None:
        self.name = name
        self.spec: TreeSpec | None = None
        leaves: list[Any] = []
        if example is not None:
            leaves, self.spec = tree_flatten(example)
        self.fixed = [None if _is_batched(leaf) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if _is_batched(leaf)]
        self.examples = [leaves[i].detach().to(like.device) for i in self.places]
        self.examples = [t.to(like.dtype) if t.is_floating_point() else t for t in self.examples]
        sizes = {len(t) for t in self.examples}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(f"fast_sampler: {name} must have tensors of one batch size, 1 or more, got {[*sizes]}")

    def rows(self, count: int) -> list[Tensor]:
        """So many rows of each tensor; those of the example in turn."""
        return [t[torch.arange(count, device=t.device) % len(t)] for t in self.examples]

    def random_rows(self, count: int, generator: torch.Generator, labels: bool = False) -> list[Tensor]:
        """As `rows`, real numbers drawn from a normal distribution; labels, if asked, from 0 to the example's last."""
        drawn = []
        for t in self.rows(count):
            if t.is_floating_point():
                t = torch.randn(t.shape, generator=generator, device="cpu").to(t)
            elif labels and t.numel() and not t.is_complex():
                share = torch.rand(t.shape, generator=generator, device="cpu")
                t = (share * (t.amax().cpu().double() + 1)).long().to(t)
            drawn.append(t)
        return drawn

    def rebuilt(self, tensors: Sequence[Tensor]) -> Any:
        """The condition with these tensors in it."""
        if self.spec is None:
            return None
        leaves = list(self.fixed)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, self.spec)

    def tensors_of(self, given: Any) -> list[Tensor]:
        """The tensors of a condition; raises ValueError where its structure, shapes or dtypes are not the example's."""
        leaves, spec = tree_flatten(given) if given is not None else ([], None)
        if spec != self.spec:
            raise ValueError(f"fast_sampler: {self.name} must be {_spelled(self.spec)}, got {_spelled(spec)}")
        tensors = [leaves[i] for i in self.places]
        for tensor, example in zip(tensors, self.examples, strict=True):
            if not _is_batched(tensor) or tensor.shape[1:] != example.shape[1:]:
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                rule = ", ".join(["B", *map(str, example.shape[1:])])
                raise ValueError(f"fast_sampler: {self.name} must be [{rule}], got {got}")
            if tensor.dtype != example.dtype:
                kind = "the weights' dtype, " if example.is_floating_point() else ""
                raise TypeError(f"fast_sampler: {self.name} must have {kind}{example.dtype}, got {tensor.dtype}")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"fast_sampler: {self.name} must be finite, got nan or inf")
        if len({len(t) for t in tensors}) > 1:
            sizes = sorted({len(t) for t in tensors})
            raise ValueError(f"fast_sampler: {self.name} must have tensors of one batch size, got {sizes}")
        for i, (own, other) in enumerate(zip(self.fixed, leaves, strict=True)):
            if i not in self.places and not _equal(own, other):
                raise ValueError(f"fast_sampler: {self.name} must have {own!r} as its example has, got {other!r}")
        return tensors


def conditions(example: Any, latent_dim: int, like: Tensor) -> Iterator[Condition]:
    """Conditions beside x: an example, or z ``[B, latent_dim]``; for 1 labels ``[B]`` too."""
    if example is not None or not latent_dim:
        yield Condition(example, like, "z" if example is None else "condition")
        return
    yield Condition(like.new_zeros(1, latent_dim), like, "z")
    if latent_dim == 1:
        for labels in ([0, 1], [0]):
            yield Condition(torch.tensor(labels, device=like.device), like, "z")


def _is_batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _equal(a: Any, b: Any) -> bool:
    return a.equal(b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def _spelled(spec: TreeSpec | None) -> str:
    if spec is None:
        return "None"
    if spec.type is None:
        return "a tensor"
    names = f": {', '.join(map(str, spec.context))}" if spec.type is dict else ""
    return f"a {spec.type.__name__} of {spec.num_children}{names}"
