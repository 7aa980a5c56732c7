"""The self-test: every line is ok here, and what is wrong makes its own line fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vlae_fast import VLAE, backends, checkpoint
from vlae_fast.backends import cpu
from vlae_fast.experiments import self_check
from vlae_fast.models.flow import AutoregressiveFlow

pytest.importorskip("safetensors")


def lines(names: list[str]) -> list[str]:
    """The lines that `run` says of the checks of these names."""
    said: list[str] = []
    chosen = [check for check in self_check.checks() if check.name in names]
    assert len(chosen) == len(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_check, "checks", lambda: iter(chosen))
        failed = self_check.run(said.append)
    assert failed == sum(" failed " in line for line in said[:-1])
    return said


@pytest.fixture
def without_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter takes minutes."""
    rows = (
        row._replace(absent=lambda: "has no GPU here") if row.name == "triton" else row for row in backends.table.TABLE
    )
    monkeypatch.setattr(backends.table, "TABLE", tuple(rows))


@pytest.mark.usefixtures("without_interpreter")
def test_the_command_says_a_line_for_each_check() -> None:
    """Each op on each backend, absent ones with the reason that `info` gives, and the parts of a model."""
    pytest.importorskip("typer")
    from cases.commands import call

    state = torch.get_rng_state()
    result = call("check")
    assert result.exit_code == 0, result.output
    *said, last = result.output.splitlines()
    for row in backends.table.TABLE:
        if (reason := row.absent()) is not None:
            assert f"{row.name:<28} absent  {reason}" in said
        else:
            assert {line.split()[0] for line in said if f" on {row.name} " in line} == set(backends.OPS)
    for name in ("a flow inverts", "a VLAE learns", "a checkpoint comes back"):
        assert sum(line.startswith(f"{name:<28} ok ") for line in said) == 1
    n_ok, n_failed, n_absent = map(int, re.findall(r"(\d+) (?:ok|failed|absent)", last))
    assert n_ok + n_absent == len(said) and n_failed == 0 and n_absent == sum(" absent " in line for line in said)
    assert torch.get_rng_state().equal(state)


def wrong_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu.masked_linear
    monkeypatch.setattr(cpu, "masked_linear", lambda *args: right(*args) * (1 + 1e-4))


def wrong_image(monkeypatch: pytest.MonkeyPatch) -> None:
    naive = self_check.naive_sample_with_logits

    def other(*args: Any) -> Any:
        found = naive(*args)
        found.images[2, 0, 3, 4] = 1 - found.images[2, 0, 3, 4]
        return found

    monkeypatch.setattr(self_check, "naive_sample_with_logits", other)


def wrong_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    inverse = AutoregressiveFlow.inverse
    monkeypatch.setattr(AutoregressiveFlow, "inverse", lambda self, eps: (inverse(self, eps)[0], torch.zeros(len(eps))))


def no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)


def other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    load = checkpoint.load

    def changed(folder: Any) -> Any:
        found = load(folder)
        torch.nn.init.zeros_(found.model.decoder.final_conv.weight)
        return found

    monkeypatch.setattr(checkpoint, "load", changed)


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> VLAE:
        raise ImportError("a library\nis missing")

    monkeypatch.setattr(self_check, "VLAE", broken)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "masked_linear on cpu": (wrong_linear, r"AssertionError: .* cpu output 0 is off by .*, budget"),
    "pixelcnn_sample on reference": (wrong_image, "RuntimeError: 1 of 4 images are not those of naive sampling"),
    "a flow inverts": (wrong_flow, r"z comes back with an error of 0\.\d+"),
    "a VLAE learns": (no_learning, r"the loss was \d+\.\d and is \d+\.\d nats/image after 60 updates"),
    "a checkpoint comes back": (other_weights, r"1 of \d+ tensors came back with other values"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fails_its_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith("cpu") and (why := cpu.why_not()) is not None:
        pytest.skip(why)
    plant, message = FAULTS[name]
    plant(monkeypatch)
    first, last = lines([name])
    assert re.match(rf"{name} +failed  .*{message}", first), first
    assert last.startswith("0 ok, 1 failed, 0 absent")


def test_an_error_of_any_kind_is_one_line_and_the_rest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from cases.commands import call

    no_model(monkeypatch)
    chosen = [check for check in self_check.checks() if check.name.startswith("a ")]
    monkeypatch.setattr(self_check, "checks", lambda: iter(chosen))
    result = call("check")
    assert result.exit_code == 1
    said = result.output.splitlines()
    assert [line[28:36].strip() for line in said[:-1]] == ["ok", "failed", "failed"]
    assert said[1].endswith("ImportError: a library is missing")


def test_without_a_library_the_reference_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "no compiler was there"
    monkeypatch.setattr(
        backends.table,
        "TABLE",
        tuple(row._replace(absent=lambda: why) if row.name != "reference" else row for row in backends.table.TABLE),
    )
    names = [check.name for check in self_check.checks()]
    assert {check.absent for check in self_check.checks() if check.name in ("cpu", "cuda", "triton")} == {why}
    assert sum("on reference" in name for name in names) == len(backends.OPS)
