"""The masked networks of zuko, nflows and normflows, read as arguments of `made_inverse`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.hooked_weight import weight_and_bias
from .chains import Layer, folded, unrolled
from .structure import NotCoveredError, common_activation, structure_of


def live_layer(layer: Any, exact: bool = False) -> Layer:
    """The weight, zero where its mask is dead, and the bias; ``exact``: the op leaves these out itself."""
    weight, bias = weight_and_bias(layer)
    return weight if exact else weight * layer.mask, bias


class Network:
    """How the network of a flow, a module, becomes layers, degrees and cond.

    It refers to no tensor of the flow's: parameters may be trained, loaded and moved.
    """

    scale: str  # of the op
    shift_at: int  # which of the two parameters of a dimension, which lie side by side, is the shift

    def __init__(self, flow: Any) -> None:
        self.activation = self.check(flow)
        *first, last = self.masks(flow)
        self.structure = structure_of([*first, self.tiled(last)])
        self.dim = len(self.structure.degrees[0])

    def check(self, flow: Any) -> str:
        """The activation's name. Raises NotCoveredError where the network is no plain chain of masked layers."""
        raise NotImplementedError

    def masks(self, flow: Any) -> list[Tensor]:
        raise NotImplementedError

    def layers(self, flow: Any, exact: Sequence[bool]) -> list[Layer]:
        """Weights that are zero where they are dead, but for the layers that are ``exact``."""
        raise NotImplementedError

    def cond(self, flow: Any, context: Tensor) -> Tensor:
        """The context's part of the first pre-activation, ``[..., H]``."""
        raise NotImplementedError

    def context_dim(self, flow: Any) -> int:
        return 0

    def arguments(self, flow: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases of `made_inverse`."""
        *first, last = self.layers(flow, self.structure.exact)
        weights, biases = zip(*first, tuple(map(self.tiled, last)), strict=True)
        return list(weights), list(biases)

    def tiled(self, rows: Tensor) -> Tensor:
        """Rows that lie side by side by dimension, put apart: shifts, then scales."""
        pairs = rows.unflatten(0, (-1, 2))
        return torch.cat([pairs[:, self.shift_at], pairs[:, 1 - self.shift_at]])


class ZukoNetwork(Network):
    """`zuko.flows.MaskedAutoregressiveTransform`, whose MaskedMLP takes the context as further inputs."""

    scale, shift_at = "clipped_exp", 0

    def check(self, flow: Any) -> str:
        univariate = flow.univariate
        name = getattr(univariate, "__name__", repr(univariate))
        if name != "MonotonicAffineTransform":
            raise NotCoveredError(f"its univariate must be MonotonicAffineTransform, got {name}")
        linear, between = list(flow.hyper)[::2], list(flow.hyper)[1::2]
        wrong = [layer for layer in linear if not isinstance(layer, nn.Linear) or not hasattr(layer, "mask")]
        wrong += [layer for layer in between if list(layer.parameters())]
        if wrong:
            name = type(wrong[0]).__name__
            raise NotCoveredError(f"its layers must be masked linear ones and activations, got {name}")
        return common_activation(between)

    def masks(self, flow: Any) -> list[Tensor]:
        first, *rest = (layer.mask for layer in list(flow.hyper)[::2])
        return [first[:, : self.features(flow)], *rest]

    def features(self, flow: Any) -> int:
        return len(flow.hyper[-1].mask) // 2

    def context_dim(self, flow: Any) -> int:
        return flow.hyper[0].in_features - self.features(flow)

    def layers(self, flow: Any, exact: Sequence[bool]) -> list[Layer]:
        linear = list(flow.hyper)[::2]
        (weight, bias), *rest = (live_layer(layer, e) for layer, e in zip(linear, exact, strict=True))
        return [(weight[:, : self.dim], bias), *rest]

    def cond(self, flow: Any, context: Tensor) -> Tensor:
        return F.linear(context, live_layer(flow.hyper[0])[0][:, self.dim :])


class NflowsNetwork(Network):
    """`nflows.transforms.MaskedAffineAutoregressiveTransform`."""

    scale, shift_at = "softplus", 1

    def check(self, flow: Any) -> str:
        blocks, made = self.affine_blocks(flow), flow.autoregressive_net
        if flow._epsilon != 1e-3:
            raise NotCoveredError(f"its _epsilon must be 0.001, got {flow._epsilon}")
        self.residual = made.use_residual_blocks
        first = [] if self.residual else [made.activation]
        return self.checked(common_activation([*first, *(block.activation for block in blocks)]), flow)

    def checked(self, activation: str, flow: Any) -> str:
        if self.residual and (activation != "relu" or self.context_dim(flow)):
            raise NotCoveredError("its residual blocks must be of relu and without a context")
        return activation

    def affine_blocks(self, flow: Any) -> list[Any]:
        """The blocks of an affine flow, which must be masked layers and activations alone."""
        if not hasattr(flow, "_unconstrained_scale_and_shift"):
            raise NotCoveredError("its transform must be affine")
        blocks = list(flow.autoregressive_net.blocks)
        for block in blocks:
            if any(isinstance(part, nn.BatchNorm1d) for part in block.modules()):
                raise NotCoveredError("its blocks must be without batch normalisation")
            if block.dropout.p > 0:
                raise NotCoveredError(f"its blocks must be without dropout, got p = {block.dropout.p}")
        return blocks

    def linear_layers(self, flow: Any) -> list[Any]:
        made = flow.autoregressive_net
        inner = [layers for block in made.blocks for layers in getattr(block, "linear_layers", None) or [block.linear]]
        return [made.initial_layer, *inner, made.final_layer]

    def chain(self, layers: list[Layer]) -> list[Layer]:
        """The network's layers as some with an activation between any two."""
        return unrolled(layers) if self.residual else layers

    def masks(self, flow: Any) -> list[Tensor]:
        masks = [layer.mask.float() for layer in self.linear_layers(flow)]
        return [weight for weight, _ in self.chain([(mask, mask[:, 0]) for mask in masks])]

    def layers(self, flow: Any, exact: Sequence[bool]) -> list[Layer]:
        linear = self.linear_layers(flow)
        if not self.own_layers:
            exact = [False] * len(linear)
        return self.chain([live_layer(layer, e) for layer, e in zip(linear, exact, strict=True)])

    @property
    def own_layers(self) -> bool:
        """True where the chain's layers are the network's own."""
        return not self.residual

    def context_dim(self, flow: Any) -> int:
        layer = getattr(flow.autoregressive_net, "context_layer", None)
        return 0 if layer is None else layer.in_features

    def cond(self, flow: Any, context: Tensor) -> Tensor:
        made = flow.autoregressive_net
        return made.activation(made.context_layer(context))


class NormflowsNetwork(NflowsNetwork):
    """`normflows.flows.MaskedAffineAutoregressive`, where no activation follows the first layer."""

    scale = "sigmoid"

    def check(self, flow: Any) -> str:
        blocks = self.affine_blocks(flow)
        before = flow.autoregressive_net.preprocessing
        if not isinstance(before, nn.Identity):
            raise NotCoveredError(f"its preprocessing must be none, got {type(before).__name__}")
        if self.context_dim(flow):
            raise NotCoveredError("it must be without a context")
        self.residual = any(hasattr(block, "linear_layers") for block in blocks)
        return self.checked(common_activation(block.activation for block in blocks), flow)

    def chain(self, layers: list[Layer]) -> list[Layer]:
        return unrolled(layers) if self.residual else folded(layers)

    @property
    def own_layers(self) -> bool:
        return False
