"""Puts finished runs side by side: ``python -m experiments.compare runs/a runs/b``.

Draws their test accuracy over rounds into one picture and prints a table; a run is named by the
flags in which the runs differ. A run with several seeds (``--seeds``) is shown by its mean and its
standard deviation.
"""

from fedjax_norm.cli.commands.compare import launch

if __name__ == "__main__":
  launch()
