"""``python -m experiments.split_predict``: see ``fedjax_norm/cli/commands/split_predict.py``."""

from fedjax_norm.cli.commands.split_predict import launch

if __name__ == "__main__":
  launch()
