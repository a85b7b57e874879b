"""``python -m experiments.decentralized``: see ``fedjax_norm/cli/commands/decentralized.py``."""

from fedjax_norm.cli.commands.decentralized import launch

if __name__ == "__main__":
  launch()
