"""``python -m experiments.split_server``: see ``fedjax_norm/cli/commands/split_server.py``."""

from fedjax_norm.cli.commands.split_server import launch

if __name__ == "__main__":
  launch()
