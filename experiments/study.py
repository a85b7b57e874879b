"""``python -m experiments.study``: see ``fedjax_norm/cli/commands/study.py``."""

from fedjax_norm.cli.commands.study import launch

if __name__ == "__main__":
  launch()
