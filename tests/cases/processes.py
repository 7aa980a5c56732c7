"""Processes that meet by gloo, as a launcher starts them: forked by a server that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "vlae_fast.training", "cases.runs"])


class Ended(NamedTuple):
    """How a process ended: its exit code, and what its function gave or the error that it raised."""

    code: int | None
    value: Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    function: Callable[..., Any], count: int, *args: Any, port: int | None = None, **env: str
) -> list[tuple[Any, Connection]]:
    """Starts ``function(rank, *args)`` in `count` processes that find their places in the environment."""
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port()), "WORLD_SIZE": str(count)}
    started = []
    for rank in range(count):
        ours, theirs = _CONTEXT.Pipe()
        own = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = _CONTEXT.Process(target=_run, args=(theirs, own, function, rank, args), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    return started


def ended(started: list[tuple[Any, Connection]], seconds: float = 100) -> list[Ended]:
    """Waits for them; a process that takes longer is killed, with the exit code that this has."""
    found = []
    for process, results in started:
        try:
            value = results.recv() if results.poll(seconds) else TimeoutError(f"no end within {seconds} s")
        except EOFError:  # killed
            value = None
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
        found.append(Ended(process.exitcode, value))
    return found


def results(function: Callable[..., Any], count: int, *args: Any, **env: str) -> list[Any]:
    """What ``function(rank, *args)`` gives in each of `count` processes; AssertionError where one raised."""
    found = ended(start(function, count, *args, **env))
    failures = [f"rank {rank}: {one.value}" for rank, one in enumerate(found) if one.code or _is_error(one.value)]
    assert not failures, "\n".join(failures)
    return [one.value for one in found]


def _is_error(value: Any) -> bool:
    return value is None or isinstance(value, BaseException)


def _run(pipe: Connection, env: dict[str, str], function: Callable[..., Any], rank: int, args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send(function(rank, *args))
    except BaseException as error:  # told to the test, which knows whether it is the right one
        error.__cause__ = None
        error.add_note(traceback.format_exc()) if hasattr(error, "add_note") else None
        try:
            pipe.send(error)
        except Exception:
            pipe.send(RuntimeError(repr(error)))
        os._exit(1)
    from vlae_fast.processes import _leave

    _leave()
