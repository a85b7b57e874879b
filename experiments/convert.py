"""``python -m experiments.convert``: see ``fedjax_norm/cli/commands/convert.py``."""

from fedjax_norm.cli.commands.convert import launch

if __name__ == "__main__":
  launch()
