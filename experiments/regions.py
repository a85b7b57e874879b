"""Which classes are where: ``python -m experiments.regions --data=csv:index.csv``.

Prints the top classes of each region with their shares in the world, every region scaled to the
same number of examples (paper 004, table 1), and writes what app. B draws: the training examples by
class and by region, and the share of each class that each region holds, raw and normalized.
Regions are the clients of any partition: ``--region=subcontinent`` for the second level of M49,
``--partition=dirichlet --alpha=0.1`` for what that would do to the same labels.
"""

from fedjax_norm.cli.commands.regions import launch

if __name__ == "__main__":
  launch()
