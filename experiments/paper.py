"""Runs the tables and figures of the papers: ``python -m experiments.paper --table=000.1``.

Every row of a table is trained with several seeds; rows with equal options share their runs. The
same command resumes what was stopped. ``results.md``, ``results.csv`` and one plot per figure show
our accuracies next to the papers', and which of the papers' claims are held, not held or undecided.
"""

from fedjax_norm.cli.commands.paper import launch

if __name__ == "__main__":
  launch()
