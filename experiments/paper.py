"""The tables and figures of the papers: ``python -m experiments.paper --scale=small``.

Every cell is a run in a folder of its own below ``--workdir``; equal cells of several tables are
one run, and a runner that was stopped goes on where it was. At the end the paper's accuracy stands
beside ours, with what the paper claims and whether it held, in ``results.md``, ``results.csv`` and
a picture for each figure.
"""

from fedjax_norm.cli.commands.paper import launch

if __name__ == "__main__":
  launch()
