"""How fast the library is, next to what users would pick instead: ``python -m benchmarks.run``."""
