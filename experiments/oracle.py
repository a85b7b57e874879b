"""What communication could be saved: ``python -m experiments.oracle --algorithm=gaia``.

The Oracle of paper 004 (sec. 7.3 and fig. 8). For each degree of skew this runs BSP, every theta of
the algorithm's grid (``--scout_grid``) and SkewScout, each in a folder of its own below
``--workdir``; one that was stopped goes on where it was. At the end it tells and draws what Oracle
and SkewScout save over BSP without losing its accuracy: ``oracle.md``, ``oracle.csv`` and
``oracle.png``. Communication is what a whole run sends, in both directions.
"""

from fedjax_norm.cli.commands.oracle import launch

if __name__ == "__main__":
  launch()
