"""Stands before PyTorch in a process that has no use for it.

The writer of TensorBoard's events imports it where it is there, which takes seconds.
"""

raise ImportError("PyTorch is left out of this process.")
