"""Shared by every test: backends and packages that must be there, and seeds."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from cases import cuda_host, interpreter
from cases.deadline import (  # noqa: F401 - hooks of every test
    pytest_collection_modifyitems,
    pytest_itemcollected,
    pytest_runtest_setup,
)
from cases.gpu_context import pytest_runtest_protocol, synchronized  # noqa: F401 - hooks and fixtures of every test

if not torch.cuda.is_available():  # read when a kernel is defined: without a GPU the tests run them in the interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the workers share the cores, and so do the processes that they start
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
if os.environ.get("VLAE_FAST_REQUIRE_PACKAGES") == "1":  # a test that is skipped for want of one is then an error
    pytest.importorskip = importlib.import_module
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else the reference's products warn that they may differ

from vlae_fast import backends
from vlae_fast.backends import cuda as cuda_row
from vlae_fast.backends import table, triton

if triton.INTERPRETED and triton.why_not() is None:
    interpreter.quicken()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


table._warned.append("")  # the warning that tests/backends/test_torch.py is of: any test may be the first to cause it


@pytest.fixture
def _fresh_dynamo() -> None:
    """No graphs of other tests: torch.compile makes only so many of one forward."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture(scope="session")
def cuda_library() -> None:
    """The CUDA sources as they run without a GPU."""
    path = cuda_host.build()
    if path is None:
        pytest.skip("g++ is not installed")
    torch.ops.load_library(path)


@pytest.fixture
def cuda(cuda_library: None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The row `cuda`, able on the CPU."""
    monkeypatch.setattr(cuda_row, "_OPS", torch.ops.vlae_fast_cuda_host)
    rows = [r._replace(devices=("cpu",), absent=lambda: None) if r.name == "cuda" else r for r in backends.TABLE]
    monkeypatch.setattr(table, "TABLE", tuple(rows))
    return cuda_row


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the emulated GPU: its processors, the shared memory of a block in KiB, the order of a block's threads."""

    def set_gpu(processors: int = 132, shared: int = 227, order: str = "forward") -> None:
        monkeypatch.setenv("VLAE_HOST_PROCESSORS", str(processors))
        monkeypatch.setenv("VLAE_HOST_SHARED_BYTES", str(shared << 10))
        monkeypatch.setenv("VLAE_HOST_ORDER", order)

    return set_gpu


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Counts the samples that differ from the naive sampler (each at a logit too close to its threshold to decide)."""
    found = [dict(report.user_properties) for report in terminalreporter.stats.get("passed", [])]
    found = [properties for properties in found if "differing_samples" in properties]
    if found:
        differing, samples = (sum(p[key] for p in found) for key in ("differing_samples", "samples"))
        terminalreporter.write_line(f"{differing} of {samples} samples differ from the naive sampler, all at ties")
