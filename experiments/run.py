"""``python -m experiments.run``: see ``fedjax_norm/cli/commands/run.py``."""

from fedjax_norm.cli.commands.run import launch

if __name__ == "__main__":
  launch()
