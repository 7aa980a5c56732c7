"""Weights that are packed anew from where a decoder has them, without its program being written again."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..backends import cpu
from ..plan import Plan
from .program import Origin, Program


class Structure:
    """The make-up of a module: modules, parameters, settings, and where its numbers lie; not the numbers."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self._modules = module, list(module.modules())
        self._containers = [value for part in self._modules for value in vars(part).values() if isinstance(value, dict)]
        self._objects = self._objects_now()
        self._tensors = [value for value in self._objects if isinstance(value, Tensor)]
        self._numbers = self._numbers_now()
        kept = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        # of a tensor that is neither parameter nor buffer nobody knows when it changes, nor of what a list holds
        own = (item for part in self._modules for item in vars(part).items())
        holds = any(isinstance(value, list | set | dict) and not name.startswith("_") for name, value in own)
        self._is_open = all(id(tensor) in kept for tensor in self._tensors) and not holds

    def is_current(self) -> bool:
        """True where the module is made of the same objects, in the same memory."""
        now = self._objects_now()
        same = len(now) == len(self._objects) and all(map(operator.is_, now, self._objects))
        return same and self._is_open and self._numbers_now() == self._numbers

    def is_current_of(self, module: nn.Module) -> bool:
        """True where that is the module, and `is_current`."""
        return module is self.module and self.is_current()

    def _objects_now(self) -> list[Any]:
        objects: list[Any] = []
        for part in self._modules:
            own = vars(part)
            # the mode of training comes first in a module, and changes nothing that is drawn
            objects += islice(own.values(), next(iter(own)) == "training", None)
            objects.append(type(part).forward)
            for name in ("_parameters", "_buffers", "_modules"):
                objects += own[name].values()
        return objects

    def _numbers_now(self) -> list[Any]:
        places = [(tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in self._tensors]
        return [*map(len, self._containers), *places]


class LiveWeights:
    """The weights of a plan where a decoder's parameters have them."""

    def __init__(self, decoder: nn.Module, origins: Sequence[Origin], plan: Plan) -> None:
        self.decoder, self.structure = decoder, Structure(decoder)
        self.tensors = [origin.tensor for origin in origins]
        self.plan, self.cells = plan, _cells(origins, plan)
        self._spare: Tensor | None = None

    def repacked(self, packed: Tensor) -> Tensor | None:
        """The weights as they are now, packed for the backend ``cpu``, in memory that is kept; None: write a program.

        packed: those that are in use, which stay as they are until the call after this one.
        """
        if not self.structure.is_current():
            return None
        out = packed.clone() if self._spare is None else self._spare
        if not cpu.pixelcnn_repack(out, self.tensors, self.plan, self.cells):
            return None
        self._spare = packed
        return out


def live_weights(decoder: Any, program: Program, plan: Plan) -> LiveWeights | None:
    """The live weights of a program, None where it has others: folded, masked within a tap, or cut into levels."""
    if not isinstance(decoder, nn.Module) or tuple(program.stages) != plan.stages:
        return None
    if len(program.origins) != len(program.weights):
        return None
    memory = {t.untyped_storage().data_ptr() for t in (*decoder.parameters(), *decoder.buffers())}
    for origin, weight in zip(program.origins, program.weights, strict=True):
        tensor = origin.tensor
        lives = origin.is_constant or tensor.untyped_storage().data_ptr() in memory
        if not lives or not tensor.is_contiguous() or not _taken(origin).equal(weight):
            return None
    return LiveWeights(decoder, program.origins, plan)


def _taken(origin: Origin) -> Tensor:
    return origin.tensor.flatten(2)[:, :, list(origin.places)] if origin.places else origin.tensor


def _cells(origins: Sequence[Origin], plan: Plan) -> list[int]:
    """For each source how many weights a kernel has, then the place of each tap in it."""
    cells, at = [], 0
    for stage in plan.stages:
        for origin in origins[at : at + len(stage.sources)] if stage.kind == "sum" else ():
            cells += [origin.tensor[0, 0].numel(), *origin.places]
        at += stage.n_weights
    return cells


class LiveCopy:
    """A copy of a module whose numbers can be taken again from it."""

    def __init__(self, source: nn.Module, copy: nn.Module) -> None:
        self.source, self.structure = source, Structure(source)
        self.pairs = [(*m.parameters(), *m.buffers()) for m in (copy, source)]

    def refresh(self) -> bool:
        """Takes the numbers as they are now; False where the source is made of other things than it was."""
        mine, theirs = self.pairs
        frozen = any(t.is_inference() for t in mine) and not torch.is_inference_mode_enabled()
        if frozen or not self.structure.is_current():
            return False
        with torch.no_grad():
            if mine:
                torch._foreach_copy_(list(mine), list(theirs))
        return True
