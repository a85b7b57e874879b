"""``python -m experiments.communication``: see ``fedjax_norm/cli/commands/communication.py``."""

from fedjax_norm.cli.commands.communication import launch

if __name__ == "__main__":
  launch()
