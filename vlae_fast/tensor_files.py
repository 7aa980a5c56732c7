"""The tensor files of a checkpoint: what an optimizer's state is called in one, and checks before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ._extras import require

Shapes = dict[str, tuple[int, ...]]

_STATE = {torch.optim.Adam: ("exp_avg", "exp_avg_sq"), torch.optim.Adamax: ("exp_avg", "exp_inf")}  # beside "step"


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes copies: safetensors refuses strided tensors and tensors that share memory."""
    require("safetensors.torch").save_file(
        {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}, path
    )


def read(path: Path) -> dict[str, Tensor]:
    return dict(require("safetensors.torch").load_file(path))


def shapes(path: Path) -> Shapes:
    """Names and shapes from the header, which safetensors has checked against the file's length; no tensor is read."""
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error}") from error


def check_shapes(path: Path, expected: Shapes) -> None:
    """Raises ValueError where the file's tensors are not those of `expected`, by name and by shape."""
    found = shapes(path)
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ValueError(f"{path}: tensors must be those of config.json: missing {_few(missing)}, extra {_few(extra)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{path}: {name} must be {shape} according to config.json, found {found[name]}")


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
    stepped = {name.rpartition("/")[0] for name in shapes(path) if not name.endswith("/trained")}
    expected: Shapes = {}
    for name in parameters.keys() & stepped:  # a parameter that never got a gradient has no state
        expected |= {f"{name}/step": ()} | {f"{name}/{what}": parameters[name] for what in _STATE[type(optimizer)]}
    if averaged:
        expected |= {f"{name}/trained": shape for name, shape in parameters.items()}
    check_shapes(path, expected)
    numbers = {name: number for number, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    trained: dict[str, Tensor] = {}
    for key, tensor in read(path).items():
        name, _, what = key.rpartition("/")
        if what == "trained":
            trained[name] = tensor
        else:
            state.setdefault(numbers[name], {})[what] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return trained


def _few(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "none"
