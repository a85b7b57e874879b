"""Runs the tables and figures of the papers: ``python -m experiments.paper --scale=small``.

Every cell of a table is a run in a separate folder below ``--workdir``. Equal cells of several
tables are one run, and a second start resumes an interrupted run. The results, with the papers'
accuracies and whether their claims hold, are in ``results.md``, ``results.csv`` and one plot per
figure.
"""

from fedjax_norm.cli.commands.paper import launch

if __name__ == "__main__":
  launch()
