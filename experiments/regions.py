"""The classes of each region: ``python -m experiments.regions --data=csv:index.csv``.

Prints for each region the classes of which it has the largest shares, after scaling all regions to
the same number of examples (paper 004, table 1). Writes the tables and figures of the paper's app.
B: training examples by class and by region, and each region's share of each class, before (raw) and
after the scaling (normalized). The regions are the clients of any partition:
``--region=subcontinent`` for the second level of the UN's M49 regions, ``--partition=dirichlet
--alpha=0.1`` for a Dirichlet partition of the same labels.
"""

from fedjax_norm.cli.commands.regions import launch

if __name__ == "__main__":
  launch()
