"""Contracts of the ops: docstring, checks, schema, fake, autograd. No mathematics."""

from .made_inverse import made_inverse
from .masked_conv import masked_conv
from .masked_linear import masked_linear
from .pixelcnn_sample import pixelcnn_pack, pixelcnn_sample

__all__ = ["made_inverse", "masked_conv", "masked_linear", "pixelcnn_pack", "pixelcnn_sample"]
