"""Flows of zuko, nflows and normflows, each made and inverted as its users do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

D = 7


def zuko_flow(**options: Any) -> nn.Module:
    return pytest.importorskip("zuko").flows.MAF(D, transforms=2, **{"hidden_features": (20, 30), **options})


def zuko_step(**options: Any) -> nn.Module:
    return pytest.importorskip("zuko").flows.MaskedAutoregressiveTransform(D, **{"hidden_features": (20,), **options})


def nflows_step(**options: Any) -> nn.Module:
    transforms = pytest.importorskip("nflows.transforms")
    return transforms.MaskedAffineAutoregressiveTransform(D, 20, **{"use_residual_blocks": False, **options})


def normflows_step(**options: Any) -> nn.Module:
    flows = pytest.importorskip("normflows").flows
    return flows.MaskedAffineAutoregressive(D, 20, **{"use_residual_blocks": False, **options})


def inverse(flow: nn.Module, y: Tensor, context: Tensor | None) -> list[Tensor]:
    """By the call that the library's users write."""
    if hasattr(flow, "inverse"):
        return list(flow.inverse(y, context))
    transform = flow(context)
    return list(getattr(transform, "transform", transform).inv.call_and_ladj(y))


def context_of(name: str) -> Tensor | None:
    return torch.randn(5, 3) if name.endswith("context") else None


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "zuko": zuko_flow,
    "zuko-context": lambda: zuko_flow(context=3),
    "zuko-random_order": lambda: zuko_flow(randperm=True, activation=nn.Tanh),
    "zuko-wide": lambda: zuko_flow(hidden_features=(3, 2), activation=nn.ELU),
    "zuko-one_layer": lambda: zuko_step(hidden_features=()),
    "zuko-order-context": lambda: zuko_step(order=torch.tensor([3, 1, 0, 6, 2, 5, 4]), context=3),
    "zuko-coupling": lambda: zuko_step(passes=2),
    "zuko-graph": lambda: zuko_step(adjacency=torch.eye(D).roll(-1, 1).tril().add(torch.eye(D)).bool()),
    "nflows": nflows_step,
    "nflows-context": lambda: nflows_step(context_features=3, activation=F.elu),
    "nflows-random_mask": lambda: nflows_step(random_mask=True, activation=torch.tanh, num_blocks=3),
    "nflows-no_blocks": lambda: nflows_step(num_blocks=0),
    "nflows-residual": lambda: nflows_step(use_residual_blocks=True),
    "nflows-residual-no_blocks": lambda: nflows_step(use_residual_blocks=True, num_blocks=0),
    "normflows-residual": lambda: normflows_step(use_residual_blocks=True),
    "normflows-no_blocks": lambda: normflows_step(num_blocks=0),
    "normflows": normflows_step,
    "normflows-random_mask": lambda: normflows_step(random_mask=True, activation=nn.ELU()),
    "normflows-one_block": lambda: normflows_step(num_blocks=1),
}


def random_flow(name: str) -> nn.Module:
    """With weights that are none of the small first ones."""
    flow = MAKERS[name]()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    return flow
