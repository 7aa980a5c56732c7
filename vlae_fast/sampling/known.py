"""Known pixels: whether a draw in the decoder's order fits them, and the warning where it does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import Offset
from ..plan import Emit
from .emit import Known


def fits(
    mask: Tensor, emit: Emit, seen: Callable[[], Collection[Offset]] | None = None, *, in_turn: bool = False
) -> bool:
    """True where clamping the known pixels of a mask ``[B, C, H, W]`` draws the others from their conditional.

    Each pixel is drawn given the pixels before it. That is the conditional given all known pixels where no known pixel
    depends on an unknown one before it. `seen` gives the offsets (dy, dx) that a pixel depends on; without it, on every
    pixel before its own in raster order. The channels of a pixel are independent given the pixels before, but
    for two cases. Those of a mixture of logistics share its component: such a pixel must be known or unknown as a
    whole. Where channels are drawn `in_turn`, each sees those before it: of a pixel the known ones must come first.
    """
    if mask.stride(0) == 0:  # one mask for all images
        mask = mask[:1]
    known, unknown = mask.any(1), ~mask.all(1)  # [B, H, W]
    if emit.kind == "logistic_mixture" and (known & unknown).any():
        return False
    if in_turn and (mask[:, 1:] & ~mask[:, :-1]).any():
        return False
    before = unknown.flatten(1).cumsum(1) - unknown.flatten(1).long()
    if not (known.flatten(1) & (before > 0)).any():
        return True
    return seen is not None and not (known & _near(unknown, seen())).any()


def warn_unless_fits(
    op: str,
    known: Known | None,
    shape: torch.Size,
    emit: Emit,
    seen: Callable[[], Collection[Offset]] | None = None,
    *,
    in_turn: bool = False,
) -> None:
    """Warns the caller of the function that calls this one, in the name of `op`, of a mask that does not fit.

    shape: ``[B, C, H, W]`` of the images. emit, seen and in_turn: as in `fits`.
    """
    if known is None or fits(known[0].expand(shape), emit, seen, in_turn=in_turn):
        return
    warnings.warn(
        f"{op}: known has pixels that depend on unknown ones drawn before them: those are drawn without regard to the "
        'known pixels that follow; vlae_fast.generation.complete(..., method="importance") draws them to fit',
        UserWarning,
        stacklevel=3,
    )


def _near(unknown: Tensor, offsets: Collection[Offset]) -> Tensor:
    """Where a pixel of `unknown` ``[B, H, W]`` lies at one of the offsets."""
    if not offsets:
        return torch.zeros_like(unknown)
    reach_y, reach_x = (max(abs(offset[axis]) for offset in offsets) for axis in (0, 1))
    window = torch.zeros(1, 1, 2 * reach_y + 1, 2 * reach_x + 1, device=unknown.device)
    for dy, dx in offsets:
        window[0, 0, dy + reach_y, dx + reach_x] = 1
    return F.conv2d(unknown[:, None].to(window), window, padding=(reach_y, reach_x))[:, 0] > 0.5
