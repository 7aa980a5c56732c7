"""Fast kernels and exact fast sampling for Variational Lossy Autoencoders, PixelCNN, MADE, MAF and IAF."""

from . import _moved, backends, checkpoint, masks, ops, visualization
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
