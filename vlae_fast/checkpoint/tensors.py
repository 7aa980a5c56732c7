"""The tensor files of a checkpoint: what an optimizer's state is called in one, and checks before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._extras import require

Shapes = dict[str, tuple[int, ...]]

_DTYPES = ("F16", "BF16", "F32", "F64")
_MAX_HEADER_BYTES = 16 << 20
_STATE = {torch.optim.Adam: ("exp_avg", "exp_avg_sq"), torch.optim.Adamax: ("exp_avg", "exp_inf")}  # beside "step"


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes copies: safetensors refuses strided tensors and tensors that share memory. OSError where it cannot."""
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    try:
        require("safetensors.torch").save_file(copies, path)
    except require("safetensors").SafetensorError as error:  # a full disk is one too
        raise OSError(f"{path}: {error}") from error


def read(path: Path, expected_of: Callable[[Shapes], Shapes]) -> dict[str, Tensor]:
    """The tensors of a file, where they are floating point and of the names and shapes that `expected_of` gives.

    It is told the names and shapes in the file. Before they are those expected, no tensor is read.
    """
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        found: Shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
        _check_shapes(path, found, expected_of(found))
        for name, tensor in slices.items():
            if (dtype := tensor.get_dtype()) not in _DTYPES:
                raise ValueError(f"{path}: {name} must be of type {', '.join(_DTYPES)}, found {dtype}")
        return {name: file.get_tensor(name) for name in found}


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file, whose header safetensors has checked against its length."""
    safetensors = require("safetensors")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    try:
        if size > _MAX_HEADER_BYTES:
            raise safetensors.SafetensorError(f"header must be at most {_MAX_HEADER_BYTES:,} bytes, found {size:,}")
        with safetensors.safe_open(path, framework="pt") as opened:
            yield opened
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error!s:.200}") from error


def _check_shapes(path: Path, found: Shapes, expected: Shapes) -> None:
    """Raises ValueError where the file's tensors are not those of `expected`, by name and by shape."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ValueError(f"{path}: tensors must be those of config.json: missing {_few(missing)}, extra {_few(extra)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{path}: {name} must be {shape} according to config.json, found {found[name]!s:.60}")


def write_optimizer(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]
) -> None:
    """The optimizer's state as ``<parameter>/<state>``, and the weights in training as ``<parameter>/trained``."""
    named = ((name, optimizer.state.get(parameter, {})) for name, parameter in model.named_parameters())
    states = {f"{name}/{what}": tensor for name, state in named for what, tensor in state.items()}
    write(path, states | {f"{name}/trained": tensor for name, tensor in trained.items()})


def read_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averaged: bool) -> dict[str, Tensor]:
    """Puts the state in the file into `optimizer`; returns the weights in training where `averaged`, else nothing."""
    parameters: Shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def expected_of(found: Shapes) -> Shapes:
        stepped = {name.rpartition("/")[0] for name in found if not name.endswith("/trained")}
        expected: Shapes = {f"{name}/trained": shape for name, shape in parameters.items()} if averaged else {}
        for name in parameters.keys() & stepped:  # a parameter that never got a gradient has no state
            expected |= {f"{name}/step": ()} | {f"{name}/{what}": parameters[name] for what in _STATE[type(optimizer)]}
        return expected

    numbers = {name: number for number, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    trained: dict[str, Tensor] = {}
    for key, tensor in read(path, expected_of).items():
        name, _, what = key.rpartition("/")
        if what == "trained":
            trained[name] = tensor
        else:
            state.setdefault(numbers[name], {})[what] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return trained


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(f"{name:.100}" for name in names[:4]) + more or "none"
