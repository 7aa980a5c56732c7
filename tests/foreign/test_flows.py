"""Flows of other libraries, given the incremental inverse: the real packages, against their own D passes."""

import copy
import io
import pickle
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from cases.flows import MAKERS, D, context_of, inverse, nflows_step, normflows_step, random_flow, zuko_flow, zuko_step
from torch import Tensor, nn

from vlae_fast import activations
from vlae_fast.foreign.flows import accelerate_flows, restore_flows
from vlae_fast.foreign.flows.structure import NotCoveredError, structure_of
from vlae_fast.masks import linear_mask, made_degrees


@pytest.mark.parametrize("name", MAKERS)
def test_same_call_and_same_numbers(name: str) -> None:
    flow, y, context = random_flow(name), torch.randn(5, D), context_of(name)
    want = inverse(flow, y, context)
    before = {name: (id(p), p.clone()) for name, p in flow.named_parameters()}
    rows = accelerate_flows(flow)
    assert rows and all(row.replaced for row in rows), rows
    for a, b in zip(inverse(flow, y, context), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert all(id(p) == before[n][0] and p.equal(before[n][1]) for n, p in flow.named_parameters())
    assert [row.reason for row in accelerate_flows(flow)] == ["was so before"] * len(rows)
    assert restore_flows(flow) == len(rows)
    assert all(a.equal(b) for a, b in zip(inverse(flow, y, context), want, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_gradients(name: str) -> None:
    flow, y, context = random_flow(name), torch.randn(5, D, requires_grad=True), context_of(name)
    leaves = [y, *flow.parameters()]

    def gradients() -> list[Tensor]:
        outputs = inverse(flow, y, context)
        loss = outputs[0].square().sum() + outputs[1].square().sum()
        return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))

    want = gradients()
    accelerate_flows(flow)
    for a, b in zip(gradients(), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().clamp(min=1).item())


@pytest.mark.parametrize("name", ["zuko-context", "nflows", "normflows"])
def test_copies_and_pickles_follow_their_own_parameters(name: str) -> None:
    flow, y, context = random_flow(name), torch.randn(5, D), context_of(name)
    accelerate_flows(flow)
    buffer = io.BytesIO()
    torch.save(flow, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), torch.load(buffer, weights_only=False)):
        assert inverse(other, y, context)[0].equal(inverse(flow, y, context)[0])
        for parameter in other.parameters():
            parameter.data.mul_(1.5)
        got = inverse(other, y, context)[0]
        assert not torch.allclose(got, inverse(flow, y, context)[0], atol=1e-3)
        assert restore_flows(other) == len(accelerate_flows(flow))
        torch.testing.assert_close(got, inverse(other, y, context)[0], rtol=1e-4, atol=1e-4)
        other.load_state_dict(flow.state_dict())


def test_shapes_of_zuko_broadcast() -> None:
    flow, y = zuko_flow(context=3), torch.randn(4, 1, D)
    context = torch.randn(6, 3)
    want = flow(context).transform.inv(y)
    accelerate_flows(flow)
    got = flow(context).transform.inv(y)
    assert got.shape == (4, 6, D)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert flow(context[0]).transform.inv(y[0, 0]).shape == (D,)
    assert flow(context).sample((2,)).shape == (2, 6, D)


def test_double_precision() -> None:
    flow, y = zuko_flow().double(), torch.randn(5, D).double()
    want = flow().transform.inv(y)
    accelerate_flows(flow)
    torch.testing.assert_close(flow().transform.inv(y), want)


KNOWN = ", ".join(activations.names("made_inverse"))
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "zuko-spline": (lambda: pytest.importorskip("zuko").flows.NSF(D, transforms=1), "must be MonotonicAffineTransform"),
    "zuko-residual": (lambda: zuko_flow(residual=True), "must be masked linear ones and activations, got Residual"),
    "zuko-activation": (lambda: zuko_flow(activation=nn.SiLU), f"must be one of {KNOWN}, got SiLU"),
    "nflows-spline": (
        lambda: pytest.importorskip("nflows.transforms").MaskedPiecewiseLinearAutoregressiveTransform(4, D, 20),
        "must be affine",
    ),
    "nflows-residual-context": (
        lambda: nflows_step(use_residual_blocks=True, context_features=3),
        "must be of relu and without a context",
    ),
    "nflows-residual-tanh": (
        lambda: nflows_step(use_residual_blocks=True, activation=torch.tanh),
        "must be of relu and without a context",
    ),
    "nflows-dropout": (lambda: nflows_step(dropout_probability=0.5), "without dropout, got p = 0.5"),
    "nflows-batch_norm": (lambda: nflows_step(use_batch_norm=True), "without batch normalisation"),
    "nflows-activation": (lambda: nflows_step(num_blocks=0, activation=F.gelu), f"{KNOWN}, got gelu"),
    "nflows-meta": (lambda: nflows_step().to("meta"), "on meta"),
    "normflows-context": (
        lambda: normflows_step(use_residual_blocks=True, context_features=3),
        "must be without a context",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_covered_is_left_alone(make: Callable[[], nn.Module], reason: str) -> None:
    flow = make()
    rows = accelerate_flows(flow)
    assert rows and not any(row.replaced for row in rows)
    assert all(reason in row.reason and reason in str(row) for row in rows), rows
    assert restore_flows(flow) == 0


def test_a_flow_that_computes_something_else_is_left_alone() -> None:
    flow = nflows_step()
    plain = flow._elementwise_forward
    flow._elementwise_forward = lambda x, params: plain(x, 1.001 * params)
    (row,) = accelerate_flows(flow)
    assert not row.replaced and "forward direction does not undo the inverse: eps differs by" in row.reason


def test_a_flow_without_a_finite_inverse_is_left_alone() -> None:
    flow = nflows_step()
    nn.init.constant_(flow.autoregressive_net.final_layer.bias, torch.inf)
    (row,) = accelerate_flows(flow)
    assert not row.replaced and "inverse is not finite at random input" in row.reason


def test_paths_of_a_larger_model() -> None:
    model = nn.ModuleDict({"prior": nn.ModuleList([nflows_step(), nflows_step(dropout_probability=0.1)])})
    assert [(row.path, row.replaced) for row in accelerate_flows(model)] == [("prior.0", True), ("prior.1", False)]
    assert accelerate_flows(nn.Linear(2, 2)) == []


def test_a_backend_that_nobody_knows_is_refused_where_there_is_no_flow_too() -> None:
    with pytest.raises(ValueError, match=r"accelerate_flows: backend must be one of auto, .*reference, got 'fastest'"):
        accelerate_flows(nn.Linear(2, 2), backend="fastest")


@pytest.mark.parametrize("order", [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2]])
def test_structure_finds_degrees_that_say_the_same(order: list[int]) -> None:
    degrees = made_degrees(4, (9, 5), 2)
    degrees[0], degrees[-1] = torch.tensor(order), (torch.tensor(order) - 1).repeat(2)
    masks = [linear_mask(i, o) for i, o in pairwise(degrees)]
    found = structure_of(masks)
    assert found.exact == (True, True, True) and found.degrees[0].tolist() == order


def test_structure_refuses_a_circle() -> None:
    with pytest.raises(NotCoveredError, match="not autoregressive: dimension 0 depends on itself"):
        structure_of([torch.tensor([[0, 1], [1, 0]])])


def test_an_activation_that_is_cut_off_far_away_is_left_alone() -> None:
    (row,) = accelerate_flows(zuko_step(activation=nn.ReLU6))
    assert not row.replaced and "got ReLU6" in row.reason


def test_batch_zero() -> None:
    flow = zuko_flow()
    accelerate_flows(flow)
    assert flow().transform.inv(torch.randn(0, D)).shape == (0, D)


def test_a_state_dict_with_other_masks() -> None:
    torch.manual_seed(1)
    flow, other = zuko_flow(randperm=True), zuko_flow(randperm=True)
    accelerate_flows(flow)
    flow.load_state_dict(other.state_dict())
    y = torch.randn(4, D)
    torch.testing.assert_close(flow().transform.inv(y), other().transform.inv(y), rtol=1e-4, atol=1e-4)


def test_masks_that_are_written_and_layers_that_are_replaced() -> None:
    flow, y = zuko_flow(), torch.randn(4, D)
    plain = copy.deepcopy(flow)
    accelerate_flows(flow)
    flow().transform.inv(y)
    for changed in (flow, plain):
        next(part.mask for part in changed.modules() if hasattr(part, "mask")).zero_()
    torch.testing.assert_close(flow().transform.inv(y), plain().transform.inv(y), rtol=1e-4, atol=1e-4)
    other = zuko_flow(activation=nn.ELU)
    for changed in (flow, plain):
        for to, part in zip(changed.modules(), other.modules(), strict=True):
            if hasattr(part, "hyper"):
                to.hyper = copy.deepcopy(part.hyper)
    torch.testing.assert_close(flow().transform.inv(y), plain().transform.inv(y), rtol=1e-4, atol=1e-4)


def test_a_flow_that_is_no_longer_covered_has_its_own_inverse_back() -> None:
    flow, y = zuko_step(), torch.randn(4, D)
    accelerate_flows(flow)
    for part in flow.modules():
        if hasattr(part, "mask"):
            part.mask.fill_(True)
    with pytest.warns(
        UserWarning, match=r"mask of a \w+ has changed, and the flow has its own inverse back: .* depends"
    ):
        got = flow().inv(y)
    assert restore_flows(flow) == 0
    assert got.equal(flow().inv(y))
