"""Runs the tables and figures of the papers: ``python -m experiments.paper --scale=small``.

Every row of a table is a training run in a separate folder below ``--workdir``; rows with equal
flags share a run. Starting the program again resumes an interrupted run. ``results.md``,
``results.csv`` and one plot per figure show our accuracies next to the papers', and whether the
papers' claims hold for both.
"""

from fedjax_norm.cli.commands.paper import launch

if __name__ == "__main__":
  launch()
