"""Windows of pixels as channels: convolutions that are written as products with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .activation_stages import Activations
from .affine import Value, convolved
from .axes import axis_of


class Unfolded(Activations):
    """`torch.nn.functional.unfold`."""

    def _op_im2col(
        self, x: Value, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
    ) -> Value:
        """``[B, C, H, W] -> [B, C kh kw, H W]``: each channel at every place of the kernel."""
        x = x.without_copies()
        rule = "unfolding of [B, C, H, W] into windows of stride 1, one for each pixel"
        if len(x.axes) != 4 or (x.letter(2), x.letter(3)) != ("H", "W") or any(s != 1 for s in stride):
            self._fail(rule, f"one of {list(x.shape)} with stride {tuple(stride)}")
        channels, (kh, kw) = x.affine.channels, kernel
        places = channels * kh * kw
        weight = torch.eye(places).to(self.like).view(places, channels, kh, kw)
        own = self._padded(x.affine, (padding[1], padding[1], padding[0], padding[0]))
        out = convolved(own, weight, None, padding, dilation)
        if out.size != self.image:
            self._fail(rule, f"windows of {out.size} places")
        area = (*axis_of("H", out.size[0]), *axis_of("W", out.size[1]))
        return Value(out, (x.axes[0], axis_of("C", places), area))
