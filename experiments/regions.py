"""``python -m experiments.regions``: see ``fedjax_norm/cli/commands/regions.py``."""

from fedjax_norm.cli.commands.regions import launch

if __name__ == "__main__":
  launch()
