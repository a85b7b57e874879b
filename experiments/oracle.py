"""Measures the communication saved over BSP: ``python -m experiments.oracle --algorithm=gaia``.

This is the Oracle of paper 004 (sec. 7.3 and fig. 8). For each degree of skew it runs BSP, every
theta of the algorithm's grid (``--scout_grid``) and SkewScout, each in a separate folder below
``--workdir``; a second start resumes an interrupted run. ``oracle.md``, ``oracle.csv`` and
``oracle.png`` give the bytes, up and down, that the Oracle and SkewScout save at BSP's accuracy.
"""

from fedjax_norm.cli.commands.oracle import launch

if __name__ == "__main__":
  launch()
