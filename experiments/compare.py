"""Compares finished runs: ``python -m experiments.compare runs/a runs/b``.

Draws the test accuracy over rounds and prints a table of results. The label of a run lists the
flags in which the runs differ. A run with several seeds (``--seeds``) is shown by means and
standard deviations.
"""

from fedjax_norm.cli.commands.compare import launch

if __name__ == "__main__":
  launch()
