"""A program from somebody else's decoder, by a trace of its forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from .affine import Affine
from .operations import Operations
from .stages import Program


class _Root:
    """A decoder as a function, by whose ``_orig_mod`` the tracer knows the module that each operation comes from."""

    def __init__(self, decoder: nn.Module) -> None:
        self._orig_mod = decoder

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._orig_mod(*inputs)


@torch.no_grad()
def write_program(decoder: nn.Module, program: Program, inputs: Sequence[Tensor]) -> None:
    """Appends the stages of ``decoder(*inputs)``, in evaluation mode; inputs: x ``[2, C, H, W]``, z ``[2, D]`` or none.

    Raises:
        ValueError: an operation has no place in a program; it is named with its module's path.
    """
    try:
        graph = make_fx(_Root(decoder), record_module_stack=True)(*inputs)
    except Exception as error:
        first, *_ = f"{type(error).__name__}: {error}".splitlines()
        raise ValueError(f"fast_sampler: decoder must be traceable by torch.fx, got {first}") from error
    like, channels, (height, width) = inputs[0].new_zeros(()), inputs[0].shape[1], inputs[0].shape[2:]
    values = [Affine({(0, (0, 0)): torch.eye(channels).to(like)}, like.new_zeros(channels), None, (height, width))]
    if len(inputs) > 1:
        dim = inputs[1].shape[1]
        values.append(Affine({}, like.new_zeros(dim), torch.eye(dim).to(like), ()))
    Operations(graph, program, (height, width), like).run(*values)
