"""Arithmetic on values that are affine in buffers and maps: convolutions, linear layers, sums, products, norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from ...masks import conv_mask, same_padding
from .affine import Affine, Value, aligned, convolved, stacked, total
from .axes import Axes, axis_of, channels_of, common, grid, is_channels, length_of, viewed
from .moves import expanded
from .phases import Phases, Transposed
from .unfolded import Unfolded
from .writer import Bounded, Later, OverPixelsError, name_of, reads_of

_WHOLE = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze")  # in the same order
BATCH = 2  # of the inputs that a decoder is traced with: not 1, which broadcasts


class Operations(Unfolded):
    """A method for each operation; options that none expects end in an error that names the module."""

    def _op_convolution(
        self, x: Value, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, *rest: Any
    ) -> Value | Phases:
        transposed, extra, groups = rest
        if not isinstance(weight, Tensor) or not isinstance(x, Value):
            self._fail("convolutions by weights", "one whose weights depend on its input")
        x = x.without_copies()
        letters = self._spatial(x, weight.dim() - 2)
        if transposed:
            return self._transposed(x, letters, weight, bias, (stride, padding, dilation, extra), groups)
        outer = channels_of(x.axes[0])
        if outer > 1:  # a batch of channels: each is convolved by the same weight
            weight, groups = weight.repeat(outer, *[1] * (weight.dim() - 1)), groups * outer
            bias = None if bias is None else bias.repeat(outer)
        weight = _kernel_in_two(_dense(weight, groups), letters)
        padding, dilation, stride = (
            _in_two(n, letters, fill) for n, fill in ((padding, 0), (dilation, 1), (stride, 1))
        )
        own = x.affine
        if any(padding):
            if len(own.terms) > 1 and self._is_whole(own) and len(own.buffers) == len(own.terms):
                own = self._settle(own)
            own = self._padded(own, (padding[1], padding[1], padding[0], padding[0]))
        out = convolved(own, weight, bias, padding, dilation).strided(stride)
        return Value(out, self._laid_out(x, out.channels // outer, out.size, letters))

    def _op__convolution(self, *args: Any) -> Value | Phases:
        """A convolution in a graph of TorchScript; what follows its arguments is for cuDNN."""
        return self._op_convolution(*args[:9])

    @staticmethod
    def _laid_out(x: Value, channels: int, size: Sequence[int], letters: Sequence[str]) -> Axes:
        """The axes of what a convolution of x puts out."""
        return (x.axes[0], axis_of("C", channels), *(axis_of(letter, size["HW".index(letter)]) for letter in letters))

    def _transposed(
        self, x: Value, letters: Sequence[str], weight: Tensor, bias: Any, options: Sequence[Any], groups: int
    ) -> Phases:
        """A transposed convolution; options: stride, padding, dilation, output_padding."""
        if channels_of(x.axes[0]) > 1:
            self._fail("transposed convolutions of [B, C, H, W]", f"one of {self._spelled(x)}")
        parts = [part.transpose(0, 1) for part in weight.chunk(groups)]  # [P', P / groups, kh, kw] each
        dense = _kernel_in_two(_dense(torch.cat(parts), groups), letters)
        stride, padding, dilation, extra = (
            _in_two(n, letters, fill) for n, fill in zip(options, (1, 0, 1, 0), strict=True)
        )
        layer = Transposed(dense.shape[2:], stride, padding, dilation, extra)
        own = self._padded(x.affine, layer.margins(x.affine.size))
        out = layer.of(own, dense.transpose(0, 1), bias)
        return replace(out, axes=self._laid_out(x, len(dense), out.size, letters))

    def _spatial(self, x: Value, count: int) -> list[str]:
        """Which of H and W the last dimensions are; they may be turned, or one of them alone."""
        dims = range(2, 2 + count)
        if len(x.axes) != 2 + count or not is_channels(x.axes[1]) or count > 2:
            self._fail("convolutions of [B, C, H, W] over rows and columns", f"one of {self._spelled(x)}")
        letters = [x.letter(dim) for dim in dims]
        if "C" in letters:  # of length 1, where nothing tells
            rest = [letter for letter in "WH" if letter not in letters]
            letters = [
                rest.pop() if letter == "C" and not x.axes[d] else letter
                for d, letter in zip(dims, letters, strict=True)
            ]
        if sorted(letters) not in (["H", "W"], ["H"], ["W"]):
            self._fail("convolutions of [B, C, H, W] over rows and columns", f"one of {self._spelled(x)}")
        return letters

    @staticmethod
    def _spelled(x: Value) -> str:
        """The axes of a value as people write them: [B, H W, C]."""
        return "[" + ", ".join(" ".join(letter for letter, _ in axis) or "1" for axis in x.axes) + "]"

    # Sums

    def _op_add(self, a: Any, b: Any, alpha: float = 1) -> Value | Bounded:
        if isinstance(a, Bounded) and _is_constant(b) and alpha == 1:
            return self._after(a, None, b)
        if isinstance(b, Bounded) and _is_constant(a) and alpha == 1:
            return self._after(b, None, a)
        a, b = (self._open(v) if isinstance(v, Bounded) else v for v in (a, b))
        a, b = self._both(a, b)
        own, other, axes = aligned(a, b)
        other = other if alpha == 1 else other.scaled(torch.full_like(other.bias, alpha))
        for first, (one, two) in enumerate(((other, own), (own, other))):
            if self._take_residual(one, two, self.node.args[1 - first]):
                return Value(one, axes)
        return self._half_again(Value(total(own, other).without_zeros(), axes))

    def _half_again(self, value: Value) -> Value | Bounded:
        """The half of a gate that is left where all else in a sum cancels, which may be the end of a decoder."""
        for half, opened in self.opened.items() if value.affine.buffer > 0 else ():
            if opened.affine.buffer == value.affine.buffer and opened.axes == value.axes:
                return half
        return value

    def _both(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Two operands as values of one shape; a constant is read beside the other one's axes."""
        if isinstance(a, Value) and isinstance(b, Value):
            return a, b
        value, other = (a, b) if isinstance(a, Value) else (b, a)
        value, other = self._beside_each_other(value, other)
        return (value, other) if value is a or isinstance(a, Value) else (other, value)

    def _beside_each_other(self, value: Value, other: Any) -> tuple[Value, Value]:
        value = self._wide_enough(value, other)
        return value, self._lift_beside(other, value)

    def _wide_enough(self, value: Value, other: Any) -> Value:
        """The value with the channels that an operand of more of them gives it."""
        shape = other.meta.shape if isinstance(other, Later) else getattr(other, "shape", ())
        whole = torch.broadcast_shapes(value.shape, shape)
        padded = [1] * (len(whole) - len(shape)) + list(shape)
        axes = tuple(
            tuple(("C" if letter == "R" and n > 1 else letter, m) for letter, m in axis)
            for axis, n in zip(expanded(value.axes, whole), padded, strict=True)
        )
        return value if axes == value.axes else value.rows(common(value.axes, axes)[1], axes)

    def _take_residual(self, last: Affine, other: Affine, node: Any) -> bool:
        """Adds a buffer within the stage that wrote ``last``, where nobody else reads that stage."""
        index = last.buffer
        if index < 1 or index != len(self.program.stages) or other.buffer < 1:
            return False
        stage = self.program.stages[-1]
        now = self.at[self.node]
        alive = (v for key, v in self.env.items() if key is not node and self.last_use[key] > now)
        read = any(index == b for v in alive for b, _ in reads_of(v))
        same = last.size == other.size and last.stride == other.stride and self._is_whole(last)
        if stage.residual >= 0 or read or len(node.users) > 1 or not same:
            return False
        self.program.stages[-1] = stage._replace(residual=other.buffer)
        return True

    def _op_sub(self, a: Any, b: Any, alpha: float = 1) -> Value | Bounded:
        if isinstance(b, Bounded) and _is_constant(a) and alpha == 1:
            return self._op_add(self._op_neg(b), a)
        if isinstance(a, Bounded) and isinstance(b, int | float):
            return self._op_add(a, -b * alpha)
        return self._op_add(a, b, -alpha)

    def _op_rsub(self, a: Any, b: Any, alpha: float = 1) -> Value | Bounded:
        return self._op_add(self._op_neg(a if alpha == 1 else self._op_mul(a, alpha)), b)

    def _op_neg(self, a: Value | Bounded) -> Value | Bounded:
        if isinstance(a, Bounded):
            return self._after(a, -1.0, None)
        return Value(a.affine.scaled(-torch.ones_like(a.affine.bias)), a.axes)

    def _after(self, half: Bounded, gain: Any, offset: Any) -> Value | Bounded:
        """A product or sum after tanh, sigmoid or softmax, which the end of a decoder may take back."""
        shape = getattr(gain if gain is not None else offset, "shape", ())
        if torch.broadcast_shapes(half.value.shape, shape) != half.value.shape:
            opened = self._open(half)
            return self._op_add(opened, offset) if gain is None else self._op_mul(opened, gain)
        if gain is None:
            return replace(half, offset=half.offset + self._constant(offset, half.axes))
        by = self._constant(gain, half.axes)
        return replace(half, gain=half.gain * by, offset=half.offset * by)

    def _op_copy(self, target: Any, value: Any, non_blocking: bool = False) -> Value:
        """``target.copy_(value)``, or an assignment to a part of it."""
        like = target if isinstance(target, Value) else value
        return value if isinstance(value, Value) else self._lift_beside(value, like)

    def _with_part(self, base: fx.Node, target: fx.Node, value: Any) -> Any:
        """The tensor that a slice is of, once the slice has another value: what is before it, it, and what is after.

        Rows and columns of what depends on x cannot be cut out of it; they are added to.
        """
        whole, name = self.env[base], name_of(target)
        if name in _WHOLE and isinstance(value, Value):
            return Value(value.affine, viewed(value.axes, base.meta["val"].shape))
        if name != "slice" or not isinstance(value, Value):
            return super()._with_part(base, target, value)
        slicing: Any = [*target.args[1:], *(0, None, None, 1)[len(target.args) - 1 :]]
        dim, first, last, step = slicing
        shape = base.meta["val"].shape
        dim, (first, last, _) = dim % len(shape), slice(first, last).indices(shape[dim])
        if (first, last) == (0, shape[dim]) and step == 1:
            return value
        letter = (whole if isinstance(whole, Value) else value).letter(dim)
        if letter in ("H", "W") and isinstance(whole, Value):
            return self._added_to(whole, dim, letter, first)
        if isinstance(whole, Value):
            before, after = self._op_slice(whole, dim, 0, first), self._op_slice(whole, dim, last, shape[dim])
        else:
            before, after = (whole.narrow(dim, *at) for at in ((0, first), (last, shape[dim] - last)))
        parts = [part for part, n in ((before, first), (value, 1), (after, shape[dim] - last)) if n]
        return self._op_cat(parts, dim)

    def _added_to(self, whole: Value, dim: int, letter: str, first: int) -> Value:
        """A value with something added to its rows or columns from ``first`` on."""
        name, args = name_of(self.node), self.node.args
        if name not in ("add_", "sub_"):
            self._fail("sums in place, where rows or columns of features are written to", name)
        added = self.env[args[1]] if isinstance(args[1], fx.Node) else args[1]
        alpha: Any = self.node.kwargs.get("alpha", 1)
        sign = alpha * (1 if name == "add_" else -1)
        part = self._op_slice(whole, dim, first, first + self.node.meta["val"].shape[dim])
        assert isinstance(part, Value)
        own, _, _ = aligned(self._both(part, added)[1], part)
        own = own if sign == 1 else own.scaled(torch.full_like(own.bias, sign))
        after = length_of(whole.axes[dim]) - first - length_of(part.axes[dim])
        margins = (0, 0, first, after) if letter == "H" else (first, after, 0, 0)
        return Value(total(whole.affine, self._bordered(own, margins)), whole.axes)

    # Products

    def _op_mul(self, a: Any, b: Any) -> Value | Bounded:
        halves = [v for v in (a, b) if isinstance(v, Bounded)]
        if len(halves) == 2 and {a.function, b.function} == {"tanh", "sigmoid"} and a.is_plain and b.is_plain:
            tanh, sigmoid = sorted(halves, key=lambda half: half.function, reverse=True)
            first, second, axes = aligned(tanh.value, sigmoid.value)
            return Value(self._stage(stacked([first, second]), "gate"), axes)
        if len(halves) == 1 and any(map(_is_constant, (a, b))):
            return self._after(halves[0], b if a is halves[0] else a, None)
        for half, other in ((b, a), (a, b)):
            plain = isinstance(half, Bounded) and half.function == "sigmoid" and half.is_plain
            if plain and isinstance(other, Value | Bounded) and other is not half:
                other = self._open(other) if isinstance(other, Bounded) else other
                return self._gated(other, half)
        a, b = (self._open(v) if isinstance(v, Bounded) else v for v in (a, b))
        if all(isinstance(v, Value | Later) for v in (a, b)):
            one, other, axes = aligned(*self._both(a, b))
            return Value(self._product_of(one, other), axes)
        value, factor = (a, b) if isinstance(a, Value) else (b, a)
        value = self._wide_enough(value, factor)
        return Value(self._times(value.affine, self._constant(factor, value.axes)), value.axes)

    def _op_div(self, a: Any, b: Any) -> Value | Bounded:
        if isinstance(b, Value | Bounded | Later):
            self._fail("products with a constant, or of tanh and sigmoid", "a quotient by what depends on the input")
        return self._op_mul(a, 1 / torch.as_tensor(b, dtype=self.like.dtype))

    # Matrices

    def _contracted(self, x: Value, dim: int, weight: Tensor) -> Value:
        """A linear map ``[P', P]`` of the channels along a dimension."""
        x = x.without_copies()
        dim %= len(x.axes)
        if not is_channels(x.axes[dim]):
            rule = "linear layers over channels"
            got = f"one over {self._spelled(Value(x.affine, (x.axes[dim],)))} of {self._spelled(x)}"
            self._fail(rule, got, OverPixelsError)
        rows = grid(x.axes).movedim(dim, -1)
        rest, channels = rows.shape[:-1], rows.shape[-1]
        own = x.affine.rows(rows.flatten())  # the channels of the dimension side by side
        matrix = torch.block_diag(*[weight] * prod(rest)) if prod(rest) > 1 else weight
        out = own.through(matrix.to(own.bias))
        assert channels == weight.shape[1]
        back = torch.arange(out.channels, device="cpu").view(*rest, len(weight)).movedim(-1, dim).flatten()
        axes = (*x.axes[:dim], axis_of("C", len(weight)), *x.axes[dim + 1 :])
        return Value(out.rows(back), axes)

    def _op_mm(self, a: Any, b: Any) -> Value:
        if isinstance(a, Value) and isinstance(b, Tensor):
            return self._contracted(a, 1, b.T)
        if isinstance(b, Value) and isinstance(a, Tensor):
            return self._contracted(b, 0, a)
        self._fail("products with a constant matrix", "a product of two that depend on the input")

    def _op_addmm(self, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Value | Bounded:
        if beta != 1 or alpha != 1:
            self._fail("linear layers", f"one with beta {beta} and alpha {alpha}")
        return self._op_add(self._op_mm(a, b), bias)

    def _op_bmm(self, a: Any, b: Any) -> Value:
        """Batches of matrices, all of them the same."""
        value, weight = (a, b) if isinstance(a, Value) else (b, a)
        if not isinstance(weight, Tensor) or not isinstance(value, Value) or not weight.eq(weight[:1]).all():
            self._fail("products with a constant matrix", "a product of two that depend on the input")
        return self._contracted(value, 2, weight[0].T) if value is a else self._contracted(value, 1, weight[0])

    def _op_baddbmm(self, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Value | Bounded:
        if beta != 1 or alpha != 1:
            self._fail("linear layers", f"one with beta {beta} and alpha {alpha}")
        return self._op_add(self._op_bmm(a, b), bias)

    def _op_linear(self, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value | Bounded:
        out = self._contracted(x, -1, weight)
        return out if bias is None else self._op_add(out, bias)

    def _op_sum(self, x: Any, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> Any:
        if isinstance(x, Bounded):
            if self._sums_to_one(x, dims):
                return self.like.new_ones(self.node.meta["val"].shape)
            x = self._open(x)
        dims = sorted((d % len(x.axes) for d in (range(len(x.axes)) if not dims else dims)), reverse=True)
        for dim in dims:
            if not {letter for letter, _ in x.axes[dim]} <= {"C", "R"}:
                self._fail("sums and means over channels", f"one over dimension {dim} of {self._spelled(x)}")
            x = self._contracted(x, dim, self.like.new_ones(1, length_of(x.axes[dim])))
            if not keepdim:
                x = Value(x.affine, (*x.axes[:dim], *x.axes[dim + 1 :]))
        return x

    @staticmethod
    def _sums_to_one(x: Bounded, dims: Sequence[int] | None) -> bool:
        """True of a softmax, summed over the dimension that it is over."""
        if x.function != "softmax" or not x.is_plain or x.groups is None or dims is None or len(dims) != 1:
            return False
        dim = dims[0] % len(x.axes)
        if not is_channels(x.axes[dim]):
            return False
        groups = x.groups[grid(x.axes)].movedim(dim, 0)
        return len(groups) == int((x.groups == x.groups[0]).sum()) and bool((groups == groups[:1]).all())

    def _op_mean(self, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> Any:
        over = [d % len(x.axes) for d in (range(len(x.axes)) if not dims else dims)]
        out = self._op_sum(x, dims, keepdim)
        return self._op_mul(out, 1 / prod(length_of(x.axes[d]) for d in over))

    # Norms

    def _op_native_batch_norm(self, x: Value, *args: Any) -> tuple[Any, None, None]:
        weight, bias, mean, var, *training, _, eps = args
        if any(training):
            self._fail("batch normalisation by running statistics", "one by those of the batch")
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        shape = (-1, *[1] * (len(x.axes) - 2))
        return (self._op_add(self._op_mul(x, scale.view(shape)), shift.view(shape)), None, None)

    _op__native_batch_norm_legit_no_training = _op_native_batch_norm

    def _op_native_layer_norm(
        self, x: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float
    ) -> tuple[Value, None, None]:
        x = x.without_copies()
        last, rule = len(x.axes) - 1, "layer normalisation over the channels of each pixel"
        whole = self._is_whole(x.affine)
        if len(shape) != 1 or x.letter(last) != "C" or not whole:
            self._fail(rule, f"one over the last {len(shape)} of {self._spelled(x)}")
        if not all(t is None or isinstance(t, Tensor) for t in (weight, bias)):
            self._fail(f"{rule} by weights", "one whose weights depend on its input")
        groups = grid(x.axes).reshape(-1, shape[0])  # of the channels that are normalised together
        parts = [self._normalised(x.affine.rows(group), weight, bias, eps) for group in groups]
        back = groups.flatten().argsort()
        return Value(stacked(parts).rows(back), x.axes), None, None

    def _normalised(self, x: Affine, weight: Any, bias: Any, eps: float) -> Affine:
        own = self._settle(x)
        if own.buffer == 0:
            self._fail("layer normalisation of features", "one of the image itself")
        index = self.program.norm(own.buffer, weight, bias, eps)
        eye = own.bias.new_ones(own.channels).diag()
        return Affine({(index, (0, 0)): eye}, torch.zeros_like(own.bias), own.size, None, own.stride)

    def _op_masked_conv(self, x: Value, weight: Tensor, bias: Any, cond: Any, *options: Any) -> Value:
        kind, channels, activation, dilation, _ = options
        live = conv_mask(kind, weight.shape, image_channels=channels, device=weight.device)
        padding = same_padding((weight.shape[2], weight.shape[3]), (dilation[0], dilation[1]))
        weight = torch.where(live, weight, 0)
        out = self._op_convolution(x, weight, bias, (1, 1), padding, dilation, False, 0, 1)
        assert isinstance(out, Value)
        if cond is not None:
            if isinstance(cond, Value) and len(cond.axes) == 2:
                cond = Value(cond.affine, (*cond.axes, (), ()))
            elif isinstance(cond, Later) and len(cond.meta.shape) == 2:
                axes = (out.axes[0], out.axes[1])
                lifted = self._lift(cond, axes, (1, 1), (1, 1))
                cond = Value(lifted.affine, (*axes, (), ()))
            sum_ = self._op_add(out, cond)
            assert isinstance(sum_, Value)
            out = sum_
        return (
            out if activation == "none" else Value(self._stage(out.affine, activation), self._halved(out, activation))
        )

    @staticmethod
    def _halved(x: Value, activation: str) -> Any:
        """The axes after an activation that may take two channels for one."""
        length = length_of(x.axes[1])
        return (x.axes[0], axis_of("C", length // 2 if activation == "gate" else length), *x.axes[2:])


def _is_constant(value: Any) -> bool:
    return not isinstance(value, Value | Bounded | Later)


def _kernel_in_two(weight: Tensor, letters: Sequence[str]) -> Tensor:
    """A kernel over rows and columns, whatever order or number they had."""
    if len(letters) == 1:
        return weight[:, :, :, None] if letters[0] == "H" else weight[:, :, None]
    return weight.transpose(2, 3) if letters[0] == "W" else weight


def _in_two(option: Sequence[int], letters: Sequence[str], fill: int) -> tuple[int, int]:
    """An option of a convolution, for rows and columns; fill: its value along what the convolution is not over."""
    of = dict(zip(letters, option, strict=True))
    return of.get("H", fill), of.get("W", fill)


def _dense(weight: Tensor, groups: int) -> Tensor:
    """The weight of a grouped convolution with zeros between the groups."""
    if groups == 1:
        return weight
    blocks = weight.chunk(groups)
    dense = weight.new_zeros(weight.shape[0], weight.shape[1] * groups, *weight.shape[2:])
    for g, block in enumerate(blocks):
        dense[g * len(block) : (g + 1) * len(block), g * weight.shape[1] : (g + 1) * weight.shape[1]] = block
    return dense
