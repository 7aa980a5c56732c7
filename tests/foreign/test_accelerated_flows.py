"""Flows of zuko, nflows and normflows in a model that is given to `accelerate`: with the rest, and taken back so."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from cases.foreign import ProductMaskedConv, is_fast
from conftest import require
from test_accelerated import made
from torch import Tensor, nn

import vlae_fast as vf


def with_flow(library: str) -> nn.Module:
    """A model with a flow of another library beside a masked convolution."""
    if library == "zuko":
        flow = pytest.importorskip("zuko").flows.MAF(5, transforms=2, hidden_features=(32, 32))
    elif library == "nflows":
        transforms = pytest.importorskip("nflows.transforms")
        flow = transforms.MaskedAffineAutoregressiveTransform(5, 32)
    else:
        flow = pytest.importorskip("normflows").flows.MaskedAffineAutoregressive(5, 32)
    return nn.ModuleDict({"prior": flow, "conv": ProductMaskedConv("A", 1, 2, 3, padding=1)})


def both_ways(flow: Any, x: Tensor) -> list[Tensor]:
    if hasattr(flow, "inverse"):
        return [*flow(x), *flow.inverse(x)]
    transform = flow().transform
    return [transform(x), flow().log_prob(x), transform.inv(x)]


@pytest.mark.parametrize(("library", "flows"), [("zuko", 2), ("nflows", 1), ("normflows", 1)])
def test_flows_are_accelerated_with_the_rest(library: str, flows: int) -> None:
    model, x = with_flow(library), torch.randn(7, 5)
    want = both_ways(model["prior"], x)
    report = vf.accelerate(model)
    inverses = [row for row in report.rows if (row.now or "").startswith("made_inverse")]
    assert len(inverses) == flows and {row.why for row in inverses} == {"its inverse"}
    assert len(report.replaced) == len(report.rows) > flows + 1, str(report)
    assert str(report).count("made_inverse, ") == flows
    torch.testing.assert_close(both_ways(model["prior"], x), want, rtol=1e-4, atol=1e-4)

    again = vf.accelerate(model)
    assert not again.replaced and set(again.left_alone.values()) == {"accelerated already"}
    assert {row.reason for row in vf.accelerate_flows(model)} == {"was so before"}

    other = copy.deepcopy(model)
    assert vf.restore_flows(model) == flows
    report.undo()
    report.undo()
    assert not is_fast(model) and vf.restore_flows(model) == 0
    for a, b in zip(both_ways(model["prior"], x), want, strict=True):
        assert a.equal(b)
    vf.accelerate(other).undo()
    assert not is_fast(other) and vf.restore_flows(other) == 0


def test_flows_that_are_left_alone_say_why() -> None:
    flow = pytest.importorskip("zuko").flows.NSF(5, transforms=1)
    report = vf.accelerate(flow)
    assert "must be MonotonicAffineTransform" in report.left_alone["transform.transforms.0"]
    assert report.replaced == [f"transform.transforms.0.hyper.{i}" for i in (0, 2, 4)]
    report.undo()


def test_a_flow_that_cannot_be_looked_at_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = pytest.importorskip("zuko").flows.MaskedAutoregressiveTransform(5)
    monkeypatch.delattr(flow, "univariate")
    assert "to look at it raises AttributeError" in vf.accelerate(flow).left_alone[""]


def test_a_named_backend_that_has_no_inverse_changes_nothing() -> None:
    model = nn.ModuleList([made(), pytest.importorskip("zuko").flows.MaskedAutoregressiveTransform(5).double()])
    with pytest.raises(RuntimeError, match="made_inverse: backend 'cpu' cannot run this"):
        vf.accelerate(model, backend=require("cpu"))
    assert not is_fast(model)


@pytest.mark.slow
def test_no_library_of_flows_is_imported() -> None:
    code = (
        "import sys, torch, vlae_fast; vlae_fast.accelerate(torch.nn.Sequential(torch.nn.Linear(2, 2)))\n"
        "print({'zuko', 'nflows', 'normflows'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout == "set()\n"
