"""``python -m experiments.diagnostics``: see ``fedjax_norm/cli/commands/diagnostics.py``."""

from fedjax_norm.cli.commands.diagnostics import launch

if __name__ == "__main__":
  launch()
