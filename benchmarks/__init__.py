"""Measures the library beside its alternatives: ``python -m benchmarks.run``."""
