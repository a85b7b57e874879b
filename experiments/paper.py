"""``python -m experiments.paper``: see ``fedjax_norm/cli/commands/paper.py``."""

from fedjax_norm.cli.commands.paper import launch

if __name__ == "__main__":
  launch()
