"""Other people's code, made fast: their masked layers, their flows, samplers of their decoders."""

from .accelerate import accelerate
from .decoders import ForeignDecoder, fast_sampler
from .flows import FlowRow, accelerate_flows, restore_flows
from .report import Report

__all__ = [
    "FlowRow",
    "ForeignDecoder",
    "Report",
    "accelerate",
    "accelerate_flows",
    "fast_sampler",
    "restore_flows",
]
