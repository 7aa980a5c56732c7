"""Larger models that begin as the function of a smaller one.

A new channel is computed, and nothing that was there before reads it: its outgoing weights are 0, its incoming ones are
as initialised. A new gated layer with a residual gives ``tanh(0) sigmoid(b) + h = h``, and a new step of the prior
shifts and scales by nothing. Source: Chen et al. 2016 (Net2Net), arXiv 1511.05641, with weights of 0 for the new
channels in place of copies, so that no two channels are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..layers import GatedMaskedConv2d
from .options import Options, chosen
from .rules import declared
from .vlae import VLAE

__all__ = ["GROWABLE", "check_growth", "copy_weights", "grow"]

GROWABLE = ("hidden_dim", "encoder_hidden", "n_layers", "flow_steps")  # options that may be larger
_FREE = ("backend", "weight_norm")  # no weight hangs on the one; encoder_norm says what the other does
_OF_DECODER = ("hidden_dim", "n_layers")
_GROWN_DECODERS = ("gated",)


def grow(model: VLAE, **larger: int) -> VLAE:
    """A larger model that computes what `model` computes, to rounding, and whose every weight can be trained.

    Args:
        larger: hidden_dim, the channels of the decoder, and of the encoder where that has no encoder_hidden of its own;
            encoder_hidden, those of the encoder; n_layers, with gated layers behind those that are there, for a decoder
            with a residual; flow_steps of the prior, with steps behind those that are there.

    Incoming weights of new channels are drawn from torch's global generator. The decoder must be ``gated`` where it is
    to grow; an encoder of any kind grows. A deeper decoder has a larger window.

    Raises:
        ValueError: an option is no larger one, is another than those above, or the model's kind cannot grow so.

    >>> small = VLAE(latent_dim=4, hidden_dim=8, n_layers=1, residual=True)
    >>> large = grow(small, hidden_dim=12, n_layers=2)
    >>> x, z = torch.rand(2, 1, 28, 28).round(), torch.randn(2, 4)
    >>> torch.allclose(small.decoder(x, z), large.decoder(x, z), atol=1e-5)
    True
    """
    wanted = chosen(**(model.config | larger))
    check_growth(Options(**model.config), wanted)
    made = VLAE(**wanted.config())
    like = next(model.parameters())
    made.to(device=like.device, dtype=like.dtype).train(model.training)
    copy_weights(model, made)
    return made


@torch.no_grad()
def copy_weights(model: VLAE, into: VLAE) -> None:
    """Gives a model of the same options, or of larger ones as `grow` takes them, the function of `model`.

    Raises:
        ValueError: as in `grow`, and where the two are made of other parts. `into` is as it was then.
    """
    check_growth(Options(**model.config), Options(**into.config))
    old, new = model.state_dict(), into.state_dict()
    fresh = [name for name in new if name not in old and _is_fresh(name, model)]
    _check_parts(old, {name: tensor for name, tensor in new.items() if name not in fresh})
    gated = [layer for layer in into.modules() if isinstance(layer, GatedMaskedConv2d)]
    halved = {id(part) for layer in gated for part in (layer, layer.cond)}
    for name, tensor in old.items():
        owner = into.get_submodule(name.rpartition(".")[0])
        _place(tensor, new[name], halved=id(owner) in halved)
    for name in fresh:
        if name.startswith("decoder."):
            new[name][: len(new[name]) // 2] = 0  # the half under tanh


def _is_fresh(name: str, model: VLAE) -> bool:
    """True of a tensor of a layer, or of a step of the prior, that the smaller model does not have."""
    for prefix, count in (("decoder.decoder_layers.", "n_layers"), ("prior.steps.", "flow_steps")):
        if name.startswith(prefix):
            number = name.removeprefix(prefix).partition(".")[0]
            return number.isdecimal() and int(number) >= model.config[count]
    return False


def _place(old: Tensor, new: Tensor, *, halved: bool) -> None:
    """Copies a tensor of the smaller model to its channels in the larger one: the first, or the first of each half."""
    if old.shape == new.shape:
        new.copy_(old)
        return
    rows = torch.arange(len(old), device=new.device)
    if halved:
        rows[len(old) // 2 :] += (len(new) - len(old)) // 2
    block = new.new_zeros(len(old), *new.shape[1:])  # the weights of new channels are 0
    if old.dim() > 1:
        block[:, : old.shape[1]] = old
    else:
        block.copy_(old)
    new[rows] = block


def check_growth(before: Options, after: Options) -> None:
    """Raises ValueError where options after are neither those of before nor larger ones that can grow."""
    changed = {name: (_value(before, name), _value(after, name)) for name in declared(Options)}
    changed = {name: (old, new) for name, (old, new) in changed.items() if old != new and name not in _FREE}
    for name, (old, new) in changed.items():
        if name in GROWABLE and new < old:
            raise ValueError(f"grow: {name} must be at least that of the model to start from, {old}, got {new}")
        if why := _cannot(name, before):
            raise ValueError(f"grow: {name} must be that of the model to start from, {old!r}, {why}, got {new!r}")


def _cannot(name: str, options: Options) -> str | None:
    """Why a model of these options cannot grow so; None where it can."""
    if name not in GROWABLE:
        return f"since only {', '.join(GROWABLE)} can grow"
    if name in _OF_DECODER and options.decoder not in _GROWN_DECODERS:
        return f"since of the decoders only {', '.join(_GROWN_DECODERS)} can grow, and this one is {options.decoder!r}"
    if name == "n_layers" and not options.residual:
        return "where the decoder has no residual, since a new layer could not pass its input on"
    if name == "n_layers" and options.receptive_field is not None:
        return f"where receptive_field {options.receptive_field} decides every layer's kernel"
    if name == "flow_steps" and options.posterior == "iaf":
        return "where posterior is 'iaf', which has as many steps, of which a new one would change z"
    return None


def _value(options: Options, name: str) -> Any:
    """An option; the channels of an encoder that has none of its own are those of the decoder."""
    value = getattr(options, name)
    return options.hidden_dim if name == "encoder_hidden" and value is None else value


def _check_parts(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Raises ValueError where tensors of the larger model are not those of the smaller one, with more channels."""
    for name in [*old, *(name for name in new if name not in old)]:
        found, wanted = (tuple(of[name].shape) if name in of else None for of in (new, old))
        fits = found is not None and wanted is not None and len(found) == len(wanted) and found[2:] == wanted[2:]
        if not fits or any(a < b for a, b in zip(found or (), wanted or (), strict=True)):
            raise ValueError(f"grow: {name} must be {wanted} or larger, as in the model to start from, got {found}")
