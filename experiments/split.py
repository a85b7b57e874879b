"""``python -m experiments.split``: see ``fedjax_norm/cli/commands/split.py``."""

from fedjax_norm.cli.commands.split import launch

if __name__ == "__main__":
  launch()
