"""Tasks of an experiment, one after another or a few at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")

_SHARED: list[Any] = []  # of a worker process: what all of its tasks are given


def in_turn_or_parallel(
    work: Callable[..., Result], tasks: Sequence[Task], jobs: int, shared: Any, *, progress: bool
) -> Iterator[Result]:
    """``work(task, shared)`` of each task, as they are done; the processes are ended where the caller stops.

    Args:
        work: a function at the top of a module. jobs: processes at once, which share the threads of this one; with 1
            the work is done here, in turn. shared: is copied to each process once. progress: given to `work` where it
            is done here; lines of several processes would run into each other.
    """
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield work(task, shared, progress=progress)
        return
    jobs = min(jobs, len(tasks))
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # a fork would copy the state of torch's threads
    # bytes: torch would put tensors into shared memory, which a container may have little of
    given = (work, pickle.dumps(shared), threads)
    with context.Pool(jobs, _start, given) as pool:
        yield from pool.imap_unordered(_work, tasks)


def _start(work: Callable[..., Any], shared: bytes, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear; it ends this process
    torch.set_num_threads(threads)
    _SHARED[:] = [work, pickle.loads(shared)]


def _work(task: Any) -> Any:
    work, shared = _SHARED
    return work(task, shared)
