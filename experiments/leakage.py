"""``python -m experiments.leakage``: see ``fedjax_norm/cli/commands/leakage.py``."""

from fedjax_norm.cli.commands.leakage import launch

if __name__ == "__main__":
  launch()
