"""The measured systems, one script each: ``python -m benchmarks.peers.NAME``.

A peer runs in its own, older environment. Therefore the modules of this folder, except ``ours``,
import neither the library nor other modules of the benchmarks.
"""
