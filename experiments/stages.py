"""Lists the stages of a model and both sides of each cut: ``python -m experiments.stages``.

The table shows the shape of each stage's output for one example, the output's size in bytes of
float32, and the parameters and training FLOPs per example before and after a cut at the end of the
stage. FLOPs are measured on a batch of 32 and leave out the gradient with respect to the images.
"""

from fedjax_norm.cli.commands.stages import launch

if __name__ == "__main__":
  launch()
