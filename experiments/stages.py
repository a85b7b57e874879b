"""``python -m experiments.stages``: see ``fedjax_norm/cli/commands/stages.py``."""

from fedjax_norm.cli.commands.stages import launch

if __name__ == "__main__":
  launch()
