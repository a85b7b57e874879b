"""Lists the stages of a model and both sides of each cut: ``python -m experiments.stages``.

The table shows the output of each stage for one example, its size in bytes of float32, and the
parameters and training FLOPs per example before and after a cut at the end of the stage. FLOPs are
counted in a batch of 32 (``models/flops.py``), without the gradient of the images.
"""

from fedjax_norm.cli.commands.stages import launch

if __name__ == "__main__":
  launch()
