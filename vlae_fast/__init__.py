"""Fast kernels and exact fast sampling for Variational Lossy Autoencoders, PixelCNN, MADE, MAF and IAF."""

try:
    from . import _moved, backends, checkpoint, masks, ops, visualization
except ModuleNotFoundError as error:
    if error.name != "vlae_fast.kernels":
        raise
    raise ImportError(
        f"vlae_fast: {__path__[0]} is a checkout's folder and hides the installed package: "
        "go to another folder, or install the checkout in place by `pip install -e .`"
    ) from None
from .foreign import accelerate, accelerate_flows, fast_sampler, restore_flows
from .layers import MADE, GatedMaskedConv2d, MaskedConv2d, MaskedLinear
from .models import (
    VLAE,
    AutoregressiveFlow,
    ConvFlow,
    InverseAutoregressivePosterior,
    PixelCNN,
    PixelCNNDecoder,
    loss_function,
)
from .sampling import MADESampler, PixelCNNSampler, naive_sample

__version__ = "0.1.0"

__all__ = [
    "MADE",
    "VLAE",
    "AutoregressiveFlow",
    "ConvFlow",
    "GatedMaskedConv2d",
    "InverseAutoregressivePosterior",
    "MADESampler",
    "MaskedConv2d",
    "MaskedLinear",
    "PixelCNN",
    "PixelCNNDecoder",
    "PixelCNNSampler",
    "accelerate",
    "accelerate_flows",
    "backends",
    "checkpoint",
    "fast_sampler",
    "loss_function",
    "masks",
    "naive_sample",
    "ops",
    "restore_flows",
    "visualization",
]

_moved.install()
