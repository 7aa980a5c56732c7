"""How a decoder's output is read as the parameters of its likelihood: which part of it, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical
from torch.utils._pytree import tree_flatten_with_path

from ...plan import Emit
from ...sampling.levels import HERE, NONE, levels_of
from .affine import Affine
from .axes import Axes, Recipe, letters_of
from .probabilities import FARTHEST, is_probability, logit, logit_of
from .writer import Bounded, Writer

_LAYOUTS = tuple(map("".join, permutations("BCKHW")))
_MIXTURE_LAYOUTS = tuple(map("".join, permutations("CKT")))
_EXAMPLES = "BCKHW (the K levels of a channel side by side), BKCHW (as F.cross_entropy takes them), BCHWK or BHWCK"


def check_layout(layout: Any, emit: Emit) -> None:
    """Raises ValueError where a layout is none, or the likelihood has no levels to lay out."""
    if layout is not None and emit.kind == "logistic_mixture":
        if layout not in _MIXTURE_LAYOUTS:
            rule = "layout of a mixture must be an order of C, K, T (T: means, log scales, coefficients)"
            raise ValueError(f"fast_sampler: {rule}: TCK, or CTK as the code of PixelCNN++ has it, got {layout!r}")
        return
    if layout is not None and layout not in _LAYOUTS:
        rule = "layout must be an order of the letters B, C, K, H, W"
        raise ValueError(f"fast_sampler: {rule}: {_EXAMPLES}, or None, got {layout!r}")
    if layout is not None and emit.kind != "categorical":
        raise ValueError(f"fast_sampler: layout is for levels of more than one channel, got {layout!r}")


def pick(result: Any, output: Any, pixels: int) -> Tensor:
    """The tensor of what a forward returned: the entry ``output``, else the only one that fits; pixels: B P H W."""
    if output is not None:
        try:
            result = getattr(result, output) if isinstance(output, str) and hasattr(result, output) else result[output]
        except (LookupError, TypeError) as error:
            got = f"{output!r} of {_entries(result)}"
            raise ValueError(
                f"fast_sampler: output must be an index or a name of what decoder returns, got {got}"
            ) from error
    if isinstance(result, Tensor):
        return result
    if output is None and (own := _of_distribution(result)) is not None:
        return own
    entries = [(p, t) for p, t in tree_flatten_with_path(result)[0] if isinstance(t, Tensor) and t.is_floating_point()]
    fitting = [t for _, t in entries if t.numel() == pixels] or [t for _, t in entries]
    if len(fitting) != 1:
        rule = "output must name one entry of what decoder returns"
        raise ValueError(f"fast_sampler: {rule}, got {output!r} of {_entries(result)}")
    return fitting[0]


def _of_distribution(result: Any) -> Tensor | None:
    """The logits or probabilities that a distribution was made of, or the ``logits`` of anything else."""
    while isinstance(result, Independent):
        result = result.base_dist
    if isinstance(result, OneHotCategorical):
        result = result._categorical
    if isinstance(result, Bernoulli | Categorical):  # the other of both follows from what it was given
        found: Any = result._param
    else:
        found = getattr(result, "logits", None)
    return found if isinstance(found, Tensor) else None


def is_of_logits(result: Any) -> bool | None:
    """True of a Bernoulli that was made of logits, False of probabilities, None of anything else."""
    while isinstance(result, Independent):
        result = result.base_dist
    return vars(result).get("logits") is result._param if isinstance(result, Bernoulli) else None


def check_bernoulli(of_logits: bool | None, of_probabilities: bool) -> None:
    """Raises ValueError where a Bernoulli is made of one and its trace is read as the other."""
    if of_logits is not None and of_logits is of_probabilities:
        got = "a sigmoid as its logits" if of_logits else "probabilities that end in something else"
        _refuse("decoder must make a Bernoulli of logits, or of probabilities that end in a sigmoid or tanh", got)


def _entries(result: Any) -> str:
    """A forward's result as text: each entry's place and shape."""
    entries = tree_flatten_with_path(result)[0]
    spelled = ["".join(map(str, path)) + f" {list(t.shape)}" for path, t in entries if isinstance(t, Tensor)]
    return f"{type(result).__name__} with {', '.join(spelled) or 'no tensor'}"


@dataclass(frozen=True, eq=False)
class Reading:
    """Parameters ``[B, P, H, W]`` from a decoder's output of some axes, and back to what it puts out.

    order: which of the output's channels each parameter is. ends: the function that the output ends in, None for plain
    parameters; levels: over so many neighbouring parameters a softmax goes.
    """

    axes: Axes
    order: Tensor
    ends: str | None
    levels: int

    def own(self, output: Tensor) -> Tensor:
        """``[B, P, H, W]`` of an output, in the order of the parameters."""
        factors = tuple(factor for axis in self.axes for factor in axis)
        rows = output.numel() // prod(n for letter, n in factors if letter != "B")  # B may be joined to others
        read = Recipe(factors, (True,) * len(factors))(output, rows)
        return read[:, self.order.to(read.device)]

    def finished(self, params: Tensor) -> Tensor:
        """The decoder's output for parameters, in their order."""
        if self.ends is None:
            return params
        if self.ends == "sigmoid":
            return params.sigmoid()
        split = params.unflatten(1, (-1, self.levels))
        return (split.softmax(2) if self.ends == "softmax" else split.log_softmax(2)).flatten(1, 2)

    def params(self, output: Tensor) -> Tensor:
        """Parameters that `finished` makes the output of."""
        own = self.own(output)
        if self.ends == "sigmoid":
            return logit_of(own.double()).to(own.dtype)
        if self.ends == "softmax":
            return own.double().log().clamp(min=-FARTHEST).to(own.dtype)
        return own.clamp(min=-FARTHEST) if self.ends == "log_softmax" else own

    def normalised(self, own: Tensor) -> Tensor:
        """The output, in the order of the parameters, as `finished` gives it: log-probabilities may have a factor."""
        if self.ends != "log_softmax":
            return own
        return own.unflatten(1, (-1, self.levels)).log_softmax(2).flatten(1, 2)


def _refuse(rule: str, got: object) -> NoReturn:
    raise ValueError(f"fast_sampler: {rule}, got {got}")


def read_output(writer: Writer, channels: int, emit: Emit, expected: int, layout: str | None) -> Reading:
    """Writes the last stage, plain parameters of the likelihood in its order, and says how the output is read.

    Raises:
        ValueError: the output does not have as many channels as the parameters, or could be read in two ways.
    """
    result = writer.result
    assert result is not None
    axes, value = result.axes, result.value if isinstance(result, Bounded) else result
    count, letters = value.affine.channels, letters_of(axes)
    if count != expected:
        _refuse(f"decoder must put out as many channels as the parameters of its likelihood, {expected}", count)
    if value.affine.size != writer.image or "WH" in letters.replace("C", "").replace("R", "").replace("B", ""):
        _refuse(
            f"decoder must put out parameters of images of {writer.image}",
            f"an output of {list(value.shape)} of {' '.join(letters)}",
        )
    order = torch.arange(expected, device="cpu")
    if emit.kind == "categorical":
        order = _order(
            axes, channels, emit.levels, layout, writer.image, lambda: _by_levels(writer, value.affine, channels)
        )
    elif emit.kind == "logistic_mixture" and channels == 3 and layout is None:
        ways = "TCK, as vlae_fast.models.make_likelihood has it, or CTK, as the code of PixelCNN++"
        _refuse(f"layout must be given for a mixture of {channels} channels: {ways}", "None")
    elif layout is not None:
        order = _order_of_mixture(channels, emit.components, layout)
    affine, ends = _before_end(writer, result, emit, order)
    affine = affine.rows(order)
    last = len(writer.program.stages)
    if affine.buffer != last or not last or writer.program.stages[-1].activation != "none":
        writer._stage(affine)  # a pixel is drawn from a plain sum
    return Reading(axes, order, ends, emit.levels)


def _before_end(writer: Writer, result: Any, emit: Emit, order: Tensor) -> tuple[Any, str | None]:
    """The output without the function it ends in, where the likelihood has that itself."""
    if not isinstance(result, Bounded):
        return result.affine, None
    if result.groups is not None:
        levels = result.groups[order].view(-1, emit.levels) if emit.kind == "categorical" else None
        own = levels is not None and bool((levels == levels[:, :1]).all()) and len(levels[:, 0].unique()) == len(levels)
        if not own or int((result.groups == result.groups[0]).sum()) != emit.levels:
            rule = "decoder may end in a softmax over the levels of a categorical likelihood alone"
            _refuse(rule, f"{result.function} before a likelihood of kind {emit.kind!r}")
        return result.value.affine if result.is_plain else _levels_after(writer, result), result.function
    if emit.kind == "bernoulli" and is_probability(result):
        return logit(writer, result), "sigmoid"
    return writer._open(result).affine, None


def _levels_after(writer: Writer, end: Bounded) -> Affine:
    """The logits of ``gain log_softmax(v) + offset``, of one gain for all levels: those of ``gain v + offset``.

    Of a softmax the gain is 1 without an offset, or 0 where the offset is all of a probability.
    """
    assert end.groups is not None
    gain, offset = (t.expand(len(end.groups), *t.shape[1:]) for t in torch.broadcast_tensors(end.gain, end.offset))
    if not gain.eq(gain[end.groups.to(gain.device)]).all():
        _refuse("decoder may end in log-probabilities times a factor that is the same for all levels", "another one")
    out = writer._times(end.value.affine, gain)
    if end.function == "log_softmax":
        return writer._plus(out, offset)
    kept, fixed = (gain == 1) & (offset == 0), (gain == 0) & (offset >= 0)
    if not (kept | fixed).all():
        _refuse("decoder may end in probabilities, or constants at some pixels", "other functions of probabilities")
    return writer._plus(out, torch.where(fixed, offset, 1).double().log().clamp(min=-FARTHEST).to(offset))


def _by_levels(writer: Writer, output: Affine, channels: int) -> str | None:
    """Which of CK and KC is an order where no channel's levels depend on what is drawn after them; None: both, neither.

    It is where channels of a pixel see each other: masks for one order of the outputs are none for the other.
    """
    levels = levels_of(writer.program)
    seen = torch.full((output.channels,), NONE, device="cpu")
    for buffer, tap in output.buffers:
        if tap == HERE:
            live = output.terms[buffer, tap].cpu() != 0
            seen = torch.maximum(seen, torch.where(live, levels[buffer], NONE).amax(1))
    orders = {"CK": seen.view(channels, -1), "KC": seen.view(-1, channels).T}
    channel = torch.arange(channels, device="cpu")[:, None]
    fits = [order for order, level in orders.items() if (level < channel).all()]
    return fits[0] if len(fits) == 1 else None


def _order(
    axes: Axes,
    channels: int,
    levels: int,
    layout: str | None,
    image: Sequence[int],
    by_levels: Callable[[], str | None],
) -> Tensor:
    """Which channel of the output is level k of channel c, for all (c, k) in turn."""
    if layout is None and channels > 1:
        lengths = [n for axis in axes for letter, n in axis if letter == "C"]
        first = "CK" if lengths[:1] == [channels] else "KC"
        if lengths not in ([channels, levels], [levels, channels]) or channels == levels:
            first = by_levels() or ""
        if not first:
            rule = "layout must be given for levels of more than one channel, of an output that can be read in two ways"
            raise ValueError(f"fast_sampler: {rule}: {_EXAMPLES}, got None")
    elif layout is None:
        first = "CK"
    else:
        _check_fit(axes, layout, {"C": channels, "K": levels, "H": image[0], "W": image[1]})
        first = "".join(letter for letter in layout if letter in "CK")
    index = torch.arange(channels * levels, device="cpu")
    return index if first == "CK" else index.view(levels, channels).T.flatten()


def _order_of_mixture(channels: int, components: int, layout: str) -> Tensor:
    """Which channel of the output each parameter of a mixture is, where the first K are the logits."""
    length = {"C": channels, "K": components, "T": 3 if channels > 1 else 2}
    if channels not in (1, 3):  # else there is not one coefficient for a channel
        _refuse("layout of a mixture must be None for images of neither one channel nor three", repr(layout))
    places = torch.arange(channels * components * length["T"], device="cpu").view([length[x] for x in layout])
    rest = places.permute([layout.index(x) for x in "TCK"]).flatten()
    return torch.cat([torch.arange(components, device="cpu"), components + rest])


def _check_fit(axes: Axes, layout: str, length: dict[str, int]) -> None:
    """ValueError unless the dimensions of the output, cut or joined, are those of the layout."""
    own = _runs([(letter, n) for axis in axes for letter, n in axis if letter not in "BR"])
    said = _runs([("C" if x == "K" else x, length[x]) for x in layout if x != "B" and length[x] > 1])
    got = [letter for letter, _ in own]
    pairs = zip([ends for _, ends in own], [ends for _, ends in said], strict=False)
    fits = all(max(one) == max(other) and (one <= other or other <= one) for one, other in pairs)
    if got != [letter for letter, _ in said] or not fits:
        lengths = [n for axis in axes for letter, n in axis if letter == "C" and n > 1]
        what = f"the order of the output's dimensions, {got} with channels of {lengths}"
        raise ValueError(f"fast_sampler: layout must fit {what}, got {layout!r}")


def _runs(factors: Sequence[tuple[str, int]]) -> list[tuple[str, set[int]]]:
    """Neighbouring channels as one, and where each of them ends: at the product of the lengths up to it."""
    out: list[tuple[str, set[int]]] = []
    for letter, n in factors:
        if out and letter == "C" == out[-1][0]:
            out[-1][1].add(max(out[-1][1]) * n)
        elif letter != "C" or n > 1:
            out.append((letter, {n}))
    return out
