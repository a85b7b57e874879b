"""``python -m experiments.asgd``: see ``fedjax_norm/cli/commands/asgd.py``."""

from fedjax_norm.cli.commands.asgd import launch

if __name__ == "__main__":
  launch()
