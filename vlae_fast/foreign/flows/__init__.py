"""Masked autoregressive flows of other libraries, given the incremental inverse."""

from .accelerate import FlowRow, accelerate_flows, restore_flows

__all__ = ["FlowRow", "accelerate_flows", "restore_flows"]
