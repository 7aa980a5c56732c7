"""More than one process: which of them this one is, and what they do together.

A launcher (torchrun, Slurm, Ray) starts N processes and tells each its *rank*, 0 to N - 1, in the environment: RANK,
WORLD_SIZE, MASTER_ADDR, MASTER_PORT. They meet in torch's process group: the caller's, or the one that `join` makes.
Without it every function here is that of one process, and does nothing.

Rows that all of them work on are cut in *shares*, in the order of the rows: rank r has those from r n / N on. What
depends on chance is drawn for all rows by everyone, who then takes his share, so that N decides no number.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE, _PAUSE = 300, 0.02  # seconds in which all must have come, and between two looks
_joined: list[Any] = []  # the store by which the processes met, where `join` made their group


class LostProcessError(RuntimeError):
    """Another process ended or does not answer."""


@contextlib.contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostProcessError(f"processes: another one ended or does not answer: {error}") from error


def count() -> int:
    """N, how many processes work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """True in the process that writes and speaks for all."""
    return rank() == 0


def is_launched() -> bool:
    """True where a launcher started this process."""
    return "RANK" in os.environ


def restarts() -> int:
    """How often torchrun has started the processes anew, after one of them died (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join() -> None:
    """Meets the other processes of a launcher; nothing where RANK is not set, or there is a process group.

    gloo joins the CPUs, NCCL the GPUs where torch has it.

    Raises:
        ValueError: the environment has RANK and not all of the rest.
        RuntimeError: the port is in use, nobody answers, torch was built without gloo.
    """
    if not is_launched() or (dist.is_available() and dist.is_initialized()):
        return
    for name in _NAMES:
        if not os.environ.get(name):
            raise ValueError(f"{name}: must be set where RANK is, as by torchrun, got RANK={os.environ['RANK']} alone")
    if not (dist.is_available() and dist.is_gloo_available()):
        raise RuntimeError("processes: more than one need a torch that is built with gloo, and this one is not")
    where, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, number, of = next(dist.rendezvous("env://"))
        store = _of_this_start(store, number, of)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=number, world_size=of)
    except (RuntimeError, OSError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            rule = f"must be free at MASTER_ADDR {where}"
            raise RuntimeError(f"MASTER_PORT: {rule}, got {port}, which is in use: choose another") from error
        raise RuntimeError(f"processes: {where}:{port} was not joined by rank {os.environ['RANK']}: {error}") from error
    _joined.append(store)
    atexit.register(_leave)


def _of_this_start(store: Any, number: int, of: int) -> Any:
    """The part of a store that these processes alone know: torchrun's outlives a restart, with words of the dead.

    Each writes a word of its own. The first one repeats the words that it sees beside a name for the start; who finds
    his word there has the name, and says so.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + _PATIENCE
    words, answers = ({r: f"vlae_fast/{what}/{r}" for r in range(1, of)} for what in ("word", "answer"))
    if number:
        store.set(words[number], own)
    while time.monotonic() < end:
        if number == 0:
            found = {str(r): store.get(key).decode() for r, key in words.items() if store.check([key])}
            store.set("vlae_fast/start", json.dumps({"name": own, "words": found}))
            if all(store.check([key]) and store.get(key).decode() == own for key in answers.values()):
                return dist.PrefixStore(own, store)
        elif store.check(["vlae_fast/start"]):
            start = json.loads(store.get("vlae_fast/start"))
            if start["words"].get(str(number)) == own:
                store.set(answers[number], start["name"])
                return dist.PrefixStore(start["name"], store)
        time.sleep(_PAUSE)
    raise RuntimeError(f"the processes did not meet within {_PATIENCE} s")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def fails_first() -> bool:
    """True in one of the processes that fail, the first to ask: the others fail for the same reason, or for want of it.

    Before they have met it is the one of rank 0.
    """
    if not _joined:
        return os.environ.get("RANK", "0") == "0"
    try:
        return bool(_joined[0].add("vlae_fast/failed", 1) == 1)
    except RuntimeError:  # it was kept by a process that has failed, and spoken
        return False


def device_of(device: torch.device | str) -> torch.device:
    """A process's own GPU, by its number on its machine (LOCAL_RANK), for ``cuda``; every other device is itself.

    Raises:
        ValueError: there are fewer GPUs than processes, or torch was built without NCCL.
    """
    device = torch.device(device)
    if device.type != "cuda" or count() == 1:
        return device
    if not dist.is_nccl_available():
        raise ValueError(f"device: must be cpu in {count()} processes, for torch is built without NCCL, got {device}")
    if str(device) == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank())))
        if device.index >= torch.cuda.device_count():
            rule = f"must be cpu, or a machine must have a GPU for each of its processes, {device.index + 1} at least"
            raise ValueError(f"device: {rule}, got cuda and {torch.cuda.device_count()}")
    torch.cuda.set_device(device)
    return device


def place(shared: bool) -> tuple[int, int]:
    """How many share some work, and this one's rank: those of the processes, which are joined, or 1 and 0."""
    if shared:
        join()
    return (count(), rank()) if shared else (1, 0)


def share(rows: int) -> slice:
    """The rows of this process: the shares of all, in the order of their ranks, are 0 to rows - 1."""
    return slice(rows * rank() // count(), rows * (rank() + 1) // count())


def total(tensor: Tensor) -> Tensor:
    """The sum over the processes of each one's tensor, in its place: the same bits everywhere."""
    if count() > 1:
        with _meeting():
            dist.all_reduce(tensor)
    return tensor


def whole(own: Tensor, rows: int) -> Tensor:
    """All rows ``[..., rows]``, put together of each process's share ``[..., share]``; gradients reach its own part."""
    if count() == 1:
        return own
    mine = share(rows)
    found = own.new_zeros((*own.shape[:-1], rows))
    found[..., mine] = own.detach()
    total(found)  # x + 0 is x
    return torch.cat([found[..., : mine.start], own, found[..., mine.stop :]], -1)


@torch.no_grad()
def total_gradients(parameters: Iterable[Tensor]) -> None:
    """The sum over the processes of these parameters' gradients, in their place; one that nobody has stays None."""
    if count() == 1:
        return
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
        group = [parameter for parameter in parameters if parameter.dtype == dtype]
        there = torch.tensor([parameter.grad is not None for parameter in group], dtype=dtype, device=group[0].device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        sums = total(torch.cat([there, *(part.flatten() for part in parts)]))
        found = sums[: len(group)].tolist()
        for parameter, part, flat, owners in zip(
            group, parts, sums[len(group) :].split([p.numel() for p in group]), found, strict=True
        ):
            parameter.grad = part.copy_(flat.view_as(part)) if owners else None


def spread(tensors: Iterable[Tensor]) -> None:
    """Gives every process the tensors of the first one."""
    if count() > 1:
        for tensor in tensors:
            with _meeting():
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, 0)
                tensor.detach().copy_(sent)


def from_first(value: Value) -> Value:
    """The value that the first process has."""
    found = [value]
    if count() > 1:
        with _meeting():
            dist.broadcast_object_list(found, 0)
    return found[0]


def in_each(value: Value) -> list[Value]:
    """The value of each process, by rank."""
    found = [value] * count()
    if count() > 1:
        with _meeting():
            dist.all_gather_object(found, value)
    return found


def check_same(values: Mapping[str, Any]) -> None:
    """Raises ValueError, in every process, where the values of one differ from those of the first under some name."""
    first, *others = in_each(dict(values))
    for number, theirs in enumerate(others, start=1):
        for name in first | theirs:
            if first.get(name) != theirs.get(name):
                found = f"{first.get(name)!r} in process 0 and {theirs.get(name)!r} in process {number}"
                raise ValueError(f"{name}: must be the same in every process, got {found}")
