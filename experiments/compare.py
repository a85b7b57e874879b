"""Compares finished runs: ``python -m experiments.compare runs/a runs/b``.

Draws the test accuracy over rounds and prints a table. Runs are labelled by the flags in which they
differ. A run with several seeds (``--seeds``) is shown as mean and standard deviation.
"""

from fedjax_norm.cli.commands.compare import launch

if __name__ == "__main__":
  launch()
