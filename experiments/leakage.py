"""What a model would leak at each cut: ``python -m experiments.leakage --workdir=runs/NAME``.

For every stage behind which the model can be cut: how far the activations depend on the images
(distance correlation), what an attacker makes of them who has test images of his own and trains a
decoder, and which labels Bob reads off the gradients that a tail of the stages behind the cut sends
him in the U-shape (paper 003, sec. 3.6). ``leakage.csv`` and ``leakage.png`` go to the run's
folder. Without ``--workdir`` it is the untrained model that the flags say.
"""

from fedjax_norm.cli.commands.leakage import launch

if __name__ == "__main__":
  launch()
