"""The tensor files of a checkpoint: the names of an optimizer's state, and checks before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._extras import require

Shapes = dict[str, tuple[int, ...]]
Likes = dict[str, Tensor]  # shape and kind of number, often on meta

_FLOATS, _INTEGERS = ("F16", "BF16", "F32", "F64"), ("I64",)  # integers count batches
_MAX_HEADER_BYTES = 16 << 20
_ADAM = ("exp_avg", "exp_avg_sq")
_STATE = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.Adamax: ("exp_avg", "exp_inf"),
}  # beside "step"


class OtherSaveError(ValueError):
    """A file belongs to another save than the one that was asked for."""


def write(path: Path, tensors: Mapping[str, Tensor], generation: str) -> None:
    """Writes copies: safetensors refuses strided tensors and tensors that share memory. OSError where writing fails."""
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    try:
        require("safetensors.torch").save_file(copies, path, {"generation": generation})
    except require("safetensors").SafetensorError as error:  # also on a full disk
        raise OSError(f"{path}: {error}") from error


def read(path: Path, expected_of: Callable[[Shapes], Likes], generation: str | None = None) -> dict[str, Tensor]:
    """Reads the tensors of a file, where they are floating point and of the names and shapes that `expected_of` gives.

    `expected_of` is given the names and shapes in the file. No tensor is read before they are those expected.
    """
    with _open(path) as file:
        its = (file.metadata() or {}).get("generation")
        if None not in (its, generation) and its != generation:  # a file that another tool wrote again has none
            raise OtherSaveError(f"{path}: must be of the same save as its config.json, found another's")
        slices = {name: file.get_slice(name) for name in file.keys()}
        found: Shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
        expected = expected_of(found)
        check_shapes(path, found, expected)
        for name, tensor in slices.items():
            dtypes = _FLOATS if expected[name].is_floating_point() else _INTEGERS
            if (dtype := tensor.get_dtype()) not in dtypes:
                raise ValueError(f"{path}: {name} must be of type {', '.join(dtypes)}, found {dtype}")
        return {name: file.get_tensor(name) for name in found}


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file, whose header safetensors has checked against its length."""
    safetensors = require("safetensors")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        same = Path(f"/dev/fd/{file.fileno()}")  # safe_open opens its path twice, and a save may replace it
        try:
            if size > _MAX_HEADER_BYTES:
                raise safetensors.SafetensorError(f"header must be at most {_MAX_HEADER_BYTES:,} bytes, found {size:,}")
            with safetensors.safe_open(same if same.exists() else path, framework="pt") as opened:
                yield opened
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: damaged or truncated safetensors file: {error!s:.200}") from error


def moving(model: nn.Module) -> Likes:
    """Tensors that training moves, by name: parameters, and buffers of real numbers such as running statistics."""
    kept = model.state_dict().keys()
    buffers = {name: b for name, b in model.named_buffers() if name in kept and b.is_floating_point()}
    return dict(model.named_parameters()) | buffers


def check_shapes(where: Path, found: Shapes, expected: Likes) -> None:
    """Raises ValueError where the tensors found are not those of `expected`, by name and by shape."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ValueError(f"{where}: tensors must be those of config.json: missing {_few(missing)}, extra {_few(extra)}")
    for name, like in expected.items():
        if found[name] != (shape := tuple(like.shape)):
            raise ValueError(f"{where}: {name} must be {shape} according to config.json, found {found[name]!s:.60}")


def check_finite(where: Path, name: str, tensor: Tensor) -> None:
    """Raises ValueError where a tensor holds NaN or infinity."""
    if not tensor.isfinite().all():
        raise ValueError(f"{where}: {name} must be finite, found NaN or infinity")


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> None:
    """Raises ValueError unless `read_optimizer` can give the optimizer's state back; ``model`` is the one it trains."""
    if type(optimizer) not in _STATE or any(group.get("amsgrad") for group in optimizer.param_groups):
        kinds = ", ".join(kind.__name__ for kind in _STATE)
        found = type(optimizer).__name__ + (" with amsgrad" if type(optimizer) in _STATE else "")
        raise ValueError(f"checkpoint: optimizer must be one of {kinds}, without amsgrad, got {found}")
    others = [p for p in _listed(optimizer) if id(p) not in {id(q) for q in model.parameters()}] if model else []
    if others:
        rule = "must be of the model's parameters"
        raise ValueError(f"checkpoint: optimizer {rule}, got one of another's, {tuple(others[0].shape)}")


def _listed(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The optimizer's parameters in the order that its state_dict numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """The optimizer's number of each parameter of the model, by name; the optimizer may be of a model that is alike.

    Raises:
        ValueError: which is which cannot be told.
    """
    listed, named = _listed(optimizer), dict(model.named_parameters())
    numbers = {id(parameter): number for number, parameter in enumerate(listed)}
    if own := {name: numbers[id(p)] for name, p in named.items() if id(p) in numbers}:
        return own
    if len(optimizer.param_groups) == 1 and [p.shape for p in listed] == [p.shape for p in named.values()]:
        return {name: number for number, name in enumerate(named)}
    rule = "must be of the loaded model's parameters, or of all those of a model like it in one group"
    raise ValueError(f"checkpoint: optimizer {rule}, got {len(listed)} in {len(optimizer.param_groups)} groups")


def optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter>/<state>``, and the weights in training as ``<parameter>/trained``."""
    named = ((name, optimizer.state.get(parameter, {})) for name, parameter in model.named_parameters())
    states = {f"{name}/{what}": tensor for name, state in named for what, tensor in state.items()}
    return states | {f"{name}/trained": tensor for name, tensor in trained.items()}


def read_optimizer(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averaged: bool, generation: str | None = None
) -> dict[str, Tensor]:
    """Puts the state in the file into `optimizer`; gives the weights in training where `averaged`, else nothing."""
    check_optimizer(optimizer)
    numbers = _numbers(model, optimizer)
    parameters = {name: torch.empty_like(parameter, device="meta") for name, parameter in model.named_parameters()}
    buffers = {name: tensor for name, tensor in moving(model).items() if name not in parameters}
    step = torch.empty((), device="meta")

    def expected_of(found: Shapes) -> Likes:
        stepped = {name.rpartition("/")[0] for name in found if not name.endswith("/trained")}
        expected = {f"{name}/trained": like for name, like in parameters.items()} if averaged else {}
        if averaged:  # an older save has the weights in training alone
            expected |= {key: like for name, like in buffers.items() if (key := f"{name}/trained") in found}
        for name in numbers.keys() & stepped:  # a parameter that never got a gradient has no state
            expected |= {f"{name}/step": step} | {
                f"{name}/{what}": parameters[name] for what in _STATE[type(optimizer)]
            }
        return expected

    state: dict[int, dict[str, Tensor]] = {}
    trained: dict[str, Tensor] = {}
    for key, tensor in read(path, expected_of, generation).items():
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
