"""The systems that are measured, each a script of its own: ``python -m benchmarks.peers.NAME``.

A peer runs in its own, older environment. So what stands here, ``ours`` apart, imports nothing of
the library and nothing of the benchmarks outside of this folder.
"""
