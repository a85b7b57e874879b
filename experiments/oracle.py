"""``python -m experiments.oracle``: see ``fedjax_norm/cli/commands/oracle.py``."""

from fedjax_norm.cli.commands.oracle import launch

if __name__ == "__main__":
  launch()
