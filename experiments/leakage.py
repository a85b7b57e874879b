"""Measures the leakage at each cut: ``python -m experiments.leakage --workdir=runs/NAME``.

For every possible cut of the model it measures how much the activations depend on the images
(distance correlation), how well an attacker's decoder reconstructs images from activations, and how
well the server can infer labels from the gradients that it receives in the U-shape (paper 003, sec.
3.6). It writes ``leakage.csv`` and ``leakage.png`` to the run's folder. Without ``--workdir`` it
measures the untrained model that the other flags choose.
"""

from fedjax_norm.cli.commands.leakage import launch

if __name__ == "__main__":
  launch()
