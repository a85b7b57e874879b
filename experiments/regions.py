"""The classes of each region: ``python -m experiments.regions --data=csv:index.csv``.

Prints the classes with the largest shares of each region, after scaling all regions to one number
of examples (paper 004, table 1). Writes the tables and figures of app. B: training examples by
class and by region, and the share of each class that each region has, raw and normalized. Regions
are the clients of any partition: ``--region=subcontinent`` for the second level of M49,
``--partition=dirichlet --alpha=0.1`` for a Dirichlet partition of the same labels.
"""

from fedjax_norm.cli.commands.regions import launch

if __name__ == "__main__":
  launch()
