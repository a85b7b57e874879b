"""``python -m experiments.predict``: see ``fedjax_norm/cli/commands/predict.py``."""

from fedjax_norm.cli.commands.predict import launch

if __name__ == "__main__":
  launch()
