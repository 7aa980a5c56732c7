"""Which weights may be alive: PixelCNN taps and MADE degrees. The only place where a mask is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]  # vertical, horizontal
Offset = tuple[int, int]  # (dy, dx), from the pixel that is computed to the one that is read

MASK_TYPES = ("A", "B", "vertical_A", "vertical_B", "horizontal_A", "horizontal_B")
MAX_DILATION = 1 << 15  # so that no offset of a tap overflows


class Tap(NamedTuple):
    """A weight's place (row, column) in the kernel, and the offset (dy, dx) in the image of the pixel it reads."""

    place: Pair
    offset: Offset


def check_mask(op: str, mask_type: str, kernel_size: Pair) -> None:
    """Raises ValueError unless mask_type is a mask's name and kernel_size is odd; ``op`` is the caller's name."""
    if mask_type not in MASK_TYPES:
        raise ValueError(f"{op}: mask_type must be one of {', '.join(MASK_TYPES)}, got {mask_type!r}")
    if any(k < 1 or k % 2 == 0 for k in kernel_size):
        raise ValueError(f"{op}: kernel_size must be odd and positive, got {kernel_size}")


def dilation_pair(op: str, dilation: int | Sequence[int]) -> Pair:
    """``dilation`` as (vertical, horizontal), 1 to MAX_DILATION each, or ValueError; ``op`` is the caller's name."""
    if dilation in (1, (1, 1)):  # in most calls
        return 1, 1
    pair = [dilation] * 2 if isinstance(dilation, int) else [*dilation] if isinstance(dilation, Sequence) else []
    if len(pair) != 2 or not all(isinstance(d, int) and 1 <= d <= MAX_DILATION for d in pair):
        raise ValueError(f"{op}: dilation must be an int of 1 to {MAX_DILATION} or a pair of them, got {dilation!r}")
    return pair[0], pair[1]


def same_padding(kernel_size: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Zeros above and below, left and right, that keep the image's size; no tap reaches further.

    kernel_size, dilation: (vertical, horizontal).
    """
    return dilation[0] * (kernel_size[0] // 2), dilation[1] * (kernel_size[1] // 2)


def tap_at(offset: Offset, kernel_size: Pair) -> Tap:
    """The tap of an undilated kernel that reads ``offset``; its place is outside the kernel where no tap reads it.

    kernel_size: (height, width).
    """
    return Tap((kernel_size[0] // 2 + offset[0], kernel_size[1] // 2 + offset[1]), offset)


def kernel_taps(kernel_size: Pair, dilation: Pair = (1, 1)) -> tuple[Tap, ...]:
    """All taps of a kernel, in raster order; kernel_size, dilation: (vertical, horizontal)."""
    (height, width), (step_y, step_x), (up, left) = kernel_size, dilation, same_padding(kernel_size, dilation)
    return tuple(Tap((i, j), (i * step_y - up, j * step_x - left)) for i in range(height) for j in range(width))


def conv_taps(mask_type: str, kernel_size: Pair, dilation: Pair = (1, 1)) -> tuple[Tap, ...]:
    """Taps that a mask lets an output pixel read, in raster order; arguments as in `live_taps`."""
    check_mask("live_taps", mask_type, kernel_size)
    stack, _, kind = mask_type.rpartition("_")
    centre = kind == "B"

    def may_read(dy: int, dx: int) -> bool:
        if stack == "vertical":
            return dy < 0 or (dy == 0 and centre)
        before = dy == 0 and (dx < 0 or (dx == 0 and centre))
        return before or (dy < 0 and stack != "horizontal")

    return tuple(tap for tap in kernel_taps(kernel_size, dilation) if may_read(*tap.offset))


def live_taps(mask_type: str, kernel_size: Pair, dilation: Pair = (1, 1)) -> tuple[Offset, ...]:
    """Offsets (dy, dx) that a mask lets an output pixel read, in raster order, of a kernel_size (height, width).

    mask_type ``A``, ``B``: the pixels before this one in raster order; B adds the pixel itself (van den Oord et al.
    2016, arXiv 1601.06759). ``vertical_*``: the rows above (B adds the whole current row); ``horizontal_*``: the
    current row to the left (B adds the pixel itself): the two stacks of the Gated PixelCNN (arXiv 1606.05328).

    The centre tap of type A is listed for no output; with several image channels it is alive in part, see `conv_mask`.
    dilation: pixels from one tap to the next, (vertical, horizontal).

    >>> live_taps("A", (3, 3))
    ((-1, -1), (-1, 0), (-1, 1), (0, -1))
    >>> live_taps("A", (3, 3), (1, 2))
    ((-1, -2), (-1, 0), (-1, 2), (0, -2))
    """
    return tuple(tap.offset for tap in conv_taps(mask_type, kernel_size, dilation))


def conv_mask(
    mask_type: str,
    weight_shape: tuple[int, ...] | torch.Size,
    *,
    image_channels: int = 1,
    device: torch.device | None = None,
) -> Tensor:
    """Boolean mask of a convolution, in its weight_shape ``[P, C_in, kh, kw]``: True where the weight is alive.

    mask_type: as in `live_taps`. The mask is the same for every dilation.

    With ``image_channels = n > 1`` the model is autoregressive over the channels of a pixel too (RGB): feature ``c``
    belongs to image channel ``c % n``, and at the centre tap an output of channel o reads inputs of channel i < o
    (type A) or i <= o (type B). For ``n = 1`` this is the plain rule.
    """
    columns, c_in, kh, kw = weight_shape
    mask = torch.zeros(kh, kw, dtype=torch.bool, device=device)
    for tap in conv_taps(mask_type, (kh, kw)):
        mask[tap.place] = True
    mask = mask.expand(columns, c_in, kh, kw).clone()
    if is_partial(mask_type, image_channels):
        out = torch.arange(columns, device=device)[:, None] % image_channels
        inp = torch.arange(c_in, device=device)[None, :] % image_channels
        i, j = tap_at((0, 0), (kh, kw)).place
        mask[:, :, i, j] = out > inp if mask_type.endswith("A") else out >= inp
    return mask


def is_partial(mask_type: str, image_channels: int) -> bool:
    """True where the centre tap is alive in part: for some pairs of channels and not for others.

    mask_type: as in `live_taps`; image_channels: as in `conv_mask`.
    """
    return image_channels > 1 and not mask_type.startswith("vertical")


def made_degrees(
    dim: int, hidden: tuple[int, ...], n_params: int, *, device: torch.device | None = None
) -> list[Tensor]:
    """Degrees of every layer of a MADE (Germain et al. 2015, arXiv 1502.03509): inputs, hidden layers, outputs.

    dim: D. hidden: units of each hidden layer. n_params: parameters of a dimension.

    Input d has degree d = 1..D. Hidden degrees 1..D-1 are spread evenly, *sorted*: the masks are block-triangular.
    The outputs of dimension d have degree d - 1 and are tiled: ``out[:, k]`` belongs to dimension ``k % D``, so that
    splitting the output in ``n_params`` equal parts gives one parameter of every dimension each.
    """
    inputs = torch.arange(1, dim + 1, device=device)
    spread = [torch.arange(h, device=device) * (dim - 1) // h + min(1, dim - 1) for h in hidden]
    return [inputs, *spread, torch.arange(dim, device=device).repeat(n_params)]


def linear_mask(in_degrees: Tensor, out_degrees: Tensor) -> Tensor:
    """Boolean mask ``[O, I]`` of a masked linear layer: ``M[o, i] = out_degrees[o] >= in_degrees[i]``."""
    return out_degrees[:, None] >= in_degrees[None, :]


def check_made_degrees(inputs: Tensor, outputs: Tensor, op: str = "made_inverse") -> None:
    """Checks the values of a MADE's first and last degrees, `inputs` and `outputs` on the CPU, in the name of `op`.

    Raises:
        ValueError: the inputs are no permutation of 1..D, or an output is not one below its input.
    """
    dim = len(inputs)
    if not torch.equal(inputs.sort().values, torch.arange(1, dim + 1, device="cpu")):
        raise ValueError(f"{op}: degrees[0] must be a permutation of 1..{dim}, got {inputs.tolist()}")
    if not torch.equal(outputs, (inputs - 1).repeat(len(outputs) // dim)):
        got = outputs.tolist()
        raise ValueError(f"{op}: degrees[-1] must be degrees[0] - 1, once per parameter, got {got}")


def same_mask(found: Tensor, mask: Tensor) -> bool:
    """True where `found`, nonzero where a weight is alive, is the boolean `mask` or broadcasts to it."""
    try:
        return bool((found.cpu() != 0).expand(mask.shape).equal(mask.cpu()))
    except RuntimeError:
        return False
