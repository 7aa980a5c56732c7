"""Probes of somebody else's layer: they learn from its outputs which of its weights count, and where.

Layers are probed as copies with random weights: theirs stay as they are, and zeros at initialisation hide nothing.
"""

from __future__ import annotations

import copy
import random as python_random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..layers.hooked_weight import WEIGHT_HOOKS
from ..masks import Pair, same_padding
from .walk import named_parameters_of, parameters_of, parts_of

if TYPE_CHECKING:
    from .layer import Layer

# Relative to the largest number: kernels may round to 10 bits on a GPU, and sum in another order.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-2, torch.bfloat16: 0.1, torch.float16: 0.1}

M = TypeVar("M", bound=nn.Module)


class ProbeError(ValueError):
    """Why a layer is left alone."""


def without_hooks(module: M) -> M:
    """A copy to try things on, without hooks but those that compute a weight: these are part of it."""
    memo: dict[int, Any] = {}
    for part in parts_of(module):
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:  # torch copies no other; weight_norm leaves one
                memo[id(value)] = value.detach().clone()
            elif isinstance(value, dict) and "hook" in name:
                kept = {key: hook for key, hook in value.items() if isinstance(hook, WEIGHT_HOOKS)}
                memo[id(value)] = OrderedDict(kept)
            elif isinstance(value, torch.jit.ScriptFunction):  # a function is its own copy, as Python's are
                memo[id(value)] = value
    with trying("a copy of it"):
        return copy.deepcopy(module, memo)


def like_of(module: nn.Module) -> Tensor:
    """A parameter that has the dtype and the device of what a module computes with; raises ProbeError."""
    for parameter in parameters_of(module):
        if parameter.is_floating_point():
            return parameter
    raise ProbeError("it has no parameters to train")


@contextmanager
def trying(what: str) -> Iterator[None]:
    """Runs other people's code: an error that it raises is a reason to leave it alone."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        first, *_ = f"{type(error).__name__}: {error}".splitlines()
        raise ProbeError(f"{what} raises {first}") from error


@contextmanager
def random_state_kept(*devices: torch.device) -> Iterator[None]:
    """Keeps the global generators of PyTorch, Python and NumPy where they are, whatever other people's code draws."""
    numpy: Any = sys.modules.get("numpy")
    python, arrays = python_random.getstate(), numpy and numpy.random.get_state()
    gpus = {d.index if d.index is not None else torch.cuda.current_device() for d in devices if d.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(gpus)):
            yield
    finally:
        python_random.setstate(python)
        if arrays:
            numpy.random.set_state(arrays)


def difference(have: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest number; infinite where shape or dtype is another, or have alone
    is not finite.

    What counts is where `want` is finite: a dead weight times a number that is not may be left out.
    """
    if have.shape != want.shape or have.dtype != want.dtype:
        return float("inf")
    if have.numel() == 0:
        return 0.0
    finite = want.isfinite()
    if not have[finite].isfinite().all():
        return float("inf")
    have, want = torch.where(finite, have, 0), torch.where(finite, want, 0)
    return ((have - want).abs().max() / (1e-3 + want.abs().max())).item()


def stand_in(module: M, dtype: torch.dtype) -> M:
    """`without_hooks`, in another dtype, its parameters random and never small; those that are masks stay."""
    twin, generator = without_hooks(module), torch.Generator().manual_seed(0)
    with trying("a copy of it"):
        twin = twin.to(dtype)
    with torch.no_grad():
        for name, parameter in named_parameters_of(twin):
            if not is_mask(name, parameter):
                parameter.requires_grad_(parameter.is_floating_point())
                parameter.copy_(random(parameter.shape, generator))
    return twin


def is_mask(name: str, parameter: nn.Parameter) -> bool:
    """True where a parameter is a mask, kept as one to be moved and saved: frozen, of zeros and ones."""
    if parameter.requires_grad or name.rpartition(".")[2] in ("weight", "bias"):
        return False
    return bool(((parameter == 0) | (parameter == 1)).all() and parameter.any())


def random(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers of either sign with magnitudes from 0.5 to 1.5: none of them looks like a dead weight."""
    cpu = torch.device("cpu")  # where the generator is, whatever the default device
    values = torch.rand(shape, generator=generator, dtype=torch.float64, device=cpu) + 0.5
    return values * (torch.randint(2, shape, generator=generator, device=cpu) * 2 - 1)


def outputs(module: nn.Module, *args: Tensor) -> tuple[Tensor, ...]:
    """``module(*args)``, several tensors or one; raises ProbeError where that is something else."""
    with trying("its forward"):
        out = module(*args)
    several = tuple(out) if type(out) in (tuple, list) else (out,)
    if not several or not all(isinstance(y, Tensor) for y in several):
        raise ProbeError(f"its forward returns {type(out).__name__}, not a tensor")
    return several


def call(module: nn.Module, *args: Tensor, at: int = 0) -> Tensor:
    """Output ``at`` of ``module(*args)``; raises ProbeError unless that is a tensor, or several."""
    return outputs(module, *args)[at]


class ConvTaps(NamedTuple):
    """An image as large as the input: ``out[p] = bias + sum over (i, j) of W[:, :, i, j] x[p + d ((i, j) - centre)]``.

    live: boolean, shaped like W; the other weights do not count. The centre may lie outside of the kernel.
    dilation: d, (vertical, horizontal).
    """

    live: Tensor
    centre: Pair
    dilation: Pair = (1, 1)


@torch.no_grad()
def conv_taps(module: nn.Module, layer: Layer, at: int = 0) -> ConvTaps:
    """The taps of a `stand_in` of a convolution, or of a module around it, by its response to one pixel.

    at: which of its outputs is looked at, where it has several.

    A tap is dead where nothing comes through. Within a tap, single weights are dead where a tensor that is kept (or the
    weight itself, after a call) is zero: which of these says so is a guess, and the response confirms it.
    Raises ProbeError.
    """
    (kh, kw), (step_y, step_x) = layer.kernel_size, layer.dilation
    height, width = step_y * (kh - 1) + 1, step_x * (kw - 1) + 1
    side = 4 * max(height, width) + 1
    pixel = random((layer.inputs,), torch.Generator().manual_seed(1))
    x = like_of(layer.module).new_zeros(1, layer.inputs, side, side)
    bias = call(module, x, at=at)
    x[0, :, side // 2, side // 2] = pixel.to(x)
    out = call(module, x, at=at)
    if out.shape != (1, layer.outputs, side, side):
        raise ProbeError(f"it makes {tuple(out.shape[1:])} of an image of {tuple(x.shape[1:])}: not one of its size")
    response = (out - bias)[0].flip(1, 2)  # of p, to the pixel at p + tap: so tap is seen at side // 2 + tap
    for mask in _masks(module, layer):
        weight = torch.where(mask, layer.weight, 0)
        expected = torch.einsum("ocij,c->oij", weight, pixel.to(weight))
        tolerance = 1e-9 * expected.abs().max()
        seen = response.abs() > tolerance
        for top, left in _placements(layer, side):
            places = (..., slice(top, top + height, step_y), slice(left, left + width, step_x))
            alive = seen[places].any(0)
            fits = ((response[places] - expected).abs().amax(0) <= tolerance) | ~alive
            if fits.all() and alive.any() and seen.sum() == seen[places].sum():
                centre = (side // 2 - top) // step_y, (side // 2 - left) // step_x
                return ConvTaps(mask & alive, centre, (step_y, step_x))
    raise ProbeError("it is no convolution by its weight, masked by one of its buffers or by whole taps")


def _placements(layer: Layer, side: int) -> list[tuple[int, int]]:
    """Where a kernel may lie in the response, the usual place first; a tap may read the pixel itself."""
    (kh, kw), (step_y, step_x) = layer.kernel_size, layer.dilation
    above, before = same_padding((kh, kw), (step_y, step_x))
    tops = range(side // 2 % step_y, side - step_y * (kh - 1), step_y)
    lefts = range(side // 2 % step_x, side - step_x * (kw - 1), step_x)
    return [(side // 2 - above, side // 2 - before), *((top, left) for top in tops for left in lefts)]


def _masks(module: nn.Module, layer: Layer) -> list[Tensor]:
    """Guesses at the weights that are alive: where the weight is not zero, or a kept tensor that broadcasts to it."""
    stored = layer.names.stored(layer.weight)
    masks = (mask for mask in _kept_tensors(module) if _broadcasts(mask.shape, stored.shape))
    guesses = [stored != 0, *((mask != 0).to(stored.device).expand(stored.shape) for mask in masks)]
    return [layer.names.stored(guess) for guess in guesses]  # a second transposition undoes the first


def _kept_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module may compute with beside trained ones: buffers, attributes, parameters that are masks."""
    for part in parts_of(module):
        yield from (tensor for tensor in part._buffers.values() if tensor is not None)
        yield from (p for name, p in part.named_parameters(recurse=False) if is_mask(name, p))
        # `weight` is made anew in every call where a hook computes it
        yield from (v for name, v in vars(part).items() if isinstance(v, Tensor) and name != "weight" and v.dim() > 1)


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


_BLOCK = 1 << 21  # numbers of the inputs that are tried at once: 16 MiB of them, however many the layer has


@torch.no_grad()
def linear_adjacency(module: nn.Module, layer: Layer) -> Tensor:
    """Boolean ``[O, I]``: which weights of a `stand_in` of a layer, or of a module around it, count.

    The response to random inputs tells where all weights count, or a tensor that is kept says which; else the response
    to each input alone. Raises ProbeError.
    """
    inputs = layer.inputs
    generator = torch.Generator().manual_seed(1)
    x = random((3, inputs), generator).to(like_of(layer.module))
    bias = call(module, torch.zeros_like(x[:1]))
    response = call(module, x) - bias
    if response.shape != (3, layer.outputs):
        raise ProbeError(f"it makes {tuple(response.shape[1:])} of {inputs} inputs, not {layer.outputs} outputs")
    for mask in _masks(module, layer):
        expected = x @ torch.where(mask, layer.weight, 0).T
        if (response - expected).abs().max() <= 1e-10 * inputs * layer.weight.abs().max():
            return mask.clone()
    live = torch.empty_like(layer.weight, dtype=torch.bool)
    tolerance = 1e-9 * layer.weight.abs().max()
    for start in range(0, inputs, step := max(1, _BLOCK // inputs)):
        rows = x.new_zeros(min(step, inputs - start), inputs)
        rows[:, start:].fill_diagonal_(1)
        columns = (call(module, rows) - bias).T
        live[:, start : start + step] = alive = columns.abs() > tolerance
        if not torch.where(alive, columns - layer.weight[:, start : start + step], 0).abs().max() <= tolerance:
            raise ProbeError("it is no product with its weight, masked")
    return live
