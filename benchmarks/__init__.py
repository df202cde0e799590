"""Measurements behind docs/performance.md: each is a command, `python -m benchmarks.NAME`."""
