"""``python -m experiments.fedavg``: see ``fedjax_norm/cli/commands/fedavg.py``."""

from fedjax_norm.cli.commands.fedavg import launch

if __name__ == "__main__":
  launch()
