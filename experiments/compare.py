"""``python -m experiments.compare``: see ``fedjax_norm/cli/commands/compare.py``."""

from fedjax_norm.cli.commands.compare import launch

if __name__ == "__main__":
  launch()
