"""Where a model can be cut, and what each side then has: ``python -m experiments.stages``.

A stage has a line: what it gives for one example, in bytes of float32, and for the cut after it the
parameters of the party before it and of the party behind it and what training takes of each on one
example, in a batch of 32 (``models/flops.py``). The party before computes no gradient of images.
"""

from fedjax_norm.cli.commands.stages import launch

if __name__ == "__main__":
  launch()
