"""Benchmarks: check, then time. `python -m benchmarks.run --help`."""
