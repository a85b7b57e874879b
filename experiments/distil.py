"""``python -m experiments.distil``: see ``fedjax_norm/cli/commands/distil.py``."""

from fedjax_norm.cli.commands.distil import launch

if __name__ == "__main__":
  launch()
