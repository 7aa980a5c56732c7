"""ATen operations on values that are affine in buffers; activations become stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...masks import conv_mask, same_padding
from .affine import Affine, convolved, stacked, total
from .writer import Bounded, Writer, reads_of

BATCH = 2  # of the inputs that a decoder is traced with: not 1, which broadcasts


class Operations(Writer):
    """A method for each operation; options that none expects end in an error that names the module."""

    def _op_convolution(
        self, x: Affine, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, *rest: Any
    ) -> Affine:
        transposed, _, groups = rest
        if transposed or any(s != 1 for s in stride) or weight.dim() != 4:
            self._fail("2-D convolutions of stride 1", f"one of stride {tuple(stride)}")
        weight = _dense(weight, groups)
        if weight.shape[2:] != (1, 1) or any(padding):
            margins = (padding[1], padding[1], padding[0], padding[0])
            if len(x.terms) > 1 and x.size == self.image:
                x = self._settle(x)
            x = self._padded(x, margins)
        return convolved(x, weight, bias, padding, dilation)

    def _padded(self, x: Affine, margins: Sequence[int]) -> Affine:
        """x, written to a buffer where its formula would not give the zeros around it."""
        if x.zero_outside(self.image, margins):
            return x
        x = self._stage(x)
        if not x.zero_outside(self.image, margins):
            self._fail("padding of whole images", f"padding of one of {x.size}")
        return x

    def _op_constant_pad_nd(self, x: Affine, pad: Sequence[int], value: float = 0.0) -> Affine:
        left, right, top, bottom = pad if len(pad) == 4 else (*pad, 0, 0)
        if value != 0:
            self._fail("padding by 0", f"padding by {value}")
        x = self._padded(x, [max(0, n) for n in (left, right, top, bottom)])
        return x.moved(-top, -left, (x.size[0] + top + bottom, x.size[1] + left + right))

    def _op_slice(
        self, x: Affine, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
    ) -> Affine:
        length = (self.node.args[0].meta["val"].shape)[dim]  # type: ignore[union-attr]
        first, last, _ = slice(start, end).indices(length)
        dim %= 4 if x.size else 2
        if step != 1 or (dim == 0 and (first, last) != (0, length)):
            self._fail("slices of channels, rows or columns", f"one of dimension {dim}")
        if dim < 2:
            return x.rows(first, last) if dim else x
        size = [*x.size]
        size[dim - 2] = last - first
        return x.moved(*((first, 0) if dim == 2 else (0, first)), (size[0], size[1]))

    def _op_split(self, x: Affine, size: int | Sequence[int], dim: int = 0) -> list[Affine]:
        if dim % (4 if x.size else 2) != 1:
            self._fail("splits of channels", f"one of dimension {dim}")
        if isinstance(size, int):
            size = [min(size, x.channels - at) for at in range(0, x.channels, size)]
        ends = torch.tensor(size).cumsum(0).tolist()
        return [x.rows(end - n, end) for n, end in zip(size, ends, strict=True)]

    _op_split_with_sizes = _op_split

    def _op_cat(self, parts: Sequence[Affine | Tensor], dim: int = 0) -> Affine:
        if dim % 4 != 1:
            self._fail("concatenations of channels", f"one of dimension {dim}")
        size = next(p.size for p in parts if isinstance(p, Affine))
        values = [p if isinstance(p, Affine) else self._constant(p, p.shape[1], size) for p in parts]
        if len({v.size for v in values}) > 1:
            self._fail("concatenations of images of one size", [v.size for v in values])
        return stacked(values)

    def _constant(self, value: Any, channels: int, size: tuple[int, ...]) -> Affine:
        """A number, or a tensor that is the same all over the image."""
        by_channel = (
            torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)
            .expand(BATCH, channels, *size)
            .movedim(1, 0)
            .flatten(1)
        )
        if not by_channel.eq(by_channel[:, :1]).all():
            self._fail("constants that are the same all over the image", "one that is not")
        return Affine({}, by_channel[:, 0], None, size)

    def _op_add(self, a: Any, b: Any, alpha: float = 1) -> Affine:
        a, b = (v if isinstance(v, Affine) else self._constant(v, w.channels, w.size) for v, w in ((a, b), (b, a)))
        b = b if alpha == 1 else b.scaled(torch.full_like(b.bias, alpha))
        fits = a.size == b.size or any(v.size == (1, 1) and not v.terms for v in (a, b))
        if not fits or a.channels != b.channels:
            self._fail("sums of equal sizes", f"{a.channels} x {a.size} and {b.channels} x {b.size}")
        for first, (one, other) in enumerate(((b, a), (a, b))):
            if self._take_residual(one, other, self.node.args[1 - first]):
                return one
        return total(a, b)

    def _take_residual(self, last: Affine, other: Affine, node: Any) -> bool:
        """Adds a buffer within the stage that wrote ``last``, where nobody else reads that stage."""
        index = last.buffer
        if index < 1 or index != len(self.program.stages) or other.buffer < 1:
            return False
        stage = self.program.stages[-1]
        read = [v for key, v in self.env.items() if key is not node and any(index == b for b, _ in reads_of(v))]
        if stage.residual >= 0 or read or len(node.users) > 1 or not last.size == other.size == self.image:
            return False
        self.program.stages[-1] = stage._replace(residual=other.buffer)
        return True

    def _op_sub(self, a: Any, b: Any, alpha: float = 1) -> Affine:
        return self._op_add(a, b, -alpha)

    def _op_rsub(self, a: Affine, b: Any, alpha: float = 1) -> Affine:
        return self._op_add(self._op_neg(a if alpha == 1 else self._op_mul(a, alpha)), b)

    def _op_neg(self, a: Affine) -> Affine:
        return a.scaled(-torch.ones_like(a.bias))

    def _op_mul(self, a: Any, b: Any) -> Affine:
        if isinstance(a, Bounded) and isinstance(b, Bounded) and {a.function, b.function} == {"tanh", "sigmoid"}:
            halves = sorted((a, b), key=lambda half: half.function, reverse=True)
            return self._stage(stacked([half.value for half in halves]), "gate")
        for value, half in ((a, b), (b, a)):
            if isinstance(value, Affine) and value.terms and isinstance(half, Bounded) and half.function == "sigmoid":
                return self._op_silu(value) if value is half.value else self._stage(stacked([value, half.value]), "glu")
        a, b = (self._open(v) if isinstance(v, Bounded) else v for v in (a, b))
        if isinstance(a, Affine) and isinstance(b, Affine):
            of_x = bool(a.terms) and bool(b.terms)
            got = "a product of two that depend on x" if of_x else "a product with a factor that depends on z"
            self._fail("products of a value and a sigmoid, or with a constant", got)
        a, b = (a, b) if isinstance(a, Affine) else (b, a)
        return a.scaled(self._constant(b, a.channels, a.size).bias)

    def _op_div(self, a: Any, b: Any) -> Affine:
        return self._op_mul(a, 1 / torch.as_tensor(b, dtype=self.like.dtype))

    def _op_relu(self, x: Affine) -> Affine:
        return self._stage(x, "relu")

    def _op_elu(self, x: Affine, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Affine:
        """``elu_alpha = alpha elu + (1 - alpha) relu``."""
        if scale != 1 or input_scale != 1:
            self._fail("ELU of scale 1", f"scale {scale}")
        out = self._stage(x, "elu")
        return out if alpha == 1 else total(self._op_mul(out, alpha), self._op_mul(self._stage(x, "relu"), 1 - alpha))

    def _op_leaky_relu(self, x: Affine, slope: float = 0.01) -> Affine:
        x = self._settle(x)
        return total(self._op_mul(self._stage(x, "relu"), 1 - slope), self._op_mul(x, slope))

    def _op_glu(self, x: Affine, dim: int = -1) -> Affine:
        if dim % 4 != 1 or x.channels % 2:
            self._fail("GLU of the halves of the channels", f"one of dimension {dim} of {x.channels} channels")
        return self._stage(x, "glu")

    def _op_silu(self, x: Affine) -> Affine:
        return self._stage(x, "silu")

    def _op_gelu(self, x: Affine, *, approximate: str = "none") -> Affine:
        return self._stage(x, "gelu" if approximate == "none" else "gelu_tanh")

    def _op_softplus(self, x: Affine, beta: float = 1, threshold: float = 20) -> Affine:
        """``softplus(beta x) / beta``; behind the threshold it is x up to e^-threshold."""
        if threshold < 15:
            self._fail("softplus with a threshold of 15 or more", f"one of {threshold}")
        out = self._stage(x if beta == 1 else self._op_mul(x, beta), "softplus")
        return out if beta == 1 else self._op_mul(out, 1 / beta)

    def _op_tanh(self, x: Affine) -> Bounded:
        return Bounded("tanh", x)

    def _op_sigmoid(self, x: Affine) -> Bounded:
        return Bounded("sigmoid", x)

    def _op_native_batch_norm(self, x: Affine, *args: Any) -> tuple[Affine, None, None]:
        weight, bias, mean, var, *training, _, eps = args
        if any(training):
            self._fail("batch normalisation by running statistics", "one by those of the batch")
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        out = x.scaled(scale)
        return (replace(out, bias=out.bias - mean * scale + (0 if bias is None else bias)), None, None)

    _op__native_batch_norm_legit_no_training = _op_native_batch_norm

    def _op_addmm(self, bias: Tensor, z: Affine, weight: Tensor) -> Affine:
        return z.through(weight.T, bias)

    def _op_mm(self, z: Affine, weight: Tensor) -> Affine:
        return z.through(weight.T)

    def _reshaped(self, x: Affine, *args: Any) -> Affine:
        """A view that only adds or repeats pixels of what is the same all over the image, or changes nothing."""
        shape = tuple(self.node.meta["val"].shape)
        if len(shape) in (2, 4) and shape[1] == x.channels and (not x.terms or shape[2:] == x.size):
            return replace(x, size=shape[2:])
        if len(shape) == 3 and shape[1:] == (x.channels, 1) and not x.terms:
            return replace(x, size=(1, 1))
        self._fail("views that keep the channels", f"one of shape {shape}")

    _op_unsqueeze = _op_squeeze = _op_view = _op__unsafe_view = _op_reshape = _op_expand = _op_repeat = _reshaped

    def _op_masked_conv(self, x: Affine, weight: Tensor, bias: Any, cond: Any, *options: Any) -> Affine:
        kind, channels, activation, dilation, _ = options
        live = conv_mask(kind, weight.shape, image_channels=channels, device=weight.device)
        padding = same_padding((weight.shape[2], weight.shape[3]), (dilation[0], dilation[1]))
        out = self._op_convolution(x, torch.where(live, weight, 0), bias, (1, 1), padding, dilation, False, 0, 1)
        if isinstance(cond, Affine):
            out = total(out, cond if cond.size else replace(cond, size=(1, 1)))
        return out if activation == "none" else self._stage(out, activation)


def _dense(weight: Tensor, groups: int) -> Tensor:
    """The weight of a grouped convolution with zeros between the groups."""
    if groups == 1:
        return weight
    blocks = weight.chunk(groups)
    dense = weight.new_zeros(weight.shape[0], weight.shape[1] * groups, *weight.shape[2:])
    for g, block in enumerate(blocks):
        dense[g * len(block) : (g + 1) * len(block), g * weight.shape[1] : (g + 1) * weight.shape[1]] = block
    return dense
