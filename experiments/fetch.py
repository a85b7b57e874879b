"""``python -m experiments.fetch``: see ``fedjax_norm/cli/commands/fetch.py``."""

from fedjax_norm.cli.commands.fetch import launch

if __name__ == "__main__":
  launch()
