"""The specification: every op in plain PyTorch, a file per family. Never optimised; no kernel imports it.

Shapes: B batch, C channels, H x W image, D dimensions of z. Signatures are those of every backend;
``arguments.py`` has their records.
"""

from .activation import activate, activate_backward, slope_of_output
from .arguments import Layers, Mask, Transform
from .made import made, made_backward, made_with_hidden
from .made_inverse import LEAST_SLOPE, log_slope, made_inverse, made_inverse_backward, shift_and_log_scale
from .made_sample import made_sample, made_sample_levels
from .masked_conv import masked_conv, masked_conv_backward, masked_conv_with_sigmoid
from .masked_linear import masked_linear, masked_linear_backward
from .pixelcnn_sample import naive_sample, pixelcnn_pack, pixelcnn_sample, run_plan, run_program, shifted
from .pixelcnn_step import pixelcnn_start, pixelcnn_step, pixelcnn_step_draw

OPS = (
    "masked_conv",
    "masked_linear",
    "made",
    "made_inverse",
    "made_sample",
    "made_sample_levels",
    "pixelcnn_sample",
)  # that every table, report and test goes over

__all__ = [
    "LEAST_SLOPE",
    "OPS",
    "Layers",
    "Mask",
    "Transform",
    "activate",
    "activate_backward",
    "log_slope",
    "made",
    "made_backward",
    "made_inverse",
    "made_inverse_backward",
    "made_sample",
    "made_sample_levels",
    "made_with_hidden",
    "masked_conv",
    "masked_conv_backward",
    "masked_conv_with_sigmoid",
    "masked_linear",
    "masked_linear_backward",
    "naive_sample",
    "pixelcnn_pack",
    "pixelcnn_sample",
    "pixelcnn_start",
    "pixelcnn_step",
    "pixelcnn_step_draw",
    "run_plan",
    "run_program",
    "shift_and_log_scale",
    "shifted",
    "slope_of_output",
]
