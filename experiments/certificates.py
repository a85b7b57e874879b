"""``python -m experiments.certificates``: see ``fedjax_norm/cli/commands/certificates.py``."""

from fedjax_norm.cli.commands.certificates import launch

if __name__ == "__main__":
  launch()
