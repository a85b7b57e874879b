"""``python -m experiments.split_client``: see ``fedjax_norm/cli/commands/split_client.py``."""

from fedjax_norm.cli.commands.split_client import launch

if __name__ == "__main__":
  launch()
