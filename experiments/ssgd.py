"""``python -m experiments.ssgd``: see ``fedjax_norm/cli/commands/ssgd.py``."""

from fedjax_norm.cli.commands.ssgd import launch

if __name__ == "__main__":
  launch()
