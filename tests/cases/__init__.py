"""Shared by tests: cases, inputs, doubles of other people's code."""
