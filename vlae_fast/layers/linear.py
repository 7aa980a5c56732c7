"""Masked linear layers and the MADE built of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from .. import activations, reference
from ..arguments import check_tensor, whole
from ..masks import linear_mask, made_degrees, same_mask
from ..ops.made import made
from ..ops.masked_linear import masked_linear
from .hooked_weight import only_computes


class MaskedLinear(nn.Linear):
    """``activation(linear(x, weight * M, bias))`` with ``M[o, i] = out_degrees[o] >= in_degrees[i]``.

    Args:
        in_degrees, out_degrees: integer ``[I]`` and ``[O]``. Sorted degrees make M block-triangular: what is fast.
        bias: adds one, ``[O]``. activation: ``none``, ``relu``, ``elu``, ``tanh``.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Shapes: x ``[B, I]`` -> ``[B, O]``. A ``mask`` entry in an incoming state_dict is accepted when it is M or
    broadcasts to it.

    >>> layer = MaskedLinear(torch.arange(3), torch.arange(3))     # lower-triangular
    >>> layer(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        in_degrees: Tensor,
        out_degrees: Tensor,
        bias: bool = True,
        *,
        activation: str = "none",
        backend: str = "auto",
    ) -> None:
        for name, degrees in (("in_degrees", in_degrees), ("out_degrees", out_degrees)):
            check_tensor("MaskedLinear", name, degrees)
            if degrees.dim() != 1 or degrees.is_floating_point() or degrees.is_meta:
                raise ValueError(
                    f"MaskedLinear: {name} must be 1-D integers, not on meta, got {degrees.dtype} "
                    f"{tuple(degrees.shape)} on {degrees.device}"
                )
        activations.check("MaskedLinear", "masked_linear", activation)
        super().__init__(len(in_degrees), len(out_degrees), bias)
        # No buffers: code that averages a model's buffers would average degrees too, and outputs would see themselves.
        self._degrees = {"in": in_degrees.tolist(), "out": out_degrees.tolist()}
        self._made: dict[torch.device, dict[str, Tensor]] = {}
        self._degrees_beside(self.weight)
        self.activation, self.backend = activation, backend

    @property
    def in_degrees(self) -> Tensor:
        """int64 ``[I]``, on the device of the weight."""
        return self._degrees_beside(self.weight)["in"]

    @property
    def out_degrees(self) -> Tensor:
        """int64 ``[O]``, on the device of the weight."""
        return self._degrees_beside(self.weight)["out"]

    def _degrees_beside(self, weight: Tensor) -> dict[str, Tensor]:
        """On its device. The same tensors in every call: kernels keep with them what they made of them."""
        fake, device = isinstance(weight, FakeTensor), weight.device  # then so are these, for as long as that
        found = None if fake else self._made.get(device)
        if found is None:
            with torch.inference_mode(False):  # else no gradient could be taken with them
                found = {name: torch.tensor(values, device=device) for name, values in self._degrees.items()}
            if not fake:
                self._made[device] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made on a device: `torch.load` may move that, and not what it is filed under."""
        return {**super().__getstate__(), "_made": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_degrees" not in state:  # pickled by an earlier version, which had buffers
            buffers: dict[str, Any] = self._buffers
            self._degrees = {name: buffers.pop(f"{name}_degrees").tolist() for name in ("in", "out")}
            self._made = {}
        self._degrees_beside(self.weight)

    def _apply(self, fn: Any, recurse: bool = True) -> MaskedLinear:
        """Makes the degrees on the new device at once: what compiles or captures a call must find them there."""
        super()._apply(fn, recurse)
        self._degrees_beside(self.weight)
        return self

    @property
    def mask(self) -> Tensor:
        """Boolean ``[O, I]``: True where the weight is alive."""
        return linear_mask(self.in_degrees, self.out_degrees)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, I]`` -> ``[B, O]``."""
        weight = self.weight
        degrees = self._degrees_beside(weight)
        return masked_linear(
            x,
            weight,
            self.bias,
            in_degrees=degrees["in"],
            out_degrees=degrees["out"],
            activation=self.activation,
            backend=self.backend,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        mask = state_dict.pop(f"{prefix}mask", None)
        if mask is not None and not same_mask(mask, self.mask):
            raise ValueError(f"MaskedLinear: {prefix}mask must be out_degrees >= in_degrees, got another mask")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}, backend={self.backend!r}"


def _follows(layer: MaskedLinear, before: MaskedLinear) -> bool:
    """True where a layer reads the units that the one before it computes, on the same backend."""
    own, others = layer._degrees["in"], before._degrees["out"]
    return layer.backend == before.backend and (own is others or own == others)


class MADE(nn.Module):
    """Masked autoencoder: ``out[:, k]`` never sees ``x[:, k % D:]``.

    Args:
        input_dim: D. hidden_dim: units of each hidden layer. output_dim: a multiple of D (two parameters a dimension:
            2 D; ``out[:, :D]`` and ``out[:, D:]`` are then one parameter of every dimension each).
        n_hidden: hidden layers, at least 1. context_dim: channels of an optional context that every unit may see.
        activation: ``relu``, ``elu``, ``tanh``. backend: of every layer.

    Shapes: ``forward(x [B, D], context [B, context_dim] or None) -> [B, output_dim]``.

    All layers run in one call, of `vlae_fast.ops.made`. Where one was replaced, or has a hook or a parametrization,
    they run one by one.

    Source: Germain et al. 2015, arXiv 1502.03509.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        *,
        n_hidden: int = 2,
        context_dim: int = 0,
        activation: str = "relu",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        named = {"n_hidden": n_hidden, "context_dim": context_dim}
        named |= {"input_dim": input_dim, "hidden_dim": hidden_dim, "output_dim": output_dim}
        for name, size in named.items():
            whole("MADE", name, size)
        if input_dim < 1 or output_dim < 1 or output_dim % input_dim:
            raise ValueError(f"MADE: output_dim must be a multiple of input_dim = {input_dim}, got {output_dim}")
        activations.check("MADE", "made_inverse", activation)
        if n_hidden < 1 or hidden_dim < 1:
            raise ValueError(f"MADE: n_hidden and hidden_dim must be positive, got {n_hidden} and {hidden_dim}")
        self.input_dim, self.activation, self.context_dim = input_dim, activation, context_dim
        cpu = torch.device("cpu")
        with _disable_current_modes():  # real values, also where the parameters are fake or on the meta device
            degrees = made_degrees(input_dim, (hidden_dim,) * n_hidden, output_dim // input_dim, device=cpu)
        # the first activation waits for the context, so it is not fused where there is one
        fused = ["none" if context_dim and i == 0 else activation for i in range(n_hidden)] + ["none"]
        self.layers = nn.ModuleList(
            MaskedLinear(i, o, activation=act, backend=backend)
            for i, o, act in zip(degrees[:-1], degrees[1:], fused, strict=True)
        )
        for before, layer in pairwise(self.masked_layers()):
            layer._degrees["in"] = before._degrees["out"]  # one list: a look tells that they go together
        self.context = nn.Linear(context_dim, hidden_dim, bias=False) if context_dim else None

    @property
    def degrees(self) -> list[Tensor]:
        """Degrees of the inputs, the hidden layers and the outputs."""
        layers = self.masked_layers()
        return [layers[0].in_degrees, *(layer.out_degrees for layer in layers)]

    def masked_layers(self) -> list[MaskedLinear]:
        """Its layers, from the inputs on: what `vlae_fast.ops.made_inverse` is given."""
        return [layer for layer in self.layers if isinstance(layer, MaskedLinear)]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``[B, D]``, and ``[B, context_dim]`` where there is a context -> ``[B, output_dim]``."""
        if x.dim() != 2 or x.shape[1] != self.input_dim:
            raise ValueError(f"MADE: x must be [B, {self.input_dim}], got {tuple(x.shape)}")
        cond = None if self.context is None else self.project(context)
        layers = tuple(self.layers)
        if self._runs_in_one_call(layers):
            return self._in_one_call(x, cond, layers)
        for i, layer in enumerate(layers):
            x = layer(x)
            if i == 0 and cond is not None:
                x = reference.activate(x + cond, self.activation)
        return x

    def _in_one_call(self, x: Tensor, cond: Tensor | None, layers: tuple[Any, ...]) -> Tensor:
        weights = [layer.weight for layer in layers]
        degrees = [layer._degrees_beside(weight) for layer, weight in zip(layers, weights, strict=True)]
        return made(
            x,
            weights,
            [layer.bias for layer in layers],
            [degrees[0]["in"], *(d["out"] for d in degrees)],
            cond,
            activation=self.activation,
            backend=layers[0].backend,
        )

    def _runs_in_one_call(self, layers: tuple[nn.Module, ...]) -> bool:
        """True where the op computes what the layers would: they are as they were made, and nobody listens to one.

        Replaced layers, subclasses (parametrizations), hooks, a forward of their own, and an activation or a backend
        that one of them has for itself are all respected: the layers then run one by one.
        """
        if not layers:
            return False
        before: MaskedLinear | None = None
        for i, layer in enumerate(layers):
            if not only_computes(layer, MaskedLinear) or layer.bias is None:
                return False
            waits = i + 1 == len(layers) or (i == 0 and self.context is not None)
            if layer.activation != ("none" if waits else self.activation):
                return False
            if before is not None and not _follows(layer, before):
                return False
            before = layer
        return True

    def project(self, context: Tensor | None) -> Tensor:
        """The context's part of the first pre-activation, ``[B, hidden_dim]``."""
        if self.context is None or context is None or context.shape[-1] != self.context_dim:
            got = None if context is None else tuple(context.shape)
            raise ValueError(f"MADE: context must be [B, {self.context_dim}], got {got}")
        return self.context(context)
