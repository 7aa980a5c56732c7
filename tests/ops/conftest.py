"""Triton kernels that are interpreted here are held to their tensors."""

from cases.extents import ran  # noqa: F401 - a fixture of every test in the folder
