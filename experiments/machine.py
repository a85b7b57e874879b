"""``python -m experiments.machine``: see ``fedjax_norm/cli/commands/machine.py``."""

from fedjax_norm.cli.commands.machine import launch

if __name__ == "__main__":
  launch()
