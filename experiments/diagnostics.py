"""How clients differ in finished runs: ``python -m experiments.diagnostics runs/iid runs/skewed``.

Of everything that the runs recorded it writes a picture and its data as CSV, with all runs beside
each other: the test accuracy, what ``--diagnostics`` measured (divergence of minibatch means by
channel, local and unsent updates, differences of models, their accuracy on blocks of classes), and
the accuracy that models lose on other clients' data (``--skewscout=measure``). BUILD.md has the
commands for figures 4, 16, 17 and 21 to 24 of paper 004.
"""

from fedjax_norm.cli.commands.diagnostics import launch

if __name__ == "__main__":
  launch()
