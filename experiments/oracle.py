"""Measures how much communication SkewScout saves: ``python -m experiments.oracle``.

This is the comparison of paper 004, sec. 7.3 and fig. 8. For each degree of label skew
(``--oracle_fractions``) it runs BSP, ``--algorithm`` with every communication threshold theta of
``--scout_grid``, and SkewScout, which chooses theta while training. Each run has a folder below
``--workdir``; starting the program again resumes it. The Oracle is the run with a fixed theta that
sends the fewest bytes and keeps BSP's accuracy. ``oracle.md``, ``oracle.csv`` and ``oracle.png``
give BSP's bytes, up and down, divided by those of the Oracle and of SkewScout.
"""

from fedjax_norm.cli.commands.oracle import launch

if __name__ == "__main__":
  launch()
