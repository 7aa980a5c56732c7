"""Evaluation by several processes, and in several goes: the figures are those of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.processes import ended, results, start
from cases.runs import halves, new_model

from vlae_fast import VLAE, evaluation

pytest.importorskip("tqdm")


def model() -> VLAE:
    return new_model(posterior="iaf")


def figures(rank: int, keep: str | None = None, shared: bool = True) -> list[Any]:
    """Everything that `evaluate` shows, in numbers that pickle compares."""
    how: Any = {"seed": 4, "shared": shared}
    terms = evaluation.per_image(model(), halves(), "train", batch_size=7, **how)
    codes = evaluation.encode(model(), halves(), "train", batch_size=7, **how)
    nll = evaluation.importance_nll(model(), halves(), samples=5, batch_size=3, keep=keep, **how)
    bound = evaluation.importance_bound(model(), halves(), samples=2, batch_size=6, limit=8, **how)
    return [*(t.tolist() for t in (*terms, *codes, nll)), tuple(bound)]


def test_figures_are_those_of_one_process_to_the_last_bit() -> None:
    (expected,) = results(figures, 1, None, False)
    assert results(figures, 1) == [expected]
    assert results(figures, 3) == [expected] * 3


def interrupted(rank: int, keep: str) -> None:
    """Evaluates until this process has seen three images."""
    seen, log_prior = [0], VLAE.log_prior

    def counted(self: VLAE, z: torch.Tensor) -> torch.Tensor:
        seen[0] += 1
        if seen[0] > 3 * 2:  # passes an image
            raise KeyboardInterrupt
        return log_prior(self, z)

    VLAE.log_prior = counted  # type: ignore[method-assign]
    evaluation.importance_nll(model(), halves(), samples=5, batch_size=3, seed=4, keep=keep, shared=True)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As the processes have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_what_is_known_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluation.importance_nll(model(), halves(), samples=5, batch_size=3, seed=4)
    found = ended(start(interrupted, 2, str(tmp_path)))
    assert all(isinstance(one.value, KeyboardInterrupt) for one in found), found
    assert [(tmp_path / f"part-{rank}.bin").stat().st_size for rank in range(2)] == [48, 48]
    with (tmp_path / "part-1.bin").open("ab") as part:
        part.write(b"of a record that was not finished"[:7])
    calls, log_prior = [0], VLAE.log_prior

    def counted(self: VLAE, z: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return log_prior(self, z)

    monkeypatch.setattr(VLAE, "log_prior", counted)
    how: Any = {"samples": 5, "batch_size": 3, "seed": 4, "keep": tmp_path}
    assert evaluation.importance_nll(model(), halves(), **how).equal(whole)
    assert calls[0] == 2 * (len(whole) - 6)
    assert evaluation.importance_nll(model(), halves(), **how).equal(whole) and calls[0] == 2 * (len(whole) - 6)
    with pytest.raises(ValueError, match=r"keep: .* has figures of another seed, 4, got 5"):
        evaluation.importance_nll(model(), halves(), **how | {"seed": 5})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"keep: .* must be empty, or hold figures that were begun"):
        evaluation.importance_nll(model(), halves(), **how | {"keep": tmp_path / "other"})


def test_the_partial_figure_and_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    nll = evaluation.importance_nll(model(), halves(), samples=5, batch_size=3, seed=4, progress=True)
    error = nll.std(correction=0) / len(nll) ** 0.5
    assert f"NLL at most {nll.mean():.2f} +- {error:.2f}" in capsys.readouterr().err
