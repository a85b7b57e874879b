"""Compares finished runs: ``python -m experiments.compare runs/a runs/b``.

Prints a ranked table and what follows from it, and writes the report: one HTML page that opens
without a network, its pictures as PNG files, and all figures as CSV and JSON. Runs are named by the
options in which they differ; a run with several seeds (``--seeds``) is shown by means and standard
deviations. The folder of a study (``experiments.study``) gives its answer. Nothing is written to
the compared runs.
"""

from fedjax_norm.cli.commands.compare import launch

if __name__ == "__main__":
  launch()
