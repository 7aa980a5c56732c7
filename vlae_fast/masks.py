"""Which weights may be alive: PixelCNN taps and MADE degrees. The only place where a mask is made."""

from __future__ import annotations

import torch
from torch import Tensor

Tap = tuple[int, int]

MASK_TYPES = ("A", "B", "vertical_A", "vertical_B", "horizontal_A", "horizontal_B")


def check_mask(op: str, mask_type: str, kernel_size: tuple[int, int]) -> None:
    """Raises ValueError unless there is such a mask_type and kernel_size is odd; ``op`` is who asks."""
    if mask_type not in MASK_TYPES:
        raise ValueError(f"{op}: mask_type must be one of {', '.join(MASK_TYPES)}, got {mask_type!r}")
    if any(k < 1 or k % 2 == 0 for k in kernel_size):
        raise ValueError(f"{op}: kernel_size must be odd and positive, got {kernel_size}")


def live_taps(mask_type: str, kernel_size: tuple[int, int]) -> tuple[Tap, ...]:
    """Offsets (dy, dx) that a mask lets an output pixel read, in raster order, of a kernel_size (height, width).

    mask_type ``A``, ``B``: the pixels before this one in raster order; B adds the pixel itself (van den Oord et al.
    2016, arXiv 1601.06759). ``vertical_*``: the rows above (B adds the whole current row); ``horizontal_*``: the
    current row to the left (B adds the pixel itself): the two stacks of the Gated PixelCNN (arXiv 1606.05328).

    The centre tap of type A is listed for no output; with several image channels it is alive in part, see `conv_mask`.

    >>> live_taps("A", (3, 3))
    ((-1, -1), (-1, 0), (-1, 1), (0, -1))
    """
    check_mask("live_taps", mask_type, kernel_size)
    stack, _, kind = mask_type.rpartition("_")
    ry, rx = kernel_size[0] // 2, kernel_size[1] // 2
    above = [(dy, dx) for dy in range(-ry, 0) for dx in range(-rx, rx + 1)] if stack != "horizontal" else []
    if stack == "vertical":
        here = [(0, dx) for dx in range(-rx, rx + 1)] if kind == "B" else []
    else:
        here = [(0, dx) for dx in range(-rx, 1 if kind == "B" else 0)]
    return tuple(above + here)


def conv_mask(
    mask_type: str,
    weight_shape: tuple[int, ...] | torch.Size,
    *,
    image_channels: int = 1,
    device: torch.device | None = None,
) -> Tensor:
    """Boolean mask of a convolution, in its weight_shape ``[C_out, C_in, kh, kw]``: True where the weight is alive.

    mask_type: as of `live_taps`.

    With ``image_channels = n > 1`` the model is autoregressive over the channels of a pixel too (RGB): feature ``c``
    belongs to image channel ``c % n``, and at the centre tap an output of channel o reads inputs of channel i < o
    (type A) or i <= o (type B). For ``n = 1`` this is the plain rule.
    """
    c_out, c_in, kh, kw = weight_shape
    mask = torch.zeros(kh, kw, dtype=torch.bool, device=device)
    for dy, dx in live_taps(mask_type, (kh, kw)):
        mask[kh // 2 + dy, kw // 2 + dx] = True
    mask = mask.expand(c_out, c_in, kh, kw).clone()
    if image_channels > 1 and not mask_type.startswith("vertical"):
        out = torch.arange(c_out, device=device)[:, None] % image_channels
        inp = torch.arange(c_in, device=device)[None, :] % image_channels
        mask[:, :, kh // 2, kw // 2] = out > inp if mask_type.endswith("A") else out >= inp
    return mask


def live_weights(
    mask_type: str, weight_shape: tuple[int, ...], image_channels: int
) -> tuple[tuple[Tap, ...], Tensor | None]:
    """What a kernel that skips dead taps is told: the taps with a live weight, and the mask where one is so in part.

    Arguments as of `conv_mask`. That one is the centre tap, and it is listed last. The mask ``[C_out, C_in, kh, kw]``
    is on the CPU, None where all weights of the listed taps are alive.
    """
    taps = live_taps(mask_type, (weight_shape[2], weight_shape[3]))
    if image_channels == 1 or mask_type.startswith("vertical"):
        return taps, None
    mask = conv_mask(mask_type, weight_shape, image_channels=image_channels, device=torch.device("cpu"))
    return (*(tap for tap in taps if tap != (0, 0)), (0, 0)), mask


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


def check_made_degrees(inputs: Tensor, outputs: Tensor) -> None:
    """Checks the values of a MADE's first and last degrees, both on the CPU, for `ops.made_inverse`.

    Raises:
        ValueError: the inputs are no permutation of 1..D, or an output is not one below its input.
    """
    dim = len(inputs)
    if not torch.equal(inputs.sort().values, torch.arange(1, dim + 1, device="cpu")):
        raise ValueError(f"made_inverse: degrees[0] must be a permutation of 1..{dim}, got {inputs.tolist()}")
    if not torch.equal(outputs, (inputs - 1).repeat(len(outputs) // dim)):
        got = outputs.tolist()
        raise ValueError(f"made_inverse: degrees[-1] must be degrees[0] - 1, once per parameter, got {got}")
